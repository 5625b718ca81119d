"""What only PostgreSQL needs. Imported only where that is the database: psycopg takes 9 MB."""

import json
import math
import selectors
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import InvalidatePoolError, OperationalError

PING_AFTER_SECONDS = 0.2  # for which a connection was idle; no database server restarts faster
# A listening connection may be silent for hours: without keepalives a dead one would not be noticed for as long.
KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class DeadlineConnection(psycopg.Connection):
    """A connection that gives up on a server that no longer answers: stopped, frozen, or cut off.

    The server's statement_timeout cannot help there, and libpq waits for ever.
    """

    seconds = 8.0

    def wait(self, gen, *args, **kwargs):
        return super().wait(self._until(time.monotonic() + self.seconds, gen), *args, **kwargs)

    def _until(self, deadline: float, gen: PQGen[RV]) -> PQGen[RV]:
        """Pass psycopg's wait protocol through, until the deadline passes with nothing to read."""
        ready: Any = None  # a generator has to be started with None
        while True:
            try:
                wanted = gen.send(ready)
            except StopIteration as end:
                return end.value
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                gen.close()
                self.close()  # it is in the middle of an answer, so nobody can use it again
                raise psycopg.OperationalError("the database server does not answer")


def configure_engine(engine: Engine):
    """Set up every connection that the engine opens."""

    @event.listens_for(engine, "do_connect")
    def connect(_dialect, _record, arguments, options):
        return DeadlineConnection.connect(*arguments, **options)

    # So that no request fails after a restart of the database server. SQLAlchemy's pool_pre_ping asks each time.
    @event.listens_for(engine, "checkin")
    def remember(_connection, record):
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping(connection, record, _proxy):
        moment = time.monotonic()
        if moment - record.info.get("used_at", moment) > PING_AFTER_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except psycopg.OperationalError as error:
                raise InvalidatePoolError from error


@contextmanager
def without_statement_timeout(connection: Connection):
    """Lift the time limits of a connection in a with statement."""
    driver_connection: Any = connection.connection.driver_connection
    timeout = connection.exec_driver_sql("SHOW statement_timeout").scalar_one()
    driver_connection.seconds = math.inf
    connection.exec_driver_sql("SET statement_timeout = 0")
    try:
        yield
    finally:
        driver_connection.seconds = DeadlineConnection.seconds
        usable = not connection.closed and not driver_connection.closed
        if usable and driver_connection.info.transaction_status != TransactionStatus.INERROR:
            connection.exec_driver_sql(f"SET statement_timeout = '{timeout}'")


class Listener:
    """A connection that listens to a channel of NOTIFY. Its methods raise psycopg.Error when it breaks."""

    def __init__(self, connection: psycopg.Connection, channel: str):
        self.connection, self.channel = connection, channel

    def receive(self) -> list:
        """Return the payloads, of JSON, that have come since, without waiting."""
        return [json.loads(notification.payload) for notification in self.connection.notifies(timeout=0)]

    def notify(self, payloads: list[str]):
        """Send payloads to all who listen, this connection too."""
        self.connection.execute(
            "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload", [self.channel, payloads]
        )


@contextmanager
def listen(
    engine: Engine, connect_args: dict[str, Any], channel: str, selector: selectors.BaseSelector
) -> Iterator[Listener]:
    """Listen to a channel of NOTIFY on a connection of its own, in a with statement.

    connect_args: as of create_engine. selector: wakes up when there is something to receive. Raises OperationalError
    when the connection breaks.
    """
    arguments, options = engine.dialect.create_connect_args(engine.url)
    options = {**options, **connect_args, **KEEPALIVES, "autocommit": True}
    try:
        with psycopg.connect(*arguments, **options) as connection:
            connection.execute(f"LISTEN {channel}")
            selector.register(connection, selectors.EVENT_READ)
            yield Listener(connection, channel)
    except psycopg.Error as error:
        raise OperationalError(f"LISTEN {channel}", None, error) from error
