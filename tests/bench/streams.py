"""Five hundred open event streams and page requests at the same time, on one server process: `bin/bench streams`."""

import http.client
import selectors
import socket
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from sqlalchemy import insert

from config import Config
from noxchat import create_app, sessions
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.models import User, friends
from tests.bench.databases import in_background, say
from tests.conftest import PASSWORD, Postgres, Server, Visitor, make_person, migrated, settings

PEOPLE, STREAMS_EACH, ROUNDS = 50, 10, 5
MAX_EVENT_SECONDS, MAX_PAGE_SECONDS = 1.0, 0.1


def session_cookie(app, user) -> str:
    """Log a user in and return the session cookie."""
    with app.app_context():
        begin_write(db.session)
        session = sessions.create(db.session.get(User, user.id), "bench", app.config["REMEMBER_COOKIE_DURATION"])
        db.session.commit()
        signer = app.session_interface.get_signing_serializer(app)
        app.extensions["cookie_names"].load()
        name = app.config["SESSION_COOKIE_NAME"]
        token = "0123456789abcdef0123456789abcdef01234567"
        return f"{name}={signer.dumps({'_user_id': session.session_token, '_fresh': True, 'csrf_token': token})}"


class OpenStreams:
    """STREAMS_EACH event streams for each session cookie, read by one thread."""

    def __init__(self, server, cookies):
        self.selector, self.connections = selectors.DefaultSelector(), []
        for cookie in cookies:
            for _stream in range(STREAMS_EACH):
                connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
                connection.sendall(
                    f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nCookie: {cookie}\r\n\r\n".encode()
                )
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
                connection.setblocking(False)
                self.selector.register(connection, selectors.EVENT_READ)
                self.connections.append(connection)

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


def measure(kind: str, uri: str, folder: Path) -> bool:
    """Measure one database. Returns whether events and pages were fast enough."""
    migrated(folder, uri)
    app = create_app(Config(settings(folder, uri), debug=False))
    app.logger.handlers.clear()
    listeners = [
        make_person(app, f"Listener {n:x}", f"l{n}@nox.example", public_id=f"listener-{n}") for n in range(PEOPLE)
    ]
    server = Server(folder, uri, STREAMS=PEOPLE * STREAMS_EACH + 20, THREADS=32)
    page_times = []
    try:
        process = psutil.Process(server.process.pid).children()[0]
        memory_before = process.memory_info().rss
        streams = OpenStreams(server, [session_cookie(app, person) for person in listeners])
        page_cookie = session_cookie(app, listeners[0])

        def request_pages(done):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            while not done.is_set():
                began = time.perf_counter()
                connection.request("GET", "/friends", headers={"Cookie": page_cookie})
                response = connection.getresponse()
                response.read()
                assert response.status == 200
                page_times.append(time.perf_counter() - began)

        event_times = []
        with in_background(request_pages):
            for number in range(ROUNDS):
                # The deletion of a friend of all listeners is an event for each of them.
                hub = make_person(app, f"Hub {number}", f"hub{number}@nox.example", public_id=f"hub-{number}")
                with app.app_context():
                    begin_write(db.session)
                    pairs = [pair for person in listeners for pair in ((hub.id, person.id), (person.id, hub.id))]
                    db.session.execute(insert(friends), [{"user_id": one, "friend_id": other} for one, other in pairs])
                    db.session.commit()
                began = time.perf_counter()
                delete_account(app, server, hub)
                times = streams.receive(f"hub-{number}", 20)
                assert len(times) == PEOPLE * STREAMS_EACH, f"only {len(times)} streams received the event"
                event_times.append(times[-1] - began)
        median = statistics.median(page_times)
        passed = max(event_times) <= MAX_EVENT_SECONDS and median <= MAX_PAGE_SECONDS
        say(f"{kind}: {PEOPLE * STREAMS_EACH} streams of {PEOPLE} people, one server process")
        print(
            f"  an event reached all streams after {statistics.median(event_times):.2f} s, at most {max(event_times):.2f} s"
            f" (including the deletion of the account); {len(page_times)} pages meanwhile, median {median * 1000:.0f} ms;"
            f" memory {process.memory_info().rss / 1e6:.0f} MB, {memory_before / 1e6:.0f} MB before"
        )
    finally:
        server.stop()
        with app.app_context():
            db.engine.dispose()
    return passed


def delete_account(app, server, user):
    """Delete an account through the server: with SQLite, only the process that publishes an event can dispatch it."""
    visitor = Visitor(server)
    name, _equals, value = session_cookie(app, user).partition("=")
    visitor.opener.addheaders = [("Cookie", f"{name}={value}")]
    response = visitor.post("/settings/delete", {"password": PASSWORD})
    assert response.status == 200, response.status


def main() -> bool:
    """Measure both databases. Returns whether events and pages were fast enough."""
    postgres = Postgres(durable=True)
    try:
        postgres.execute("CREATE DATABASE streams")
        results = []
        for kind in ("sqlite", "postgresql"):
            folder = Path(tempfile.mkdtemp(prefix="nox-streams-"))
            uri = postgres.uri("streams") if kind == "postgresql" else f"sqlite:///{folder}/nox.db"
            results.append(measure(kind, uri, folder))
        return all(results)
    finally:
        postgres.stop("immediate")
