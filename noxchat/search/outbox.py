"""What an index of Elasticsearch does not know yet: a row for each changed row, written in the change's transaction.

The tables' own triggers write it, so that nothing that changes a text, by whatever way, can forget it; and only once
there is an index, so that a place without Elasticsearch gathers nothing. The number of a row here is the version of
what it tells: it grows with each change of the same row, whose lock the change holds.
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

from noxchat.database import UTCDateTime, now, start_writing
from noxchat.extensions import db

NUMBER = BigInteger().with_variant(Integer, "sqlite")
LEASE = timedelta(seconds=10)

search_outbox = Table(
    "search_outbox",
    db.metadata,
    Column("id", NUMBER, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("row_id", NUMBER, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("refused", Text),
    UniqueConstraint("kind", "row_id"),
    sqlite_autoincrement=True,
)

# The indexes that there are, or are to be. place: whose they are; no index of another place is touched. name: the one
# that was built last. known: the newest version that it has taken. holder: who writes it until `held_until`.
search_indexes = Table(
    "search_indexes",
    db.metadata,
    Column("kind", String(64), primary_key=True),
    Column("place", String(32), nullable=False),
    Column("name", String(255)),
    Column("known", NUMBER, nullable=False, server_default="0"),
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


def make_triggers(connection, table: str):
    """Have every change of a searchable table's texts written down from now on. For migrations."""
    indexed = INDEXED.format(table=table)
    postgres = connection.dialect.name == "postgresql"
    if postgres:
        connection.execute(text(POSTGRES_FUNCTION.format(table=table, indexed=indexed)))
    for when, what in EVENTS.items():
        changed = f"old.search_text IS {'DISTINCT FROM' if postgres else 'NOT'} new.search_text"
        about = {"table": table, "when": when, "event": what, "indexed": indexed}
        about["changed"] = f" AND {changed}" if when == "update" else ""
        about["condition"] = f"WHEN ({changed})" if when == "update" else ""
        about["row"] = "old" if when == "delete" else "new"
        connection.exec_driver_sql((POSTGRES_TRIGGER if postgres else SQLITE_TRIGGER).format(**about))


def drop_triggers(connection, table: str):
    """Take back what `make_triggers` made. For migrations."""
    for when in EVENTS:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"DROP TRIGGER search_outbox_{when} ON {table}")
        else:
            connection.exec_driver_sql(f"DROP TRIGGER search_outbox_{table}_{when}")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"DROP FUNCTION search_outbox_{table}")


def register(kind: str) -> str:
    """Have changes of a table be written down, and return the place that its index belongs to; commits.

    Raises OperationalError where a change in progress does not end soon.
    """
    known = select(search_indexes.c.place).where(search_indexes.c.kind == kind)
    place = db.session.scalar(known)
    if place is None:
        start_writing(db.session)
        if db.engine.dialect.name == "postgresql":
            # A change that has begun by now would not be written down, and might end after it was read for the index.
            db.session.execute(text("SET LOCAL lock_timeout = '300ms'"))  # everybody else who writes waits behind it
            db.session.execute(text(f"LOCK TABLE {kind} IN SHARE ROW EXCLUSIVE MODE"))
        if not db.session.scalar(known):
            db.session.execute(insert(search_indexes).values(kind=kind, place=secrets.token_hex(8)))
        place = db.session.scalar(known)
    db.session.commit()
    return place


def unregister(kind: str):
    """Have nothing more be written down of a table's changes; commits."""
    start_writing(db.session)
    db.session.execute(delete(search_indexes).where(search_indexes.c.kind == kind))
    db.session.execute(delete(search_outbox).where(search_outbox.c.kind == kind))
    db.session.commit()


def take(kind: str, holder: str) -> bool | None:
    """Be the one who writes the index for LEASE, if nobody else is; or go on being it. Commits.

    Returns None if another is. Else whether it was left behind by one who did not give it back, and may have died.
    """
    start_writing(db.session)
    lease, moment = search_indexes.c, now()
    mine = select(lease.holder, lease.held_until).where(lease.kind == kind).with_for_update()
    before, until = db.session.execute(mine).one()
    free = before in (None, holder) or until < moment
    if free:
        values = {"holder": holder, "held_until": moment + LEASE}
        db.session.execute(update(search_indexes).where(lease.kind == kind).values(**values))
    db.session.commit()
    return before not in (None, holder) if free else None


def renew(kind: str, holder: str) -> bool:
    """Go on being the one who writes the index; returns False if another was or is meanwhile. Commits."""
    start_writing(db.session)
    mine = and_(search_indexes.c.kind == kind, search_indexes.c.holder == holder)
    renewed = db.session.execute(update(search_indexes).where(mine).values(held_until=now() + LEASE)).rowcount
    db.session.commit()
    return renewed == 1


def give_back(kind: str, holder: str):
    """Let another be the one who writes the index; commits."""
    start_writing(db.session)
    mine = and_(search_indexes.c.kind == kind, search_indexes.c.holder == holder)
    db.session.execute(update(search_indexes).where(mine).values(holder=None, held_until=None))
    db.session.commit()


@dataclass(frozen=True)
class Waiting:
    """What waits to be indexed. count: how many rows. oldest: how many seconds the oldest has waited.
    refused: how many were refused by the index, and are set aside."""

    count: int
    oldest: float
    refused: int


