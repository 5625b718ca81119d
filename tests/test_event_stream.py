"""Live events over the network: told at once, across processes, resumed without a gap, ended with the session."""

import contextlib
import os
import queue
import random
import signal
import socket
import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from noxchat import counters, event_stream, events, friendships, sessions
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import Event, User
from tests.conftest import Browser, Visitor, make_person, run_in_threads, wait_until


class Listener:
    """A tab that listens: what it was told, in order."""

    open = []

    def __init__(self, visitor, after="", tab="", last_id=None):
        self.told, self.ended, self.body = queue.Queue(), threading.Event(), b""
        self.last_id = last_id
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in visitor.jar)
        head = f"GET /events?after={after}&tab={tab} HTTP/1.1\r\nHost: 127.0.0.1:{visitor.server.port}\r\nCookie: {cookies}\r\n"
        if last_id:
            head += f"Last-Event-ID: {last_id}\r\n"
        self.line = socket.create_connection(("127.0.0.1", visitor.server.port), timeout=60)
        self.line.sendall(f"{head}\r\n".encode())
        self.file = self.line.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while (line := self.file.readline().decode().strip()) != "":
            name, _colon, value = line.partition(": ")
            self.headers[name] = value
        Listener.open.append(self)
        if self.status == 200:
            threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        event = {}
        with contextlib.suppress(OSError, ValueError):  # hung up, by this side
            while size := int(self.file.readline() or b"0", 16):
                chunk = self.file.read(size + 2)
                for text in chunk.decode().splitlines():
                    name, _colon, value = text.partition(":")
                    if name:
                        event[name] = value.strip()
                    elif not text and event:
                        self.last_id = event.get("id", self.last_id)
                        if "event" in event:
                            self.told.put((time.monotonic(), event["event"], event["data"]))
                        event = {}
        self.ended.set()

    def next(self, seconds=5):
        return self.told.get(timeout=seconds)

    def hang_up(self):
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        if self.status == 200:
            self.ended.wait(5)
        self.file.close()
        self.line.close()


@pytest.fixture(autouse=True)
def hang_up_all():
    yield
    for listener in Listener.open:
        listener.hang_up()
    Listener.open.clear()


def person(server, name):
    visitor = Visitor(server).register(name)
    visitor.id = visitor.open("/").text.split('href="/u/')[1].split('"')[0]
    return visitor


def ask(one, other):
    return one.post(f"/u/{other.id}/request", {"next": "/search"}, page=f"/u/{other.id}")


def newest(visitor):
    return visitor.open("/").text.split("/events?after=")[1].split("&")[0]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_change_is_told_within_a_second(serve, kind):
    server = serve(kind)
    alice, bob, clara = (person(server, name) for name in ("Alice", "Bob", "Clara"))
    listeners = [Listener(bob), Listener(bob), Listener(alice)]
    stranger = Listener(clara)
    for action in ("request", "request/cancel", "request"):
        began = time.monotonic()
        alice.post(f"/u/{bob.id}/{action}", {}, page=f"/u/{bob.id}")
        for listener, about in zip(listeners, (alice.id, alice.id, bob.id), strict=True):
            when, event, told = listener.next()
            assert (event, told) == ("friendship", about)
            assert when - began < 1
    bob.post(f"/u/{alice.id}/request/accept", {}, page=f"/u/{alice.id}")
    assert listeners[2].next()[2] == bob.id
    assert stranger.told.empty()


def test_a_change_in_one_process_is_told_in_another(serve, new_database):
    uri = new_database("postgresql")
    here, there = serve(uri=uri), serve(uri=uri)
    alice, bob = person(here, "Alice"), person(there, "Bob")
    listener = Listener(bob)
    time.sleep(1.5)  # until it listens
    for action in ("request", "request/cancel", "request"):
        began = time.monotonic()
        alice.post(f"/u/{bob.id}/{action}", {}, page=f"/u/{bob.id}")
        assert listener.next()[0] - began < 1


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_dropped_line_goes_on_without_missing_anything(serve, kind):
    server = serve(kind)
    alice, bob, clara = (person(server, name) for name in ("Alice", "Bob", "Clara"))
    listener = Listener(bob)
    ask(alice, bob)
    assert listener.next()[2] == alice.id
    listener.hang_up()
    ask(clara, bob)
    alice.post(f"/u/{bob.id}/request/cancel", {}, page=f"/u/{bob.id}")
    again = Listener(bob, last_id=listener.last_id)
    assert [again.next()[2], again.next()[2]] == [clara.id, alice.id]
    # and a page that was made before both begins where it was made
    fresh = Listener(bob, after=listener.last_id)
    assert [fresh.next()[2], fresh.next()[2]] == [clara.id, alice.id]


