"""Rate limits. Each address and each account counts by itself; no limit adds everybody up.

Guessing passwords, and whatever only counts when it was saved, is counted in the database: exact, for all processes.
Other limits are counted in the store of RATELIMIT_STORAGE_URI, and never inside a transaction: a store that hangs must
not make the database wait.
"""

import contextlib
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from flask import Flask, current_app
from flask_babel import ngettext
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter
from sqlalchemy import ARRAY, Integer, String, bindparam, delete, func, insert, select, text, update
from sqlalchemy.exc import OperationalError

from noxchat.database import UTCDateTime, now
from noxchat.exceptions import RateLimited
from noxchat.extensions import db
from noxchat.models import Attempt, User
from noxchat.names import email_key

log = logging.getLogger("noxchat.throttle")

LOGIN_PERIOD, HOUR = timedelta(minutes=15), timedelta(hours=1)
MAX_ATTEMPT_DURATION = timedelta(seconds=10)
PURGED_AT_ONCE = 100
LOCK_CLASS = 0x6E6F7A  # the first key of the advisory locks; events.py and database.py have their own
ACQUIRE_LOCKS = text("SELECT pg_advisory_xact_lock(:class, slot) FROM unnest(:slots) AS slot").bindparams(
    bindparam("class", LOCK_CLASS), bindparam("slots", type_=ARRAY(Integer))
)
# So that a process that is frozen while it holds a lock stops nobody for longer than that.
LOCK_TIMEOUTS = text(
    "SELECT set_config('lock_timeout', '3s', true), set_config('idle_in_transaction_session_timeout', '2s', true)"
)
LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's error code, when lock_timeout has passed
BLOCKS_PER_HOUR = 200
UNDOS_PER_HOUR = 10
REGISTRATION_TRIES = 5  # forms for each registration that is allowed
STRENGTH_CHECKS_PER_HOUR = 600
STORE_SECONDS = 0.5  # for which a request waits for the store
RETRY_SECONDS = 3.0  # after which a store that failed is asked again


class StoreUnavailable(Exception):
    """The store did not answer, or with an error. str(): which."""


class Limiter:
    """Counts attempts in the store of RATELIMIT_STORAGE_URI; while that fails, in the memory of this process.

    problem: why the store cannot be used at present; empty when it can.
    """

    def __init__(self, uri: str):
        self.memory = MovingWindowRateLimiter(MemoryStorage())
        self.store: MovingWindowRateLimiter | None = None
        if not uri.startswith("memory:"):
            seconds = {"socket_connect_timeout": STORE_SECONDS, "socket_timeout": STORE_SECONDS}
            self.store = MovingWindowRateLimiter(storage_from_string(uri, **seconds))
        self.problem = ""
        self._lock = threading.Lock()
        self._retry_at = 0.0

    def hit(self, limit: RateLimitItem, *key: str) -> float:
        """Count an attempt. Returns 0 when it is allowed; otherwise after how many seconds it would be."""
        if self.store is not None and self._may_ask():
            with contextlib.suppress(StoreUnavailable):
                return self._ask(partial(_hit, self.store, limit, *key))
        return _hit(self.memory, limit, *key)

    def check(self) -> str:
        """Have the store count something. Returns `problem`."""
        if self.store is not None:
            with contextlib.suppress(StoreUnavailable):
                self._ask(partial(_hit, self.store, RateLimitItemPerSecond(1), "check"))
        return self.problem

    def _may_ask(self) -> bool:
        """Tell whether to ask the store: one that failed is asked by one request every RETRY_SECONDS."""
        with self._lock:
            if not self.problem:
                return True
            if time.monotonic() < self._retry_at:
                return False
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return True

    def _ask(self, question: Callable[[], float]) -> float:
        """Return the answer of the store. Raises StoreUnavailable."""
        answers: list[float] = []
        errors: list[str] = []

        def run():
            try:
                answers.append(question())
            except Exception as error:  # noqa: BLE001  nothing else may depend on the store
                errors.append(type(error).__name__)

        # In a thread, because neither the name server nor a store that sends a byte at a time obeys the time limits.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(STORE_SECONDS)
        if answers:
            self._record("")
            return answers[0]
        problem = errors[0] if errors else f"no answer within {STORE_SECONDS} s"
        self._record(problem)
        raise StoreUnavailable(problem)

    def _record(self, problem: str):
        with self._lock:
            if problem and not self.problem:
                log.error("limits are counted in this process: RATELIMIT_STORAGE_URI: %s", problem)
            if self.problem and not problem:
                log.warning("limits are counted in RATELIMIT_STORAGE_URI again")
            self.problem = problem
            self._retry_at = time.monotonic() + RETRY_SECONDS


def _hit(limiter: MovingWindowRateLimiter, limit: RateLimitItem, *key: str) -> float:
    if limiter.hit(limit, *key):
        return 0.0
    return max(1.0, limiter.get_window_stats(limit, *key).reset_time - time.time())


