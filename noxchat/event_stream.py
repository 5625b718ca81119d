"""The open event streams (server-sent events), and the thread that tells them what events.py publishes.

Streams are woken inside the process on SQLite, which has only one; on PostgreSQL by NOTIFY, from any process. A stream
holds no database connection while it waits.
"""

import json
import logging
import queue
import select as polling
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import psycopg
from flask import Flask, current_app
from sqlalchemy import Row, and_, event, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DatabaseSession

from noxchat.events import CHANNEL
from noxchat.extensions import db
from noxchat.models import Event, Session

log = logging.getLogger("noxchat.event_stream")

STALE = "stale"  # the event that says: more was missed than is kept, load the page again
HEARTBEAT_SECONDS = 15  # after which a stream checks that its session still exists and its connection is open
MAX_UNREAD = 500


@event.listens_for(DatabaseSession, "after_commit")
def _notify_recipients(session):
    if recipients := session.info.pop("event_recipients", None):
        current_app.extensions["event_streams"].notify(recipients)


@event.listens_for(DatabaseSession, "after_rollback")
def _forget_recipients(session):
    session.info.pop("event_recipients", None)


class EventStream:
    """An open connection to a browser tab.

    last_id: the latest event that it has seen. tab: which is not told of its own changes. connection: the client's
    socket, where the server provides it.
    """

    def __init__(self, user_id: int, session_id: int, last_id: int, tab: str, connection: socket.socket | None):
        self.user_id, self.session_id, self.last_id, self.tab = user_id, session_id, last_id, tab
        self.connection = connection
        self.wake_event = threading.Event()
        self.unread: deque[Row] = deque()
        self.pushed_id = last_id
        self.closed = False

    def push(self, new: Row):
        """Hand an event over, from another thread. A stream that does not read is closed; its client can reconnect."""
        self.pushed_id = new.id
        self.unread.append(new)
        if len(self.unread) > MAX_UNREAD:
            self.close()
        self.wake_event.set()

    def close(self):
        """End the stream at its next step."""
        self.closed = True
        self.wake_event.set()

    def is_disconnected(self) -> bool:
        """Tell whether the browser closed the connection, which writing would only notice at the second attempt."""
        if self.connection is None:
            return False
        try:
            poll = polling.poll()  # reading a socket that has a time limit would wait for so long
            poll.register(self.connection, polling.POLLIN)
            return bool(poll.poll(0)) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True


