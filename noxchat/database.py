"""How the application talks to its databases: the base of all tables, UTC, transactions, and time limits."""

import fcntl
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from sqlalchemy import CursorResult, DateTime, Delete, MetaData, Update, event, func, select
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from noxchat.files import make_file_private, open_lock_file

log = logging.getLogger("noxchat.database")


class Base(DeclarativeBase):
    # Every constraint has a name, so that migrations can drop it and rules can tell which one failed.
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
    """A time in UTC, always timezone-aware in Python. Naive datetimes are refused with a ValueError."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value, dialect):  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now():
    """Return the current time, timezone-aware, in UTC."""
    return datetime.now(UTC)


def violates_constraint(error: IntegrityError, name: str) -> bool:
    """Tell whether a constraint failed whose name or columns contain this name.

    SQLite's message names the table and column, PostgreSQL's the constraint.
    """
    return name in str(error.orig)


def begin_read(session):
    """Commit the transaction at hand and begin one that only reads.

    On PostgreSQL each statement reads for itself anyway (READ COMMITTED), so this saves the BEGIN and the COMMIT.
    """
    session.commit()
    if session.get_bind().dialect.name == "postgresql":
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})


def begin_write(session):
    """Commit the transaction at hand and begin one that may write.

    SQLite lets one connection write at a time. A transaction that has read something already cannot become the writer
    once another has written: it would fail at once, whatever its timeout. So the wait has to happen here, before any
    read. Loaded objects stay loaded and may be outdated: read again whatever a decision depends on.
    """
    session.commit()
    session.connection(execution_options={"begin": "IMMEDIATE"})


MAX_CONCURRENT = 2
_semaphore = threading.BoundedSemaphore(MAX_CONCURRENT)


@contextmanager
def limited_concurrency(seconds: float = 1.0):
    """Let MAX_CONCURRENT threads of this process run the with statement at a time; after some seconds, go on anyway.

    For writes that many people make at once. Python executes one thread at a time, so more transactions would only
    compete with each other and with pages. Two, so that one works while the other waits for the disk.
    """
    acquired = _semaphore.acquire(timeout=seconds)
    try:
        yield
    finally:
        if acquired:
            _semaphore.release()


def try_write(session, change: Callable[[], object], seconds: float = 0.0) -> bool:
    """Make a change that the caller can do without, in a transaction of its own. Returns whether it is made.

    It is given up when the database cannot be written, or is locked for longer than `seconds`. Then what is loaded has
    to be loaded again.
    """
    session.commit()
    milliseconds = int(seconds * 1000)
    try:
        session.connection(execution_options={"begin": "IMMEDIATE", "busy_timeout": milliseconds})
        if session.get_bind().dialect.name == "postgresql":
            session.execute(select(func.set_config("lock_timeout", f"{milliseconds + 10}ms", True)))
        change()
        session.commit()
    except DBAPIError as error:
        session.rollback()
        log.info("not written: %s", type(error.orig).__name__)
        return False
    return True


def is_read_only(error: DBAPIError) -> bool:
    """Tell whether a statement failed because the database, or this user, may only read."""
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
    # ReadOnlySqlTransaction and InsufficientPrivilege
    return getattr(error.orig, "sqlstate", None) in {"25006", "42501"}


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether a statement failed because there is no room on the database's disk.

    SQLite then ends the transaction with all savepoints, so that going back to one of those fails, too.
    """
    while error is not None:
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
            return True
        if getattr(error, "sqlstate", None) == "53100":
            return True
        error = error.__cause__ or error.__context__
    return False


def execute_dml(session, statement: Update | Delete) -> int:
    """Execute a statement that changes rows. Returns how many it changed."""
    return cast(CursorResult, session.execute(statement)).rowcount


SQLITE_TIMEOUT_SECONDS = 5  # for which a transaction waits until it may write


