"""Who asks whom and who is friends: every rule, on both databases, alone and at the same time as another."""

import random
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, update

from noxchat import accounts, counters, friendships, keyset, profiles, relationships, throttle
from noxchat.database import begin_write, now
from noxchat.exceptions import Conflict, NotFound, RateLimited, RuleError
from noxchat.extensions import db
from noxchat.friendships import FriendshipChange
from noxchat.models import Event, User, blocks, friend_requests, friends, request_cooldowns
from noxchat.search import Query
from tests.conftest import befriend, make_person, run_in_threads

NOBODY = Query(())


def do(rule, one, other):
    """Call a rule as a route does, in a transaction of its own."""
    begin_write(db.session)
    try:
        outcome = rule(one, other)
        db.session.commit()
    except Exception:
        db.session.rollback()
        raise
    return outcome


@pytest.fixture
def trio(any_app):
    """Alice, Bob and Clara, in a context in which rules can be called."""
    made = [make_person(any_app, name, public_id=f"{name}_".lower()) for name in ("Alice", "Bob", "Clara")]
    with any_app.test_request_context():
        yield made


def pairs(table):
    return {tuple(row[:2]) for row in db.session.execute(select(table))}


def assert_sound():
    """The rules that hold whatever happened: friendship is mutual, at most one relation a pair, the counters are right."""
    db.session.rollback()
    friendly, asking, blocking = pairs(friends), pairs(friend_requests), pairs(blocks)
    assert {pair[::-1] for pair in friendly} == friendly
    assert not asking & {pair[::-1] for pair in asking}
    assert not (asking | {pair[::-1] for pair in asking}) & friendly
    assert not (blocking | {pair[::-1] for pair in blocking}) & (friendly | asking | {pair[::-1] for pair in asking})
    for user in db.session.scalars(select(User)):
        count = counters.get_counters(user)
        assert count.friends == sum(one == user.id for one, _other in friendly)
        assert count.incoming == sum(other == user.id for _one, other in asking)
        assert count.outgoing == sum(one == user.id for one, _other in asking)


def states(alice, bob):
    db.session.commit()
    return relationships.get_relationship(alice, bob).state, relationships.get_relationship(bob, alice).state


def test_asking_and_accepting(trio):
    alice, bob, _clara = trio
    assert do(friendships.send, alice, bob) is FriendshipChange.SENT
    assert states(alice, bob) == ("outgoing", "incoming")
    assert do(friendships.accept, bob, alice) is FriendshipChange.ACCEPTED
    assert states(alice, bob) == ("friends", "friends")
    assert pairs(friend_requests) == set()
    assert all(now() - row.since < timedelta(minutes=1) for row in db.session.execute(select(friends.c.since)))
    assert_sound()


def test_asking_somebody_who_asked_first_accepts(trio):
    alice, bob, _clara = trio
    do(friendships.send, alice, bob)
    assert do(friendships.send, bob, alice) is FriendshipChange.ACCEPTED
    assert states(alice, bob) == ("friends", "friends")


@pytest.mark.parametrize(
    ("rule", "state"),
    [
        (friendships.accept, "none"),
        (friendships.decline, "none"),
        (friendships.cancel, "none"),
        (friendships.remove, "none"),
        (friendships.unblock, "none"),
    ],
)
def test_what_cannot_be_done_any_more_changes_nothing_and_says_so(trio, rule, state):
    alice, bob, _clara = trio
    assert do(rule, alice, bob) is FriendshipChange.UNCHANGED
    assert states(alice, bob) == (state, state)
    assert db.session.scalar(select(func.count()).select_from(Event)) == 0


@pytest.mark.parametrize("rule", [friendships.accept, friendships.decline])
def test_the_sender_cannot_answer_their_own_request_nor_can_a_third_person(trio, rule):
    alice, bob, clara = trio
    do(friendships.send, alice, bob)
    for one, other in ((alice, bob), (clara, bob), (clara, alice)):
        assert do(rule, one, other) is FriendshipChange.UNCHANGED
    assert states(alice, bob) == ("outgoing", "incoming")


