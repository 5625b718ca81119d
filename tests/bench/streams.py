"""Five hundred open event streams and pages at the same time, on one small server process: `bin/bench streams`."""

import http.client
import selectors
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil
from sqlalchemy import insert

from config import Config
from noxchat import create_app, sessions
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.models import User, friends
from tests.bench.databases import say
from tests.conftest import Postgres, Server, make_person, migrated, settings

PEOPLE, EACH, ROUNDS = 50, 10, 5
MOST_SECONDS, MOST_PAGE = 1.0, 0.1


def cookie_of(app, user) -> str:
    """Return the cookie of a new session."""
    with app.app_context():
        begin_write(db.session)
        found = sessions.create(db.session.get(User, user.id), "bench", app.config["REMEMBER_COOKIE_DURATION"])
        db.session.commit()
        signer = app.session_interface.get_signing_serializer(app)
        raw = "0123456789abcdef0123456789abcdef01234567"
        return f"session={signer.dumps({'_user_id': found.session_token, '_fresh': True, 'csrf_token': raw})}"


def post(server, cookie: str, path: str) -> int:
    """Press a button as htmx does; return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/settings/look", headers={"Cookie": cookie})
    token = connection.getresponse().read().decode().split('name="csrf_token" value="')[1].split('"')[0]
    headers = {"Cookie": cookie, "X-CSRFToken": token, "HX-Request": "true"}
    connection.request("POST", path, headers=headers | {"Content-Type": "application/x-www-form-urlencoded"})
    status = connection.getresponse().status
    connection.close()
    return status


class Crowd:
    """All the tabs that listen, read by one thread."""

    def __init__(self, server, cookies):
        self.selector, self.sockets = selectors.DefaultSelector(), []
        for cookie in cookies:
            for _tab in range(EACH):
                line = socket.create_connection(("127.0.0.1", server.port), timeout=30)
                line.sendall(
                    f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nCookie: {cookie}\r\n\r\n".encode()
                )
                assert line.recv(4096).startswith(b"HTTP/1.1 200")
                line.setblocking(False)
                self.selector.register(line, selectors.EVENT_READ)
                self.sockets.append(line)

    def told(self, about: str, seconds: float) -> list[float]:
        """Return when each tab was told about somebody, in the order of time."""
        times, heard, end = [], set(), time.perf_counter() + seconds
        while len(heard) < len(self.sockets) and time.perf_counter() < end:
            for key, _events in self.selector.select(0.05):
                data = key.fileobj.recv(65536)
                if f"data: {about}".encode() in data and key.fileobj not in heard:
                    heard.add(key.fileobj)
                    times.append(time.perf_counter())
        return times


def measure(kind: str, uri: str, folder: Path) -> bool:
    migrated(folder, uri)
    app = create_app(Config(settings(folder, uri), debug=False))
    app.logger.handlers.clear()
    listeners = [
        make_person(app, f"Listener {n:x}", f"l{n}@nox.example", public_id=f"listener-{n}") for n in range(PEOPLE)
    ]
    server = Server(folder, uri, STREAMS=PEOPLE * EACH + 20, THREADS=32)
    good, pages, stop = True, [], threading.Event()
    try:
        process = psutil.Process(server.process.pid).children()[0]
        idle = process.memory_info().rss
        crowd = Crowd(server, [cookie_of(app, person) for person in listeners])
        reader = cookie_of(app, listeners[0])

        def read():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            while not stop.is_set():
                began = time.perf_counter()
                connection.request("GET", "/friends", headers={"Cookie": reader})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
                pages.append(time.perf_counter() - began)

        threading.Thread(target=read, daemon=True).start()
        slowest = []
        for number in range(ROUNDS):
            # Somebody whom all of them know blocks and so leaves one; then leaves them all: each is told.
            hub = make_person(app, f"Hub {number}", f"hub{number}@nox.example", public_id=f"hub-{number}")
            with app.app_context():
                begin_write(db.session)
                pairs = [pair for person in listeners for pair in ((hub.id, person.id), (person.id, hub.id))]
                db.session.execute(insert(friends), [{"user_id": one, "friend_id": other} for one, other in pairs])
                db.session.commit()
            began = time.perf_counter()
            leave(app, server, hub, kind)
            times = crowd.told(f"hub-{number}", 20)
            assert len(times) == PEOPLE * EACH, f"only {len(times)} were told"
            slowest.append(times[-1] - began)
        stop.set()
        median = statistics.median(pages)
        good = max(slowest) <= MOST_SECONDS and median <= MOST_PAGE
        say(f"{kind}: {PEOPLE * EACH} streams of {PEOPLE} people, one server process")
        print(
            f"  a change reached all of them after {statistics.median(slowest):.2f} s, at the slowest {max(slowest):.2f} s"
            f" (deleting the account included); {len(pages)} pages meanwhile, median {median * 1000:.0f} ms;"
            f" memory {process.memory_info().rss / 1e6:.0f} MB, {idle / 1e6:.0f} MB before"
        )
    finally:
        stop.set()
        server.stop()
        with app.app_context():
            db.engine.dispose()
    return good


def leave(app, server, hub, kind):
    """Delete an account, through the server: on SQLite only its own process can tell the streams."""
    from tests.conftest import PASSWORD, Visitor

    visitor = Visitor(server)
    name, _equals, value = cookie_of(app, hub).partition("=")
    visitor.opener.addheaders = [("Cookie", f"{name}={value}")]
    answer = visitor.post("/settings/delete", {"password": PASSWORD})
    assert answer.status == 200, answer.status


def main() -> bool:
    """Measure both databases. Returns whether all were told in time, and pages went on."""
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