def waiting(kind: str) -> Waiting:
    """Return what waits to be indexed."""
    row, is_refused = search_outbox.c, search_outbox.c.refused.is_not(None)
    total, refused, oldest = db.session.execute(
        select(
            func.count(),
            func.count(row.refused),
            func.min(case((is_refused, None), else_=row.created_at), type_=UTCDateTime),
        ).where(row.kind == kind)
    ).one()
    return Waiting(total - refused, age(oldest), refused)


def behind(kind: str) -> float | None:
    """Return for how many seconds what comes next has waited; None when nothing waits. For asking often."""
    row = search_outbox.c
    return age(
        db.session.scalar(
            select(row.created_at).where(row.kind == kind, row.refused.is_(None)).order_by(row.id).limit(1)
        ),
        None,
    )


def age(moment: datetime | None, otherwise=0.0):
    """Return how many seconds ago a moment was."""
    return max(0.0, (now() - moment).total_seconds()) if moment else otherwise


def refused(kind: str, limit: int) -> list:
    """Return rows that the index refused, as number and why."""
    row = search_outbox.c
    mine = select(row.row_id, row.refused).where(row.kind == kind, row.refused.is_not(None))
    return db.session.execute(mine.order_by(row.id).limit(limit)).all()


def is_registered(kind: str) -> bool:
    """Tell whether changes of a table are written down."""
    return db.session.scalar(select(search_indexes.c.kind).where(search_indexes.c.kind == kind)) is not None


def waiting_of(kind: str, numbers: list[int]) -> set[int]:
    """Return which of these rows wait to be indexed."""
    row = search_outbox.c
    rows = db.session.scalars(
        select(row.row_id).where(row.kind == kind, row.row_id.in_(numbers), row.refused.is_(None))
    )
    return set(rows)


def next_changes(model, limit: int, after: int = 0) -> list:
    """Return what comes next, as rows of version, number and text; the text of what is deleted is None.

    after: the version that was handed over last.
    """
    row, found = search_outbox.c, model.__table__.c
    # In one statement, hence from one moment: the text is the one that the version tells of.
    rows = db.session.execute(
        select(row.id, row.row_id, found.search_text)
        .select_from(search_outbox.outerjoin(model.__table__, found.id == row.row_id))
        .where(row.kind == model.__tablename__, row.refused.is_(None), row.id > after)
        .order_by(row.id)
        .limit(limit)
    ).all()
    db.session.commit()
    return rows


def done(kind: str, holder: str, versions: list[int], refused: dict[int, str]) -> bool:
    """Forget what the index has, and set aside what it refused, with why; go on being who writes the index. Commits.

    What has changed since stays. Returns False, having forgotten nothing, if another writes the index by now: one that
    they are building may not know of it.
    """
    start_writing(db.session)
    row, index = search_outbox.c, search_indexes.c
    newest = max(versions, default=0)
    mine = and_(index.kind == kind, index.holder == holder)
    values = {"known": case((index.known < newest, newest), else_=index.known), "held_until": now() + LEASE}
    still = db.session.execute(update(search_indexes).where(mine).values(**values)).rowcount == 1
    if still:
        # Never waits for whoever changes such a row right now, who might wait for this in turn.
        theirs = select(row.id).where(row.id.in_(versions)).with_for_update(skip_locked=True)
        db.session.execute(delete(search_outbox).where(row.id.in_(theirs)))
        for version, why in refused.items():
            theirs = select(row.id).where(row.id == version).with_for_update(skip_locked=True)
            db.session.execute(update(search_outbox).where(row.id.in_(theirs)).values(refused=why))
    db.session.commit()
    return still


# Both databases understand this; what is written down already stays as it is.
ADD = text(
    "INSERT INTO search_outbox (kind, row_id, created_at, refused) VALUES (:kind, :row_id, :created_at, :refused)"
    " ON CONFLICT (kind, row_id) DO NOTHING"
).bindparams(bindparam("created_at", type_=UTCDateTime))


def add(kind: str, numbers: list[int], refused: str | None = None):
    """Write rows down as changed, to be indexed anew; or as refused, with why. Commits."""
    start_writing(db.session)
    about = {"kind": kind, "created_at": now(), "refused": refused}
    if numbers:
        db.session.execute(ADD, [{**about, "row_id": number} for number in numbers])
    db.session.commit()


def retry(kind: str):
    """Have all that was refused be tried again; commits."""
    start_writing(db.session)
    db.session.execute(update(search_outbox).where(search_outbox.c.kind == kind).values(refused=None))
    db.session.commit()


def last_built(kind: str) -> tuple[str | None, int]:
    """Return the name of the index that was built last, and the newest version that it has taken."""
    index = search_indexes.c
    found = db.session.execute(select(index.name, index.known).where(index.kind == kind)).first()
    return tuple(found) if found else (None, 0)


def built(kind: str, name: str, newest: int):
    """Write down which index is used from now on, and the newest version in it; commits."""
    start_writing(db.session)
    mine = search_indexes.c.kind == kind
    db.session.execute(update(search_indexes).where(mine).values(name=name, known=newest))
    db.session.commit()


def explains(kind: str, documents: dict[int, int]) -> bool:
    """Tell whether these versions, by numbers of rows, are on their way by the outbox, or known to have been taken."""
    row = search_outbox.c
    mine = select(row.row_id, row.id).where(row.kind == kind, row.row_id.in_(documents))
    coming = dict(map(tuple, db.session.execute(mine)))
    _name, known = last_built(kind)  # after that: what leaves the outbox meanwhile is known by then
    return all(version <= known or version <= coming.get(number, 0) for number, version in documents.items())