def engine_options(uri: str, seconds: int) -> dict:
    """Return the options of create_engine for a database.

    uri: begins with sqlite or postgresql+psycopg.
    seconds: the statement timeout on PostgreSQL.
    """
    # Without parameters: e-mail addresses, names and hashes would end up in logged tracebacks.
    shared: dict[str, Any] = {"hide_parameters": True}
    if uri.startswith("sqlite"):
        # As many as there are threads: a connection costs little to keep, but much to open with cold caches.
        pool = {"pool_size": 64, "pool_use_lifo": True}
        return {**shared, **pool, "connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS, "check_same_thread": False}}
    given = make_url(uri).query
    # No query here needs a plan that depends on its parameters, so replanning is wasted work.
    own_options = f"-c statement_timeout={seconds * 1000} -c timezone=UTC -c plan_cache_mode=force_generic_plan"
    connect_args = {
        "connect_timeout": given.get("connect_timeout", 3),
        "client_encoding": "utf8",
        "options": f"{own_options} {given.get('options', '')}".strip(),
    }
    return {**shared, "pool_size": 10, "max_overflow": 20, "pool_timeout": 4, "connect_args": connect_args}


@contextmanager
def without_statement_timeout(connection):
    """Lift the time limits of a connection in a with statement, for migrations and for building indexes."""
    if connection.dialect.name != "postgresql":
        yield
        return
    from noxchat import postgresql

    with postgresql.without_statement_timeout(connection):
        yield


def configure_engine(engine: Engine, sqlite_synchronous: str = "NORMAL"):
    """Set up every connection that the engine opens. sqlite_synchronous: SQLite's pragma, NORMAL or FULL."""
    if engine.dialect.name == "postgresql":
        from noxchat import postgresql

        postgresql.configure_engine(engine)
        return

    _queue_writers(engine)

    @event.listens_for(engine, "do_connect")
    def protect(_dialect, _record, _arguments, _options):
        protect_sqlite_files(engine.url.database)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection, _record):
        connection.isolation_level = None  # or the driver begins transactions by rules of its own
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {sqlite_synchronous}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()


class WriterQueue:
    """Lets one connection of this process write at a time, first come, first served.

    SQLite's own waiting is a series of attempts, in which some writers of many come ten times as often as others.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._writer: object = None
        self._waiting: deque[tuple[object, threading.Event]] = deque()

    def enter(self, connection: object, seconds: float) -> bool:
        """Wait for a connection's turn. Returns False when it has not come after some seconds."""
        with self._lock:
            if self._writer in (None, connection):
                self._writer = connection
                return True
            place = (connection, threading.Event())
            self._waiting.append(place)
        if place[1].wait(seconds):
            return True
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
                return False
        return True  # it has come just now

    def leave(self, connection: object):
        """Let the next one write, if it was this connection's turn."""
        with self._lock:
            if self._writer is not connection:
                return
            self._writer = None
            if self._waiting:
                self._writer, turn = self._waiting.popleft()
                turn.set()


def _queue_writers(engine: Engine):
    """Begin transactions on SQLite as their execution options say, those that may write one after another."""
    writers, dialect = WriterQueue(), engine.dialect

    def leave_after(end):
        def end_and_leave(connection):
            dbapi_connection = getattr(connection, "dbapi_connection", connection)  # some callers pass the pool's proxy
            end(connection)
            writers.leave(dbapi_connection)

        return end_and_leave

    # The events of SQLAlchemy come before the commit, and with the return to the pool, which may be much later.
    for name in ("do_commit", "do_rollback", "do_close"):
        setattr(dialect, name, leave_after(getattr(dialect, name)))

    @event.listens_for(engine, "begin")
    def begin(connection):
        options = connection.get_execution_options()
        kind, busy_timeout = options.get("begin", "DEFERRED"), options.get("busy_timeout")
        milliseconds = SQLITE_TIMEOUT_SECONDS * 1000 if busy_timeout is None else busy_timeout
        dbapi_connection = connection.connection.dbapi_connection
        if busy_timeout is not None:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {busy_timeout}")
        try:
            if kind == "IMMEDIATE":
                writers.enter(dbapi_connection, milliseconds / 1000)
            connection.exec_driver_sql(f"BEGIN {kind}")
        except DBAPIError:
            writers.leave(dbapi_connection)
            raise
        finally:
            if busy_timeout is not None:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {SQLITE_TIMEOUT_SECONDS * 1000}")


