"""Conversations with real threads and connections at once, on each database."""

import pytest
from sqlalchemy import func, select

from noxchat import accounts, conversations, friendships, groups, messages, relationships
from noxchat.database import begin_write
from noxchat.exceptions import Conflict, NotFound
from noxchat.extensions import db
from noxchat.models import Conversation, Member, Message
from noxchat.models.conversations import TEXT
from tests.conftest import act, run_in_threads

TRIALS = 10  # of each race between two


def commit(place, rule, letter, *arguments, **options):
    """Call a rule in a transaction, in the thread at hand. Returns what it returns."""
    try:
        begin_write(db.session)
        result = rule(place.user(letter), *arguments, **options)
        db.session.commit()
        return result
    except BaseException:
        db.session.rollback()
        raise


def rows(place, *columns, **conditions):
    """Return columns of messages, in the order of their ids."""
    with place.app.app_context():
        statement = select(*columns).filter_by(**conditions).order_by(Message.id)
        return [tuple(row) for row in db.session.execute(statement)]


def refused(results):
    """Return the results that are refusals; anything else that was raised fails the test."""
    errors = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, Conflict | NotFound) for error in errors), errors
    return errors


def test_conversation_opened_by_both_at_once_is_one(any_place):
    def open_chat(number):
        begin_write(db.session)
        one, other = ("A", "boris") if number % 2 else ("B", "anna")
        pair = friendships.lock_pair(any_place.user(one), other)
        conversation_id = conversations.open_direct(pair.viewer, pair.person, pair.state)
        db.session.commit()
        return conversation_id

    assert set(run_in_threads(any_place.app, 8, open_chat)) == {1}
    with any_place.app.app_context():
        assert db.session.scalar(select(func.count()).select_from(Member)) == 2


def test_same_client_id_eight_times_is_one_message(any_place):
    conversation_id = any_place.direct()

    def send(_number):
        return commit(any_place, messages.send, "A", conversation_id, body="once", client_id="same")[1].id

    assert len(set(run_in_threads(any_place.app, 8, send))) == 1
    assert rows(any_place, Message.body) == [("once",)]


def test_versions_rise_with_the_ids_of_simultaneous_messages(any_place):
    """So a page that has seen a version has seen everything before it."""
    group = any_place.group(members="BCD")

    def send(number):
        letter = "ABCD"[number % 4]
        for part in range(5):
            commit(any_place, messages.send, letter, group, body=f"{number}-{part}", client_id=f"{number}-{part}")

    assert run_in_threads(any_place.app, 8, send) == [None] * 8
    stored = rows(any_place, Message.id, Message.version, conversation_id=group)
    assert [version for _id, version in stored] == list(range(1, 42))
    view = any_place.view("A", group)
    assert (view.version, view.last_message_id) == (41, stored[-1][0])


def endings():
    """What ends that Boris may write to Anna: in a conversation of two, or in a group of hers."""

    def befriended(rule):
        def end(place):
            begin_write(db.session)
            act(rule, place.user("A"), place.user("B"))
            db.session.commit()

        return end

    return {
        "block": (False, befriended(friendships.block)),
        "unfriend": (False, befriended(friendships.remove)),
        "removal": (True, lambda place: commit(place, groups.remove_member, "A", 1, "boris")),
        "leaving": (True, lambda place: commit(place, groups.leave, "B", 1)),
    }


