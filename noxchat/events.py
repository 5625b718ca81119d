"""Durable events: rows that tell a person's open pages that something changed.

An event names its kind and an id, and the page fetches the changed fragment by its ordinary route, which checks
permissions. Events are rows, so that an interrupted stream can resume. Each feature names its own kinds.

A stream resumes after the last id it has seen, so a person's events must become visible in the order of their ids.
On SQLite there is only one writer. On PostgreSQL whoever publishes holds an advisory lock for each recipient, which
nothing else uses, from before the ids are drawn until the commit.
"""

import json
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ARRAY, Integer, bindparam, delete, func, insert, select, text

from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import Event, User

KEPT_FOR = timedelta(days=1)
CHANNEL = "noxchat_events"  # of PostgreSQL's NOTIFY
IDS_PER_NOTIFY = 500  # PostgreSQL limits a payload to 8000 bytes
LOCK_CLASS = 0x6E6F78  # the first key of the advisory locks, to keep them apart from other uses
# Recipients share this many locks, since PostgreSQL's lock table is small and a person may have thousands of friends.
LOCKS = 1024
ACQUIRE_LOCKS = text("SELECT pg_advisory_xact_lock(:class, slot) FROM unnest(:slots) AS slot").bindparams(
    bindparam("class", LOCK_CLASS), bindparam("slots", type_=ARRAY(Integer))
)


def publish(kind: str, recipients: Sequence[tuple[int, str]], tab: str = ""):
    """Publish an event to people, delivered once the transaction is committed.

    kind: the name of the server-sent event. recipients: user ids, each with the event's data (up to 64 characters);
    accounts that are deleted meanwhile are left out. tab: the browser tab that made the change, and is not told.

    Publish once in a transaction, after all other locks on users and other rows, or transactions could deadlock.
    """
    publish_all([(user_id, kind, data) for user_id, data in recipients], tab)


def publish_all(events: Sequence[tuple[int, str, str]], tab: str = ""):
    """Publish events of several kinds as `publish` does. events: each with user id, kind and data."""
    user_ids = _lock_recipients({user_id for user_id, _kind, _data in events})
    if not user_ids:
        return
    db.session.execute(delete(Event).where(Event.user_id.in_(user_ids), Event.created_at < now() - KEPT_FOR))
    rows = [
        {"user_id": user_id, "kind": kind, "data": data, "tab": tab, "created_at": now()}
        for user_id, kind, data in events
        if user_id in user_ids
    ]
    db.session.execute(insert(Event), rows)
    _announce(sorted(user_ids))


def _lock_recipients(user_ids: set[int]) -> set[int]:
    """Acquire the locks of recipients, and return those whose accounts exist."""
    if not user_ids:
        return set()
    # The same lock as the foreign key will take; only the deletion of an account conflicts with it.
    rows = select(User.id).where(User.id.in_(user_ids)).order_by(User.id).with_for_update(read=True, key_share=True)
    existing = set(db.session.scalars(rows))
    if existing and db.engine.dialect.name == "postgresql":
        # In one statement and in ascending order, so that two transactions never wait for each other.
        db.session.execute(ACQUIRE_LOCKS, {"slots": sorted({user_id % LOCKS for user_id in existing})})
    return existing


def _announce(user_ids: list[int]):
    """Have event_stream.py wake the streams of these people after the commit."""
    if db.engine.dialect.name == "postgresql":
        for start in range(0, len(user_ids), IDS_PER_NOTIFY):
            payload = json.dumps(user_ids[start : start + IDS_PER_NOTIFY])
            db.session.execute(select(func.pg_notify(CHANNEL, payload)))
    else:
        db.session.info.setdefault("event_recipients", set()).update(user_ids)
