"""A transactional outbox: the changes that an index of Elasticsearch does not have yet, a row for each changed row.

Triggers write it in the transaction of the change, so that no change is missed however it is made; and only once there
is an index, so that installations without Elasticsearch collect nothing. The id of a row is the version of the change:
it grows with each change of the same row, since the change holds that row's lock.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from noxchat.database import UTCDateTime, begin_write, now
from noxchat.extensions import db

ID = BigInteger().with_variant(Integer, "sqlite")
LEASE = timedelta(seconds=10)

search_outbox = Table(
    "search_outbox",
    db.metadata,
    Column("id", ID, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("row_id", ID, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("refused", Text),
    UniqueConstraint("kind", "row_id"),
    sqlite_autoincrement=True,
)

# The indexes that exist or are to be built. installation_id: whose they are; an index of another installation is never
# touched. name: of the index that was built last. known: the latest version that it has confirmed. holder: the process
# that has the lease to write it, until `held_until`.
search_indexes = Table(
    "search_indexes",
    db.metadata,
    Column("kind", String(64), primary_key=True),
    Column("installation_id", String(32), nullable=False),
    Column("name", String(255)),
    Column("known", ID, nullable=False, server_default="0"),
    Column("holder", String(32)),
    Column("held_until", UTCDateTime),
)

INDEXED = "EXISTS (SELECT 1 FROM search_indexes WHERE kind = '{table}')"
SQLITE_TRIGGER = """CREATE TRIGGER IF NOT EXISTS search_outbox_{table}_{when} AFTER {event} ON {table}
WHEN {indexed}{changed} BEGIN
  DELETE FROM search_outbox WHERE kind = '{table}' AND row_id = {row}.id;
  INSERT INTO search_outbox (kind, row_id, created_at)
  VALUES ('{table}', {row}.id, strftime('%Y-%m-%d %H:%M:%f000', 'now'));
END"""
POSTGRES_FUNCTION = """CREATE OR REPLACE FUNCTION search_outbox_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF {indexed} THEN
    INSERT INTO search_outbox (kind, row_id, created_at)
    VALUES ('{table}', CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END, clock_timestamp())
    ON CONFLICT (kind, row_id)
    DO UPDATE SET id = EXCLUDED.id, created_at = EXCLUDED.created_at, refused = NULL;
  END IF;
  RETURN NULL;
END $$"""
POSTGRES_TRIGGER = """CREATE TRIGGER search_outbox_{when} AFTER {event} ON {table}
FOR EACH ROW {condition} EXECUTE FUNCTION search_outbox_{table}()"""
EVENTS = {"insert": "INSERT", "delete": "DELETE", "update": "UPDATE OF search_text"}


def create_triggers(connection, table: str):
    """Create the triggers that record changes of a table's search texts. For migrations."""
    indexed = INDEXED.format(table=table)
    postgres = connection.dialect.name == "postgresql"
    if postgres:
        connection.execute(text(POSTGRES_FUNCTION.format(table=table, indexed=indexed)))
    for when, what in EVENTS.items():
        changed = f"old.search_text IS {'DISTINCT FROM' if postgres else 'NOT'} new.search_text"
        values = {"table": table, "when": when, "event": what, "indexed": indexed}
        values["changed"] = f" AND {changed}" if when == "update" else ""
        values["condition"] = f"WHEN ({changed})" if when == "update" else ""
        values["row"] = "old" if when == "delete" else "new"
        connection.exec_driver_sql((POSTGRES_TRIGGER if postgres else SQLITE_TRIGGER).format(**values))


def drop_triggers(connection, table: str):
    """Drop the triggers. For migrations."""
    for when in EVENTS:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"DROP TRIGGER search_outbox_{when} ON {table}")
        else:
            connection.exec_driver_sql(f"DROP TRIGGER search_outbox_{table}_{when}")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"DROP FUNCTION search_outbox_{table}")


