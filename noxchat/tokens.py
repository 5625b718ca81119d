"""Signed tokens: of the links in e-mails (valid for a time, usable once), of invitations, of devices, against CSRF."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta

import jwt
from flask import current_app
from itsdangerous import BadSignature, Signer, URLSafeSerializer, URLSafeTimedSerializer
from sqlalchemy import select
from sqlalchemy.orm import contains_eager

from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import EmailChange, Invitation, User
from noxchat.names import email_key

RESET, CONFIRMATION, UNDO = "reset", "confirm", "undo"
CONFIRMATION_LIFETIME, UNDO_LIFETIME = timedelta(days=7), timedelta(hours=72)
ALGORITHM = "HS256"
DOCTOR_SECONDS = 600


def _key(purpose: str) -> bytes:
    """Return a key for this purpose only, so that a token made for another purpose is never accepted."""
    return hmac.digest(current_app.config["SECRET_KEY"].encode(), b"noxchat token: " + purpose.encode(), hashlib.sha256)


def csrf_secret(user: User) -> str:
    """Return the secret of the CSRF tokens of a login session: the same in all tabs that a browser restores at once."""
    session = user.session
    assert session
    message = f"{session.id} {session.created_at.isoformat()}"
    return hmac.digest(_key("csrf"), message.encode(), hashlib.sha256).hex()


def new_nonce() -> str:
    """Return a nonce for a link in an e-mail."""
    return secrets.token_hex(16)


def invitation_signer() -> Signer:
    """Return what signs the codes of invitations."""
    return Signer(current_app.config["SECRET_KEY"], salt="invitation")


def create_invitation_token(invitation: Invitation) -> str:
    """Return the token of an invitation's link: its code, signed."""
    return invitation_signer().sign(invitation.code).decode()


def verify_invitation_token(token: str) -> str | None:
    """Return the code of the invitation that a token names; None if it was not made here."""
    try:
        return invitation_signer().unsign(token).decode()
    except BadSignature:
        return None


def _doctor_serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_app.config["SECRET_KEY"], salt="doctor")


def create_doctor_token() -> str:
    """Return a token for what `flask doctor --outside` asks the server, for DOCTOR_SECONDS."""
    return str(_doctor_serializer().dumps(secrets.token_hex(8)))


def verify_doctor_token(token: str) -> bool:
    """Tell whether a token was made by `flask doctor --outside` just now."""
    try:
        _doctor_serializer().loads(token, max_age=DOCTOR_SECONDS)
    except BadSignature:
        return False
    return True


def device_serializer() -> URLSafeSerializer:
    """Return what signs the tokens of devices, and reads them."""
    return URLSafeSerializer(current_app.config["SECRET_KEY"], salt="device")


def create_device_token(user: User) -> str:
    """Return a token that shows that a browser logged in to this account before."""
    return device_serializer().dumps([user.id, secrets.token_hex(8)])


def verify_device_token(token: str | None, user: User | None) -> str | None:
    """Return a name for the device if its token was made for this account, else None."""
    try:
        user_id, nonce = device_serializer().loads(token or "")
    except (BadSignature, ValueError, TypeError):
        return None
    return f"{user_id} {nonce}" if user and user_id == user.id else None


@dataclass(frozen=True)
class Link:
    """A valid link of an e-mail to an account. nonce: which makes it work once. email: the address that it proves."""

    user: User
    nonce: str
    email: str | None


def renew_reset_nonce(user: User):
    """Prepare a new reset link; earlier links stop working."""
    user.reset_nonce = new_nonce()
    db.session.flush()


def create_reset_token(user: User, *, is_emailed: bool = False) -> str:
    """Return the token of the latest reset link, valid for RESET_MINUTES from now. Call renew_reset_nonce first.

    is_emailed: whether the link is sent to the account's address, and so proves that whoever uses it reads its e-mails.
    """
    lifetime = timedelta(minutes=current_app.config["RESET_MINUTES"])
    return _create(RESET, user, user.reset_nonce, lifetime, email=user.email_key if is_emailed else None)


def verify_reset_token(token: str) -> Link | None:
    """Return the link that a reset token stands for, with the user's profile.

    None when it is damaged, expired, used, or replaced by a newer one, or when it was sent to an address that is no
    longer the account's, or that another account has confirmed.
    """
    claims = _read(RESET, token)
    user = claims and _find(claims, User.reset_nonce)
    if not claims or not user:
        return None
    if not claims.get("email"):
        return Link(user, claims["jti"], None)
    is_current = claims["email"] == user.email_key and not is_confirmed_by_another(user, user.email)
    return Link(user, claims["jti"], user.email) if is_current else None


def is_confirmed_by_another(user: User, email: str) -> bool:
    """Tell whether another account than the user's has confirmed an address."""
    confirmed = select(User.id).where(
        User.email_key == email_key(email), User.email_confirmed_at.is_not(None), User.id != user.id
    )
    return db.session.scalar(confirmed) is not None


def create_confirmation_token(user: User) -> str:
    """Return a token to confirm the account's `unconfirmed_email`, valid for CONFIRMATION_LIFETIME from now."""
    return _create(CONFIRMATION, user, user.email_nonce, CONFIRMATION_LIFETIME)


def verify_confirmation_token(token: str) -> Link | None:
    """Return the link that a token to confirm an address stands for, with the user's profile.

    None when it is damaged, expired or used, when the account has another address now, or another account has confirmed
    this one.
    """
    claims = _read(CONFIRMATION, token)
    user = claims and _find(claims, User.email_nonce)
    email = user.unconfirmed_email if user else None
    if not claims or not user or not email or is_confirmed_by_another(user, email):
        return None
    return Link(user, claims["jti"], email)


def create_undo_token(change: EmailChange, user: User) -> str:
    """Return a token to undo a change of address, valid for UNDO_LIFETIME from the change."""
    return _create(UNDO, user, change.nonce, change.changed_at + UNDO_LIFETIME - now())


def verify_undo_token(token: str) -> tuple[EmailChange, User] | None:
    """Return the change that a token undoes, and whose it is; None when it is damaged, expired or used."""
    claims = _read(UNDO, token)
    if not claims:
        return None
    found = select(EmailChange, User).join(User, User.id == EmailChange.user_id).join(User.profile)
    row = db.session.execute(
        found.options(contains_eager(User.profile)).where(EmailChange.nonce == claims["jti"])
    ).first()
    return (row[0], row[1]) if row else None


def _create(purpose: str, user: User, nonce: str | None, lifetime: timedelta, **more: str | None) -> str:
    """Return a signed token. Its nonce is stored, so that it can be used up or replaced."""
    claims = {"sub": str(user.id), "aud": purpose, "jti": nonce, "exp": now() + lifetime, **more}
    return jwt.encode(claims, _key(purpose), ALGORITHM)


def _read(purpose: str, token: str) -> dict | None:
    """Return the claims of a token; None when it is damaged, expired or made for another purpose."""
    required = ["sub", "aud", "jti", "exp"]
    try:
        return jwt.decode(token, _key(purpose), [ALGORITHM], audience=purpose, options={"require": required})
    except jwt.InvalidTokenError:
        return None


def _find(claims: dict, nonce_column) -> User | None:
    """Return the account that claims name, with its profile, if that column still has their nonce."""
    with_profile = select(User).join(User.profile).options(contains_eager(User.profile))
    user = db.session.scalar(with_profile.where(nonce_column == claims["jti"]))
    return user if user and str(user.id) == claims["sub"] else None