def init_app(app: Flask):
    """Set up the store in which attempts are counted."""
    app.extensions["limiter"] = Limiter(app.config["RATELIMIT_STORAGE_URI"])


def _refuse(seconds: float):
    seconds = max(1, math.ceil(seconds))
    minutes = math.ceil(seconds / 60)
    raise RateLimited(
        ngettext(
            "Too many tries in a row. Wait one minute, then try again.",
            "Too many tries in a row. Wait %(num)s minutes, then try again.",
            minutes,
        ),
        seconds,
    )


def _count(limit: RateLimitItem, *key: str):
    """Count an attempt in the limiter's store, outside of a transaction. Raises RateLimited when it is one too many."""
    if seconds := current_app.extensions["limiter"].hit(limit, *key):
        _refuse(seconds)


@dataclass(frozen=True)
class Limit:
    """At most `maximum` attempts in a period. key: what is limited, as words for the hash that is stored."""

    maximum: int
    period: timedelta
    key: tuple[str, ...]

    @property
    def stored_key(self) -> str:
        """The key of the rows in `attempts`."""
        return hashlib.sha256("\0".join(self.key).encode()).hexdigest()

    @property
    def lock_slot(self) -> int:
        """The second key of PostgreSQL's advisory lock for these rows."""
        return int(self.stored_key[:7], 16)


def login_limits(identifier: str, user: User | None, address: str, device: str | None) -> list[Limit]:
    """Return the limits for failed logins to one account from one address.

    The last attempt that a setting allows is already refused, so that "by the 10th" holds; but at least one is allowed.
    A device that logged in to the account before counts by itself: somebody who keeps guessing locks out strangers,
    but not the owner.

    identifier: as typed. The e-mail address and the Public ID of an account count together, and an account that does
    not exist counts like one that does. device: as returned by tokens.verify_device_token.
    """
    config = current_app.config
    account = ("account", str(user.id)) if user else ("unknown", email_key(identifier.strip(" ")))
    pair = max(1, config["SIGN_INS_PER_ACCOUNT_AND_ADDRESS"] - 1)
    if device:
        return [Limit(pair, LOGIN_PERIOD, ("device", device))]
    return [
        Limit(pair, LOGIN_PERIOD, ("login", *account, address)),
        Limit(max(1, config["SIGN_INS_PER_ADDRESS"] - 1), HOUR, ("login from", address)),
        Limit(max(1, config["SIGN_INS_PER_ACCOUNT"] - 1), HOUR, ("login to", *account)),
    ]


def confirmation_limits(user: User) -> list[Limit]:
    """Return the limits for wrong passwords of somebody who is logged in: a stolen session must not allow guessing."""
    maximum = current_app.config["SIGN_INS_PER_ACCOUNT_AND_ADDRESS"]
    return [Limit(maximum, LOGIN_PERIOD, ("confirm", str(user.id)))]


def begin_attempt(limits: list[Limit]) -> list[int]:
    """Count an attempt before it is made, so that many at once cannot exceed a limit. For a transaction that may write.

    Returns the attempt for `end_attempt`; empty when others that are under way, and may yet succeed and no longer
    count, use up a limit. Raises RateLimited when it is one too many.
    """
    if db.engine.dialect.name == "postgresql":
        _acquire_locks(limits)
    expired = select(Attempt.id).where(Attempt.expires_at <= now()).limit(PURGED_AT_ONCE)
    db.session.execute(delete(Attempt).where(Attempt.id.in_(expired.with_for_update(skip_locked=True))))
    if check_limits(limits):
        return []
    moment = now()
    rows = [
        {"key": each.stored_key, "expires_at": moment + each.period, "pending_until": moment + MAX_ATTEMPT_DURATION}
        for each in limits
    ]
    return list(db.session.scalars(insert(Attempt).returning(Attempt.id), rows))


def _acquire_locks(limits: list[Limit]):
    """Lock the limits on PostgreSQL until the transaction ends. Raises RateLimited when too many others wait for them.

    Each of those is an attempt to log in to the same account, or from the same address.
    """
    db.session.execute(LOCK_TIMEOUTS)
    try:
        db.session.execute(ACQUIRE_LOCKS, {"slots": sorted({each.lock_slot for each in limits})})
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        refuse_simultaneous()


def refuse_simultaneous():
    """Raise RateLimited about an attempt for which others that are under way leave no room."""
    _refuse(MAX_ATTEMPT_DURATION.total_seconds())


def check_limits(limits: list[Limit]) -> bool:
    """Raise RateLimited when failed attempts use up a limit. Returns whether those that are under way do."""
    moment = now()
    counted = select(Attempt.key, Attempt.expires_at, Attempt.pending_until).where(
        Attempt.key.in_([each.stored_key for each in limits]), Attempt.expires_at > moment
    )
    rows = db.session.execute(counted.order_by(Attempt.expires_at)).all()
    full = False
    for limit in limits:
        own = [row for row in rows if row.key == limit.stored_key]
        failed = [row.expires_at for row in own if row.pending_until is None or row.pending_until <= moment]
        if len(failed) >= limit.maximum:
            _refuse((failed[-limit.maximum] - moment).total_seconds())
        full = full or len(own) >= limit.maximum
    return full