@pytest.mark.parametrize("name", endings())
def test_no_message_is_accepted_after_an_end(any_place, name):
    """A message that was answered came before; one that came after was refused."""
    is_group, end = endings()[name]
    for trial in range(TRIALS):
        place = any_place
        if is_group:
            conversation_id = place.group(members="BC") if trial == 0 else 1
            if trial and name == "removal":
                place.add(1, "B")
            elif trial:
                place.add(1, "B")
                place.call(groups.join, "B", 1)
        else:
            if trial:
                befriend_again(place)
            conversation_id = place.direct()
        before = place.view("A", conversation_id).version

        def work(number, conversation_id=conversation_id, trial=trial):
            if number == 0:
                end(any_place)
                return "ended"
            client_id = f"{trial}-{number}"
            return commit(any_place, messages.send, "B", conversation_id, body=client_id, client_id=client_id)

        results = run_in_threads(place.app, 4, work)
        assert results[0] == "ended"
        accepted = len(results) - 1 - len(refused(results))
        stored = rows(place, Message.id, Message.version, conversation_id=conversation_id, kind=TEXT)
        recent = [version for _id, version in stored if version > before]
        assert len(recent) == accepted
        # The versions of what was accepted come before that of the end, without a gap.
        assert recent == list(range(before + 1, before + 1 + accepted))


def befriend_again(place):
    """Make friends of Anna and Boris, whatever they are."""
    with place.app.test_request_context():
        begin_write(db.session)
        pair = friendships.lock_pair(place.user("A"), "boris")
        if pair.state == relationships.BLOCKED:
            friendships.unblock(pair)
            db.session.commit()
            begin_write(db.session)
            pair = friendships.lock_pair(place.user("A"), "boris")
        friendships.befriend(pair)
        db.session.commit()


def test_deletion_of_the_account_while_it_writes(any_place):
    place = any_place
    direct, group = place.direct(), place.group(owner="A", members="BCD")

    def work(number):
        if number == 0:
            begin_write(db.session)
            accounts.delete_account(place.user("B"), delete_messages=True)
            db.session.commit()
            return "deleted"
        conversation_id, letter = ((direct, "B"), (group, "B"), (direct, "A"), (group, "C"))[number % 4]
        viewer = place.people[letter]
        begin_write(db.session)
        result = messages.send(viewer, conversation_id, body=f"{number}", client_id=f"{number}")
        db.session.commit()
        return result

    results = run_in_threads(place.app, 8, work)
    assert results[0] == "deleted"
    refused(results)
    with place.app.app_context():
        left = db.session.execute(select(Message.body, Message.author_id).where(Message.author_id.is_(None))).all()
        assert {body for body, _author in left} <= {""}
        assert place.people["B"].id not in set(db.session.scalars(select(Message.author_id)))
        assert db.session.scalar(select(func.count()).where(Member.user_id == place.people["B"].id)) == 0


def test_owner_and_heirs_who_leave_at_once_leave_one_owner_or_no_group(any_place):
    for trial in range(5):
        group = any_place.group(members="BCD", title=f"Trial {trial}")
        stays = trial % 2  # Dmitri
        leaving = "ABC" if stays else "ABCD"
        results = run_in_threads(
            any_place.app,
            len(leaving),
            lambda number, g=group, who=leaving: commit(any_place, groups.leave, who[number], g),
        )
        assert results == [None] * len(leaving)
        with any_place.app.app_context():
            found = db.session.get(Conversation, group)
            assert found.owner_id == any_place.people["D"].id if stays else found is None


def test_members_added_and_removed_at_once_agree(any_place):
    group = any_place.group(members="B")

    def work(number):
        rule, argument = ((groups.add_members, ["clara"]), (groups.remove_member, "clara"))[number % 2]
        return commit(any_place, rule, "A", group, argument)

    for _trial in range(5):
        refused(run_in_threads(any_place.app, 4, work))
    lines = [row.kind for row in rows_of(any_place, group) if row.kind in {"added", "removed"}]
    assert lines == ["added", "removed"] * (len(lines) // 2) + ["added"] * (len(lines) % 2)
    with any_place.app.app_context():
        is_member = db.session.get(Member, (any_place.people["C"].id, group)) is not None
    assert is_member is bool(len(lines) % 2)


def rows_of(place, conversation_id):
    with place.app.app_context():
        statement = select(Message.kind).where(Message.conversation_id == conversation_id).order_by(Message.id)
        return db.session.execute(statement).all()
