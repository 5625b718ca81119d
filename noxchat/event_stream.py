"""The open event streams (server-sent events), and the thread that tells them what is published and announced.

events.py publishes rows, announcements.py what is no row. The thread is woken inside the process on SQLite, which has
only one; on PostgreSQL by NOTIFY, from any process. It asks the database for all streams at once, so that an idle
stream costs neither a thread nor a statement.
"""

import json
import logging
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from flask import Flask, current_app
from sqlalchemy import BigInteger, Integer, Row, and_, column, event, func, select, values
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DatabaseSession
from sqlalchemy.orm import scoped_session

from noxchat import email_addresses, events, friendships
from noxchat.announcements import CHAT, Announcement
from noxchat.database import now, try_write
from noxchat.events import CHANNEL
from noxchat.extensions import db
from noxchat.models import Conversation, Event, Member, Session

log = logging.getLogger("noxchat.event_stream")

COMMENT = ":\n\n"  # keeps the connection open through proxies
STALE = "event: stale\ndata:\n\n"  # more was missed than is kept: load the page again
HEARTBEAT_SECONDS = 15  # between looks at whether the sessions still exist
DELETION_SECONDS = 3600  # between deletions of old rows
# What rule modules contribute to them. Functions of the database session, which return whether there may be more.
DELETE_OLD = (events.delete_old, friendships.delete_old, email_addresses.delete_old)
MAX_MISSED = 500  # events, of a stream that resumes
MAX_QUEUED = 500  # pieces of text, of a stream that a thread of the server writes
PAYLOAD_BYTES = 7500  # of a NOTIFY, which may have 8000
SWEEP_OVERLAP = timedelta(seconds=30)  # by which clocks may differ, and for which a transaction may take to commit


@event.listens_for(DatabaseSession, "after_commit")
def _tell_streams(session):
    if recipients := session.info.pop("event_recipients", None):
        current_app.extensions["event_streams"].notify(recipients)
    if announcements := session.info.pop("announcements", None):
        current_app.extensions["event_streams"].announce(announcements)


@event.listens_for(DatabaseSession, "after_rollback")
def _forget(session):
    session.info.pop("event_recipients", None)
    session.info.pop("announcements", None)


class Detached(BaseException):
    """Raised by the body of an answer when its connection is to be kept without a thread.

    stream: to be attached to the connection. (No server and no middleware handles a BaseException as a failure.)
    """

    def __init__(self, stream: "EventStream"):
        self.stream = stream


class EventStream:
    """An open connection to a browser tab.

    last_id: the latest event that it has seen. tab: which is not told of its own changes.
    Text is queued for the thread that writes it, until the stream is attached to a connection.
    """

    def __init__(self, user_id: int, session_id: int, last_id: int, tab: str):
        self.user_id, self.session_id, self.last_id, self.tab = user_id, session_id, last_id, tab
        self.is_new = True  # nobody looked yet whether it is stale
        self.is_detached = self.closed = False
        self.lock = threading.RLock()  # held while text is written, so that a closed connection is never written to
        self.queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.on_write: Callable[[str], None] = self._enqueue
        self.on_close: Callable[[], object] = lambda: None

    def _enqueue(self, text: str):
        if self.queue.qsize() >= MAX_QUEUED:
            raise BlockingIOError
        self.queue.put(text)

    def attach(self, write: Callable[[str], None], on_close: Callable[[], object]):
        """Write by a function from now on. It raises OSError when the client is away or does not read."""
        with self.lock:
            self.on_write, self.on_close = write, on_close
            while not self.queue.empty():
                self.write(self.queue.get())
            if self.closed:
                on_close()

    def write(self, text: str):
        """Send text without waiting. A stream that cannot take it is closed; its client can reconnect."""
        with self.lock:
            if self.closed:
                return
            try:
                self.on_write(text)
            except OSError:
                self.close()

    def send(self, events: Iterable[Row]):
        """Send this person's events, in the order of their ids, except those that it has seen."""
        unseen = [new for new in events if new.id > self.last_id]
        if not unseen:
            return
        self.last_id = unseen[-1].id
        if len(unseen) > MAX_MISSED:
            self.write(f"id: {self.last_id}\n{STALE}")
            return
        self.write("".join(map(self._format, unseen)))

    def _format(self, new: Row) -> str:
        is_own = new.tab and new.tab == self.tab
        return f"id: {new.id}\n\n" if is_own else f"id: {new.id}\nevent: {new.kind}\ndata: {new.data}\n\n"

    def close(self):
        """End the stream."""
        with self.lock:
            if not self.closed:
                self.closed = True
                self.queue.put("")
                self.on_close()


