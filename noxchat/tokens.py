"""Signed tokens: of password resets (valid for a short time, usable once), of devices, and against CSRF."""

import hashlib
import hmac
import secrets
from datetime import timedelta

import jwt
from flask import current_app
from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import select, update

from noxchat.database import execute_dml, now
from noxchat.extensions import db
from noxchat.models import User

RESET = "reset"
ALGORITHM = "HS256"


def _key(purpose: str) -> bytes:
    """Return a key for this purpose only, so that a token made for another purpose is never accepted."""
    return hmac.digest(current_app.config["SECRET_KEY"].encode(), b"noxchat token: " + purpose.encode(), hashlib.sha256)


def csrf_secret(user: User) -> str:
    """Return the secret of the CSRF tokens of a login session: the same in all tabs that a browser restores at once."""
    session = user.session
    assert session
    message = f"{session.id} {session.created_at.isoformat()}"
    return hmac.digest(_key("csrf"), message.encode(), hashlib.sha256).hex()


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


def renew_reset_nonce(user: User):
    """Prepare a new reset link; earlier links stop working."""
    user.reset_nonce = secrets.token_hex(16)
    db.session.flush()


def create_reset_token(user: User) -> str:
    """Return the token of the latest reset link, valid for RESET_MINUTES from now. Call renew_reset_nonce first."""
    claims = {
        "sub": str(user.id),
        "aud": RESET,
        "jti": user.reset_nonce,
        "exp": now() + timedelta(minutes=current_app.config["RESET_MINUTES"]),
    }
    return jwt.encode(claims, _key(RESET), ALGORITHM)


def verify_reset_token(token: str) -> User | None:
    """Return whose reset token this is; None when it is damaged, expired, already used, or replaced by a newer one."""
    try:
        claims = jwt.decode(
            token, _key(RESET), [ALGORITHM], audience=RESET, options={"require": ["sub", "aud", "jti", "exp"]}
        )
    except jwt.InvalidTokenError:
        return None
    user = db.session.scalar(select(User).where(User.reset_nonce == claims["jti"]))
    return user if user and str(user.id) == claims["sub"] else None


def redeem_reset_token(user: User, password_hash: str) -> bool:
    """Set a new password. Returns False when the token was used or replaced in the meantime."""
    unused = update(User).where(User.id == user.id, User.reset_nonce == user.reset_nonce)
    return execute_dml(db.session, unused.values(password_hash=password_hash, reset_nonce=None)) == 1
