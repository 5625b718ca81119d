"""Friendships, friend requests and blocks: every action, on both databases, alone and in concurrent threads."""

import random
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, text, update

from noxchat import accounts, counters, friendships, keyset, profiles, relationships, throttle
from noxchat.database import begin_write, now
from noxchat.exceptions import Conflict, NotFound, RateLimited, RuleError
from noxchat.extensions import db
from noxchat.friendships import FriendshipChange
from noxchat.models import Event, User, blocks, friend_requests, friends, request_cooldowns, undo_records
from noxchat.search import Query
from tests.conftest import act, befriend, make_person, run_in_threads

EMPTY_QUERY = Query(())


def call(rule, one, other):
    """Call a rule in a transaction of its own, as a route does."""
    begin_write(db.session)
    try:
        change = act(rule, one, other)
        db.session.commit()
    except Exception:
        db.session.rollback()
        raise
    return change


@pytest.fixture
def trio(any_app):
    """Alice, Bob and Clara, within a request context."""
    people = [make_person(any_app, name, public_id=f"{name}_".lower()) for name in ("Alice", "Bob", "Clara")]
    with any_app.test_request_context():
        yield people


def pairs(table):
    return {tuple(row[:2]) for row in db.session.execute(select(table))}


def assert_invariants():
    """Check that friendships are mutual, each pair has at most one relationship, and the counters are right."""
    db.session.rollback()
    friend_pairs, request_pairs, block_pairs = pairs(friends), pairs(friend_requests), pairs(blocks)
    assert {pair[::-1] for pair in friend_pairs} == friend_pairs
    assert not request_pairs & {pair[::-1] for pair in request_pairs}
    assert not (request_pairs | {pair[::-1] for pair in request_pairs}) & friend_pairs
    assert not (block_pairs | {pair[::-1] for pair in block_pairs}) & (
        friend_pairs | request_pairs | {pair[::-1] for pair in request_pairs}
    )
    texts = select(friends.c.search_text, User.search_text).join(User, User.id == friends.c.friend_id)
    assert all(copied == text for copied, text in db.session.execute(texts))
    for user in db.session.scalars(select(User)):
        count = counters.get_counters(user)
        assert count.friends == sum(one == user.id for one, _other in friend_pairs)
        assert count.incoming == sum(other == user.id for _one, other in request_pairs)
        assert count.outgoing == sum(one == user.id for one, _other in request_pairs)


def states(alice, bob):
    db.session.commit()
    return relationships.get_relationship(alice, bob).state, relationships.get_relationship(bob, alice).state


def test_send_and_accept_request(trio):
    alice, bob, _clara = trio
    assert call(friendships.send, alice, bob) is FriendshipChange.SENT
    assert states(alice, bob) == ("outgoing", "incoming")
    assert call(friendships.accept, bob, alice) is FriendshipChange.ACCEPTED
    assert states(alice, bob) == ("friends", "friends")
    assert pairs(friend_requests) == set()
    assert all(now() - row.since < timedelta(minutes=1) for row in db.session.execute(select(friends.c.since)))
    assert_invariants()


def test_sending_a_request_accepts_an_incoming_one(trio):
    alice, bob, _clara = trio
    call(friendships.send, alice, bob)
    assert call(friendships.send, bob, alice) is FriendshipChange.ACCEPTED
    assert states(alice, bob) == ("friends", "friends")


def test_impossible_action_changes_nothing_and_publishes_no_event(trio):
    alice, bob, _clara = trio
    for rule in (
        *(friendships.accept, friendships.decline, friendships.cancel),
        *(friendships.remove, friendships.unblock),
    ):
        assert call(rule, alice, bob) is FriendshipChange.UNCHANGED, rule
        assert states(alice, bob) == ("none", "none"), rule
        assert db.session.scalar(select(func.count()).select_from(Event)) == 0, rule


@pytest.mark.parametrize("rule", [friendships.accept, friendships.decline])
def test_only_the_receiver_can_answer_a_request(trio, rule):
    alice, bob, clara = trio
    call(friendships.send, alice, bob)
    for one, other in ((alice, bob), (clara, bob), (clara, alice)):
        assert call(rule, one, other) is FriendshipChange.UNCHANGED
    assert states(alice, bob) == ("outgoing", "incoming")


