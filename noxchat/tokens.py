"""Password reset tokens: signed, valid for a short time, usable once. CSRF tokens of a login session."""

import hashlib
import hmac
import secrets
from datetime import timedelta

import jwt
from flask import current_app
from sqlalchemy import select, update

from noxchat.database import execute_dml, now
from noxchat.extensions import db
from noxchat.models import User

PURPOSE = "reset"
ALGORITHM = "HS256"


def _key(purpose: str = PURPOSE) -> bytes:
    """Return a key for this purpose only, so that a token made for another purpose is never accepted."""
    return hmac.digest(current_app.config["SECRET_KEY"].encode(), b"noxchat token: " + purpose.encode(), hashlib.sha256)


def csrf_secret(user: User) -> str:
    """Return the secret of the CSRF tokens of a login session: the same in all tabs that a browser restores at once."""
    session = user.session
    assert session
    message = f"{session.id} {session.created_at.isoformat()}"
    return hmac.digest(_key("csrf"), message.encode(), hashlib.sha256).hex()


def renew_reset_nonce(user: User):
    """Prepare a new reset link; earlier links stop working."""
    user.reset_nonce = secrets.token_hex(16)
    db.session.flush()


def create_reset_token(user: User) -> str:
    """Return the token of the latest reset link, valid for RESET_MINUTES from now. Call renew_reset_nonce first."""
    claims = {
        "sub": str(user.id),
        "aud": PURPOSE,
        "jti": user.reset_nonce,
        "exp": now() + timedelta(minutes=current_app.config["RESET_MINUTES"]),
    }
    return jwt.encode(claims, _key(), ALGORITHM)


def verify_reset_token(token: str) -> User | None:
    """Return whose reset token this is; None when it is damaged, expired, already used, or replaced by a newer one."""
    try:
        claims = jwt.decode(
            token, _key(), [ALGORITHM], audience=PURPOSE, options={"require": ["sub", "aud", "jti", "exp"]}
        )
    except jwt.InvalidTokenError:
        return None
    user = db.session.scalar(select(User).where(User.reset_nonce == claims["jti"]))
    return user if user and str(user.id) == claims["sub"] else None


def redeem_reset_token(user: User, password_hash: str) -> bool:
    """Set a new password. Returns False when the token was used or replaced in the meantime."""
    unused = update(User).where(User.id == user.id, User.reset_nonce == user.reset_nonce)
    return execute_dml(db.session, unused.values(password_hash=password_hash, reset_nonce=None)) == 1
