"""How the application talks to its databases: the tables' base, times in UTC, transactions, and time limits."""

import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import DateTime, MetaData, event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator


class Base(DeclarativeBase):
    # Every constraint has a name, so that migrations can drop it and rules can tell which one refused.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class UTCDateTime(TypeDecorator):
    """A moment in UTC, aware in Python whatever the database hands back; naive datetimes are refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the database")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value, dialect):  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now():
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


def violates(error: IntegrityError, column: str) -> bool:
    """Tell whether a constraint on this column refused. SQLite names the column, PostgreSQL the constraint."""
    return column in str(error.orig)


def start_writing(session):
    """End the reading transaction and begin one that may write.

    SQLite lets one connection write at a time, and one that has read already cannot become the writer after another
    has written: it would fail at once, however long it is told to wait. So the wait happens here, before any read.
    What the session holds stays loaded and may be outdated: look up again whatever the decision depends on.
    """
    session.commit()
    session.connection(execution_options={"begin": "IMMEDIATE"})


def engine_options(uri: str, seconds: int) -> dict:
    """Return the options of create_engine for this database address.

    uri: an address that begins with sqlite or postgresql+psycopg.
    seconds: how long a statement may take on PostgreSQL before it is given up.
    """
    shared = {"hide_parameters": True}  # or letters, names and hashes end up in the log with a traceback
    if uri.startswith("sqlite"):
        # As many as there are threads: a connection costs little to keep and much to open, with all it has learnt.
        pool = {"pool_size": 64, "pool_use_lifo": True}
        return {**shared, **pool, "connect_args": {"timeout": 5, "check_same_thread": False}}
    return {
        **shared,
        "pool_pre_ping": True,  # after a restart of the server not one request fails
        "pool_size": 10,
        "max_overflow": 20,
        "pool_timeout": 4,
        "connect_args": {
            "connect_timeout": 3,
            "client_encoding": "utf8",
            # Which plan is good depends on no parameter here, so none is made anew for each.
            "options": f"-c statement_timeout={seconds * 1000} -c timezone=UTC -c plan_cache_mode=force_generic_plan",
        },
    }


class ImpatientConnection(psycopg.Connection):
    """A connection that gives up on a server that says nothing any more: stopped, frozen, or behind a dead line.

    The server's own statement_timeout cannot help there, and libpq waits for ever.
    """

    seconds = 8.0

    def wait(self, gen, *args, **kwargs):
        return super().wait(self._until(time.monotonic() + self.seconds, gen), *args, **kwargs)

    def _until(self, deadline: float, gen: Generator) -> Generator:
        """Pass on what psycopg's wait protocol exchanges, until the deadline goes by with nothing to read."""
        ready = None
        while True:
            try:
                wanted = gen.send(ready)
            except StopIteration as end:
                return end.value
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                gen.close()
                self.close()  # in the middle of an answer it is of no use to anybody else
                raise psycopg.OperationalError("the database server does not answer")


@contextmanager
def unhurried(connection):
    """Let a connection's statements take as long as they take: making an index for a million people is no page."""
    if connection.dialect.name != "postgresql":
        yield
        return
    line = connection.connection.driver_connection
    usual = connection.exec_driver_sql("SHOW statement_timeout").scalar_one()
    line.seconds = math.inf
    connection.exec_driver_sql("SET statement_timeout = 0")
    try:
        yield
    finally:
        line.seconds = ImpatientConnection.seconds
        if not connection.closed and not line.closed and line.info.transaction_status != TransactionStatus.INERROR:
            connection.exec_driver_sql(f"SET statement_timeout = '{usual}'")


def listen_to(engine: Engine):
    """Set up each connection of the engine as this application needs it."""
    if engine.dialect.name == "postgresql":

        @event.listens_for(engine, "do_connect")
        def connect(_dialect, _record, arguments, options):
            return ImpatientConnection.connect(*arguments, **options)

        return

    @event.listens_for(engine, "connect")
    def set_up(connection, _record):
        connection.isolation_level = None  # or the driver begins transactions by rules of its own
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")