def test_actions_are_idempotent(trio):
    alice, bob, _clara = trio
    for rule, one, other in (
        (friendships.send, alice, bob),
        (friendships.accept, bob, alice),
        (friendships.remove, alice, bob),
        (friendships.block, alice, bob),
        (friendships.unblock, alice, bob),
    ):
        assert call(rule, one, other) is not FriendshipChange.UNCHANGED
        assert call(rule, one, other) is FriendshipChange.UNCHANGED
        assert_invariants()


def test_declined_request_disappears_without_notifying_the_sender(trio):
    alice, bob, _clara = trio
    call(friendships.send, alice, bob)
    before = counters.get_counters(alice).last_event_id
    assert call(friendships.decline, bob, alice) is FriendshipChange.DECLINED
    assert states(alice, bob) == ("none", "none")
    assert counters.get_counters(alice).last_event_id == before
    assert counters.get_counters(bob).last_event_id > 0
    assert relationships.list_requests(alice, "outgoing", EMPTY_QUERY, None).items == []
    assert relationships.list_requests(bob, "incoming", EMPTY_QUERY, None).items == []


def test_declined_sender_cannot_ask_the_same_person_during_cooldown(trio):
    alice, bob, clara = trio
    call(friendships.send, alice, bob)
    call(friendships.decline, bob, alice)
    with pytest.raises(Conflict):
        call(friendships.send, alice, bob)
    assert call(friendships.send, alice, clara) is FriendshipChange.SENT
    assert call(friendships.send, bob, alice) is FriendshipChange.SENT
    assert_invariants()


def test_cooldown_ends_when_the_other_person_asks(trio):
    alice, bob, _clara = trio
    call(friendships.send, alice, bob)
    call(friendships.decline, bob, alice)
    call(friendships.send, bob, alice)
    assert pairs(request_cooldowns) == set()
    call(friendships.cancel, bob, alice)
    assert call(friendships.send, alice, bob) is FriendshipChange.SENT


def test_cooldown_ends_when_they_become_friends(trio):
    alice, bob, _clara = trio
    call(friendships.send, alice, bob)
    call(friendships.decline, bob, alice)
    call(friendships.send, bob, alice)
    call(friendships.accept, alice, bob)
    call(friendships.remove, alice, bob)
    assert call(friendships.send, alice, bob) is FriendshipChange.SENT


def test_cooldown_expires(trio):
    alice, bob, _clara = trio
    call(friendships.send, alice, bob)
    call(friendships.decline, bob, alice)
    until = db.session.scalar(select(request_cooldowns.c.until))
    assert timedelta(days=13) < until - now() < timedelta(days=15)
    begin_write(db.session)
    db.session.execute(update(request_cooldowns).values(until=now() - timedelta(seconds=1)))
    assert call(friendships.send, alice, bob) is FriendshipChange.SENT
    call(friendships.decline, bob, alice)
    assert db.session.scalar(select(func.count()).select_from(request_cooldowns)) == 1


def test_cancelling_starts_no_cooldown(trio):
    alice, bob, _clara = trio
    call(friendships.send, alice, bob)
    assert call(friendships.cancel, alice, bob) is FriendshipChange.CANCELLED
    assert pairs(request_cooldowns) == set()
    assert call(friendships.send, alice, bob) is FriendshipChange.SENT


def test_open_requests_are_limited(any_app, trio):
    alice, bob, clara = trio
    any_app.config["OPEN_REQUESTS"] = 1
    call(friendships.send, alice, bob)
    with pytest.raises(Conflict) as refused:
        call(friendships.send, alice, clara)
    assert not isinstance(refused.value, RateLimited) and "Cancel" in str(refused.value)
    call(friendships.cancel, alice, bob)
    assert call(friendships.send, alice, clara) is FriendshipChange.SENT


