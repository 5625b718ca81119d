"""Event streams over the network: delivery at once and across processes, resuming without gaps, limits, ending."""

import contextlib
import os
import queue
import random
import select as polling
import signal
import socket
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import psutil
import psycopg
import pytest
from gunicorn import config as gunicorn_config
from gunicorn.workers.gthread import PollableMethodQueue
from sqlalchemy import select, text, update

from noxchat import counters, event_stream, events, friendships, sessions
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import Event, User
from noxchat.web.connections import Connection
from noxchat.web.worker import Worker
from tests.conftest import (
    PASSWORD,
    Browser,
    Server,
    Visitor,
    act,
    copy_database,
    make_person,
    run_in_threads,
    wait_until,
)


class Listener:
    """The event stream of a browser tab, and a queue of the events it has received."""

    opened = []

    def __init__(self, visitor, after="", tab="", last_id=None):
        self.received, self.ended = queue.Queue(), threading.Event()
        self.last_id = last_id
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in visitor.jar)
        head = f"GET /events?after={after}&tab={tab} HTTP/1.1\r\nHost: 127.0.0.1:{visitor.server.port}\r\nCookie: {cookies}\r\n"
        if last_id:
            head += f"Last-Event-ID: {last_id}\r\n"
        self.connection = socket.create_connection(("127.0.0.1", visitor.server.port), timeout=60)
        self.connection.sendall(f"{head}\r\n".encode())
        self.file = self.connection.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while (line := self.file.readline().decode().strip()) != "":
            name, _colon, value = line.partition(": ")
            self.headers[name] = value
        Listener.opened.append(self)
        if self.status == 200:
            threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        event = {}
        with contextlib.suppress(OSError, ValueError):  # closed by this side
            while size := int(self.file.readline() or b"0", 16):
                chunk = self.file.read(size + 2)
                for text in chunk.decode().splitlines():
                    name, _colon, value = text.partition(":")
                    if name:
                        event[name] = value.strip()
                    elif not text and event:
                        self.last_id = event.get("id", self.last_id)
                        if "event" in event:
                            self.received.put((time.monotonic(), event["event"], event["data"]))
                        event = {}
        self.ended.set()

    def next(self, seconds=5):
        return self.received.get(timeout=seconds)

    def close(self):
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        if self.status == 200:
            self.ended.wait(5)
        self.file.close()
        self.connection.close()


@pytest.fixture(autouse=True)
def close_listeners():
    yield
    close_all()


def close_all():
    for listener in Listener.opened:
        listener.close()
    Listener.opened.clear()


@pytest.fixture
def serve(serve):
    """Close the streams before the servers stop, which would have to end them."""
    yield serve
    close_all()


@pytest.fixture(scope="module")
def site(request, tmp_path_factory, templates):
    """Return a function that returns the server on a database, which the tests share: site("postgresql")."""
    servers = {}

    def shared(kind="sqlite"):
        if kind not in servers:
            folder = tmp_path_factory.mktemp(f"events-{kind}")
            postgres = request.getfixturevalue("postgres") if kind == "postgresql" else None
            uri = copy_database(folder, templates(kind, postgres), postgres)
            servers[kind] = Server(folder, uri, SIGN_UPS_PER_HOUR=1000, SIGN_INS_PER_ADDRESS=1000)
        return servers[kind]

    yield shared
    for server in servers.values():
        server.stop()


LETTERS = "abcdefghijkmnopqrstuvwxyz"
numbers = iter(range(10**6))


def register(server, name):
    """Register somebody whose name begins with `name`, and log them in."""
    number = next(numbers)
    visitor = Visitor(server).register(f"{name}{LETTERS[number // 25]}{LETTERS[number % 25]}")
    visitor.id = visitor.open("/").text.split('href="/u/')[1].split('"')[0]
    return visitor


def send_friend_request(one, other):
    return one.post(f"/u/{other.id}/request", {"next": "/search"}, page=f"/u/{other.id}")


def last_event_id(visitor):
    return visitor.open("/").text.split("/events?after=")[1].split("&")[0]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_change_is_delivered_at_once(site, kind):
    server = site(kind)
    alice, bob, clara = (register(server, name) for name in ("Alice", "Bob", "Clara"))
    listeners = [Listener(bob), Listener(bob), Listener(alice)]
    stranger = Listener(clara)
    for action in ("request", "request/cancel", "request"):
        began = time.monotonic()
        alice.post(f"/u/{bob.id}/{action}", {}, page=f"/u/{bob.id}")
        for listener, public_id in zip(listeners, (alice.id, alice.id, bob.id), strict=True):
            received_at, event, data = listener.next()
            assert (event, data) == ("friendship", public_id)
            assert received_at - began < 3
    bob.post(f"/u/{alice.id}/request/accept", {}, page=f"/u/{alice.id}")
    assert listeners[2].next()[2] == bob.id
    assert stranger.received.empty()


