"""Getting back in without the password: a link that works once, for a short time."""

import hashlib
import hmac
import secrets
from datetime import timedelta

import jwt
from flask import current_app
from sqlalchemy import select, update

from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import User

PURPOSE = "reset"
ALGORITHM = "HS256"


def _key() -> bytes:
    """A key of its own: a token made for another purpose can never be taken for one of ours."""
    return hmac.digest(current_app.config["SECRET_KEY"].encode(), b"noxchat token: " + PURPOSE.encode(), hashlib.sha256)


def ask(user: User):
    """Prepare a new link for a person; links that were made before stop working."""
    user.reset_nonce = secrets.token_hex(16)
    db.session.flush()


def token(user: User) -> str:
    """Return the token of the link that was asked for last, good for RESET_MINUTES from now. Call `ask` first."""
    claims = {
        "sub": str(user.id),
        "aud": PURPOSE,
        "jti": user.reset_nonce,
        "exp": now() + timedelta(minutes=current_app.config["RESET_MINUTES"]),
    }
    return jwt.encode(claims, _key(), ALGORITHM)


def owner(text: str) -> User | None:
    """Return whose token this is; None when it is damaged, too old, already used, or replaced by a newer one."""
    try:
        required = {"require": ["sub", "aud", "jti", "exp"]}
        claims = jwt.decode(text, _key(), [ALGORITHM], audience=PURPOSE, options=required)
    except jwt.InvalidTokenError:
        return None
    user = db.session.scalar(select(User).where(User.reset_nonce == claims["jti"]))
    return user if user and str(user.id) == claims["sub"] else None


def use(user: User, password_hash: str) -> bool:
    """Set a new password by a link. Returns False when the link was used or replaced in the meantime."""
    used = db.session.execute(
        update(User)
        .where(User.id == user.id, User.reset_nonce == user.reset_nonce)
        .values(password_hash=password_hash, reset_nonce=None)
    )
    return used.rowcount == 1
