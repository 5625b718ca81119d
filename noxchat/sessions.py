"""Where somebody is signed in. A session is a row, so it can be seen and ended from anywhere."""

import hashlib
import secrets
from datetime import timedelta

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import contains_eager

from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import Session, User

SEEN_EVERY = timedelta(minutes=1)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def begin(user: User, user_agent: str, lifetime: timedelta) -> User:
    """Sign somebody in from a browser, and forget their sessions that nobody used for a lifetime.

    Returns the user, with `session_token` set to the new session's secret.
    """
    db.session.execute(delete(Session).where(Session.user_id == user.id, Session.last_used_at < now() - lifetime))
    user.session_token = secrets.token_urlsafe(32)
    user.session = Session(token_hash=_hash(user.session_token), user_id=user.id, user_agent=user_agent[:255])
    db.session.add(user.session)
    db.session.flush()
    return user


# Of every request, so it is put together once.
LOAD = (
    select(User, Session)
    .join(Session, Session.user_id == User.id)
    .join(User.profile)
    .options(contains_eager(User.profile))
    .where(Session.token_hash == bindparam("hash"), Session.last_used_at > bindparam("since"))
)


def load(token: str, lifetime: timedelta) -> User | None:
    """Return whose session has this secret, with profile and session loaded in the one statement; None if nobody's."""
    row = db.session.execute(LOAD, {"hash": _hash(token), "since": now() - lifetime}).first()
    if row is None:
        return None
    user, user.session = row
    user.session_token = token
    return user


def renew(user: User) -> bool:
    """Give the session a new secret, as a remember cookie gets when it was used, so that a copy of the old one is dead.

    Returns False when another request has just done so: then the one at hand is such a copy.
    """
    token = secrets.token_urlsafe(32)
    renewed = db.session.execute(
        update(Session)
        .where(Session.id == user.session.id, Session.token_hash == _hash(user.session_token))
        .values(token_hash=_hash(token), last_used_at=now())
    )
    user.session_token = token
    return renewed.rowcount == 1


def is_due(user: User) -> bool:
    """Tell whether it is time to write down again that the session is in use: at most once a minute."""
    return user.session.last_used_at < now() - SEEN_EVERY


def touch(user: User):
    """Write down that the session, and with it the person, was there just now."""
    # The person first, as a password change does: the other way round, the two could wait for each other for ever.
    db.session.execute(update(User).where(User.id == user.id).values(last_seen_at=now()))
    db.session.execute(update(Session).where(Session.id == user.session.id).values(last_used_at=now()))


def of(user: User) -> list[Session]:
    """Return all sessions of a person, the one last used first."""
    return list(
        db.session.scalars(
            select(Session).where(Session.user_id == user.id).order_by(Session.last_used_at.desc(), Session.id.desc())
        )
    )


def end(user: User, session_id: int) -> bool:
    """End one session of this person, and of nobody else. Returns whether there was one."""
    ended = db.session.execute(delete(Session).where(Session.id == session_id, Session.user_id == user.id))
    return ended.rowcount == 1


def end_others(user: User) -> int:
    """End all sessions of this person but the one that the request came with. Returns how many there were."""
    here = user.session.id if user.session else 0
    return db.session.execute(delete(Session).where(Session.user_id == user.id, Session.id != here)).rowcount


BROWSERS = (("Edg", "Edge"), ("OPR/", "Opera"), ("YaBrowser", "Yandex Browser"), ("SamsungBrowser", "Samsung Internet"))
BROWSERS += (("Firefox/", "Firefox"), ("FxiOS", "Firefox"), ("CriOS", "Chrome"), ("Chrome/", "Chrome"))
BROWSERS += (("Safari/", "Safari"), ("curl/", "curl"), ("python", "Python"))
SYSTEMS = (("iPhone", "iPhone"), ("iPad", "iPad"), ("Android", "Android"), ("CrOS", "ChromeOS"), ("Windows", "Windows"))
SYSTEMS += (("Mac OS X", "Mac"), ("Linux", "Linux"))


def device(user_agent: str) -> tuple[str, str]:
    """Return the browser and the system that a User-Agent names, each empty where it names none that we know."""
    browser = next((name for sign, name in BROWSERS if sign in user_agent), "")
    system = next((name for sign, name in SYSTEMS if sign in user_agent), "")
    return browser, system
