"""What happened to whom, to be told at once.

An event is a doorbell: it names with whom something changed, and the page fetches its parts anew by their ordinary
routes, which decide what may be seen. Events are rows, so that a stream that was away goes on where it ended. Whoever
writes one for somebody holds that person's row (friendships.lock), so each person's events become visible in the order
of their ids, and "later than the last one" misses none.
"""

import json
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import delete, func, insert, select

from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import Event, User

FRIENDSHIP = "friendship"
KEPT = timedelta(days=1)
CHANNEL = "noxchat_events"  # of PostgreSQL's NOTIFY
NOTICE_IDS = 500  # in one notice, whose payload PostgreSQL limits to 8000 bytes


def tell(person: User, about: User, tab: str = ""):
    """Tell somebody that something changed between them and another. tab: the one that needs not be told."""
    _tell([(person.id, about.profile.public_id)], tab)


def tell_both(one: User, other: User, tab: str = ""):
    """Tell two people that something changed between them. tab: the one that needs not be told."""
    _tell([(one.id, other.profile.public_id), (other.id, one.profile.public_id)], tab)


def tell_all(people: Iterable[int], about: str):
    """Tell many people that something changed between each of them and whoever has, or had, this Public ID."""
    _tell([(person, about) for person in people], "")


def _tell(whom: list[tuple[int, str]], tab: str):
    if not whom:
        return
    ids = [person for person, _about in whom]
    db.session.execute(delete(Event).where(Event.user_id.in_(ids), Event.created_at < now() - KEPT))
    db.session.execute(
        insert(Event),
        [
            {"user_id": person, "kind": FRIENDSHIP, "about": about, "tab": tab, "created_at": now()}
            for person, about in whom
        ],
    )
    if db.engine.dialect.name == "postgresql":
        for start in range(0, len(ids), NOTICE_IDS):
            db.session.execute(select(func.pg_notify(CHANNEL, json.dumps(ids[start : start + NOTICE_IDS]))))
    else:
        db.session.info.setdefault("told", set()).update(ids)
