"""The streams that tell people at once what changed: server-sent events, from the rows of events.py.

Streams are woken inside the process on SQLite, which has only one; on PostgreSQL by NOTIFY, from whichever process. A
stream holds no connection to the database while it waits.
"""

import json
import logging
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator

import psycopg
from flask import Flask, current_app
from sqlalchemy import and_, event, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DatabaseSession

from noxchat.events import CHANNEL
from noxchat.extensions import db
from noxchat.models import Event, Session

log = logging.getLogger("noxchat.doorbell")

STALE = "stale"  # more was missed than is kept: what is shown has to be loaded anew
HEARTBEAT = 15  # seconds, after which a stream looks whether its session still lives and its line stands
AT_ONCE = 500


@event.listens_for(DatabaseSession, "after_commit")
def ring(session):
    """Wake the streams of whoever was told something that is now true."""
    if told := session.info.pop("told", None):
        current_app.extensions["doorbell"].ring(told)


@event.listens_for(DatabaseSession, "after_rollback")
def forget(session):
    """Tell nobody what did not happen."""
    session.info.pop("told", None)


class Stream:
    """One open line to a browser tab.

    last: the newest event that it knows of. tab: the tab at its end, whose own doings it is not told.
    """

    def __init__(self, user_id: int, session_id: int, last: int, tab: str, line: socket.socket | None):
        self.user_id, self.session_id, self.last, self.tab, self.line = user_id, session_id, last, tab, line
        self.bell = threading.Event()
        self.waiting, self.pushed = deque(), last
        self.closed = False

    def push(self, found: Event):
        """Hand over an event, from another thread. Who does not listen is hung up on, and can come back."""
        self.pushed = found.id
        self.waiting.append(found)
        if len(self.waiting) > AT_ONCE:
            self.close()
        self.bell.set()

    def close(self):
        """End the stream at its next step."""
        self.closed = True
        self.bell.set()

    def is_cut(self) -> bool:
        """Tell whether the browser hung up, which writing would only find out at the second try."""
        try:
            return self.line is not None and self.line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            return True


