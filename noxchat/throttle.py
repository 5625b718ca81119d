"""Rate limits. Each address and each account counts by itself; no limit adds everybody up."""

import hashlib
import math
import time

from flask import Flask, current_app
from flask_babel import ngettext
from itsdangerous import BadSignature, URLSafeSerializer
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

from noxchat.exceptions import RateLimited
from noxchat.models import User
from noxchat.names import email_key

LOGIN_WINDOW_MINUTES = 15
BLOCKS_PER_HOUR = 200


def init_app(app: Flask):
    """Connect to the store in which attempts are counted."""
    app.extensions["limiter"] = MovingWindowRateLimiter(storage_from_string(app.config["RATELIMIT_STORAGE_URI"]))


def _limiter() -> MovingWindowRateLimiter:
    return current_app.extensions["limiter"]


def _refuse(limit: RateLimitItem, *key: str):
    seconds = max(1, math.ceil(_limiter().get_window_stats(limit, *key).reset_time - time.time()))
    minutes = math.ceil(seconds / 60)
    raise RateLimited(
        ngettext(
            "Too many tries in a row. Wait one minute, then try again.",
            "Too many tries in a row. Wait %(num)s minutes, then try again.",
            minutes,
        ),
        seconds,
    )


def _check(limit: RateLimitItem, *key: str):
    """Raise RateLimited when one more attempt is not allowed now, without counting one."""
    if not _limiter().test(limit, *key):
        _refuse(limit, *key)


def _count(limit: RateLimitItem, *key: str):
    """Count an attempt. Raises RateLimited when it is one too many."""
    if not _limiter().hit(limit, *key):
        _refuse(limit, *key)


class LoginAttempts:
    """The failed attempts to log in to one account from one address.

    The last attempt that a limit allows is already refused, so that "by the 10th" holds. A device that logged in to
    the account before counts by itself: somebody who keeps guessing locks out strangers, but not the owner.

    identifier: as typed. The e-mail address and the Public ID of an account count together, and an account that does
    not exist counts like one that does.
    """

    def __init__(self, identifier: str, user: User | None, address: str, device_cookie: str | None):
        config = current_app.config
        account = str(user.id) if user else hashlib.sha256(email_key(identifier.strip(" ")).encode()).hexdigest()
        self.limits: list[tuple[RateLimitItem, tuple[str, ...]]]
        if user and (device := known_device(device_cookie, user)):
            pair = config["SIGN_INS_PER_ACCOUNT_AND_ADDRESS"]
            self.limits = [(RateLimitItemPerMinute(pair - 1, LOGIN_WINDOW_MINUTES), ("device", device))]
            return
        self.limits = [
            (
                RateLimitItemPerMinute(max(1, config["SIGN_INS_PER_ACCOUNT_AND_ADDRESS"] - 1), LOGIN_WINDOW_MINUTES),
                ("sign-in", account, address),
            ),
            (RateLimitItemPerHour(max(1, config["SIGN_INS_PER_ADDRESS"] - 1)), ("sign-in-address", address)),
            (RateLimitItemPerHour(max(1, config["SIGN_INS_PER_ACCOUNT"] - 1)), ("sign-in-account", account)),
        ]

    def check(self):
        """Raise RateLimited when one more attempt is not allowed now."""
        for limit, key in self.limits:
            _check(limit, *key)

    def record_failure(self):
        """Count a failed attempt."""
        for limit, key in self.limits:
            _limiter().hit(limit, *key)


class Renames:
    """The changes of somebody's name or Public ID in a day; only those that were saved count."""

    def __init__(self, user: User):
        self.limit, self.key = RateLimitItemPerDay(current_app.config["RENAMES_PER_DAY"]), ("rename", str(user.id))

    def check(self):
        """Raise RateLimited when one more change is not allowed now."""
        _check(self.limit, *self.key)

    def record(self):
        """Count a change."""
        _limiter().hit(self.limit, *self.key)


def count_password_confirmation(user: User):
    """Count an attempt to confirm one's own password. Raises RateLimited: a stolen session must not allow guessing."""
    limit = RateLimitItemPerMinute(current_app.config["SIGN_INS_PER_ACCOUNT_AND_ADDRESS"], LOGIN_WINDOW_MINUTES)
    _count(limit, "confirm", str(user.id))


def count_registration(address: str):
    """Count a registration from an address. Raises RateLimited."""
    _count(RateLimitItemPerHour(current_app.config["SIGN_UPS_PER_HOUR"]), "sign-up", address)


def count_reset_request(email: str, address: str):
    """Count a request for a password reset e-mail, whether or not the account exists. Raises RateLimited."""
    _count(RateLimitItemPerHour(current_app.config["SIGN_UPS_PER_HOUR"]), "reset-address", address)
    account = hashlib.sha256(email_key(email).encode()).hexdigest()
    _count(RateLimitItemPerHour(current_app.config["RESETS_PER_HOUR"]), "reset-account", account)


def count_friend_request(sender: User):
    """Count a friend request. Raises RateLimited."""
    _count(RateLimitItemPerHour(current_app.config["REQUESTS_PER_HOUR"]), "friend-request", str(sender.id))


def count_avatar(user: User):
    """Count an uploaded picture that is about to be decoded. Raises RateLimited."""
    _count(RateLimitItemPerHour(current_app.config["AVATARS_PER_HOUR"]), "avatar", str(user.id))


def count_block(blocker: User):
    """Count a block. Raises RateLimited: each sends events, so blocking and unblocking must not go on for ever."""
    _count(RateLimitItemPerHour(BLOCKS_PER_HOUR), "block", str(blocker.id))


def allow_address_taken_email(user: User) -> bool:
    """Count an e-mail about somebody registering with this person's address; False when it is one too many."""
    return _limiter().hit(RateLimitItemPerHour(current_app.config["RESETS_PER_HOUR"]), "notice", str(user.id))


def _device_serializer() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.config["SECRET_KEY"], salt="device")


def create_device_cookie(user: User, nonce: str) -> str:
    """Return a signed cookie that shows that a browser logged in to this account before."""
    return _device_serializer().dumps([user.id, nonce])


def known_device(cookie: str | None, user: User) -> str | None:
    """Return a name for the device if its cookie was made for this account, else None."""
    try:
        user_id, nonce = _device_serializer().loads(cookie or "")
    except (BadSignature, ValueError, TypeError):
        return None
    return f"{user_id} {nonce}" if user_id == user.id else None