def test_everything_twice_is_once(trio):
    alice, bob, _clara = trio
    for rule, one, other in (
        (friendships.send, alice, bob),
        (friendships.accept, bob, alice),
        (friendships.remove, alice, bob),
        (friendships.block, alice, bob),
        (friendships.unblock, alice, bob),
    ):
        assert do(rule, one, other) is not FriendshipChange.UNCHANGED
        assert do(rule, one, other) is FriendshipChange.UNCHANGED
        assert_sound()


def test_a_declined_request_is_gone_from_both_lists_and_the_sender_hears_nothing(trio):
    alice, bob, _clara = trio
    do(friendships.send, alice, bob)
    before = counters.get_counters(alice).last_event_id
    assert do(friendships.decline, bob, alice) is FriendshipChange.DECLINED
    assert states(alice, bob) == ("none", "none")
    assert counters.get_counters(alice).last_event_id == before
    assert counters.get_counters(bob).last_event_id > 0
    assert relationships.list_requests(alice, "outgoing", NOBODY, None).items == []
    assert relationships.list_requests(bob, "incoming", NOBODY, None).items == []


def test_a_pause_binds_the_declined_person_and_only_towards_that_person(trio):
    alice, bob, clara = trio
    do(friendships.send, alice, bob)
    do(friendships.decline, bob, alice)
    with pytest.raises(Conflict):
        do(friendships.send, alice, bob)
    assert do(friendships.send, alice, clara) is FriendshipChange.SENT
    assert do(friendships.send, bob, alice) is FriendshipChange.SENT
    assert_sound()


def test_a_pause_ends_when_the_other_asks(trio):
    alice, bob, _clara = trio
    do(friendships.send, alice, bob)
    do(friendships.decline, bob, alice)
    do(friendships.send, bob, alice)
    assert pairs(request_cooldowns) == set()
    do(friendships.cancel, bob, alice)
    assert do(friendships.send, alice, bob) is FriendshipChange.SENT


def test_a_pause_ends_when_they_become_friends(trio):
    alice, bob, _clara = trio
    do(friendships.send, alice, bob)
    do(friendships.decline, bob, alice)
    do(friendships.send, bob, alice)
    do(friendships.accept, alice, bob)
    do(friendships.remove, alice, bob)
    assert do(friendships.send, alice, bob) is FriendshipChange.SENT


def test_a_pause_ends_with_its_time(trio):
    alice, bob, _clara = trio
    do(friendships.send, alice, bob)
    do(friendships.decline, bob, alice)
    until = db.session.scalar(select(request_cooldowns.c.until))
    assert timedelta(days=13) < until - now() < timedelta(days=15)
    begin_write(db.session)
    db.session.execute(update(request_cooldowns).values(until=now() - timedelta(seconds=1)))
    assert do(friendships.send, alice, bob) is FriendshipChange.SENT
    do(friendships.decline, bob, alice)
    assert db.session.scalar(select(func.count()).select_from(request_cooldowns)) == 1


def test_cancelling_starts_no_pause(trio):
    alice, bob, _clara = trio
    do(friendships.send, alice, bob)
    assert do(friendships.cancel, alice, bob) is FriendshipChange.CANCELLED
    assert pairs(request_cooldowns) == set()
    assert do(friendships.send, alice, bob) is FriendshipChange.SENT


def test_open_requests_are_limited(any_app, trio):
    alice, bob, clara = trio
    any_app.config["OPEN_REQUESTS"] = 1
    do(friendships.send, alice, bob)
    with pytest.raises(Conflict) as refused:
        do(friendships.send, alice, clara)
    assert not isinstance(refused.value, RateLimited) and "Cancel" in str(refused.value)
    do(friendships.cancel, alice, bob)
    assert do(friendships.send, alice, clara) is FriendshipChange.SENT


def test_requests_an_hour_are_limited_and_only_those_that_happen_count(any_app, trio):
    alice, bob, clara = trio
    any_app.config["REQUESTS_PER_HOUR"] = 2
    do(friendships.send, alice, bob)
    for _again in range(5):
        do(friendships.send, alice, bob)
    do(friendships.cancel, alice, bob)
    do(friendships.send, alice, bob)
    with pytest.raises(RateLimited) as refused:
        do(friendships.send, alice, clara)
    assert 3000 < refused.value.retry_after <= 3600
    assert do(friendships.send, clara, alice) is FriendshipChange.SENT
    assert do(friendships.send, alice, clara) is FriendshipChange.ACCEPTED