def test_change_is_delivered_to_another_process(site, serve):
    first = site("postgresql")
    uri = first.environment["SQLALCHEMY_DATABASE_URI"]

    def listening():
        with psycopg.connect(uri) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            return connection.execute(query).fetchone()[0]

    before = listening()
    alice, bob = register(first, "Alice"), register(serve(uri=uri), "Bob")
    listener = Listener(bob)
    wait_until(lambda: listening() > before)
    for action in ("request", "request/cancel", "request"):
        began = time.monotonic()
        alice.post(f"/u/{bob.id}/{action}", {}, page=f"/u/{bob.id}")
        assert listener.next()[0] - began < 3


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_reconnecting_stream_misses_no_event(site, kind):
    server = site(kind)
    alice, bob, clara = (register(server, name) for name in ("Alice", "Bob", "Clara"))
    listener = Listener(bob)
    send_friend_request(alice, bob)
    assert listener.next()[2] == alice.id
    listener.close()
    send_friend_request(clara, bob)
    alice.post(f"/u/{bob.id}/request/cancel", {}, page=f"/u/{bob.id}")
    resumed = Listener(bob, last_id=listener.last_id)
    assert [resumed.next()[2], resumed.next()[2]] == [clara.id, alice.id]
    # A page that was rendered before both events names the last event it knew of.
    fresh = Listener(bob, after=listener.last_id)
    assert [fresh.next()[2], fresh.next()[2]] == [clara.id, alice.id]


def test_events_survive_a_server_restart(serve, new_database):
    uri = new_database("sqlite")
    server = serve(uri=uri)
    alice, bob = register(server, "Alice"), register(server, "Bob")
    before = last_event_id(bob)
    send_friend_request(alice, bob)
    server.stop()
    restarted = serve(uri=uri)
    bob.server = restarted
    assert Listener(bob, after=before or "0").next()[2] == alice.id


def test_tab_does_not_receive_its_own_changes(site):
    server = site()
    alice, bob = register(server, "Alice"), register(server, "Bob")
    own, other = Listener(alice, tab="abc"), Listener(alice, tab="def")
    token = alice.token(f"/u/{bob.id}")
    alice.open(f"/u/{bob.id}/request", f"csrf_token={token}".encode(), **{"X-Tab": "abc", "HX-Request": "true"})
    assert other.next()[2] == bob.id
    bob.post(f"/u/{alice.id}/request/accept", {}, page=f"/u/{alice.id}")
    assert own.next()[2] == bob.id and own.received.empty()


def test_streams_end_with_their_session(site):
    server = site()
    new = {"password": "another lamp at night 9", "password2": "another lamp at night 9"}
    actions = {
        "log out": ("/auth/logout", {}, "/settings"),
        "revoke other sessions": ("/settings/sessions/revoke-others", {}, "/settings/sessions"),
        "change password": ("/settings/password", {"current_password": PASSWORD, **new}, None),
        "delete account": ("/settings/delete", {"password": PASSWORD}, None),
    }
    people = {action: register(server, "Bob") for action in actions}
    listeners = {action: Listener(person) for action, person in people.items()}
    for action, (path, fields, page) in actions.items():
        browser = people[action]
        if action != "log out":
            browser = Visitor(server)
            browser.email = people[action].email
            browser.log_in()
        assert browser.post(path, fields, page=page).status == 200, action
    for action, listener in listeners.items():
        assert listener.ended.wait(40), action
        assert Listener(people[action]).status == 302, action


def test_anonymous_user_gets_no_stream(site):
    server = site()
    assert "/auth/login" in server.get("/events").url


def test_streams_per_person_are_limited_and_closing_one_frees_a_slot(site):
    server = site()
    bob = register(server, "Bob")
    listeners = [Listener(bob) for _number in range(10)]
    assert {listener.status for listener in listeners} == {200}
    refused = Listener(bob)
    assert refused.status == 503 and refused.headers["Retry-After"] and refused.headers["Content-Length"] == "0"
    listeners[0].close()
    assert wait_until(lambda: Listener(bob).status == 200, 5)


def test_pages_still_work_when_all_streams_of_the_server_are_open(serve):
    server = serve(STREAMS=3, THREADS=4)
    people = [register(server, name) for name in ("Alice", "Bob")]
    listeners = [Listener(people[0]), Listener(people[1]), Listener(people[0]), Listener(people[1])]
    assert [listener.status for listener in listeners] == [200, 200, 200, 503]
    assert people[0].open("/friends").status == 200