def test_sent_requests_are_rate_limited_per_hour(any_app, trio):
    alice, bob, clara = trio
    any_app.config["REQUESTS_PER_HOUR"] = 2
    call(friendships.send, alice, bob)
    for _again in range(5):
        call(friendships.send, alice, bob)
    call(friendships.cancel, alice, bob)
    call(friendships.send, alice, bob)
    with pytest.raises(RateLimited) as refused:
        call(friendships.send, alice, clara)
    assert 3000 < refused.value.retry_after <= 3600
    assert call(friendships.send, clara, alice) is FriendshipChange.SENT
    assert call(friendships.send, alice, clara) is FriendshipChange.ACCEPTED


def test_action_on_oneself_is_refused(trio):
    alice = trio[0]
    for rule in (friendships.send, friendships.accept, friendships.block):
        with pytest.raises(Conflict):
            call(rule, alice, alice)


def test_blocking_ends_friendship_and_requests(any_app, trio):
    alice, bob, clara = trio
    befriend(any_app, alice, bob)
    call(friendships.send, clara, alice)
    for other in (bob, clara):
        assert call(friendships.block, alice, other) is FriendshipChange.BLOCKED
        db.session.commit()
        assert relationships.get_relationship(alice, other).state == "blocked"
        for rule in (friendships.send, friendships.accept, friendships.cancel, friendships.remove, friendships.block):
            with pytest.raises(NotFound):
                call(rule, other, alice)
    assert pairs(friends) == pairs(friend_requests) == set()
    with pytest.raises(Conflict):
        call(friendships.send, alice, bob)
    assert_invariants()


def test_unblocking_does_not_restore_the_friendship(any_app, trio):
    alice, bob, _clara = trio
    befriend(any_app, alice, bob)
    call(friendships.block, alice, bob)
    assert call(friendships.unblock, alice, bob) is FriendshipChange.UNBLOCKED
    assert states(alice, bob) == ("none", "none")
    assert call(friendships.send, bob, alice) is FriendshipChange.SENT


def test_blocked_person_cannot_block_back(trio):
    """They cannot find the blocker, so two people never block each other."""
    alice, bob, _clara = trio
    call(friendships.block, alice, bob)
    for rule in (friendships.block, friendships.unblock):
        with pytest.raises(NotFound):
            call(rule, bob, alice)
    assert pairs(blocks) == {(alice.id, bob.id)}


def test_blocks_are_rate_limited_per_hour(trio, monkeypatch):
    alice, bob, clara = trio
    monkeypatch.setattr(throttle, "BLOCKS_PER_HOUR", 1)
    call(friendships.block, alice, bob)
    with pytest.raises(RateLimited):
        call(friendships.block, alice, clara)


def test_block_notifies_a_friend_but_not_a_stranger(any_app, trio):
    alice, bob, clara = trio
    befriend(any_app, alice, bob)
    call(friendships.block, alice, bob)
    call(friendships.block, alice, clara)
    assert counters.get_counters(bob).last_event_id > 0
    assert counters.get_counters(clara).last_event_id == 0


def test_account_deletion_removes_relationships_and_notifies_affected_people(any_app, trio):
    alice, bob, clara = trio
    befriend(any_app, alice, bob)
    call(friendships.send, clara, alice)
    call(friendships.block, alice, make_person(any_app, "Dora"))
    before = counters.get_counters(bob).last_event_id, counters.get_counters(clara).last_event_id
    delete_account(alice)
    for table in (friends, friend_requests, blocks, request_cooldowns):
        assert pairs(table) == set()
    assert counters.get_counters(bob).last_event_id > before[0]
    assert counters.get_counters(clara).last_event_id > before[1]
    with pytest.raises(NotFound):
        call(friendships.send, bob, alice)