def test_nobody_asks_themselves(trio):
    alice = trio[0]
    for rule in (friendships.send, friendships.accept, friendships.block):
        with pytest.raises(Conflict):
            do(rule, alice, alice)


def test_blocking_ends_friendship_and_requests(any_app, trio):
    alice, bob, clara = trio
    befriend(any_app, alice, bob)
    do(friendships.send, clara, alice)
    for other in (bob, clara):
        assert do(friendships.block, alice, other) is FriendshipChange.BLOCKED
        db.session.commit()
        assert relationships.get_relationship(alice, other).state == "blocked"
        for rule in (friendships.send, friendships.accept, friendships.cancel, friendships.remove, friendships.block):
            with pytest.raises(NotFound):
                do(rule, other, alice)
    assert pairs(friends) == pairs(friend_requests) == set()
    with pytest.raises(Conflict):
        do(friendships.send, alice, bob)
    assert_sound()


def test_unblocking_leaves_two_strangers(any_app, trio):
    alice, bob, _clara = trio
    befriend(any_app, alice, bob)
    do(friendships.block, alice, bob)
    assert do(friendships.unblock, alice, bob) is FriendshipChange.UNBLOCKED
    assert states(alice, bob) == ("none", "none")
    assert do(friendships.send, bob, alice) is FriendshipChange.SENT


def test_whoever_is_blocked_cannot_block_back(trio):
    """They do not see whom; and so no two people ever block each other."""
    alice, bob, _clara = trio
    do(friendships.block, alice, bob)
    for rule in (friendships.block, friendships.unblock):
        with pytest.raises(NotFound):
            do(rule, bob, alice)
    assert pairs(blocks) == {(alice.id, bob.id)}


def test_blocks_in_an_hour_are_limited(trio, monkeypatch):
    alice, bob, clara = trio
    monkeypatch.setattr(throttle, "BLOCKS_PER_HOUR", 1)
    do(friendships.block, alice, bob)
    with pytest.raises(RateLimited):
        do(friendships.block, alice, clara)


def test_a_stranger_who_is_blocked_is_not_told_and_a_friend_is(any_app, trio):
    alice, bob, clara = trio
    befriend(any_app, alice, bob)
    do(friendships.block, alice, bob)
    do(friendships.block, alice, clara)
    assert counters.get_counters(bob).last_event_id > 0
    assert counters.get_counters(clara).last_event_id == 0


def test_deleting_an_account_leaves_nothing_and_tells_who_is_concerned(any_app, trio):
    alice, bob, clara = trio
    befriend(any_app, alice, bob)
    do(friendships.send, clara, alice)
    do(friendships.block, alice, make_person(any_app, "Dora"))
    before = counters.get_counters(bob).last_event_id, counters.get_counters(clara).last_event_id
    delete_account(alice)
    for table in (friends, friend_requests, blocks, request_cooldowns):
        assert pairs(table) == set()
    assert counters.get_counters(bob).last_event_id > before[0]
    assert counters.get_counters(clara).last_event_id > before[1]
    with pytest.raises(NotFound):
        do(friendships.send, bob, alice)


