"""A transactional outbox: the changes that an index of Elasticsearch does not have yet, a row for each changed row.

Triggers write it in the transaction of the change, so that no change is missed however it is made; and only once there
is an index, so that installations without Elasticsearch collect nothing. The id of a row is the version of the change:
it grows with each change of the same row, since the change holds that row's lock.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    Row,
    String,
    Table,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from noxchat import installation
from noxchat.database import UTCDateTime, begin_write, now
from noxchat.extensions import db

ID = BigInteger().with_variant(Integer, "sqlite")

search_outbox = Table(
    "search_outbox",
    db.metadata,
    Column("id", ID, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("row_id", ID, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    UniqueConstraint("kind", "row_id"),
    sqlite_autoincrement=True,
)

# The indexes that exist or are to be built. name: of the index that was built last. known: the highest version that
# Elasticsearch has confirmed.
search_indexes = Table(
    "search_indexes",
    db.metadata,
    Column("kind", String(64), primary_key=True),
    Column("name", String(255)),
    Column("known", ID, nullable=False, server_default="0"),
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
    ON CONFLICT (kind, row_id) DO UPDATE SET id = EXCLUDED.id, created_at = EXCLUDED.created_at;
  END IF;
  RETURN NULL;
END $$"""
POSTGRES_TRIGGER = """CREATE TRIGGER search_outbox_{when} AFTER {event} ON {table}
FOR EACH ROW {condition} EXECUTE FUNCTION search_outbox_{table}()"""
EVENTS = {"insert": "INSERT", "delete": "DELETE", "update": "UPDATE OF search_text"}


def create_triggers(connection, table: str):
    """Create the triggers that record changes of a table's search texts. For migrations."""
    postgres, indexed = connection.dialect.name == "postgresql", INDEXED.format(table=table)
    if postgres:
        connection.exec_driver_sql(POSTGRES_FUNCTION.format(table=table, indexed=indexed))
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
    if not is_registered(kind):
        begin_write(db.session)
        if db.engine.dialect.name == "postgresql":
            # A write that has begun already would not be recorded, and might end after its row was read for the index.
            db.session.execute(text("SET LOCAL lock_timeout = '300ms'"))  # all other writers wait behind this
            db.session.execute(text(f"LOCK TABLE {kind} IN SHARE ROW EXCLUSIVE MODE"))
        if not is_registered(kind):  # nobody else was faster
            db.session.execute(insert(search_indexes).values(kind=kind))
        installation.create_id()
    installation_id = installation.find_id()
    assert installation_id  # since it was created with the first index
    db.session.commit()
    return installation_id


def unregister(kind: str):
    """Stop recording changes of a table. Commits."""
    begin_write(db.session)
    db.session.execute(delete(search_indexes).where(search_indexes.c.kind == kind))
    db.session.execute(delete(search_outbox).where(search_outbox.c.kind == kind))
    db.session.commit()


def is_registered(kind: str) -> bool:
    """Tell whether changes of a table are recorded."""
    return db.session.scalar(select(search_indexes.c.kind).where(search_indexes.c.kind == kind)) is not None


def backlog(kind: str) -> tuple[int, float]:
    """Return how many changes are to be indexed, and for how many seconds the oldest has waited."""
    row = search_outbox.c
    count, oldest = db.session.execute(select(func.count(), func.min(row.created_at)).where(row.kind == kind)).one()
    return count, seconds_since(oldest) or 0.0


def lag(kind: str) -> float | None:
    """Return for how many seconds the next change has waited; None when there is none. Cheap enough to ask often."""
    row = search_outbox.c
    return seconds_since(db.session.scalar(select(row.created_at).where(row.kind == kind).order_by(row.id).limit(1)))


def seconds_since(moment: datetime | None) -> float | None:
    """Return how many seconds ago a moment was; None for None."""
    return max(0.0, (now() - moment).total_seconds()) if moment else None


def pending_row_ids(kind: str) -> set[int]:
    """Return which rows have changes to be indexed."""
    return set(db.session.scalars(select(search_outbox.c.row_id).where(search_outbox.c.kind == kind)))


def last_built(kind: str) -> tuple[str, int]:
    """Return the name of the index that was built last, if any, and the latest version that it has confirmed."""
    index = search_indexes.c
    found = db.session.execute(select(index.name, index.known).where(index.kind == kind)).first()
    return (found.name or "", found.known) if found else ("", 0)


def next_changes(model, limit: int, after: int = 0) -> Sequence[Row]:
    """Return the next changes as rows of version, row id and text; the text of a deleted row is None.

    after: the version that was sent last.
    """
    row, found = search_outbox.c, model.__table__.c
    # In one statement, and therefore from one snapshot, so that each text belongs to its version.
    changes = (
        select(row.id, row.row_id, found.search_text)
        .select_from(search_outbox.outerjoin(model.__table__, found.id == row.row_id))
        .where(row.kind == model.__tablename__, row.id > after)
        .order_by(row.id)
        .limit(limit)
    )
    return db.session.execute(changes).all()


# Only by the connection that holds the lock to write the index.


def complete(connection: Connection, kind: str, versions: list[int]):
    """Delete the changes that the index has confirmed. Changes of these rows since then stay."""
    row, index = search_outbox.c, search_indexes.c
    # Skips rows that are being changed right now: waiting for them could end in a deadlock.
    confirmed = select(row.id).where(row.id.in_(versions)).with_for_update(skip_locked=True)
    with connection.begin():
        newer = update(search_indexes).where(index.kind == kind, index.known < max(versions))
        connection.execute(newer.values(known=max(versions)))
        connection.execute(delete(search_outbox).where(row.id.in_(confirmed)))


def set_built(connection: Connection, kind: str, name: str | None):
    """Record which index is used from now on. It has no changes of the outbox yet."""
    with connection.begin():
        connection.execute(update(search_indexes).where(search_indexes.c.kind == kind).values(name=name, known=0))