RACES = {
    "send against send": (lambda a, b: None, [("send", 0, 1), ("send", 1, 0)] * 4),
    "send twice": (lambda a, b: None, [("send", 0, 1)] * 8),
    "accept against cancel": (lambda a, b: call(friendships.send, a, b), [("accept", 1, 0), ("cancel", 0, 1)] * 4),
    "accept against decline": (lambda a, b: call(friendships.send, a, b), [("accept", 1, 0), ("decline", 1, 0)] * 4),
    "accept against accept": (lambda a, b: call(friendships.send, a, b), [("accept", 1, 0)] * 8),
    "remove against remove": (lambda a, b: become_friends(a, b), [("remove", 0, 1), ("remove", 1, 0)] * 4),
    "block against accept": (lambda a, b: call(friendships.send, a, b), [("block", 0, 1), ("accept", 1, 0)] * 4),
    "block against block": (lambda a, b: become_friends(a, b), [("block", 0, 1), ("block", 1, 0)] * 4),
    "delete against accept": (
        lambda a, b: call(friendships.send, a, b),
        [("delete_account", 0, 0), ("accept", 1, 0)] * 2,
    ),
    "delete against delete": (lambda a, b: become_friends(a, b), [("delete_account", 0, 0), ("delete_account", 1, 1)]),
    "rename against accept": (lambda a, b: call(friendships.send, a, b), [("rename", 0, 0), ("accept", 1, 0)] * 4),
}


def become_friends(one, other):
    call(friendships.send, one, other)
    call(friendships.accept, other, one)


def delete_account(one, _other=None):
    begin_write(db.session)
    try:
        accounts.delete_account(one)
        db.session.commit()
    except Exception:
        db.session.rollback()
        raise
    return FriendshipChange.REMOVED


def rename(one, _other):
    begin_write(db.session)
    profiles.edit(accounts.lock_account(one), username=f"Alice {random.randrange(10**6)}", public_id="alice_", bio="")
    db.session.commit()
    return FriendshipChange.UNCHANGED


@pytest.mark.parametrize("race", RACES)
def test_race_leaves_a_consistent_state(any_app, trio, race):
    prepare, actions = RACES[race]
    for _round in range(3):
        one, other = trio[0], trio[1]
        if "delete" in race:
            one, other = (
                make_person(any_app, f"{name} {random.randrange(10**6)}", f"{random.random()}@x.example")
                for name in ("Eva", "Fay")
            )
        prepare(one, other)
        db.session.commit()
        pair = (one, other)

        def act(number, pair=pair, actions=actions):
            name, actor, target = actions[number]
            if name in {"delete_account", "rename"}:
                return {"delete_account": delete_account, "rename": rename}[name](pair[actor], pair[target])
            return call(getattr(friendships, name), pair[actor], pair[target])

        results = run_in_threads(any_app, len(actions), act)
        # A rule may refuse; any other exception is a bug.
        assert all(isinstance(result, FriendshipChange | RuleError) for result in results), results
        assert_invariants()
        accepted = results.count(FriendshipChange.ACCEPTED)
        if race in {"accept against cancel", "accept against decline", "accept against accept"}:
            assert accepted + results.count(FriendshipChange.CANCELLED) + results.count(FriendshipChange.DECLINED) == 1
        if race == "send against send":
            assert accepted == 1 and pairs(friends)
        begin_write(db.session)
        for table in (friends, friend_requests, blocks, request_cooldowns):
            db.session.execute(delete(table))
        db.session.commit()


def test_random_concurrent_actions_keep_invariants(any_app):
    any_app.config.update(REQUESTS_PER_HOUR=10**6, OPEN_REQUESTS=8)
    people = [make_person(any_app, f"Person {letter}", f"{letter}@nox.example") for letter in "abcdefghij"]
    rules = ["send", "send", "send", "accept", "accept", "decline", "cancel", "remove", "block", "unblock"]

    def storm(number):
        rng = random.Random(number)
        for _action in range(40):
            one, other = rng.sample(people, 2)
            try:
                call(getattr(friendships, rng.choice(rules)), one, other)
            except RuleError:
                continue
        return True

    assert run_in_threads(any_app, 8, storm) == [True] * 8
    with any_app.test_request_context():
        assert pairs(friends) and pairs(blocks)
        assert_invariants()


def names(page):
    return [person.username for person in page.items]


