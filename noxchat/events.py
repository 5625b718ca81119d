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

from sqlalchemy import ARRAY, Integer, String, bindparam, delete, select, text

from noxchat.database import UTCDateTime, execute_dml, now
from noxchat.extensions import db
from noxchat.models import Event

KEPT_FOR = timedelta(days=1)
CHANNEL = "noxchat_events"  # of PostgreSQL's NOTIFY
IDS_PER_NOTIFY = 500  # PostgreSQL limits a payload to 8000 bytes
LOCK_CLASS = 0x6E6F78  # the first key of the advisory locks, to keep them apart from other uses
# Recipients share this many locks, since PostgreSQL's lock table is small and a person may have thousands of friends.
LOCKS = 1024
DELETED_AT_ONCE = 5000
# All in one statement. The users' rows are locked as the foreign key will lock them: only the deletion of an account
# conflicts with that. Each step reads all of the previous one: first the rows in the order of their ids, then the
# advisory locks in theirs, so that two transactions never wait for each other; ids are drawn after that.
PUBLISH = text("""
    WITH existing AS MATERIALIZED (SELECT id FROM users WHERE id = ANY(:user_ids) ORDER BY id FOR KEY SHARE),
    slots AS MATERIALIZED (SELECT DISTINCT id % :locks AS slot FROM existing ORDER BY slot),
    locked AS MATERIALIZED (SELECT count(pg_advisory_xact_lock(:class, slot)::text) FROM slots),
    inserted AS (
        INSERT INTO events (user_id, kind, data, tab, created_at)
        SELECT new.user_id, new.kind, new.data, :tab, :created_at
        FROM locked, unnest(:user_ids, :kinds, :texts) AS new (user_id, kind, data)
        WHERE new.user_id IN (SELECT id FROM existing)
    )
    SELECT pg_notify(:channel, payload) FROM unnest(:payloads) AS payload
""").bindparams(
    *(bindparam(name, type_=ARRAY(String)) for name in ("kinds", "texts", "payloads")),
    bindparam("user_ids", type_=ARRAY(Integer)),
    bindparam("class", LOCK_CLASS),
    bindparam("channel", CHANNEL),
    bindparam("created_at", type_=UTCDateTime),
)
PUBLISH_ON_SQLITE = text("""
    INSERT INTO events (user_id, kind, data, tab, created_at)
    SELECT users.id, json_extract(value, '$[1]'), json_extract(value, '$[2]'), :tab, :created_at
    FROM json_each(:events) JOIN users ON users.id = json_extract(value, '$[0]')
    ORDER BY key
""").bindparams(bindparam("created_at", type_=UTCDateTime))


def publish(kind: str, recipients: Sequence[tuple[int, str]], tab: str = ""):
    """Publish an event to people, delivered once the transaction is committed.

    kind: the name of the server-sent event. recipients: user ids, each with the event's data (up to 64 characters);
    accounts that are deleted meanwhile are left out. tab: the browser tab that made the change, and is not told.

    Publish once in a transaction, after all other locks on users and other rows, or transactions could deadlock.
    """
    publish_all([(user_id, kind, data) for user_id, data in recipients], tab)


def publish_all(events: Sequence[tuple[int, str, str]], tab: str = ""):
    """Publish events of several kinds as `publish` does. events: each with user id, kind and data."""
    if not events:
        return
    recipients = sorted({user_id for user_id, _kind, _data in events})
    values = {"tab": tab, "created_at": now()}
    if db.engine.dialect.name == "postgresql":
        user_ids, kinds, texts = map(list, zip(*events, strict=True))
        parts = [recipients[start : start + IDS_PER_NOTIFY] for start in range(0, len(recipients), IDS_PER_NOTIFY)]
        columns = {"user_ids": user_ids, "kinds": kinds, "texts": texts, "payloads": list(map(json.dumps, parts))}
        db.session.execute(PUBLISH, {**values, **columns, "locks": LOCKS})
    else:
        db.session.execute(PUBLISH_ON_SQLITE, {**values, "events": json.dumps(events)})
        db.session.info.setdefault("event_recipients", set()).update(recipients)  # for event_stream.py


def delete_old(session) -> bool:
    """Delete some events that are no longer kept. Returns whether there may be more."""
    old = select(Event.id).where(Event.created_at < now() - KEPT_FOR).order_by(Event.id).limit(DELETED_AT_ONCE)
    statement = delete(Event).where(Event.id.in_(old.with_for_update(skip_locked=True)))
    return execute_dml(session, statement) == DELETED_AT_ONCE