def end_attempt(attempt: list[int], *, succeeded: bool):
    """Record how an attempt ended. One that succeeded no longer counts."""
    own = Attempt.id.in_(attempt)
    db.session.execute(
        delete(Attempt).where(own) if succeeded else update(Attempt).where(own).values(pending_until=None)
    )


def count_rename(user: User):
    """Count a change of name or Public ID, with the transaction that saves it. Raises RateLimited.

    user: as returned by accounts.lock_account.
    """
    _count_with_transaction(Limit(current_app.config["RENAMES_PER_DAY"], timedelta(days=1), ("rename", str(user.id))))


def count_friend_request(sender: User):
    """Count a friend request, with the transaction that saves it. Raises RateLimited. sender: locked."""
    _count_with_transaction(Limit(current_app.config["REQUESTS_PER_HOUR"], HOUR, ("friend request", str(sender.id))))


def count_block(blocker: User):
    """Count a block, with the transaction that saves it. blocker: locked.

    Raises RateLimited: each sends events, so blocking and unblocking must not go on for ever.
    """
    _count_with_transaction(Limit(BLOCKS_PER_HOUR, HOUR, ("block", str(blocker.id))))


def count_undo(user: User):
    """Count that somebody takes back what they did, with the transaction that saves it. user: locked.

    Raises RateLimited: each sends events, so doing and undoing must not go on for ever.
    """
    _count_with_transaction(Limit(UNDOS_PER_HOUR, HOUR, ("undo", str(user.id))))


ATTEMPTS = select(func.count()).where(
    Attempt.key == bindparam("limited", type_=String), Attempt.expires_at > bindparam("moment", type_=UTCDateTime)
)
COUNT_ATTEMPT = (
    insert(Attempt.__table__)
    .from_select(
        ["key", "expires_at"],
        select(bindparam("limited", type_=String), bindparam("expires", type_=UTCDateTime)).where(
            ATTEMPTS.scalar_subquery() < bindparam("maximum", type_=Integer)
        ),
    )
    .returning(Attempt.__table__.c.id)
)


def _count_with_transaction(limit: Limit):
    values = {"limited": limit.stored_key, "moment": now(), "expires": now() + limit.period, "maximum": limit.maximum}
    if db.session.scalar(COUNT_ATTEMPT, values) is None:
        check_limits([limit])


def count_registration_try(address: str):
    """Count a form to register, complete or not, since it tells whether a name is taken. Raises RateLimited."""
    tries = REGISTRATION_TRIES * current_app.config["SIGN_UPS_PER_HOUR"]
    _count(RateLimitItemPerHour(tries), "sign-up try", address)


def count_registration(address: str):
    """Count a registration from an address. Raises RateLimited."""
    _count(RateLimitItemPerHour(current_app.config["SIGN_UPS_PER_HOUR"]), "sign-up", address)


def allow_confirmation_email(email: str) -> bool:
    """Count an e-mail that asks to confirm an address, whosever account it is for. Returns False when it is too many.

    Nobody is told, or they would know that somebody else gave the address.
    """
    try:
        _count(RateLimitItemPerHour(current_app.config["RESETS_PER_HOUR"]), "confirmation", _hash_email(email))
    except RateLimited:
        return False
    return True


def count_resend(user: User):
    """Count that somebody asks for the link to confirm their address again. Raises RateLimited."""
    _count(RateLimitItemPerHour(current_app.config["RESETS_PER_HOUR"]), "resend", str(user.id))


def count_email_change(user: User):
    """Count a change of address, with the transaction that saves it: each may send an e-mail. Raises RateLimited.

    user: as returned by accounts.lock_account.
    """
    _count_with_transaction(Limit(current_app.config["RENAMES_PER_DAY"], timedelta(days=1), ("email", str(user.id))))


def count_strength_check(address: str):
    """Count a computation of how strong a password is, from an address. Raises RateLimited."""
    _count(RateLimitItemPerHour(STRENGTH_CHECKS_PER_HOUR), "strength", address)


def count_reset_request(email: str, address: str):
    """Count a request for a password reset e-mail, whether or not the account exists. Raises RateLimited."""
    _count(RateLimitItemPerHour(current_app.config["SIGN_UPS_PER_HOUR"]), "reset-address", address)
    _count(RateLimitItemPerHour(current_app.config["RESETS_PER_HOUR"]), "reset-account", _hash_email(email))


def _hash_email(email: str) -> str:
    return hashlib.sha256(email_key(email).encode()).hexdigest()


def count_avatar(user: User):
    """Count an uploaded picture that is about to be decoded. Raises RateLimited."""
    _count(RateLimitItemPerHour(current_app.config["AVATARS_PER_HOUR"]), "avatar", str(user.id))


def count_message(user: User):
    """Count a message that somebody sends. Raises RateLimited."""
    _count(RateLimitItemPerMinute(current_app.config["MESSAGES_PER_MINUTE"]), "message", str(user.id))
