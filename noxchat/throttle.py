"""How often something may be tried. Each address and each account counts by itself; nothing adds everybody up."""

import hashlib
import math
import time

from flask import current_app
from flask_babel import ngettext
from itsdangerous import BadSignature, URLSafeSerializer
from limits import RateLimitItemPerDay, RateLimitItemPerHour, RateLimitItemPerMinute

from noxchat.extensions import limiter
from noxchat.models import User
from noxchat.names import email_key
from noxchat.refusal import TooMany

MINUTES = 15
BLOCKS_PER_HOUR = 200


def _refuse(item, *key):
    reset, _left = limiter.limiter.get_window_stats(item, *key)
    seconds = max(1, math.ceil(reset - time.time()))
    minutes = math.ceil(seconds / 60)
    raise TooMany(
        ngettext(
            "Too many tries in a row. Wait one minute, then try again.",
            "Too many tries in a row. Wait %(num)s minutes, then try again.",
            minutes,
        ),
        seconds,
    )


def count(item, *key):
    """Count one try, and refuse it when that is one too many. Raises TooMany."""
    if not limiter.limiter.hit(item, *key):
        _refuse(item, *key)


class SignIn:
    """The tries to sign in to one account from one address: only failed ones count.

    The last try that a limit allows is already refused, so that "by the 10th" holds. A device that signed in to this
    account before counts by itself: a stranger who keeps guessing locks out strangers, not the owner.

    identifier: what was typed; e-mail address and Public ID of one account count together, and an account that does
    not exist counts like one that does.
    """

    def __init__(self, identifier: str, user: User | None, address: str, device_cookie: str | None):
        config = current_app.config
        account = str(user.id) if user else hashlib.sha256(email_key(identifier.strip(" ")).encode()).hexdigest()
        device = user and known_device(device_cookie, user)
        if device:
            both = config["SIGN_INS_PER_ACCOUNT_AND_ADDRESS"]
            self.limits = [(RateLimitItemPerMinute(both - 1, MINUTES), ("device", device))]
            return
        self.limits = [
            (
                RateLimitItemPerMinute(max(1, config["SIGN_INS_PER_ACCOUNT_AND_ADDRESS"] - 1), MINUTES),
                ("sign-in", account, address),
            ),
            (RateLimitItemPerHour(max(1, config["SIGN_INS_PER_ADDRESS"] - 1)), ("sign-in-address", address)),
            (RateLimitItemPerHour(max(1, config["SIGN_INS_PER_ACCOUNT"] - 1)), ("sign-in-account", account)),
        ]

    def check(self):
        """Raise TooMany when one more try is not allowed now."""
        for item, key in self.limits:
            if not limiter.limiter.test(item, *key):
                _refuse(item, *key)

    def failed(self):
        """Count a failed try."""
        for item, key in self.limits:
            limiter.limiter.hit(item, *key)


def confirm_password(user: User):
    """Count one try to confirm one's own password. Raises TooMany: a stolen session is no place to guess in."""
    count(RateLimitItemPerMinute(current_app.config["SIGN_INS_PER_ACCOUNT_AND_ADDRESS"], MINUTES), "confirm", user.id)


def sign_up(address: str):
    """Count one sign-up from an address. Raises TooMany."""
    count(RateLimitItemPerHour(current_app.config["SIGN_UPS_PER_HOUR"]), "sign-up", address)


def reset_letter(email: str, address: str):
    """Count one wish for a reset letter, whether or not there is such an account. Raises TooMany."""
    count(RateLimitItemPerHour(current_app.config["SIGN_UPS_PER_HOUR"]), "reset-address", address)
    account = hashlib.sha256(email_key(email).encode()).hexdigest()
    count(RateLimitItemPerHour(current_app.config["RESETS_PER_HOUR"]), "reset-account", account)


def friend_request(sender: User):
    """Count one request to be friends. Raises TooMany."""
    count(RateLimitItemPerHour(current_app.config["REQUESTS_PER_HOUR"]), "friend-request", sender.id)


def block(blocker: User):
    """Count one block. Raises TooMany: each is told to whom it concerns, so nobody goes on and off for ever."""
    count(RateLimitItemPerHour(BLOCKS_PER_HOUR), "block", blocker.id)


def notice_letter(user: User) -> bool:
    """Count a letter about somebody else's try to sign up with this person's address; False when it is one too many."""
    return limiter.limiter.hit(RateLimitItemPerHour(current_app.config["RESETS_PER_HOUR"]), "notice", user.id)


class Rename:
    """The changes of somebody's name or Public ID in a day: only those that happen count."""

    def __init__(self, user: User):
        self.item, self.key = RateLimitItemPerDay(current_app.config["RENAMES_PER_DAY"]), ("rename", user.id)

    def check(self):
        """Raise TooMany when one more change is not allowed now."""
        if not limiter.limiter.test(self.item, *self.key):
            _refuse(self.item, *self.key)

    def happened(self):
        """Count a change."""
        limiter.limiter.hit(self.item, *self.key)


def _devices() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.config["SECRET_KEY"], salt="device")


def device_cookie(user: User, nonce: str) -> str:
    """Return what a browser keeps to show that it signed in to this account before."""
    return _devices().dumps([user.id, nonce])


def known_device(cookie: str | None, user: User) -> str | None:
    """Return a name for the device if its cookie was made for this account, else None."""
    try:
        user_id, nonce = _devices().loads(cookie or "")
    except (BadSignature, ValueError, TypeError):
        return None
    return f"{user_id} {nonce}" if user_id == user.id else None
