"""Many open event streams and page requests at the same time, on one server process: `bin/bench streams`."""

import http.client
import resource
import selectors
import socket
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
from sqlalchemy import insert

from config import Config
from noxchat import create_app, events
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.models import friends
from tests.bench.databases import in_background, say
from tests.bench.pages import cpu_seconds, session_cookie
from tests.conftest import PASSWORD, Postgres, Server, Visitor, make_person, migrated, settings

ROUNDS, IDLE_SECONDS = 5, 45  # three heartbeats
# Goals for 1,000 streams; fewer have to reach them, too.
MAX_CONNECT_SECONDS, MAX_IDLE_MILLISECONDS, MAX_EVENT_SECONDS, MAX_PAGE_SECONDS = 8, 60, 0.3, 0.1


class OpenStreams:
    """An event stream for each session cookie, read by one thread."""

    def __init__(self, server, cookies):
        self.selector, self.connections = selectors.DefaultSelector(), []
        for cookie in cookies:
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            connection.sendall(
                f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nCookie: {cookie}\r\n\r\n".encode()
            )
            self.connections.append(connection)
        for connection in self.connections:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            connection.setblocking(False)
            self.selector.register(connection, selectors.EVENT_READ)

    def receive(self, public_id: str, seconds: float) -> list[float]:
        """Return when each stream received the event about a person, earliest first."""
        times, received, end = [], set(), time.perf_counter() + seconds
        while len(received) < len(self.connections) and time.perf_counter() < end:
            for key, _events in self.selector.select(0.05):
                data = key.fileobj.recv(65536)
                if f"data: {public_id}".encode() in data and key.fileobj not in received:
                    received.add(key.fileobj)
                    times.append(time.perf_counter())
        return times

    def close(self):
        for connection in self.connections:
            connection.close()


def measure(kind: str, uri: str, folder: Path, listeners: int, database_pid: int | None) -> bool:
    """Measure one database. Returns whether the goals were reached."""
    migrated(folder, uri)
    app = create_app(Config(settings(folder, uri), debug=False))
    app.logger.handlers.clear()
    people = [
        make_person(app, f"Listener {n:x}", f"l{n}@nox.example", public_id=f"listener-{n}").id for n in range(listeners)
    ]
    cookies = [session_cookie(app, user_id) for user_id in people]
    server = Server(folder, uri, STREAMS=listeners + 20)
    try:
        pids = [server.process.pid]
        process = psutil.Process(server.process.pid).children()[0]
        memory = [process.memory_info().rss]
        began = time.perf_counter()
        streams = OpenStreams(server, cookies)
        connect_seconds = time.perf_counter() - began
        memory.append(process.memory_info().rss)
        used = [cpu_seconds(pids), cpu_seconds([database_pid]) if database_pid else 0]
        streams.receive("nobody", IDLE_SECONDS)
        idle = [cpu_seconds(pids) - used[0], (cpu_seconds([database_pid]) if database_pid else 0) - used[1]]
        idle = [seconds * 1000 / IDLE_SECONDS for seconds in idle]
        event_times, page_times = measure_events(app, server, streams, people, cookies[0])
        streams.close()
        time.sleep(2)
        memory.append(process.memory_info().rss)
    finally:
        server.stop()
        with app.app_context():
            db.engine.dispose()
    say(f"{kind}: {listeners} streams of as many people, one server process")
    median = statistics.median(page_times)
    print(
        f"  connected in {connect_seconds:.1f} s; idle: {idle[0]:.0f} + {idle[1]:.0f} ms of CPU a second (application,"
        f" database)\n  an event reached the last stream after {statistics.median(event_times) * 1000:.0f} ms, at most"
        f" {max(event_times) * 1000:.0f} ms; {len(page_times)} pages meanwhile, median {median * 1000:.0f} ms\n"
        f"  memory {memory[0] / 1e6:.0f} MB before, {memory[1] / 1e6:.0f} MB connected, {memory[2] / 1e6:.0f} MB after"
    )
    return (
        connect_seconds <= MAX_CONNECT_SECONDS
        and sum(idle) <= MAX_IDLE_MILLISECONDS
        and statistics.median(event_times) <= MAX_EVENT_SECONDS
        and median <= MAX_PAGE_SECONDS
    )


def measure_events(app, server, streams: OpenStreams, people: list[int], cookie: str):
    """Return how many seconds an event took to the last stream in each round, and pages took meanwhile.

    On PostgreSQL another process publishes it, from whose commit it is counted. On SQLite it is the deletion of a friend
    of all listeners, counted from when the first stream is told.
    """
    event_times, page_times = [], []

    def request_pages(done):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        while not done.is_set():
            began = time.perf_counter()
            connection.request("GET", "/friends", headers={"Cookie": cookie})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            page_times.append(time.perf_counter() - began)
            time.sleep(0.1)

    with in_background(request_pages):
        for number in range(ROUNDS):
            if app.config["SQLALCHEMY_DATABASE_URI"].startswith("postgresql"):
                began = publish(app, people, f"round-{number}")
                event_times.append(receive_all(streams, f"round-{number}")[-1] - began)
                continue
            hub = make_person(app, f"Hub {number}", f"hub{number}@nox.example", public_id=f"hub-{number}")
            befriend_all(app, hub, people)
            deletion = partial(delete_account, server, session_cookie(app, hub.id))
            with in_background(lambda _done, deletion=deletion: deletion()):
                times = receive_all(streams, f"hub-{number}")
            event_times.append(times[-1] - times[0])
    return event_times, page_times


def receive_all(streams: OpenStreams, public_id: str) -> list[float]:
    times = streams.receive(public_id, 20)
    assert len(times) == len(streams.connections), f"only {len(times)} streams received the event"
    return times


def publish(app, user_ids: list[int], data: str) -> float:
    """Publish an event to people, and return when the commit began."""
    with app.app_context():
        begin_write(db.session)
        events.publish("friendship", [(user_id, data) for user_id in user_ids])
        began = time.perf_counter()
        db.session.commit()
    return began


def befriend_all(app, hub, user_ids: list[int]):
    """Make somebody a friend of many people."""
    with app.app_context():
        begin_write(db.session)
        pairs = [pair for user_id in user_ids for pair in ((hub.id, user_id), (user_id, hub.id))]
        db.session.execute(insert(friends), [{"user_id": one, "friend_id": other} for one, other in pairs])
        db.session.commit()


def delete_account(server, cookie: str):
    """Delete an account through the server: with SQLite, only the process that publishes an event can dispatch it."""
    visitor = Visitor(server)
    visitor.opener.addheaders = [("Cookie", cookie)]
    response = visitor.post("/settings/delete", {"password": PASSWORD})
    assert response.status == 200, response.status


def main(listeners: int = 1000) -> bool:
    """Measure both databases. Returns whether the goals were reached."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    postgres = Postgres(durable=True)
    try:
        postgres.execute("CREATE DATABASE streams")
        results = []
        for kind in ("sqlite", "postgresql"):
            folder = Path(tempfile.mkdtemp(prefix="nox-streams-"))
            uri = postgres.uri("streams") if kind == "postgresql" else f"sqlite:///{folder}/nox.db"
            pid = postgres.pid() if kind == "postgresql" else None
            results.append(measure(kind, uri, folder, listeners, pid))
        return all(results)
    finally:
        postgres.stop("immediate")
