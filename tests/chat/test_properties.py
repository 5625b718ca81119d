"""Random sequences of what four people do in a group, compared with a simple model of what each of them should see."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from noxchat import conversations, friendships, groups, messages
from noxchat.database import begin_write
from noxchat.exceptions import Conflict, InvalidInput, NotAllowed, NotFound
from noxchat.extensions import db
from noxchat.models import Conversation, blocks
from tests.chat.conftest import Place

LETTERS = "ABCD"
PEOPLE = st.sampled_from(LETTERS)
ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["send", "read", "leave", "join"]), PEOPLE),
    st.tuples(st.sampled_from(["edit", "delete"]), PEOPLE, st.integers(0, 5)),
    st.tuples(st.sampled_from(["remove", "owner", "block", "unblock", "reply"]), PEOPLE, PEOPLE),
    st.tuples(st.just("add"), PEOPLE),
)


@dataclass
class Line:
    """A message of the model. kind: text, or what happened. author: a letter."""

    id: int
    kind: str
    author: str
    body: str = ""
    deleted: bool = False


@dataclass
class Seat:
    """Somebody in the group. joined, read: how many messages there were when they joined, and up to where they read."""

    joined: int
    read: int
    state: str = "member"  # or left, or invited


@dataclass
class Model:
    """What the group should be like."""

    owner: str
    seats: dict
    lines: list = field(default_factory=list)
    blocks: set = field(default_factory=set)
    friends_of_anna: set = field(default_factory=lambda: set("BCD"))

    def is_member(self, letter):
        return letter in self.seats and self.seats[letter].state == "member"

    def members(self):
        return [letter for letter, seat in self.seats.items() if seat.state == "member"]

    def is_hidden(self, letter, line):
        return line.kind == "text" and (letter, line.author) in self.blocks

    def texts(self, letter):
        def text(line):
            if line.kind != "text":
                return f"[{line.kind}]"
            return "-" if line.deleted else "?" if self.is_hidden(letter, line) else line.body

        return [text(line) for line in self.lines[self.seats[letter].joined :]]

    def unread(self, letter):
        return sum(
            line.kind == "text" and not line.deleted and line.author != letter and not self.is_hidden(letter, line)
            for line in self.lines[self.seats[letter].read :]
        )


class Group:
    """A group in the application, and its model, to which the same is done."""

    def __init__(self, place):
        self.place = place
        self.id = place.group(owner="A", members="BC")
        self.model = Model("A", {letter: Seat(0, 0) for letter in "ABC"})
        self.note("created", "A")

    def note(self, kind, author):
        """Add a line to the model, as the application has added one."""
        self.model.lines.append(Line(0, kind, author))

    def attempt(self, expected, rule, letter, *arguments, **options):
        """Call a rule. Returns whether it was accepted, which has to be as expected."""
        try:
            self.place.call(rule, letter, self.id, *arguments, **options)
            accepted = True
        except (Conflict, InvalidInput, NotAllowed, NotFound):
            accepted = False
        assert accepted is bool(expected), (rule.__name__, letter, arguments)
        return accepted

    def public_id(self, letter):
        return self.place.people[letter].public_id

    def own_text(self, letter, number):
        """Return one of somebody's own messages that they can still see, or None."""
        seat = self.model.seats.get(letter)
        own = (
            [line for line in self.model.lines[seat.joined :] if line.kind == "text" and line.author == letter]
            if seat
            else []
        )
        return own[number % len(own)] if own else None

    def send(self, letter, reply_to=None):
        model, body = self.model, f"text {len(self.model.lines)}"
        if not model.is_member(letter):
            self.attempt(False, messages.send, letter, body=body, client_id="x")
            return
        message_id = self.place.send(letter, self.id, body, reply_to=reply_to)
        model.lines.append(Line(message_id, "text", letter, body))
        model.seats[letter].read = len(model.lines)

    def reply(self, letter, other):
        """Answer the newest text of somebody that one can see, or send."""
        seat = self.model.seats.get(letter)
        seen = (
            [line for line in self.model.lines[seat.joined :] if line.kind == "text" and line.author == other]
            if seat
            else []
        )
        self.send(letter, seen[-1].id if seen and self.model.is_member(letter) else None)

    def edit(self, letter, number):
        line = self.own_text(letter, number)
        body = f"edited {len(self.model.lines)}"
        expected = line and self.model.is_member(letter) and not line.deleted
        if self.attempt(expected, messages.edit, letter, line.id if line else 10**6, body):
            line.body = body

    def delete(self, letter, number):
        line = self.own_text(letter, number)
        if self.attempt(line and self.model.is_member(letter), messages.delete, letter, line.id if line else 10**6):
            line.deleted = True

    def read(self, letter):
        if self.model.is_member(letter):
            self.place.read_up_to(letter, self.id, 10**12)
            self.model.seats[letter].read = len(self.model.lines)

    def leave(self, letter):
        model = self.model
        if not self.attempt(model.is_member(letter), groups.leave, letter):
            return
        model.seats[letter].state = "left"
        self.note("left", letter)
        if letter == model.owner and model.members():
            model.owner = min(model.members(), key=lambda other: (model.seats[other].joined, other))
            self.note("owner", letter)

    def join(self, letter):
        model, seat = self.model, self.model.seats.get(letter)
        was_away = seat and seat.state == "invited"
        if self.attempt(model.is_member(letter) or was_away, groups.join, letter) and was_away:
            model.seats[letter] = Seat(len(model.lines), len(model.lines))
            self.note("joined", letter)

    def add(self, letter):
        """Anna is the only one who has friends, so she alone can add others."""
        model = self.model
        expected = model.owner == "A" and model.is_member("A") and letter in model.friends_of_anna
        if not self.attempt(expected, groups.add_members, "A", [self.public_id(letter)]):
            return
        if letter not in model.seats:
            model.seats[letter] = Seat(len(model.lines), len(model.lines))
            self.note("added", "A")
        elif model.seats[letter].state == "left":
            model.seats[letter].state = "invited"

    def remove(self, letter, other):
        model = self.model
        is_there = other in model.seats and model.seats[other].state != "left"
        expected = model.owner == letter and model.is_member(letter) and is_there and other != letter
        if not self.attempt(expected, groups.remove_member, letter, self.public_id(other)):
            return
        if model.seats[other].state == "invited":
            model.seats[other].state = "left"
        else:
            del model.seats[other]
            self.note("removed", letter)

    def owner(self, letter, other):
        model = self.model
        expected = model.owner == letter and model.is_member(letter) and model.is_member(other)
        if self.attempt(expected, groups.make_owner, letter, self.public_id(other)) and other != letter:
            model.owner = other
            self.note("owner", letter)

    def block(self, letter, other):
        if letter != other and (other, letter) not in self.model.blocks:  # whoever is blocked sees nobody to block
            self.place.block(letter, other)
            self.model.blocks.add((letter, other))
            if "A" in (letter, other):
                self.model.friends_of_anna -= {letter, other}

    def unblock(self, letter, other):
        if (letter, other) in self.model.blocks:
            self.place.friendship(friendships.unblock, letter, other)
            self.model.blocks.discard((letter, other))

    def check(self):
        """Assert that everybody sees what the model says."""
        for letter in LETTERS:
            if not self.model.is_member(letter):
                with pytest.raises(NotFound):
                    self.place.view(letter, self.id)
                assert self.id not in self.place.unread(letter)
                continue
            assert self.place.texts(letter, self.id) == self.model.texts(letter)
            assert self.place.unread(letter)[self.id] == self.model.unread(letter), letter
            view = self.place.view(letter, self.id)
            assert view.is_owner is (self.model.owner == letter)
            assert view.member_count == len(self.model.members())
            assert (view.first_unread_id is None) is (self.model.unread(letter) == 0)