class Doorbell:
    """The streams of this process, and the thread that hands them what happens."""

    def __init__(self, app: Flask):
        self.app = app
        self.begin()

    def begin(self):
        """Begin with no streams, as a process does that was forked: it has no threads, and locks of another."""
        self.streams: dict[int, set[Stream]] = {}
        self.lock = threading.Lock()
        self.rung = queue.SimpleQueue()
        self.thread = None
        self.stopped = False

    def open(self, stream: Stream) -> bool:
        """Take a stream in, unless this process or the person has as many as they may."""
        config = self.app.config
        with self.lock:
            own = self.streams.setdefault(stream.user_id, set())
            full = len(own) >= config["STREAMS_PER_PERSON"] or self.count() >= config["STREAMS"]
            for cut in [other for other in own if other.is_cut()] if full else ():
                cut.close()
                own.discard(cut)
            if self.stopped or len(own) >= config["STREAMS_PER_PERSON"] or self.count() >= config["STREAMS"]:
                self._drop_if_empty(stream.user_id)
                return False
            own.add(stream)
            if self.thread is None or not self.thread.is_alive():
                notified = config["SQLALCHEMY_DATABASE_URI"].startswith("postgresql")
                work = self._listen if notified else self._wait
                self.thread = threading.Thread(target=work, name="doorbell", daemon=True)
                self.thread.start()
        return True

    def count(self) -> int:
        """Return how many streams are open."""
        return sum(map(len, self.streams.values()))

    def leave(self, stream: Stream):
        """Let a stream go that has ended."""
        with self.lock:
            self.streams.get(stream.user_id, set()).discard(stream)
            self._drop_if_empty(stream.user_id)

    def _drop_if_empty(self, user_id: int):
        if not self.streams.get(user_id):
            self.streams.pop(user_id, None)

    def close(self):
        """End all streams and take in no more: the server is about to stop. Safe in a signal handler."""
        self.stopped = True
        for own in list(self.streams.values()):
            for stream in list(own):
                stream.close()
        self.rung.put(())

    def ring(self, people: Iterable[int]):
        """Have the streams of these people told, soon, by the thread."""
        if self.thread is not None:
            self.rung.put(tuple(people))

    def _wait(self):
        while not self.stopped:
            people = set(self.rung.get())
            while not self.rung.empty():
                people |= set(self.rung.get())
            self._deliver(people)

    def _listen(self):
        """Wait for PostgreSQL's notices, on a connection of the thread's own that is made again whenever it breaks."""
        with self.app.app_context():
            arguments, options = db.engine.dialect.create_connect_args(db.engine.url)
        options |= {**self.app.config["SQLALCHEMY_ENGINE_OPTIONS"]["connect_args"], "autocommit": True}
        # Nobody speaks on this line for hours, maybe: without these, a dead one would not be noticed for as long.
        options |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        while not self.stopped:
            try:
                with psycopg.connect(*arguments, **options) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._deliver(set(self.streams))  # whatever happened while nobody listened
                    while not self.stopped:
                        people = set()
                        for notice in connection.notifies(timeout=1, stop_after=1):
                            people |= set(json.loads(notice.payload))
                        if people:
                            self._deliver(people)
            except (psycopg.Error, ValueError) as error:
                log.warning("events cannot be listened for: %s", type(error).__name__)
                time.sleep(1)

    def _deliver(self, people: set[int]):
        """Hand the new events of these people to their streams: one query, however many streams there are."""
        with self.lock:
            streams = [stream for person in people for stream in self.streams.get(person, ())]
        if not streams:
            return
        try:
            found = self._read(select(Event).where(
                Event.user_id.in_({stream.user_id for stream in streams}),
                Event.id > min(stream.pushed for stream in streams),
            ).order_by(Event.id))  # fmt: skip
        except SQLAlchemyError as error:  # the streams find out for themselves, at their next heartbeat
            log.warning("events cannot be read: %s", type(error).__name__)
            return
        for stream in streams:
            for new in found:
                if new.user_id == stream.user_id and new.id > stream.pushed:
                    stream.push(new)

    def _read(self, statement) -> list:
        """Return rows, by a connection that is given back at once: a stream lasts, and there are many."""
        with self.app.app_context(), db.engine.connect() as connection:
            rows = connection.execute(statement).all()
            connection.commit()
            return rows

    def missed(self, stream: Stream) -> list | None:
        """Return the events that a stream does not know of; None when its session has ended."""
        rows = self._read(
            select(Session.id.label("session"), Event.__table__)
            .select_from(Session)
            .outerjoin(Event, and_(Event.user_id == Session.user_id, Event.id > stream.last))
            .where(Session.id == stream.session_id, Session.user_id == stream.user_id)
            .order_by(Event.id)
            .limit(AT_ONCE)
        )
        return [row for row in rows if row.id is not None] if rows else None

    def is_stale(self, stream: Stream) -> bool:
        """Tell whether a stream was away for so long that events it did not see may be forgotten already."""
        kept = select(Event.id).where(Event.id == stream.last, Event.user_id == stream.user_id)
        return bool(stream.last) and not self._read(kept)

    def lines(self, stream: Stream) -> Iterator[str]:
        """Yield a stream's lines for as long as it lasts, as server-sent events (WHATWG HTML, 9.2)."""
        try:
            yield f"event: {STALE}\ndata:\n\n" if self.is_stale(stream) else ":\n\n"
            heartbeat = 0.0
            while not stream.closed:
                if time.monotonic() >= heartbeat:
                    heartbeat = time.monotonic() + HEARTBEAT
                    missed = self.missed(stream)
                    if missed is None:
                        return
                    yield from self._told(stream, missed)
                    yield ":\n\n"
                stream.bell.wait(max(0.0, heartbeat - time.monotonic()))
                stream.bell.clear()
                while stream.waiting:
                    yield from self._told(stream, [stream.waiting.popleft()])
        except SQLAlchemyError as error:
            log.warning("stream ended: %s", type(error).__name__)  # the browser comes back with its last id

    def _told(self, stream: Stream, found: list) -> Iterator[str]:
        for new in found:
            if new.id > stream.last:
                stream.last = new.id
                if new.tab and new.tab == stream.tab:
                    yield f"id: {new.id}\n\n"
                else:
                    yield f"id: {new.id}\nevent: {new.kind}\ndata: {new.about}\n\n"