def create_relationships(app, alice, count):
    """Give Alice this many friends, incoming requests and outgoing requests, the requests in chronological order."""
    letters = "abcdefghijkmnopqrstuvwxyz"
    made = {kind: [] for kind in ("Friend", "Asker", "Asked")}
    for kind, people in made.items():
        for number in range(count):
            name = f"{kind} {letters[number // 25]}{letters[number % 25]}"
            people.append(make_person(app, name, f"{name.replace(' ', '.').lower()}@nox.example"))
    with app.app_context():
        begin_write(db.session)
        for number in range(count):
            when = now() + timedelta(minutes=number // 2 - 600)  # two rows share each time
            asker, asked, friend = made["Asker"][number].id, made["Asked"][number].id, made["Friend"][number].id
            db.session.execute(friend_requests.insert().values(sender_id=asker, receiver_id=alice.id, created_at=when))
            db.session.execute(friend_requests.insert().values(sender_id=alice.id, receiver_id=asked, created_at=when))
            rows = [{"user_id": alice.id, "friend_id": friend}, {"user_id": friend, "friend_id": alice.id}]
            db.session.execute(friends.insert(), rows)
        db.session.commit()
    return made


def all_names(page_of):
    """Return the names on all pages of a list. page_of: returns the page that begins at a cursor."""
    found, page = [], page_of(None)
    while True:
        assert len(page.items) <= keyset.PAGE_SIZE
        found += names(page)
        if page.next_cursor is None:
            return found
        page = page_of(page.next_cursor)


def test_lists_are_complete_and_ordered_across_pages(any_app):
    alice = make_person(any_app, "Alice")
    made = create_relationships(any_app, alice, 45)
    with any_app.test_request_context():
        assert all_names(lambda after: relationships.list_friends(alice, EMPTY_QUERY, after)) == [
            person.username for person in made["Friend"]
        ]
        for direction, kind in (("incoming", "Asker"), ("outgoing", "Asked")):
            assert all_names(
                lambda after, direction=direction: relationships.list_requests(alice, direction, EMPTY_QUERY, after)
            ) == [person.username for person in reversed(made[kind])]
        query = Query.parse("asker ab")
        found = all_names(lambda after: relationships.list_requests(alice, "incoming", query, after))
        assert found == ["Asker ab"]
        found = all_names(lambda after: relationships.list_friends(alice, Query.parse("FRIEND a"), after))
        assert found == [person.username for person in made["Friend"][:25]]


def test_keyset_pages_neither_skip_nor_repeat_when_the_list_changes(any_app):
    alice = make_person(any_app, "Alice")
    made = create_relationships(any_app, alice, 30)
    with any_app.test_request_context():
        first = relationships.list_requests(alice, "incoming", EMPTY_QUERY, None)
        call(friendships.accept, alice, first.items[-1])
        call(friendships.decline, alice, first.items[0])
        call(friendships.send, make_person(any_app, "Late"), alice)
        second = relationships.list_requests(alice, "incoming", EMPTY_QUERY, first.next_cursor)
        assert names(first) + names(second) == [person.username for person in reversed(made["Asker"])]


INVALID_CURSORS = {
    **{text: text for text in ("0", "-1", "1" + "0" * 20, "abc", "", "W10", "é")},
    "numbers": keyset.encode_cursor(1, 2),
    "no time": keyset.encode_cursor("x", 1),
    "time without a zone": keyset.encode_cursor("2026-01-01", 1),
    "time that UTC cannot express": keyset.encode_cursor("0001-01-01T00:00:00+23:00", 1),
    "null": keyset.encode_cursor(None),
    "huge number": keyset.encode_cursor("2026-01-01T00:00:00+00:00", 2**70),
    "NUL": keyset.encode_cursor("\0"),
    "lone surrogate": "WyJcdWQ4MDAiXQ",
}


def test_invalid_cursor_returns_the_first_page(any_app, trio):
    alice, bob, clara = trio
    befriend(any_app, alice, bob)
    call(friendships.send, clara, alice)
    call(friendships.block, alice, make_person(any_app, "Dora"))
    for reason, cursor in INVALID_CURSORS.items():
        for page, name in (
            (relationships.list_friends(alice, EMPTY_QUERY, cursor), "Bob"),
            (relationships.list_requests(alice, "incoming", EMPTY_QUERY, cursor), "Clara"),
            (relationships.list_blocked(alice, cursor), "Dora"),
        ):
            assert names(page) == [name] and page.is_first, (reason, name)


def test_suggestions_are_friends_of_friends(any_app, trio):
    alice, bob, clara = trio
    others = [make_person(any_app, f"Other {letter}", f"{letter}@nox.example") for letter in "abcdefgh"]
    befriend(any_app, alice, bob)
    befriend(any_app, alice, clara)
    for other in others:
        befriend(any_app, bob, other)
    befriend(any_app, clara, others[3])
    befriend(any_app, alice, others[0])
    call(friendships.send, alice, others[1])
    call(friendships.block, others[2], alice)
    found = relationships.suggest_people(alice)
    assert [(person.username, count) for person, count in found][:2] == [("Other d", 2), ("Other e", 1)]
    assert {person.username for person, _count in found} == {f"Other {letter}" for letter in "defgh"}


def test_home_lists_newest_requests_and_recently_active_friends(any_app):
    alice = make_person(any_app, "Alice")
    made = create_relationships(any_app, alice, 15)
    with any_app.test_request_context():
        begin_write(db.session)
        db.session.execute(
            update(User).where(User.id == made["Friend"][7].id).values(last_seen_at=now() + timedelta(hours=1))
        )
        db.session.commit()
        senders, active_friends, _online = relationships.home_lists(alice, 3, 12)
        assert [person.username for person in senders] == [person.username for person in made["Asker"][:-4:-1]]
        assert len(active_friends) == 12 and active_friends[0].id == made["Friend"][7].id


def test_friend_who_is_renamed_moves_in_the_list(any_app, trio):
    alice, bob, clara = trio
    befriend(any_app, alice, bob)
    befriend(any_app, alice, clara)
    for name, public_id, order in (
        ("Zoe", "bob_", ["Clara", "Zoe"]),
        ("Zoe", "zoe_1", ["Clara", "Zoe"]),
        ("Bob", "bob_", ["Bob", "Clara"]),
    ):
        begin_write(db.session)
        profiles.edit(accounts.lock_account(bob), username=name, public_id=public_id, bio="")
        db.session.commit()
        assert [person.username for person in relationships.list_friends(alice, EMPTY_QUERY, None).items] == order
        found = relationships.list_friends(alice, Query.parse(public_id), None).items
        assert [person.public_id for person in found] == [public_id]
        assert_invariants()


def test_friends_are_listed_by_an_index(make_app):
    """A page of ten thousand friends costs what a page of ten does."""
    app = make_app("postgresql")
    alice = make_person(app, "Alice")
    with app.app_context():
        statement = relationships._friends(0, resumed=False).compile(db.engine, compile_kwargs={"literal_binds": False})
        db.session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = db.session.connection().exec_driver_sql(
            f"EXPLAIN {statement}", {**statement.params, "viewer": alice.id, "param_1": 21}
        )
        assert any("ix_friends_search_text" in line for (line,) in plan)


def undo(one, other, action):
    """Undo an action in a transaction of its own."""
    return call(lambda pair: friendships.undo(pair, action), one, other)


def times():
    """Return when each friendship and request began, and until when each cooldown lasts."""
    db.session.commit()
    found = {}
    for table, column in ((friends, "since"), (friend_requests, "created_at"), (request_cooldowns, "until")):
        rows = db.session.execute(select(table)).mappings()
        found[table.name] = {(tuple(row.values())[:2], row[column]) for row in rows}
    return found


LONG_AGO = timedelta(days=100)


def age_everything():
    """Have all friendships and requests begin long ago, so that a new time is noticed."""
    for table, column in ((friends, "since"), (friend_requests, "created_at")):
        db.session.execute(update(table).values({column: now() - LONG_AGO}))
    db.session.commit()


def befriend_by_request(alice, bob):
    call(friendships.send, alice, bob)
    call(friendships.accept, bob, alice)


def receive_after_cooldown(alice, bob):
    """Bob asks Alice again, once the cooldown of an earlier decline is over; its row is still there."""
    call(friendships.send, bob, alice)
    call(friendships.decline, alice, bob)
    db.session.execute(update(request_cooldowns).values(until=now() - timedelta(days=1)))
    db.session.execute(friend_requests.insert(), {"sender_id": bob.id, "receiver_id": alice.id})
    db.session.execute(delete(undo_records))
    db.session.commit()


# Alice's action, and what is before it.
UNDOABLE = {
    "decline": (friendships.decline, lambda alice, bob: call(friendships.send, bob, alice)),
    "decline again": (friendships.decline, receive_after_cooldown),
    "cancel": (friendships.cancel, lambda alice, bob: call(friendships.send, alice, bob)),
    "remove": (friendships.remove, befriend_by_request),
    "block a stranger": (friendships.block, lambda alice, bob: None),
    "block a friend": (friendships.block, befriend_by_request),
    "block who asked": (friendships.block, lambda alice, bob: call(friendships.send, bob, alice)),
    "block whom one asked": (friendships.block, lambda alice, bob: call(friendships.send, alice, bob)),
}


@pytest.mark.parametrize("case", UNDOABLE)
def test_undo_restores_everything_with_its_times(trio, case):
    alice, bob, _clara = trio
    rule, prepare = UNDOABLE[case]
    action = case.split()[0]
    prepare(alice, bob)
    age_everything()
    before = states(alice, bob), times()
    call(rule, alice, bob)
    assert relationships.get_relationship(alice, bob).state == ("blocked" if action == "block" else "none")
    db.session.commit()
    wrong = {"decline", "cancel", "remove", "block", "accept", ""} - {action}
    assert {undo(alice, bob, other) for other in wrong} == {FriendshipChange.UNCHANGED}
    if action != "block":
        assert undo(bob, alice, action) is FriendshipChange.UNCHANGED
    assert undo(alice, bob, action) is FriendshipChange.UNDONE
    assert (states(alice, bob), times()) == before and pairs(blocks) == set()
    assert undo(alice, bob, action) is FriendshipChange.UNCHANGED
    assert_invariants()


def test_undo_works_for_a_minute(trio):
    alice, bob, _clara = trio
    befriend_by_request(alice, bob)
    call(friendships.remove, alice, bob)
    db.session.execute(update(undo_records).values(done_at=now() - timedelta(seconds=61)))
    db.session.commit()
    assert undo(alice, bob, "remove") is FriendshipChange.UNCHANGED
    assert states(alice, bob) == ("none", "none")
    begin_write(db.session)
    assert friendships.delete_old(db.session) is False
    db.session.commit()
    assert pairs(undo_records) == set()


@pytest.mark.parametrize("who", ["actor", "other"])
def test_a_later_act_of_either_ends_the_undo(trio, who):
    alice, bob, clara = trio
    befriend_by_request(alice, bob)
    befriend_by_request(alice, clara)
    call(friendships.remove, alice, bob)
    call(friendships.remove, alice, clara)
    one, other = (alice, bob) if who == "actor" else (bob, alice)
    call(friendships.send, one, other)
    assert undo(alice, bob, "remove") is FriendshipChange.UNCHANGED
    assert states(one, other) == ("outgoing", "incoming")
    assert undo(alice, clara, "remove") is FriendshipChange.UNDONE  # another pair is not concerned


def test_who_is_blocked_meanwhile_cannot_undo(trio):
    alice, bob, _clara = trio
    befriend_by_request(alice, bob)
    call(friendships.remove, alice, bob)
    call(friendships.block, bob, alice)
    with pytest.raises(NotFound):
        undo(alice, bob, "remove")
    assert undo(bob, alice, "block") is FriendshipChange.UNDONE
    assert states(alice, bob) == ("none", "none")


def test_undo_notifies_only_whom_the_action_concerned(trio):
    alice, bob, _clara = trio
    for rule, prepare, recipients in (
        (friendships.decline, lambda: call(friendships.send, bob, alice), {alice.id}),
        (friendships.block, lambda: None, {alice.id}),
        (friendships.remove, lambda: befriend_by_request(alice, bob), {alice.id, bob.id}),
    ):
        db.session.execute(delete(request_cooldowns))
        db.session.commit()
        prepare()
        change = call(rule, alice, bob)
        db.session.execute(delete(Event))
        db.session.commit()
        undo(alice, bob, friendships.UNDOABLE[change])
        events = list(db.session.scalars(select(Event)))
        assert {event.user_id for event in events} == recipients and {event.kind for event in events} == {"friendship"}
        call(friendships.cancel, bob, alice)


def test_undo_does_not_exceed_the_open_requests(trio, any_app, monkeypatch):
    alice, bob, clara = trio
    any_app.config["OPEN_REQUESTS"] = 1
    call(friendships.send, alice, bob)
    call(friendships.cancel, alice, bob)
    call(friendships.send, alice, clara)
    with pytest.raises(Conflict):
        undo(alice, bob, "cancel")
    assert states(alice, bob) == ("none", "none")


def test_undo_is_limited(trio, monkeypatch):
    alice, bob, _clara = trio
    monkeypatch.setattr(throttle, "UNDOS_PER_HOUR", 2)
    for _time in range(2):
        call(friendships.block, alice, bob)
        assert undo(alice, bob, "block") is FriendshipChange.UNDONE
    call(friendships.block, alice, bob)
    with pytest.raises(RateLimited):
        undo(alice, bob, "block")
    assert relationships.get_relationship(alice, bob).state == "blocked"


def test_undo_happens_once_at_the_same_moment(any_app):
    alice, bob = (make_person(any_app, name, public_id=f"{name}_".lower()) for name in ("Alice", "Bob"))
    with any_app.test_request_context():
        befriend_by_request(alice, bob)
        call(friendships.remove, alice, bob)
    results = run_in_threads(any_app, 6, lambda _number: undo(alice, bob, "remove"))
    assert results.count(FriendshipChange.UNDONE) == 1 and results.count(FriendshipChange.UNCHANGED) == 5, results
    with any_app.test_request_context():
        assert states(alice, bob) == ("friends", "friends")
        assert_invariants()


def test_undo_against_what_the_other_does_at_the_same_moment(any_app):
    """Bob asks again while Alice takes the removal back: they end as friends, or with his request, but never both."""
    alice, bob = (make_person(any_app, name, public_id=f"{name}_".lower()) for name in ("Alice", "Bob"))
    for _round in range(5):
        with any_app.test_request_context():
            befriend_by_request(alice, bob)
            call(friendships.remove, alice, bob)
        work = [lambda: undo(alice, bob, "remove"), lambda: call(friendships.send, bob, alice)]
        results = run_in_threads(any_app, 2, lambda number, work=work: work[number]())
        assert not any(isinstance(result, Exception) for result in results), results
        with any_app.test_request_context():
            assert states(alice, bob) in {("friends", "friends"), ("incoming", "outgoing")}
            assert_invariants()
            for table in (friends, friend_requests, request_cooldowns, undo_records):
                db.session.execute(delete(table))
            db.session.commit()


def test_who_asked_is_told_of_being_accepted_by_an_event_of_its_own(trio):
    alice, bob, clara = trio
    call(friendships.send, alice, bob)
    db.session.execute(delete(Event))
    db.session.commit()
    call(friendships.accept, bob, alice)
    told = {(event.user_id, event.kind, event.data) for event in db.session.scalars(select(Event))}
    assert told == {(alice.id, "accepted", "bob_"), (bob.id, "friendship", "alice_")}


def test_cooldown_is_told_until_it_is_over(trio):
    alice, bob, _clara = trio
    call(friendships.send, alice, bob)
    call(friendships.decline, bob, alice)
    until = relationships.get_cooldown(alice, bob)
    assert timedelta(days=13) < until - now() < timedelta(days=15)
    assert relationships.get_cooldown(bob, alice) is None
    db.session.execute(update(request_cooldowns).values(until=now() - timedelta(seconds=1)))
    assert relationships.get_cooldown(alice, bob) is None
