"""Announcements on the event stream: in one process on SQLite, across processes on PostgreSQL."""

import json
import queue

import pytest
from sqlalchemy import update

from noxchat import conversations, event_stream, groups, sessions
from noxchat.database import begin_write
from noxchat.event_stream import EventStream
from noxchat.extensions import db
from noxchat.models import Conversation, User
from tests.chat.conftest import Place
from tests.conftest import wait_until


class Listener:
    """An open stream of somebody, as a browser tab has it."""

    def __init__(self, app, user, tab=""):
        self.received = queue.SimpleQueue()
        self.stream = EventStream(user.id, self.session_id(app, user), 0, tab)
        self.stream.attach(self.received.put, lambda: None)
        self.streams = app.extensions["event_streams"]
        with app.app_context():
            assert self.streams.open(self.stream)

    def session_id(self, app, user):
        with app.app_context():
            begin_write(db.session)
            found = sessions.create(db.session.get(User, user.id), "", app.config["REMEMBER_COOKIE_DURATION"])
            db.session.commit()
            return found.session.id

    def events(self, *kinds):
        """Return what has come since, of these kinds, as kind and data."""
        texts = []
        while not self.received.empty():
            texts += self.received.get().split("\n\n")
        found = [dict(line.split(": ", 1) for line in text.split("\n") if ": " in line) for text in texts if text]
        return [(event["event"], event.get("data", "")) for event in found if event.get("event") in kinds]

    def next(self, kind, data=None):
        """Wait for an event of this kind, with this data unless that is None. Returns all that came until then."""
        found = []

        def has_come():
            found.extend(self.events(kind))
            return found and data in (None, found[-1][1])

        wait_until(has_come)
        return found


@pytest.fixture
def two_processes(make_app):
    """The application twice, as two processes have it: on PostgreSQL."""
    first = Place(make_app("postgresql"))
    second = make_app(uri=first.app.config["SQLALCHEMY_DATABASE_URI"])
    return first, second


def test_members_are_told_of_changes_and_nobody_else(any_place):
    place = any_place
    group = place.group(members="BC")
    listeners = {letter: Listener(place.app, place.people[letter]) for letter in "ABCD"}
    for letter in "BC":  # they are told that they were added
        assert listeners[letter].next("membership") == [("membership", str(group))]
    place.send("A", group)
    for letter in "ABC":
        listeners[letter].next("chat", f"{group} 2")
    place.call(groups.remove_member, "A", group, "clara")
    assert listeners["C"].next("membership") == [("membership", str(group))]
    listeners["B"].next("chat", f"{group} 3")
    listeners["C"].events("chat")
    place.send("A", group)
    listeners["B"].next("chat", f"{group} 4")
    assert listeners["C"].events("chat") == listeners["D"].events("chat", "typing", "unread", "membership") == []


def test_announcements_cross_processes(two_processes):
    place, second = two_processes
    group = place.group(members="B")
    boris = Listener(second, place.people["B"])
    wait_until(lambda: second.extensions["event_streams"].thread.is_alive())
    place.send("A", group)
    boris.next("chat", f"{group} 2")
    place.call(conversations.announce_typing, "A", group)
    assert boris.next("typing") == [("typing", f"{group} anna")]


def test_typing_is_told_to_those_who_show_it_and_not_across_blocks(any_place):
    place = any_place
    group = place.group(members="BCD")
    listeners = {letter: Listener(place.app, place.people[letter]) for letter in "ABCD"}
    place.block("C", "A")
    set_privacy(place, "D", show_typing=False)
    place.call(conversations.announce_typing, "A", group)
    assert listeners["B"].next("typing") == [("typing", f"{group} anna")]
    assert [listeners[letter].events("typing") for letter in "ACD"] == [[], [], []]
    for letter in "CD":
        place.call(conversations.announce_typing, letter, group)
    place.call(conversations.announce_typing, "B", group)
    assert listeners["A"].next("typing") == [("typing", f"{group} boris")]


def set_privacy(place, letter, **values):
    with place.app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.id == place.people[letter].id).values(values))
        db.session.commit()


def test_reading_is_told_to_ones_own_tabs_and_to_the_other_where_both_show_it(any_place):
    place = any_place
    direct = place.direct()
    first = place.send("A", direct)
    listeners = {letter: Listener(place.app, place.people[letter]) for letter in "AB"}
    place.read_up_to("B", direct, first)
    assert listeners["B"].next("unread") == [("unread", str(direct))]
    set_privacy(place, "A", show_seen=True)
    second = place.send("A", direct)
    place.read_up_to("B", direct, second)
    listeners["B"].next("unread")
    assert listeners["A"].events("seen") == []
    set_privacy(place, "B", show_seen=True)
    assert place.view("A", direct).seen_up_to == 0  # not backwards
    third = place.send("A", direct)
    place.read_up_to("B", direct, third)
    assert listeners["A"].next("seen") == [("seen", f"{direct} {third}")]
    assert place.view("A", direct).seen_up_to == third
    set_privacy(place, "A", show_seen=False)
    assert place.view("A", direct).seen_up_to == place.view("B", direct).seen_up_to == 0


def test_no_announcement_has_an_id(any_place):
    """Only durable events have, or a resumed stream would skip some."""
    place = any_place
    direct = place.direct()
    boris = Listener(place.app, place.people["B"])
    place.send("A", direct)
    text = wait_until(lambda: next((t for t in drain(boris) if "event: chat" in t), None))
    assert "id:" not in text
    assert boris.stream.last_id == 0


def drain(listener):
    texts = []
    while not listener.received.empty():
        texts.append(listener.received.get())
    return texts


def test_rolled_back_changes_are_not_announced(place):
    direct = place.direct()
    boris = Listener(place.app, place.people["B"])
    with place.app.app_context():
        begin_write(db.session)
        conversations.bump_versions(Conversation.id == direct)
        db.session.rollback()
    place.send("A", direct)
    boris.next("chat", f"{direct} 1")


def test_lost_announcements_are_made_up_for(any_place, monkeypatch):
    """As when a process dies between the commit and the announcement."""
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 1)
    place = any_place
    direct = place.direct()
    boris = Listener(place.app, place.people["B"])
    streams = place.app.extensions["event_streams"]
    place.send("A", direct)
    boris.next("chat", f"{direct} 1")
    monkeypatch.setattr(streams, "announce", lambda _announcements: None)
    place.send("A", direct)
    boris.next("chat", f"{direct} 2")
    wait_until(lambda: drain(boris))  # the next heartbeat
    assert boris.events("chat") == []


def test_many_announcements_fit_into_notifications():
    announcements = [["typing", number, "p" * 32, list(range(99))] for number in range(100)] + [["chat", 1, 2]] * 50
    payloads = event_stream._make_payloads(announcements)
    assert all(len(payload) < 8000 for payload in payloads) and "".join(payloads).count('"chat"') == 1
    assert sum(len(json.loads(payload)) for payload in payloads) == 101