class EventStreams:
    """The open streams of this process, and the thread that delivers events to them."""

    def __init__(self, app: Flask):
        self.app = app
        self.reset()

    def reset(self):
        """Begin without streams. For a forked process, which has no threads, and locks of another process."""
        self.streams: dict[int, set[EventStream]] = {}
        self.lock = threading.Lock()
        self.notifications: queue.SimpleQueue[tuple[int, ...]] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.stopped = False

    def open(self, stream: EventStream) -> bool:
        """Register a stream. Returns False when this process or the person has the most that are allowed."""
        with self.lock:
            own = self.streams.setdefault(stream.user_id, set())
            if self._is_full(own):
                for disconnected in [other for other in own if other.is_disconnected()]:
                    disconnected.close()
                    own.discard(disconnected)
            if self.stopped or self._is_full(own):
                self._discard_if_empty(stream.user_id)
                return False
            own.add(stream)
            self._start_thread()
        return True

    def _is_full(self, own: set[EventStream]) -> bool:
        config = self.app.config
        return len(own) >= config["STREAMS_PER_PERSON"] or self.count() >= config["STREAMS"]

    def _start_thread(self):
        if self.thread is None or not self.thread.is_alive():
            on_postgresql = self.app.config["SQLALCHEMY_DATABASE_URI"].startswith("postgresql")
            run = self._run_with_notify if on_postgresql else self._run_in_process
            self.thread = threading.Thread(target=run, name="event-streams", daemon=True)
            self.thread.start()

    def count(self) -> int:
        """Return how many streams are open."""
        return sum(map(len, self.streams.values()))

    def discard(self, stream: EventStream):
        """Unregister a stream that has ended."""
        with self.lock:
            self.streams.get(stream.user_id, set()).discard(stream)
            self._discard_if_empty(stream.user_id)

    def _discard_if_empty(self, user_id: int):
        if not self.streams.get(user_id):
            self.streams.pop(user_id, None)

    def close(self):
        """End all streams and accept no more: the server is about to stop."""
        with self.lock:
            self.stopped = True
            for own in self.streams.values():
                for stream in own:
                    stream.close()
        self.notifications.put(())

    def notify(self, user_ids: Iterable[int]):
        """Have the thread deliver new events to these people's streams."""
        if self.thread is not None:
            self.notifications.put(tuple(user_ids))

    def _run_in_process(self):
        while not self.stopped:
            user_ids = set(self.notifications.get())
            while not self.notifications.empty():
                user_ids |= set(self.notifications.get())
            self._deliver(user_ids)

    def _run_with_notify(self):
        """Wait for PostgreSQL's notifications, on a connection of this thread that is reopened whenever it breaks."""
        with self.app.app_context():
            arguments, options = db.engine.dialect.create_connect_args(db.engine.url)
        options = {**options, **self.app.config["SQLALCHEMY_ENGINE_OPTIONS"]["connect_args"], "autocommit": True}
        # The connection may be silent for hours: without keepalives a dead one would not be noticed for as long.
        options |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        while not self.stopped:
            try:
                with psycopg.connect(*arguments, **options) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._deliver(set(self.streams))  # whatever happened while nobody listened
                    while not self.stopped:
                        user_ids = set()
                        for notification in connection.notifies(timeout=1, stop_after=1):
                            user_ids |= set(json.loads(notification.payload))
                        if user_ids:
                            self._deliver(user_ids)
            except (psycopg.Error, ValueError) as error:
                log.warning("cannot listen for events: %s", type(error).__name__)
                time.sleep(1)

    def _deliver(self, user_ids: set[int]):
        """Hand these people's new events to their streams: one query, however many streams there are."""
        with self.lock:
            streams = [stream for user_id in user_ids for stream in self.streams.get(user_id, ())]
        if not streams:
            return
        statement = select(Event).where(
            Event.user_id.in_({stream.user_id for stream in streams}),
            Event.id > min(stream.pushed_id for stream in streams),
        )
        try:
            events = self._fetch(statement.order_by(Event.id))
        except SQLAlchemyError as error:  # the streams fetch them at their next heartbeat
            log.warning("events cannot be read: %s", type(error).__name__)
            return
        for stream in streams:
            for new in events:
                if new.user_id == stream.user_id and new.id > stream.pushed_id:
                    stream.push(new)

    def _fetch(self, statement) -> Sequence[Row]:
        """Return rows, by a connection that is returned at once: streams last, and there are many."""
        with self.app.app_context(), db.engine.connect() as connection:
            rows = connection.execute(statement).all()
            connection.commit()
            return rows

    def missed_events(self, stream: EventStream) -> list[Row] | None:
        """Return the events that a stream has not seen; None when its session has ended."""
        rows = self._fetch(
            select(Session.id.label("session"), Event.__table__)
            .select_from(Session)
            .outerjoin(Event, and_(Event.user_id == Session.user_id, Event.id > stream.last_id))
            .where(Session.id == stream.session_id, Session.user_id == stream.user_id)
            .order_by(Event.id)
            .limit(MAX_UNREAD)
        )
        return [row for row in rows if row.id is not None] if rows else None

    def is_stale(self, stream: EventStream) -> bool:
        """Tell whether a stream was away for so long that events which it has not seen may be deleted already."""
        kept = select(Event.id).where(Event.id == stream.last_id, Event.user_id == stream.user_id)
        return bool(stream.last_id) and not self._fetch(kept)

    def lines(self, stream: EventStream) -> Iterator[str]:
        """Yield a stream's server-sent events (WHATWG HTML, 9.2) for as long as it lasts."""
        try:
            yield f"event: {STALE}\ndata:\n\n" if self.is_stale(stream) else ":\n\n"
            next_heartbeat = 0.0
            while not stream.closed:
                if time.monotonic() >= next_heartbeat:
                    next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
                    missed = self.missed_events(stream)
                    if missed is None:
                        return
                    yield from self._format(stream, missed)
                    yield ":\n\n"
                stream.wake_event.wait(max(0.0, next_heartbeat - time.monotonic()))
                stream.wake_event.clear()
                while stream.unread:
                    yield from self._format(stream, [stream.unread.popleft()])
        except SQLAlchemyError as error:
            log.warning("stream ended: %s", type(error).__name__)  # the browser reconnects with its last id

    def _format(self, stream: EventStream, events: Iterable[Row]) -> Iterator[str]:
        for new in events:
            if new.id > stream.last_id:
                stream.last_id = new.id
                if new.tab and new.tab == stream.tab:
                    yield f"id: {new.id}\n\n"
                else:
                    yield f"id: {new.id}\nevent: {new.kind}\ndata: {new.data}\n\n"