RACES = {
    "send against send": (lambda a, b: None, [("send", 0, 1), ("send", 1, 0)] * 4),
    "send twice": (lambda a, b: None, [("send", 0, 1)] * 8),
    "accept against cancel": (lambda a, b: do(friendships.send, a, b), [("accept", 1, 0), ("cancel", 0, 1)] * 4),
    "accept against decline": (lambda a, b: do(friendships.send, a, b), [("accept", 1, 0), ("decline", 1, 0)] * 4),
    "accept against accept": (lambda a, b: do(friendships.send, a, b), [("accept", 1, 0)] * 8),
    "remove against remove": (lambda a, b: befriended(a, b), [("remove", 0, 1), ("remove", 1, 0)] * 4),
    "block against accept": (lambda a, b: do(friendships.send, a, b), [("block", 0, 1), ("accept", 1, 0)] * 4),
    "block against block": (lambda a, b: befriended(a, b), [("block", 0, 1), ("block", 1, 0)] * 4),
    "delete against accept": (
        lambda a, b: do(friendships.send, a, b),
        [("delete_account", 0, 0), ("accept", 1, 0)] * 2,
    ),
    "delete against delete": (lambda a, b: befriended(a, b), [("delete_account", 0, 0), ("delete_account", 1, 1)]),
    "rename against accept": (lambda a, b: do(friendships.send, a, b), [("rename", 0, 0), ("accept", 1, 0)] * 4),
}


def befriended(one, other):
    do(friendships.send, one, other)
    do(friendships.accept, other, one)


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
def test_races_end_in_one_state_that_both_agree_on(any_app, trio, race):
    before, moves = RACES[race]
    for _round in range(3):
        one, other = trio[0], trio[1]
        if "delete" in race:
            one, other = (
                make_person(any_app, f"{name} {random.randrange(10**6)}", f"{random.random()}@x.example")
                for name in ("Eva", "Fay")
            )
        before(one, other)
        db.session.commit()
        both = (one, other)

        def move(number, both=both, moves=moves):
            name, who, whom = moves[number]
            if name in {"delete_account", "rename"}:
                return {"delete_account": delete_account, "rename": rename}[name](both[who], both[whom])
            return do(getattr(friendships, name), both[who], both[whom])

        results = run_in_threads(any_app, len(moves), move)
        # A rule may say no; nothing may break.
        assert all(isinstance(result, FriendshipChange | RuleError) for result in results), results
        assert_sound()
        accepted = results.count(FriendshipChange.ACCEPTED)
        if race in {"accept against cancel", "accept against decline", "accept against accept"}:
            assert accepted + results.count(FriendshipChange.CANCELLED) + results.count(FriendshipChange.DECLINED) == 1
        if race == "send against send":
            assert accepted == 1 and pairs(friends)
        begin_write(db.session)
        for table in (friends, friend_requests, blocks, request_cooldowns):
            db.session.execute(delete(table))
        db.session.commit()


def test_a_storm_of_everything_breaks_nothing(any_app):
    any_app.config.update(REQUESTS_PER_HOUR=10**6, OPEN_REQUESTS=8)
    crowd = [make_person(any_app, f"Person {letter}", f"{letter}@nox.example") for letter in "abcdefghij"]
    rules = ["send", "send", "send", "accept", "accept", "decline", "cancel", "remove", "block", "unblock"]

    def storm(number):
        chance = random.Random(number)
        for _action in range(40):
            one, other = chance.sample(crowd, 2)
            try:
                do(getattr(friendships, chance.choice(rules)), one, other)
            except RuleError:
                continue
        return True

    assert run_in_threads(any_app, 8, storm) == [True] * 8
    with any_app.test_request_context():
        assert pairs(friends) and pairs(blocks)
        assert_sound()


def names(page):
    return [person.username for person in page.items]


