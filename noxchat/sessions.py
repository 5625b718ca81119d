"""Login sessions. Each is a row, so that it can be listed, and ended from anywhere."""

import hashlib
import secrets
from datetime import timedelta

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import contains_eager

from noxchat.counters import Counters, counter_columns
from noxchat.database import execute_dml, now
from noxchat.extensions import db
from noxchat.models import Session, User

TOUCH_INTERVAL = timedelta(minutes=1)
# A browser that restores several tabs sends the same cookie with each, and the first answer replaces it.
GRACE = timedelta(seconds=60)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def create(user: User, user_agent: str, lifetime: timedelta) -> User:
    """Create a session for a browser, and delete the person's expired ones.

    lifetime: after which an unused session expires.
    Returns the user, with `session` and its secret `session_token` set.
    """
    db.session.execute(delete(Session).where(Session.user_id == user.id, Session.last_used_at < now() - lifetime))
    token = secrets.token_urlsafe(32)
    user.session = Session(token_hash=_hash(token), user_id=user.id, user_agent=user_agent[:255])
    user.session_token = token
    db.session.add(user.session)
    db.session.flush()
    return user


# Executed for every request, so they are built once.
SESSIONS = (
    select(User, Session)
    .join(Session, Session.user_id == User.id)
    .join(User.profile)
    .options(contains_eager(User.profile))
)
BY_TOKEN = SESSIONS.where(Session.token_hash == bindparam("hash"), Session.last_used_at > bindparam("since"))
WITH_COUNTERS = BY_TOKEN.add_columns(*counter_columns(Session.user_id))
BY_PREVIOUS_TOKEN = SESSIONS.where(
    Session.previous_token_hash == bindparam("hash"), Session.replaced_at > bindparam("since")
)


def load(token: str, lifetime: timedelta, *, with_counters: bool = False) -> User | None:
    """Return the user whose session has this token, with profile and session, in one statement; None if there is none.

    lifetime: after which an unused session expires. with_counters: whether to set `counters`, too.
    """
    return _load(WITH_COUNTERS if with_counters else BY_TOKEN, token, lifetime)


def load_by_previous_token(token: str) -> User | None:
    """Return the user whose session had this token until a moment ago, as `load` does.

    The new token is not known: only its hash is stored. The caller has to make sure that it is the same browser.
    """
    return _load(BY_PREVIOUS_TOKEN, token, GRACE)


def _load(statement, token: str, period: timedelta) -> User | None:
    row = db.session.execute(statement, {"hash": _hash(token), "since": now() - period}).first()
    if row is None:
        return None
    user, session, *numbers = row
    user.session, user.session_token = session, token
    user.counters = Counters(*numbers) if numbers else None
    return user


def replace_token(user: User, *, keep_previous: bool) -> bool:
    """Replace the session's token, so that a copy of the old one no longer works.

    keep_previous: whether the old one is still valid for GRACE, for the same browser. Then nothing is done, and False
    returned, when another request has replaced it just now.
    """
    assert user.session and user.session_token
    token, old_hash = secrets.token_urlsafe(32), _hash(user.session_token)
    values = {"token_hash": _hash(token), "last_used_at": now(), "replaced_at": now()}
    new = update(Session).where(Session.id == user.session.id)
    if keep_previous:
        new, values["previous_token_hash"] = new.where(Session.token_hash == old_hash), old_hash
    else:
        values["previous_token_hash"] = None
    if execute_dml(db.session, new.values(values)) != 1:
        return False
    user.session_token = token
    return True


def is_touch_due(user: User) -> bool:
    """Tell whether the time of last use is to be written again: at most once per TOUCH_INTERVAL."""
    assert user.session
    return user.session.last_used_at < now() - TOUCH_INTERVAL


def touch(user: User):
    """Write down that the session and the person were active just now."""
    assert user.session
    # The user first, in the same order as a password change, or the two could deadlock.
    db.session.execute(update(User).where(User.id == user.id).values(last_seen_at=now()))
    db.session.execute(update(Session).where(Session.id == user.session.id).values(last_used_at=now()))


def list_all(user: User) -> list[Session]:
    """Return all sessions of a person, most recently used first."""
    mine = select(Session).where(Session.user_id == user.id)
    return list(db.session.scalars(mine.order_by(Session.last_used_at.desc(), Session.id.desc())))


def revoke(user: User, session_id: int) -> bool:
    """End a session of this person. Returns whether there was one."""
    return execute_dml(db.session, delete(Session).where(Session.id == session_id, Session.user_id == user.id)) == 1


def revoke_all(user: User):
    """End all sessions of this person."""
    db.session.execute(delete(Session).where(Session.user_id == user.id))


def revoke_others(user: User) -> int:
    """End all sessions of this person except the current one. Returns how many."""
    current = user.session.id if user.session else 0
    return execute_dml(db.session, delete(Session).where(Session.user_id == user.id, Session.id != current))


# A substring of the User-Agent for each; the first that matches counts.
BROWSERS = (
    *(("Edg", "Edge"), ("OPR/", "Opera"), ("YaBrowser", "Yandex Browser"), ("SamsungBrowser", "Samsung Internet")),
    *(("Firefox/", "Firefox"), ("FxiOS", "Firefox"), ("CriOS", "Chrome"), ("Chrome/", "Chrome")),
    *(("Safari/", "Safari"), ("curl/", "curl"), ("python", "Python")),
)
SYSTEMS = (
    *(("iPhone", "iPhone"), ("iPad", "iPad"), ("Android", "Android"), ("CrOS", "ChromeOS"), ("Windows", "Windows")),
    *(("Mac OS X", "Mac"), ("Linux", "Linux")),
)


def device(user_agent: str) -> tuple[str, str]:
    """Return the names of the browser and the system in a User-Agent; each empty if unknown."""
    browser = next((name for substring, name in BROWSERS if substring in user_agent), "")
    system = next((name for substring, name in SYSTEMS if substring in user_agent), "")
    return browser, system
