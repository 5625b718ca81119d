"""Many open pages of one group: how soon they are told of a message, and show it. `bin/bench chatstreams`."""

import resource
import selectors
import socket
import time

import psutil

from config import Config
from noxchat import create_app
from noxchat.extensions import db
from tests.bench.chat import KINDS, database
from tests.bench.chat_load import UNLIMITED, Client, add_group
from tests.bench.databases import say
from tests.bench.pages import session_cookie
from tests.conftest import Server, make_person, settings

MEMBERS, STREAMS, ROUNDS, PAUSE_SECONDS = 50, 500, 10, 5
MAX_TOLD_SECONDS, MAX_SHOWN_SECONDS, MAX_MEGABYTES = 1, 2.5, 250  # goals of CHAT.md, 6


class OpenPage:
    """A browser tab: an event stream, and a connection on which it asks for what has changed."""

    def __init__(self, port: int, cookie: str):
        self.port, self.cookie = port, cookie
        self.stream = self.connect()
        self.stream.sendall(self.request("/events"))
        self.connection = self.connect()
        self.told_at = self.shown_at = None
        self.answer = b""

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def request(self, path: str) -> bytes:
        lines = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Cookie: {self.cookie}", "HX-Request: true")
        return "\r\n".join([*lines, "X-Background: 1", "", ""]).encode()

    def read_stream(self, version: int):
        """Ask for the changes when the stream tells of them."""
        if b"event: chat" in self.stream.recv(65536) and self.told_at is None:
            self.told_at = time.perf_counter()
            self.answer = b""
            self.connection.sendall(self.request(f"/chats/1/changes?since={version}&from=0"))

    def read_answer(self, text: bytes):
        """Note when the message is there."""
        self.answer += self.connection.recv(262144)
        if text in self.answer and b'id="chat-state"' in self.answer:  # which is at the end of the answer
            self.shown_at = time.perf_counter()


def receive(pages: list[OpenPage], selector, version: int, text: bytes):
    """Read until all pages show a message, or 20 seconds have passed."""
    end = time.perf_counter() + 20
    while any(page.shown_at is None for page in pages) and time.perf_counter() < end:
        for key, _events in selector.select(0.05):
            page, part = key.data
            page.read_stream(version) if part == "stream" else page.read_answer(text)


def percentile(seconds: list[float], share: float = 0.99) -> float:
    """Return what so large a share is not above."""
    return sorted(seconds)[int(share * (len(seconds) - 1))]


def measure(kind: str) -> bool:
    """Measure one database. Returns whether the goals were reached."""
    with database(kind) as (folder, uri):
        app = create_app(Config(settings(folder, uri), debug=False))
        app.logger.handlers.clear()
        people = [make_person(app, f"Member {n:x}", f"m{n}@nox.example", public_id=f"m-{n}") for n in range(MEMBERS)]
        with app.app_context(), db.engine.begin() as connection:
            add_group(connection, "members", [person.id for person in people])
        cookies = [session_cookie(app, people[number % MEMBERS].id) for number in range(STREAMS)]
        server = Server(folder, uri, STREAMS=STREAMS + 20, STREAMS_PER_PERSON=STREAMS, **UNLIMITED)
        try:
            process = psutil.Process(server.process.pid).children()[0]
            writer = Client(app, server.port, people[0])
            pages = [OpenPage(server.port, cookie) for cookie in cookies]
            told, shown, megabytes = exchange(pages, writer, process)
        finally:
            server.stop()
            with app.app_context():
                db.engine.dispose()
    results = [percentile(told), percentile(shown), megabytes]
    passed = all(
        found < limit
        for found, limit in zip(results, (MAX_TOLD_SECONDS, MAX_SHOWN_SECONDS, MAX_MEGABYTES), strict=True)
    )
    say(
        f"{kind}: {STREAMS} pages of {MEMBERS} members, {ROUNDS} messages, one process: 99 of 100 were told within"
        f" {results[0]:.2f} s, and showed it within {results[1]:.2f} s (median {percentile(shown, 0.5):.2f} s);"
        f" {megabytes:.0f} MB: {'passed' if passed else 'FAILED'}"
    )
    return passed


def exchange(pages: list[OpenPage], writer: Client, process) -> tuple[list[float], list[float], float]:
    """Send messages one after another. Returns the seconds until each page was told and showed it, and the memory."""
    selector = selectors.DefaultSelector()
    for page in pages:
        assert page.stream.recv(4096).startswith(b"HTTP/1.1 200")
        selector.register(page.stream, selectors.EVENT_READ, (page, "stream"))
        selector.register(page.connection, selectors.EVENT_READ, (page, "connection"))
    told, shown = [], []
    for number in range(ROUNDS):
        time.sleep(PAUSE_SECONDS)
        for page in pages:
            page.told_at = page.shown_at = None
        began = time.perf_counter()
        assert writer.send(1, f"round {number}.", f"round-{number}")[0] == 200
        receive(pages, selector, number, f"round {number}.".encode())
        missing = sum(page.shown_at is None for page in pages)
        assert not missing, f"{missing} pages did not show message {number}"
        told += [page.told_at - began for page in pages]
        shown += [page.shown_at - began for page in pages]
    return told, shown, process.memory_info().rss / 1e6


def main(*_numbers: int) -> bool:
    """Measure both databases. Returns whether the goals were reached."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = [measure(kind) for kind in KINDS]
    return all(results)
