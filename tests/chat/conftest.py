"""People who talk: conversations and groups without the pages."""

import pytest

from noxchat import conversations, friendships, groups, messages, profiles, relationships
from noxchat.database import begin_write
from noxchat.extensions import db
from tests.conftest import Browser, act, befriend, make_person

NAMES = ("Anna", "Boris", "Clara", "Dmitri")


class Place:
    """An application with people, by the first letter of their name; everybody is a friend of Anna, who is A.

    Each method is one transaction.
    """

    def __init__(self, app, names=NAMES):
        self.app = app
        self.people = {name[0]: make_person(app, name, public_id=name.lower()) for name in names}
        anna, *others = self.people.values()
        for other in others:
            befriend(app, anna, other)
        self.sent = 0

    def browser(self, letter):
        return Browser(self.app, self.people[letter])

    def user(self, letter):
        return profiles.find_by_public_id(self.people[letter].public_id)

    def call(self, rule, letter, *arguments, **options):
        """Call a rule with somebody as the viewer. Returns what it returns."""
        with self.app.test_request_context():
            begin_write(db.session)
            result = rule(self.user(letter), *arguments, **options)
            db.session.commit()
            return result

    def read(self, function, letter, *arguments):
        """Call a function that only reads."""
        with self.app.test_request_context():
            result = function(self.user(letter), *arguments)
            db.session.commit()
            return result

    def direct(self, one="A", other="B"):
        """Return the id of the conversation of two friends."""

        def open_direct(viewer):
            return conversations.open_direct(viewer, self.user(other), relationships.FRIENDS)

        return self.call(open_direct, one)

    def group(self, owner="A", members="BC", title="Owls"):
        return self.call(groups.create, owner, title, [self.people[letter].public_id for letter in members])

    def send(self, letter, conversation_id, body="hello", **options):
        self.sent += 1
        options.setdefault("client_id", f"c{self.sent}")
        return self.call(messages.send, letter, conversation_id, body=body, **options)[1].id

    def read_up_to(self, letter, conversation_id, message_id):
        self.call(
            lambda viewer: conversations.read(conversations.find_to_change(viewer, conversation_id), message_id), letter
        )

    def add(self, conversation_id, *letters, owner="A"):
        self.call(groups.add_members, owner, conversation_id, [self.people[letter].public_id for letter in letters])

    def friendship(self, rule, one, other):
        """Call one of the rules of friendships.py."""
        with self.app.test_request_context():
            begin_write(db.session)
            change = act(rule, self.user(one), self.user(other))
            db.session.commit()
            return change

    def unfriend(self, one, other):
        self.friendship(friendships.remove, one, other)

    def block(self, one, other):
        self.friendship(friendships.block, one, other)

    def view(self, letter, conversation_id):
        return self.read(conversations.find, letter, conversation_id)

    def texts(self, letter, conversation_id):
        """Return the texts that somebody sees, in order; `[kind]` for lines, `-` for deleted, `?` for hidden ones."""
        signs = {"is_system": "[{}]", "is_deleted": "-", "is_hidden": "?"}

        def load(viewer):
            rows = messages.list_newest(conversations.find(viewer, conversation_id)).rows
            return [
                next((sign.format(row.kind) for name, sign in signs.items() if getattr(row, name)), row.body)
                for row in rows
            ]

        return self.read(load, letter)

    def unread(self, letter):
        """Return how many messages of each conversation somebody has not read, by its id."""
        from noxchat.search import Query

        page = self.read(conversations.list_conversations, letter, Query(()), None)
        return {row.id: row.unread for row in page.items}


@pytest.fixture
def place(app):
    return Place(app)


@pytest.fixture
def any_place(any_app):
    """On each database."""
    return Place(any_app)