def test_events_survive_a_restart_of_the_server(serve, new_database):
    uri = new_database("sqlite")
    server = serve(uri=uri)
    alice, bob = person(server, "Alice"), person(server, "Bob")
    before = newest(bob)
    ask(alice, bob)
    server.stop()
    again = serve(uri=uri)
    bob.server = again
    assert Listener(bob, after=before or "0").next()[2] == alice.id


def test_a_tab_is_not_told_what_it_did_itself(serve):
    server = serve()
    alice, bob = person(server, "Alice"), person(server, "Bob")
    own, other = Listener(alice, tab="abc"), Listener(alice, tab="def")
    token = alice.token(f"/u/{bob.id}")
    alice.open(f"/u/{bob.id}/request", f"csrf_token={token}".encode(), **{"X-Tab": "abc", "HX-Request": "true"})
    assert other.next()[2] == bob.id
    bob.post(f"/u/{alice.id}/request/accept", {}, page=f"/u/{alice.id}")
    assert own.next()[2] == bob.id and own.told.empty()


@pytest.mark.parametrize("how", ["signs out", "ends it elsewhere", "changes the password", "deletes the account"])
def test_a_stream_ends_with_its_session(serve, how):
    server = serve()
    bob = person(server, "Bob")
    listener = Listener(bob)
    from tests.conftest import PASSWORD

    if how == "signs out":
        bob.post("/auth/logout", {}, page="/settings")
    else:
        elsewhere = Visitor(server)
        elsewhere.post("/auth/login", {"identifier": "Bob@nox.example", "password": PASSWORD})
        if how == "ends it elsewhere":
            elsewhere.post("/settings/sessions/revoke-others", {}, page="/settings/sessions")
        elif how == "changes the password":
            new = "another lamp at night 9"
            fields = {"current_password": PASSWORD, "password": new, "password2": new}
            elsewhere.post("/settings/password", fields)
        else:
            elsewhere.post("/settings/delete", {"password": PASSWORD})
    assert listener.ended.wait(40)
    assert Listener(bob).status in {302, 401}


def test_strangers_get_no_stream(serve):
    server = serve()
    assert "/auth/login" in server.get("/events").url


def test_a_person_has_ten_streams_and_a_closed_one_makes_room(serve):
    server = serve()
    bob = person(server, "Bob")
    listeners = [Listener(bob) for _number in range(10)]
    assert {listener.status for listener in listeners} == {200}
    refused = Listener(bob)
    assert refused.status == 503 and refused.headers["Retry-After"] and refused.headers["Content-Length"] == "0"
    listeners[0].hang_up()
    assert wait_until(lambda: Listener(bob).status == 200, 5)


def test_beyond_the_servers_streams_is_503_and_pages_go_on(serve):
    server = serve(STREAMS=3, THREADS=4)
    people = [person(server, name) for name in ("Alice", "Bob")]
    streams = [Listener(people[0]), Listener(people[1]), Listener(people[0]), Listener(people[1])]
    assert [stream.status for stream in streams] == [200, 200, 200, 503]
    assert people[0].open("/friends").status == 200


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_streams_close_first_when_the_server_ends(serve, sign):
    server = serve()
    listener = Listener(person(server, "Bob"))
    began = time.monotonic()
    os.killpg(server.process.pid, sign)
    server.process.wait(30)
    assert time.monotonic() - began < 10
    assert listener.ended.wait(2)


def test_a_stream_that_is_never_read_is_hung_up_on(app):
    stream = event_stream.EventStream(1, 1, 0, "", None)
    for number in range(event_stream.MAX_UNREAD + 1):
        stream.push(Event(id=number + 1, user_id=1, kind="friendship", data="x", tab=""))
    assert stream.closed and stream.pushed_id == event_stream.MAX_UNREAD + 1


def test_one_that_never_reads_slows_nobody(serve):
    server = serve(REQUESTS_PER_HOUR=1000)
    alice, bob = person(server, "Alice"), person(server, "Bob")
    listener = Listener(bob)
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in bob.jar)
    deaf = socket.create_connection(("127.0.0.1", server.port))
    deaf.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nCookie: {cookies}\r\n\r\n".encode())
    for _round in range(10):
        began = time.monotonic()
        ask(alice, bob)
        assert listener.next()[0] - began < 1
        alice.post(f"/u/{bob.id}/request/cancel", {}, page=f"/u/{bob.id}")
        listener.next()
    deaf.close()