@pytest.fixture(scope="module")
def random_place(request, tmp_path_factory, templates):
    """One application for all examples, on SQLite: what depends on the database is tested elsewhere."""
    from config import Config
    from noxchat import create_app
    from tests import conftest

    folder = tmp_path_factory.mktemp("properties")
    uri = conftest.copy_database(folder, templates("sqlite"))
    app = create_app(Config(conftest.settings(folder, uri, MESSAGES_PER_MINUTE=10**9), debug=False))
    yield Place(app)
    app.extensions["mail_worker"].stop()
    with app.app_context():
        db.engine.dispose()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(ACTIONS, max_size=25))
def test_everybody_sees_what_the_model_says(random_place, actions):
    with random_place.app.app_context():
        begin_write(db.session)
        db.session.execute(delete(Conversation))
        db.session.execute(delete(blocks))
        db.session.commit()
    befriend_all(random_place)
    group = Group(random_place)
    for name, *arguments in actions:
        if group.model.members():
            getattr(group, name)(*arguments)
    if group.model.members():
        group.check()
    else:
        with random_place.app.app_context():
            assert db.session.get(Conversation, group.id) is None


def befriend_all(place):
    """Make everybody Anna's friend, as blocks may have ended that."""
    with place.app.test_request_context():
        for letter in "BCD":
            begin_write(db.session)
            friendships.befriend(friendships.lock_pair(place.user("A"), place.people[letter].public_id))
            db.session.commit()
    assert conversations.MAX_UNREAD >= 25