def test_streams_hold_no_thread(serve):
    server = serve(THREADS=2, STREAMS=100)
    people = [register(server, "Alice") for _number in range(3)]
    listeners = [Listener(person) for person in people for _number in range(10)]
    assert {listener.status for listener in listeners} == {200}
    assert people[0].open("/friends").status == 200
    assert psutil.Process(server.process.pid).children()[0].num_threads() < 15
    send_friend_request(people[0], people[1])
    for listener in listeners[:20]:
        assert listener.next()[1] == "friendship"


def test_stream_over_http_1_0_has_no_chunks(site):
    """As nginx asks for it, unless it is told otherwise."""
    server = site()
    alice, bob = register(server, "Alice"), register(server, "Bob")
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in bob.jar)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            f"GET /events HTTP/1.0\r\nHost: 127.0.0.1:{server.port}\r\nCookie: {cookies}\r\n\r\n".encode()
        )
        text = connection.recv(4096)
        send_friend_request(alice, bob)
        while b"event: friendship" not in text:
            text += connection.recv(4096)
    head, _blank, body = text.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower() and b"\r" not in body and body.startswith(b":\n\n")


def test_attached_stream_whose_client_does_not_read_is_closed():
    near, far = socket.socketpair()
    with near, far:
        connection = Connection(gunicorn_config.Config(), near, ("127.0.0.1", 1), ("127.0.0.1", 2))
        stream, ended = event_stream.EventStream(1, 1, 0, ""), []
        stream.write("queued before")
        stream.attach(connection.write_event, lambda: ended.append(True))
        assert far.recv(100) == b"queued before"
        for _number in range(10_000):
            stream.write("x" * 1000)
        assert ended == [True] and stream.closed
        read = sum(iter(lambda: len(far.recv(100_000, socket.MSG_DONTWAIT) if has_data(far) else b""), 0))
        stream.write("after the end")
        assert read < 10_000_000 and not has_data(far)


def has_data(sock):
    return bool(polling.select([sock], [], [], 0)[0])


def test_stream_that_ended_before_it_was_attached_is_ended():
    stream, ended, written = event_stream.EventStream(1, 1, 0, ""), [], []
    stream.close()
    stream.attach(written.append, lambda: ended.append(True))
    assert ended == [True] and not written


def test_worker_without_master_closes_its_streams_and_ends(serve):
    server = serve()
    listener = Listener(register(server, "Bob"))
    worker = psutil.Process(server.process.pid).children()[0]
    server.process.kill()
    assert listener.ended.wait(10)
    assert wait_until(lambda: not worker.is_running(), 20)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGTERM] * 10])
def test_streams_close_when_the_server_stops(serve, signals):
    server = serve()
    listener = Listener(register(server, "Bob"))
    began = time.monotonic()
    for number in signals:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, number)
    server.process.wait(30)
    assert time.monotonic() - began < 20
    assert listener.ended.wait(5)


def test_signal_handler_waits_for_no_lock(app):
    """It may have interrupted whoever holds the lock."""
    streams, worker = app.extensions["event_streams"], Worker.__new__(Worker)
    worker.app, worker.alive, worker.method_queue = SimpleNamespace(app=app), True, PollableMethodQueue()
    worker.keepalived_conns = worker.pending_conns = ()
    worker.method_queue.init()
    with streams.lock:
        worker.handle_quit(signal.SIGINT, None)
        worker.handle_quit(signal.SIGQUIT, None)
    assert not worker.alive and not streams.stopped
    worker.method_queue.run_callbacks(None)
    worker.method_queue.close()
    assert streams.stopped


def test_stream_that_is_not_read_delays_no_other_and_is_closed(app):
    bob = make_person(app, "Bob")
    streams, unread, read = app.extensions["event_streams"], make_stream(app, bob), make_stream(app, bob)
    assert streams.open(unread) and streams.open(read)
    lines = streams.lines(read)
    while next(lines) != event_stream.COMMENT or not unread.queue.qsize():
        pass
    for number in range(event_stream.MAX_QUEUED):
        with app.app_context():
            begin_write(db.session)
            events.publish("test", [(bob.id, f"{number}")])
            db.session.commit()
        text = ""
        while f"data: {number}\n" not in text:
            text = next(lines)
    assert unread.closed and not read.closed
    streams.close()
    streams.thread.join()


def make_stream(app, user, last=0, tab=""):
    with app.app_context():
        session = Browser(app, user) and sessions.list_all(user)[0]
    return event_stream.EventStream(user.id, session.id, last, tab)


