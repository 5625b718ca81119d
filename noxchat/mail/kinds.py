"""The kinds of e-mail. A new kind is a function here and its templates, email/<name>.html and email/<name>.txt."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import current_app
from flask_babel import lazy_gettext as _l
from sqlalchemy import select

from noxchat import tokens
from noxchat.extensions import db
from noxchat.models import EmailChange, Profile, QueuedEmail, User


def absolute_url(endpoint: str, **values) -> str:
    """Return the URL of a page for an e-mail: under BASE_URL, whatever host a request names."""
    path = current_app.url_map.bind("localhost").build(endpoint, values)
    return current_app.config["BASE_URL"] + path


@dataclass(frozen=True)
class Kind:
    """A kind of e-mail.

    name: of its templates, and in the queue. subject: a lazily translated string.
    context: is called when the e-mail is sent, with the QueuedEmail and the account that it is about (or None). Returns
    the variables of the templates, or None when the e-mail is no longer needed.
    """

    name: str
    subject: str
    context: Callable[[QueuedEmail, User | None], dict | None]


KINDS: dict[str, Kind] = {}


def email_kind(subject):
    """Register the decorated function as the context of a kind of e-mail, under its name. Replaces it by the Kind."""

    def register(context) -> Kind:
        kind = Kind(context.__name__, subject, context)
        KINDS[kind.name] = kind
        return kind

    return register


@email_kind(_l("Reset your NoxChat password"))
def password_reset(_email: QueuedEmail, user: User) -> dict | None:
    """Contains a link to choose a new password, made when the e-mail is sent."""
    if user.reset_nonce is None:  # the password was changed meanwhile
        return None
    token = tokens.create_reset_token(user, is_emailed=True)
    return {
        "username": _safe_name(user),
        "public_id": _public_id(user),
        "link": absolute_url("auth.reset_password", token=token),
        "minutes": current_app.config["RESET_MINUTES"],
    }


@email_kind(_l("Confirm your NoxChat address"))
def confirm_email(email: QueuedEmail, user: User) -> dict | None:
    """Contains a link to confirm the address to which it is sent."""
    if email.address != user.unconfirmed_email or user.email_nonce is None:  # it was confirmed or changed meanwhile
        return None
    return {
        "username": _safe_name(user),
        "public_id": _public_id(user),
        "link": absolute_url("auth.confirm_email", token=tokens.create_confirmation_token(user)),
        "days": tokens.CONFIRMATION_LIFETIME.days,
    }


@email_kind(_l("Your NoxChat address was changed"))
def email_changed(email: QueuedEmail, user: User) -> dict | None:
    """Contains a link for the former address, to which it is sent, to undo the change."""
    changes = select(EmailChange).where(EmailChange.user_id == user.id, EmailChange.former_email == email.address)
    change = db.session.scalar(changes.order_by(EmailChange.id.desc()).limit(1))
    if change is None:  # it was undone meanwhile
        return None
    token = tokens.create_undo_token(change, user)
    hours = int(tokens.UNDO_LIFETIME.total_seconds() // 3600)
    return {"link": absolute_url("auth.undo_email_change", token=token), "hours": hours}


@email_kind(_l("You already have a NoxChat account"))
def address_taken(_email: QueuedEmail, user: User) -> dict:
    """Tells the owner of an address that it was given for another account."""
    return {"public_id": _public_id(user), "link": absolute_url("auth.request_reset")}


def _safe_name(user: User) -> str | None:
    """Return how to address somebody: not by name before the address is theirs, or one could write to strangers so."""
    return user.username if user.email_confirmed_at else None


def _public_id(user: User) -> str | None:
    return db.session.scalar(select(Profile.public_id).where(Profile.user_id == user.id))