def register(kind: str) -> str:
    """Begin recording changes of a table; return the id of this installation. Commits.

    Raises OperationalError when a write in progress does not end soon.
    """
    registered = select(search_indexes.c.installation_id).where(search_indexes.c.kind == kind)
    installation_id = db.session.scalar(registered)
    if installation_id is None:
        begin_write(db.session)
        if db.engine.dialect.name == "postgresql":
            # A write that has begun already would not be recorded, and might end after its row was read for the index.
            db.session.execute(text("SET LOCAL lock_timeout = '300ms'"))  # all other writers wait behind this
            db.session.execute(text(f"LOCK TABLE {kind} IN SHARE ROW EXCLUSIVE MODE"))
        if not db.session.scalar(registered):
            db.session.execute(insert(search_indexes).values(kind=kind, installation_id=secrets.token_hex(8)))
        installation_id = db.session.scalar(registered)
    db.session.commit()
    return installation_id


def unregister(kind: str):
    """Stop recording changes of a table. Commits."""
    begin_write(db.session)
    db.session.execute(delete(search_indexes).where(search_indexes.c.kind == kind))
    db.session.execute(delete(search_outbox).where(search_outbox.c.kind == kind))
    db.session.commit()


def acquire_lease(kind: str, holder: str) -> bool | None:
    """Acquire or extend the lease to write an index, for LEASE. Commits.

    Returns None if another holds it; otherwise whether the previous holder did not release it, and may have crashed.
    """
    begin_write(db.session)
    lease, moment = search_indexes.c, now()
    mine = select(lease.holder, lease.held_until).where(lease.kind == kind).with_for_update()
    before, until = db.session.execute(mine).one()
    free = before in (None, holder) or until < moment
    if free:
        values = {"holder": holder, "held_until": moment + LEASE}
        db.session.execute(update(search_indexes).where(lease.kind == kind).values(**values))
    db.session.commit()
    return before not in (None, holder) if free else None


def renew_lease(kind: str, holder: str) -> bool:
    """Extend the lease; returns False if another process acquired it in the meantime. Commits."""
    begin_write(db.session)
    mine = and_(search_indexes.c.kind == kind, search_indexes.c.holder == holder)
    renewed = db.session.execute(update(search_indexes).where(mine).values(held_until=now() + LEASE)).rowcount
    db.session.commit()
    return renewed == 1


def release_lease(kind: str, holder: str):
    """Release the lease. Commits."""
    begin_write(db.session)
    mine = and_(search_indexes.c.kind == kind, search_indexes.c.holder == holder)
    db.session.execute(update(search_indexes).where(mine).values(holder=None, held_until=None))
    db.session.commit()


@dataclass(frozen=True)
class Backlog:
    """The changes to be indexed.

    count: of rows. oldest_seconds: for how long the oldest has waited. refused: how many rows Elasticsearch refused;
    they are set aside, and not part of `count`.
    """

    count: int
    oldest_seconds: float
    refused: int


def backlog(kind: str) -> Backlog:
    """Return the changes to be indexed, in numbers."""
    row, is_refused = search_outbox.c, search_outbox.c.refused.is_not(None)
    total, refused, oldest = db.session.execute(
        select(
            func.count(),
            func.count(row.refused),
            func.min(case((is_refused, None), else_=row.created_at), type_=UTCDateTime),
        ).where(row.kind == kind)
    ).one()
    return Backlog(total - refused, seconds_since(oldest) or 0.0, refused)


def lag(kind: str) -> float | None:
    """Return for how many seconds the next change has waited; None when there is none. Cheap enough to ask often."""
    row = search_outbox.c
    first = select(row.created_at).where(row.kind == kind, row.refused.is_(None)).order_by(row.id).limit(1)
    return seconds_since(db.session.scalar(first))


def seconds_since(moment: datetime | None) -> float | None:
    """Return how many seconds ago a moment was; None for None."""
    return max(0.0, (now() - moment).total_seconds()) if moment else None


def refused_rows(kind: str, limit: int) -> list:
    """Return rows that Elasticsearch refused, as pairs of row id and reason."""
    row = search_outbox.c
    mine = select(row.row_id, row.refused).where(row.kind == kind, row.refused.is_not(None))
    return db.session.execute(mine.order_by(row.id).limit(limit)).all()


def is_registered(kind: str) -> bool:
    """Tell whether changes of a table are recorded."""
    return db.session.scalar(select(search_indexes.c.kind).where(search_indexes.c.kind == kind)) is not None