def test_stream_is_stale_when_missed_events_were_deleted(any_app):
    alice, bob = make_person(any_app, "Alice"), make_person(any_app, "Bob")
    with any_app.test_request_context():
        begin_write(db.session)
        act(friendships.send, alice, bob)
        db.session.execute(update(Event).values(created_at=now() - events.KEPT_FOR - timedelta(seconds=1)))
        db.session.commit()
        old = counters.get_counters(bob).last_event_id
        begin_write(db.session)
        act(friendships.cancel, alice, bob)
        db.session.commit()
        events.delete_old(db.session)
        db.session.commit()
        assert db.session.get(Event, old) is None
    streams = any_app.extensions["event_streams"]
    texts = {}
    for last in (old, 0):
        stream = make_stream(any_app, bob, last=last)
        streams.open(stream)
        lines = streams.lines(stream)
        texts[last] = ""
        while "event: friendship" not in texts[last]:
            texts[last] += next(lines)
    assert event_stream.STALE in texts[old] and event_stream.STALE not in texts[0]
    streams.close()
    streams.thread.join()


def send_and_cancel_request(sender, receiver, _people):
    for rule in (friendships.send, friendships.cancel):
        begin_write(db.session)
        act(rule, sender, receiver)
        db.session.commit()


def publish_to_all(_sender, _receiver, people):
    """Publish to recipients in random order, without locking their rows first."""
    for _number in range(2):
        begin_write(db.session)
        recipients = random.sample(people, len(people))
        events.publish("test", [(user.id, "data") for user in recipients])
        db.session.commit()


@pytest.mark.parametrize("write", [send_and_cancel_request, publish_to_all])
def test_events_become_visible_in_the_order_of_their_ids(any_app, write):
    """A stream resumes after the last id it has seen, so it would miss an event that appears below that."""
    people = [make_person(any_app, f"Person {letter}", f"{letter}@nox.example") for letter in "abcdefghi"]
    receiver, seen, done = people[0], [], threading.Event()

    def watch():
        with any_app.app_context():
            last = 0
            while not done.is_set():
                rows = db.session.scalars(
                    db.select(Event.id).where(Event.user_id == receiver.id).order_by(Event.id)
                ).all()
                db.session.commit()
                seen.extend(event_id for event_id in rows if event_id > last)
                late = [event_id for event_id in rows if event_id <= last and event_id not in seen]
                assert not late
                last = max([last, *rows])

    watcher = threading.Thread(target=watch)
    watcher.start()

    def work(number):
        for _round in range(6):
            write(people[number + 1], receiver, people)

    try:
        assert run_in_threads(any_app, 8, work) == [None] * 8
    finally:
        done.set()
        watcher.join()
    with any_app.app_context():
        event_ids = db.session.scalars(db.select(Event.id).where(Event.user_id == receiver.id)).all()
    assert len(event_ids) == 96 and set(seen) <= set(event_ids) and seen == sorted(seen)


def test_publishing_locks_no_user_rows_and_few_advisory_locks(make_app, monkeypatch):
    """A message to 50 people must not wait for another transaction that locks one of their rows."""
    app = make_app("postgresql")
    monkeypatch.setattr(events, "LOCKS", 4)
    people = [make_person(app, f"Person {letter}", f"{letter}@nox.example") for letter in "abcdefgh"]
    with app.app_context(), db.engine.connect() as other:
        events.publish("test", [(user.id, "data") for user in people])
        locked = db.session.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
        assert locked == 4
        rows = select(User.id).with_for_update(key_share=True, nowait=True)
        assert len(other.execute(rows).all()) == len(people)


def test_closing_an_unread_response_leaves_no_open_stream(app, alice_browser):
    for _number in range(3):
        alice_browser.client.head("/events").close()
        alice_browser.client.get("/events").close()
    assert app.extensions["event_streams"].count() == 0


def test_rolled_back_event_notifies_nobody(app):
    alice, bob = make_person(app, "Alice"), make_person(app, "Bob")
    notified = []
    app.extensions["event_streams"].notify = lambda user_ids: notified.append(set(user_ids))
    with app.test_request_context():
        begin_write(db.session)
        act(friendships.send, alice, bob)
        db.session.rollback()
        db.session.commit()
        assert notified == []
        begin_write(db.session)
        act(friendships.send, alice, bob)
        db.session.commit()
    assert notified == [{alice.id, bob.id}]


def test_invalid_last_event_id_is_ignored(app, alice, alice_browser):
    with app.test_request_context():
        begin_write(db.session)
        events.publish("test", [(alice.id, "unseen")])
        db.session.commit()
    for last in ("", "0", "-1", "abc", "9" * 30, "1.5", "é"):
        for path, headers in ((f"/events?after={last}", {}), ("/events", {"Last-Event-ID": last})):
            answer = alice_browser.client.get(path, headers=headers)
            assert answer.status_code == 200, (path, last)
            if last != "":
                lines = answer.iter_encoded()
                assert b"event: " not in next(lines), (path, last)
            answer.close()