def fill(app, alice, count):
    """Give Alice so many friends, and as many who ask and are asked, each a minute after the one before."""
    letters = "abcdefghijkmnopqrstuvwxyz"
    made = {kind: [] for kind in ("Friend", "Asker", "Asked")}
    for kind, people_ in made.items():
        for number in range(count):
            name = f"{kind} {letters[number // 25]}{letters[number % 25]}"
            people_.append(make_person(app, name, f"{name.replace(' ', '.').lower()}@nox.example"))
    with app.app_context():
        begin_write(db.session)
        for number in range(count):
            when = now() + timedelta(minutes=number // 2 - 600)  # pairs of one moment, too
            asker, asked, friend = made["Asker"][number].id, made["Asked"][number].id, made["Friend"][number].id
            db.session.execute(friend_requests.insert().values(sender_id=asker, receiver_id=alice.id, created_at=when))
            db.session.execute(friend_requests.insert().values(sender_id=alice.id, receiver_id=asked, created_at=when))
            rows = [{"user_id": alice.id, "friend_id": friend}, {"user_id": friend, "friend_id": alice.id}]
            db.session.execute(friends.insert(), rows)
        db.session.commit()
    return made


def to_the_end(page_of):
    """All names of an endless list, page by page."""
    found, page = [], page_of(None)
    while True:
        assert len(page.items) <= keyset.PAGE_SIZE
        found += names(page)
        if page.next_cursor is None:
            return found
        page = page_of(page.next_cursor)


def test_lists_are_whole_and_in_order_page_by_page(any_app):
    alice = make_person(any_app, "Alice")
    made = fill(any_app, alice, 45)
    with any_app.test_request_context():
        assert to_the_end(lambda after: relationships.list_friends(alice, NOBODY, after)) == [
            person.username for person in made["Friend"]
        ]
        for direction, kind in (("incoming", "Asker"), ("outgoing", "Asked")):
            assert to_the_end(
                lambda after, direction=direction: relationships.list_requests(alice, direction, NOBODY, after)
            ) == [person.username for person in reversed(made[kind])]
        only = Query.parse("asker ab")
        found = to_the_end(lambda after: relationships.list_requests(alice, "incoming", only, after))
        assert found == ["Asker ab"]
        found = to_the_end(lambda after: relationships.list_friends(alice, Query.parse("FRIEND a"), after))
        assert found == [person.username for person in made["Friend"][:25]]


def test_pages_lose_and_double_nobody_when_the_list_changes_meanwhile(any_app):
    alice = make_person(any_app, "Alice")
    made = fill(any_app, alice, 30)
    with any_app.test_request_context():
        first = relationships.list_requests(alice, "incoming", NOBODY, None)
        do(friendships.accept, alice, first.items[-1])
        do(friendships.decline, alice, first.items[0])
        do(friendships.send, make_person(any_app, "Late"), alice)
        second = relationships.list_requests(alice, "incoming", NOBODY, first.next_cursor)
        assert names(first) + names(second) == [person.username for person in reversed(made["Asker"])]


@pytest.mark.parametrize(
    "cursor",
    ["0", "-1", "1" + "0" * 20, "abc", "", "W10", "WzEsMl0", "WyJ4IiwxXQ", "WyIyMDI2LTAxLTAxIiwxXQ", "W251bGxd", "é"],
)
def test_a_cursor_that_is_none_begins_at_the_beginning(any_app, cursor):
    alice = make_person(any_app, "Alice")
    with any_app.test_request_context():
        for page in (
            relationships.list_friends(alice, NOBODY, cursor),
            relationships.list_requests(alice, "incoming", NOBODY, cursor),
            relationships.list_blocked(alice, cursor),
        ):
            assert page.items == [] and page.is_first


def test_people_one_may_know_are_friends_of_friends(any_app, trio):
    alice, bob, clara = trio
    others = [make_person(any_app, f"Other {letter}", f"{letter}@nox.example") for letter in "abcdefgh"]
    befriend(any_app, alice, bob)
    befriend(any_app, alice, clara)
    for other in others:
        befriend(any_app, bob, other)
    befriend(any_app, clara, others[3])
    befriend(any_app, alice, others[0])
    do(friendships.send, alice, others[1])
    do(friendships.block, others[2], alice)
    found = relationships.suggest_people(alice)
    assert [(person.username, count) for person, count in found][:2] == [("Other d", 2), ("Other e", 1)]
    assert {person.username for person, _count in found} == {f"Other {letter}" for letter in "defgh"}


def test_at_home_are_the_newest_requests_and_the_friends_there_last(any_app):
    alice = make_person(any_app, "Alice")
    made = fill(any_app, alice, 15)
    with any_app.test_request_context():
        begin_write(db.session)
        db.session.execute(
            update(User).where(User.id == made["Friend"][7].id).values(last_seen_at=now() + timedelta(hours=1))
        )
        db.session.commit()
        asking, seen = relationships.home_lists(alice, 3, 12)
        assert [person.username for person in asking] == [person.username for person in made["Asker"][:-4:-1]]
        assert len(seen) == 12 and seen[0].id == made["Friend"][7].id