# While it is held, a new database file is created and closed again: closing a file ends all locks on it that SQLite
# holds in the same process (https://sqlite.org/howtocorrupt.html, 2.2), so no other thread may open it before.
_creation = threading.Lock()


def protect_sqlite_files(database: str | None):
    """Make a SQLite database private. Called before SQLite opens it; errors are left to SQLite.

    database: its path; None, an empty string or :memory: when it is not a file.
    A new one is created with mode 0600, which SQLite then gives to the files beside it. From an existing one that
    belongs to this user, access is withdrawn from others; it is not opened, because of SQLite's locks.
    """
    if not database or database == ":memory:" or database.startswith("file:"):
        return
    path = os.path.realpath(database)  # as SQLite does: the files beside it are beside the file that a link leads to
    with _creation:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError:
            if os.geteuid() == 0 and os.path.islink(database):
                return  # or the owner of the link could have root change any file
            for suffix in ("", "-wal", "-shm", "-journal"):
                make_file_private(path + suffix)


def checkpoint_sqlite(uri: str):
    """Write what is in the log beside a SQLite database into the file itself, which then is all there is.

    uri: of any database; nothing is done for another one, or one that another process uses.
    """
    url = make_url(uri)
    path = url.database or ""
    if url.get_backend_name() != "sqlite" or not os.path.exists(path):
        return
    try:
        with closing(sqlite3.connect(path, timeout=SQLITE_TIMEOUT_SECONDS)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        log.warning("SQLite's log stays beside the database: %s", error)


class Locked(Exception):
    """Another process or thread holds a lock. str(): which one."""


LOCK_CLASS = 0x6E6F79  # the first key of the advisory locks of `exclusive_lock`; events.py has its own
# Ends the lock of a machine that has vanished, for which PostgreSQL would wait two hours, and of a process that is
# frozen in the middle of a transaction, whose locks of rows would make others wait.
LOCK_SETTINGS = (
    "SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),"
    " set_config('tcp_keepalives_count', '3', false), set_config('idle_in_transaction_session_timeout', '5s', false)"
)


@contextmanager
def exclusive_lock(engine: Engine, name: str, timeout: float = 0.0) -> Iterator[Connection]:
    """Hold a lock that all processes with this database share, in a with statement. Raises Locked after `timeout` s.

    Its value is the connection that holds the lock (with PostgreSQL, an advisory lock of the session), so whoever
    has lost the lock can no longer write through it. With SQLite all processes are on one machine, and the lock is that
    of a file beside the database. Either way it ends with its process.
    """
    deadline = time.monotonic() + timeout
    with ExitStack() as stack:
        connection = stack.enter_context(engine.connect())
        if engine.dialect.name == "postgresql":
            connection.detach()  # closed afterwards instead of being kept, which ends the lock
            connection.exec_driver_sql(LOCK_SETTINGS)
            acquire = partial(_acquire_advisory_lock, connection, name)
        else:
            connection.execution_options(begin="IMMEDIATE")
            file = _open_lock_file(str(engine.url.database), name)
            stack.callback(os.close, file)
            acquire = partial(_acquire_file_lock, file)
        while not acquire():
            if time.monotonic() >= deadline:
                raise Locked(f"another process holds the lock {name}")
            time.sleep(0.1)
        yield connection


def _acquire_advisory_lock(connection: Connection, name: str) -> bool:
    key = zlib.crc32(name.encode()) - 2**31
    acquired = connection.execute(select(func.pg_try_advisory_lock(LOCK_CLASS, key))).scalar_one()
    connection.commit()
    return acquired


def _open_lock_file(database: str, name: str) -> int:
    """Open the lock file beside a SQLite database, which belongs to the same user. Raises Locked if it does not."""
    try:
        # To read is enough for a lock, also in a file that root created in an earlier release, with mode 0644.
        return open_lock_file(f"{database}-{name}.lock", os.O_RDONLY, database)
    except PermissionError:
        raise Locked(f"{database}-{name}.lock belongs to another user: delete it") from None


def _acquire_file_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
