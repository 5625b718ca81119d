"""The kinds of e-mail. A new kind is a function here and its templates, email/<name>.html and email/<name>.txt."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import current_app
from flask_babel import lazy_gettext as _l

from noxchat import tokens
from noxchat.models import QueuedEmail, User


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
    token = tokens.create_reset_token(user)
    return {
        "link": absolute_url("auth.reset_password", token=token),
        "minutes": current_app.config["RESET_MINUTES"],
    }


@email_kind(_l("You already have a NoxChat account"))
def address_taken(_email: QueuedEmail, _user: User) -> dict:
    """Tells the owner of an address that somebody tried to register with it."""
    return {"link": absolute_url("auth.request_reset")}