def _delete_some(delete_old: Callable[[scoped_session], bool]) -> bool:
    """Call one of DELETE_OLD. Returns whether there may be more rows, and the database can be written to."""
    results: list[bool] = []
    return try_write(db.session, lambda: results.append(delete_old(db.session)), seconds=1) and results[0]


def _make_payloads(announcements: Iterable[Announcement]) -> list[str]:
    """Return announcements as lists in JSON, each short enough for a NOTIFY."""
    payloads: list[list[str]] = [[]]
    size = 0
    for text in dict.fromkeys(map(json.dumps, announcements)):
        if size + len(text) > PAYLOAD_BYTES:
            payloads.append([])
            size = 0
        payloads[-1].append(text)
        size += len(text) + 2
    return [f"[{', '.join(payload)}]" for payload in payloads if payload]


class EventStreams:
    """The open streams of this process, and the thread that delivers events to them.

    detaches: whether the server keeps connections without a thread.
    """

    def __init__(self, app: Flask):
        self.app = app
        self.reset()

    def reset(self, *, detaches: bool = False):
        """Begin without streams. For a forked process, which has no threads, and locks of another process."""
        self.detaches = detaches
        self.streams: dict[int, set[EventStream]] = {}
        self.lock = threading.Lock()
        self.notified: queue.SimpleQueue[tuple[int, ...]] = queue.SimpleQueue()
        self.announced: queue.SimpleQueue[Announcement] = queue.SimpleQueue()
        self.announced_versions: dict[int, int] = {}  # of conversations that changed lately
        self.swept_at = now()
        self.thread: threading.Thread | None = None
        self.stopped = False

    def open(self, stream: EventStream) -> bool:
        """Register a stream. Returns False when this process or the person has the most that are allowed."""
        with self.lock:
            own = self.streams.setdefault(stream.user_id, set())
            config = self.app.config
            if self.stopped or len(own) >= config["STREAMS_PER_PERSON"] or self.count() >= config["STREAMS"]:
                self._discard_if_empty(stream.user_id)
                return False
            own.add(stream)
            self._ensure_thread()
        self.notify([stream.user_id])  # of what it has missed
        return True

    def _ensure_thread(self):
        if self.thread is not None and self.thread.is_alive():
            return
        self.waker, self.wake_up = socket.socketpair()
        self.wake_up.setblocking(False)
        self.thread = threading.Thread(target=self._run, name="event-streams", daemon=True)
        self.thread.start()

    def count(self) -> int:
        """Return how many streams are open."""
        return sum(map(len, self.streams.values()))

    def discard(self, stream: EventStream):
        """Unregister a stream that has ended."""
        stream.close()
        with self.lock:
            self.streams.get(stream.user_id, set()).discard(stream)
            self._discard_if_empty(stream.user_id)

    def _discard_if_empty(self, user_id: int):
        if not self.streams.get(user_id):
            self.streams.pop(user_id, None)

    def close(self):
        """End all streams and accept no more: the server is about to stop."""
        self.stopped = True
        for stream in self._select():
            stream.close()
        self.notify(())

    def notify(self, user_ids: Iterable[int]):
        """Have the thread deliver new events to these people's streams."""
        if self.thread is not None:
            self.notified.put(tuple(user_ids))
            self._wake()

    def announce(self, announcements: Iterable[Announcement]):
        """Have the thread tell announcements to whom they concern: on PostgreSQL, to the streams of all processes."""
        with self.lock:
            if self.stopped:
                return
            if db.engine.dialect.name == "postgresql":
                self._ensure_thread()
        if self.thread is not None:
            for announcement in announcements:
                self.announced.put(announcement)
            self._wake()

    def _wake(self):
        with suppress(OSError):  # the thread has been woken so often already, or has ended
            self.wake_up.send(b"x")

    def lines(self, stream: EventStream) -> Iterator[str]:
        """Yield a stream's server-sent events (WHATWG HTML, 9.2) for as long as it lasts. Raises Detached."""
        yield COMMENT
        if self.detaches:
            stream.is_detached = True
            raise Detached(stream)
        while text := stream.queue.get():
            yield text

    def _select(self, user_ids: Iterable[int] | None = None) -> list[EventStream]:
        """Return the open streams of these people; None: of all."""
        with self.lock:
            return [each for user_id in user_ids or list(self.streams) for each in self.streams.get(user_id, ())]

    def _run(self):
        with self.waker, self.wake_up, self.app.app_context():
            while not self.stopped:
                try:
                    with self._listen() as wait:
                        self._tell(wait)
                except (SQLAlchemyError, ValueError) as error:
                    log.warning("cannot read events: %s", type(error).__name__)
                    time.sleep(1)

    def _tell(self, wait: Callable[[float], list]):
        """Tell the streams everything, until the server stops. Raises SQLAlchemyError."""
        next_deletion = 0.0
        while not self.stopped:
            self._check_sessions()
            self._sweep()
            if time.monotonic() >= next_deletion:
                self._delete_old_rows()
                next_deletion = time.monotonic() + DELETION_SECONDS
            next_check = time.monotonic() + HEARTBEAT_SECONDS
            while not self.stopped and (seconds := next_check - time.monotonic()) > 0:
                news = wait(seconds)
                self._deliver({each for each in news if isinstance(each, int)})
                self._tell_announcements([each for each in news if isinstance(each, list)])

    @contextmanager
    def _listen(self):
        """Yield a function that waits for some seconds, and returns who has new events, and announcements."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.waker, selectors.EVENT_READ)
            if db.engine.dialect.name != "postgresql":
                yield lambda seconds: self._wait(selector, seconds)
                return
            from noxchat import postgresql

            connect_args = self.app.config["SQLALCHEMY_ENGINE_OPTIONS"]["connect_args"]
            with postgresql.listen(db.engine, connect_args, CHANNEL, selector) as listener:
                yield lambda seconds: self._exchange(listener, self._wait(selector, seconds))

    def _wait(self, selector, seconds: float) -> list:
        if any(key.fileobj is self.waker for key, _events in selector.select(seconds)):
            self.waker.recv(4096)
        news: list = []
        while not self.notified.empty():
            news.extend(self.notified.get())
        while not self.announced.empty():
            news.append(self.announced.get())
        return news

    def _exchange(self, listener, news: list) -> list:
        """Send announcements to all processes, this one too, and return what has been received."""
        payloads = _make_payloads([each for each in news if isinstance(each, list)])
        if payloads:
            listener.notify(payloads)
        received = [each for payload in listener.receive() for each in payload]
        return [each for each in news if isinstance(each, int)] + received

    def _sweep(self):
        """Tell the changes of conversations whose announcements were lost, with the process that made them, say."""
        began = now()
        members = select(Member.conversation_id).where(Member.user_id.in_(list(self.streams)))
        changed = select(Conversation.id, Conversation.version).where(
            Conversation.changed_at > self.swept_at - SWEEP_OVERLAP, Conversation.id.in_(members)
        )
        versions = {row.id: row.version for row in self._fetch(changed)} if self.streams else {}
        lost = [[CHAT, *item] for item in versions.items() if item[1] > self.announced_versions.get(item[0], 0)]
        self._tell_announcements(lost)
        self.announced_versions, self.swept_at = versions, began

    def _tell_announcements(self, announcements: Sequence[Announcement]):
        """Tell announcements to the streams of this process that they concern."""
        versions: dict[int, int] = {}
        for kind, conversation_id, data, *recipients in announcements:
            if kind == CHAT:
                versions[conversation_id] = max(data, versions.get(conversation_id, 0))
            else:
                self._write(recipients[0], f"event: {kind}\ndata: {conversation_id} {data}".rstrip())
        if not versions or not self.streams:
            return
        self.announced_versions.update(versions)
        # Asked each time, so that whoever was removed from a conversation is told no more.
        current = select(Member.conversation_id, Member.user_id)
        for row in self._fetch(current.where(Member.conversation_id.in_(versions), Member.left_at.is_(None))):
            self._write([row.user_id], f"event: {CHAT}\ndata: {row.conversation_id} {versions[row.conversation_id]}")

    def _write(self, user_ids: Iterable[int], text: str):
        """Write an event without an id: a stream that resumes after an id may have missed durable events before it."""
        for stream in self._select(user_ids):
            stream.write(f"{text}\n\n")

    def _check_sessions(self):
        """End the streams whose session has ended, keep the others open, and deliver what no notification announced."""
        streams = self._select()
        newest = select(func.max(Event.id)).where(Event.user_id == Session.user_id).scalar_subquery()
        statement = select(Session.id, Session.user_id, newest.label("newest"))
        rows = self._fetch(statement.where(Session.id.in_({each.session_id for each in streams}))) if streams else []
        newest_ids = {(row.id, row.user_id): row.newest or 0 for row in rows}
        behind = set()
        for stream in streams:
            newest_id = newest_ids.get((stream.session_id, stream.user_id))
            if newest_id is None:
                stream.close()
            elif newest_id > stream.last_id:
                behind.add(stream.user_id)
            stream.write(COMMENT)
        self._deliver(behind)

    def _delete_old_rows(self):
        """Delete the rows that are no longer kept, in steps between which others can write."""
        for delete_old in DELETE_OLD:
            while not self.stopped and _delete_some(delete_old):
                pass
        db.session.remove()

    def _deliver(self, user_ids: set[int]):
        """Send these people's new events to their streams: one query, however many streams there are."""
        streams = self._select(user_ids) if user_ids else []
        if not streams:
            return
        self._mark_stale([stream for stream in streams if stream.is_new])
        last_ids: dict[int, int] = {}
        for stream in streams:
            last_ids[stream.user_id] = min(stream.last_id, last_ids.get(stream.user_id, stream.last_id))
        rows = values(column("user_id", Integer), column("last_id", BigInteger)).data(list(last_ids.items()))
        seen = rows.cte("seen")
        unseen = and_(Event.user_id == seen.c.user_id, Event.id > seen.c.last_id)
        events: dict[int, list[Row]] = {}
        for new in self._fetch(select(Event.__table__).join(seen, unseen).order_by(Event.id)):
            events.setdefault(new.user_id, []).append(new)
        for stream in streams:
            stream.send(events.get(stream.user_id, ()))

    def _mark_stale(self, streams: list[EventStream]):
        """Tell streams that were away for so long that events which they have not seen may be deleted already."""
        seen = {(stream.user_id, stream.last_id) for stream in streams if stream.last_id}
        kept = select(Event.user_id, Event.id).where(Event.id.in_({last_id for _user_id, last_id in seen}))
        stale = seen - {(row.user_id, row.id) for row in self._fetch(kept)} if seen else set()
        for stream in streams:
            stream.is_new = False
            if (stream.user_id, stream.last_id) in stale:
                stream.write(STALE)

    def _fetch(self, statement) -> Sequence[Row]:
        """Return rows, by a connection that is returned at once."""
        with db.engine.connect() as connection:
            rows = connection.execute(statement).all()
            connection.commit()
            return rows