def pending_row_ids(kind: str, row_ids: list[int]) -> set[int]:
    """Return which of these rows have changes to be indexed."""
    row = search_outbox.c
    rows = db.session.scalars(
        select(row.row_id).where(row.kind == kind, row.row_id.in_(row_ids), row.refused.is_(None))
    )
    return set(rows)


def next_changes(model, limit: int, after: int = 0) -> list:
    """Return the next changes as rows of version, row id and text; the text of a deleted row is None.

    after: the version that was sent last.
    """
    row, found = search_outbox.c, model.__table__.c
    # In one statement, and therefore from one snapshot, so that each text belongs to its version.
    rows = db.session.execute(
        select(row.id, row.row_id, found.search_text)
        .select_from(search_outbox.outerjoin(model.__table__, found.id == row.row_id))
        .where(row.kind == model.__tablename__, row.refused.is_(None), row.id > after)
        .order_by(row.id)
        .limit(limit)
    ).all()
    db.session.commit()
    return rows


def complete(kind: str, holder: str, versions: list[int], refused: dict[int, str]) -> bool:
    """Delete the changes that the index has confirmed, and set refused ones aside; extends the lease. Commits.

    versions: those that were confirmed. refused: reasons by version. Changes made since then stay. Returns False and
    deletes nothing if another process has the lease by now, since it may be building an index without them.
    """
    begin_write(db.session)
    row, index = search_outbox.c, search_indexes.c
    newest = max(versions, default=0)
    mine = and_(index.kind == kind, index.holder == holder)
    values = {"known": case((index.known < newest, newest), else_=index.known), "held_until": now() + LEASE}
    still = db.session.execute(update(search_indexes).where(mine).values(**values)).rowcount == 1
    if still:
        # Skips rows that are being changed right now: waiting for them could end in a deadlock.
        theirs = select(row.id).where(row.id.in_(versions)).with_for_update(skip_locked=True)
        db.session.execute(delete(search_outbox).where(row.id.in_(theirs)))
        for version, reason in refused.items():
            theirs = select(row.id).where(row.id == version).with_for_update(skip_locked=True)
            db.session.execute(update(search_outbox).where(row.id.in_(theirs)).values(refused=reason))
    db.session.commit()
    return still


# In the SQL of both databases. What is recorded already stays as it is.
ADD = text(
    "INSERT INTO search_outbox (kind, row_id, created_at, refused) VALUES (:kind, :row_id, :created_at, :refused)"
    " ON CONFLICT (kind, row_id) DO NOTHING"
).bindparams(bindparam("created_at", type_=UTCDateTime))


def add(kind: str, row_ids: list[int], refused: str | None = None):
    """Record rows as changed, to be indexed again; or as refused, with the reason. Commits."""
    begin_write(db.session)
    values = {"kind": kind, "created_at": now(), "refused": refused}
    if row_ids:
        db.session.execute(ADD, [{**values, "row_id": row_id} for row_id in row_ids])
    db.session.commit()


def retry(kind: str):
    """Have refused rows tried again. Commits."""
    begin_write(db.session)
    db.session.execute(update(search_outbox).where(search_outbox.c.kind == kind).values(refused=None))
    db.session.commit()


def last_built(kind: str) -> tuple[str | None, int]:
    """Return the name of the index that was built last, and the latest version that it has confirmed."""
    index = search_indexes.c
    found = db.session.execute(select(index.name, index.known).where(index.kind == kind)).first()
    return tuple(found) if found else (None, 0)


def set_built(kind: str, name: str, newest: int):
    """Record which index is used from now on, and the latest version in it. Commits."""
    begin_write(db.session)
    mine = search_indexes.c.kind == kind
    db.session.execute(update(search_indexes).where(mine).values(name=name, known=newest))
    db.session.commit()


def explains(kind: str, documents: dict[int, int]) -> bool:
    """Tell whether these versions, by row id, are in the outbox or known to be confirmed."""
    row = search_outbox.c
    mine = select(row.row_id, row.id).where(row.kind == kind, row.row_id.in_(documents))
    pending = dict(map(tuple, db.session.execute(mine)))
    _name, known = last_built(kind)  # read second: what leaves the outbox meanwhile is known by then
    return all(version <= known or version <= pending.get(row_id, 0) for row_id, version in documents.items())