def stream_for(app, user, last=0, tab=""):
    with app.app_context():
        session = Browser(app, user) and sessions.list_all(user)[0]
    return event_stream.EventStream(user.id, session.id, last, tab, None)


def test_whoever_was_away_too_long_is_told_to_look_anew(any_app):
    alice, bob = make_person(any_app, "Alice"), make_person(any_app, "Bob")
    with any_app.test_request_context():
        begin_write(db.session)
        friendships.send(alice, bob)
        db.session.execute(update(Event).values(created_at=now() - events.KEPT_FOR - timedelta(seconds=1)))
        db.session.commit()
        old = counters.get_counters(bob).last_event_id
        begin_write(db.session)
        friendships.cancel(alice, bob)
        db.session.commit()
        assert db.session.get(Event, old) is None  # forgotten when the next came
    bell = any_app.extensions["event_streams"]
    first = next(bell.lines(stream_for(any_app, bob, last=old)))
    assert first.startswith("event: stale")
    assert next(bell.lines(stream_for(any_app, bob, last=0))) == ":\n\n"


def befriend_and_cancel(person, hub, _everybody):
    for rule in (friendships.send, friendships.cancel):
        begin_write(db.session)
        rule(person, hub)
        db.session.commit()


def publish_to_everybody(_person, _hub, everybody):
    """As a feature would that locks no users, to recipients in any order."""
    for _time in range(2):
        begin_write(db.session)
        recipients = random.sample(everybody, len(everybody))
        events.publish("test", [(user.id, "data") for user in recipients])
        db.session.commit()


@pytest.mark.parametrize("write", [befriend_and_cancel, publish_to_everybody])
def test_events_of_a_person_become_visible_in_the_order_of_their_ids(any_app, write):
    """A stream that has seen an id would miss an event that appears below it."""
    everybody = [make_person(any_app, f"Person {letter}", f"{letter}@nox.example") for letter in "abcdefghi"]
    hub, seen, done = everybody[0], [], threading.Event()

    def watch():
        with any_app.app_context():
            last = 0
            while not done.is_set():
                rows = db.session.scalars(db.select(Event.id).where(Event.user_id == hub.id).order_by(Event.id)).all()
                db.session.commit()
                seen.extend(number for number in rows if number > last)
                late = [number for number in rows if number <= last and number not in seen]
                assert not late
                last = max([last, *rows])

    watcher = threading.Thread(target=watch)
    watcher.start()

    def work(number):
        for _round in range(6):
            write(everybody[number + 1], hub, everybody)

    assert run_in_threads(any_app, 8, work) == [None] * 8
    done.set()
    watcher.join()
    with any_app.app_context():
        every = db.session.scalars(db.select(Event.id).where(Event.user_id == hub.id)).all()
    assert len(every) == 96 and set(seen) <= set(every) and seen == sorted(seen)


def test_publishing_locks_no_user_and_few_advisory_locks(make_app, monkeypatch):
    """A message to 50 people must not wait for whatever else locks one of them."""
    app = make_app("postgresql")
    monkeypatch.setattr(events, "LOCKS", 4)
    everybody = [make_person(app, f"Person {letter}", f"{letter}@nox.example") for letter in "abcdefgh"]
    with app.app_context(), db.engine.connect() as other:
        events.publish("test", [(user.id, "data") for user in everybody])
        locked = db.session.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
        assert locked == 4
        rows = select(User.id).with_for_update(key_share=True, nowait=True)
        assert len(other.execute(rows).all()) == len(everybody)


def test_a_stream_that_nobody_reads_leaves_no_trace(app, at_alice):
    for _time in range(3):
        at_alice.client.head("/events").close()
        at_alice.client.get("/events").close()
    assert app.extensions["event_streams"].count() == 0


def test_what_is_rolled_back_is_told_to_nobody(app):
    alice, bob = make_person(app, "Alice"), make_person(app, "Bob")
    rung = []
    app.extensions["event_streams"].notify = lambda people: rung.append(set(people))
    with app.test_request_context():
        begin_write(db.session)
        friendships.send(alice, bob)
        db.session.rollback()
        db.session.commit()
        assert rung == []
        begin_write(db.session)
        friendships.send(alice, bob)
        db.session.commit()
    assert rung == [{alice.id, bob.id}]


@pytest.mark.parametrize("last", ["", "0", "-1", "abc", "9" * 30, "1.5", "é", "%00"])
def test_odd_last_ids_begin_at_the_beginning_or_are_refused(at_alice, last):
    answer = at_alice.client.get(f"/events?after={last}")
    assert answer.status_code in {200, 400}
    answer.close()
