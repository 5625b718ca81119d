"""How two people are related, the lists of people that follow from it, and suggestions.

These are read on every page, so each statement is built once, with the viewer and whatever else differs as parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Protocol

from sqlalchemy import (
    Integer,
    Row,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    union_all,
)

from noxchat import blocks, keyset
from noxchat.database import UTCDateTime, now
from noxchat.exceptions import NotFound
from noxchat.extensions import db
from noxchat.models import (
    BY_EVERYBODY,
    TO_FRIENDS,
    Conversation,
    Profile,
    PublicId,
    User,
    friend_requests,
    friends,
    request_cooldowns,
    undo_records,
)
from noxchat.profiles import ONLINE_FOR, Person, is_online, may_share_presence, select_people, with_profile
from noxchat.search import EXACT, SUBSTRING, Hit, Query, contains_all

# How a person is related to the viewer; also the states of the friend button.
SELF, NONE, OUTGOING, INCOMING, FRIENDS, BLOCKED = "self", "none", "outgoing", "incoming", "friends", "blocked"

VIEWER, OTHER = bindparam("viewer", type_=Integer), bindparam("other", type_=Integer)
PUBLIC_ID = bindparam("public_id", type_=Text)
LIMIT = keyset.PAGE_SIZE + 1  # one more than a page, to see whether there is another

MAX_SUGGESTIONS = 6
SUGGEST_UP_TO_FRIENDS = 5  # with more friends than this, nobody is suggested
MAX_RECENT, MAX_ONLINE = 12, 24  # friends who were active last, and who are online, on the home page
MAX_IN_COMMON = 12  # friends in common that a profile shows


def _state(other):
    """Return the expression for how a person is related to VIEWER. other: a column or parameter with their id."""

    def related(table, mine: str, theirs: str):
        # Not EXISTS, for which PostgreSQL may read all friends of the viewer to look up twenty.
        found = select(literal(1)).where(table.c[mine] == VIEWER, table.c[theirs] == other)
        return found.scalar_subquery().is_not(None)

    return case(
        (other == VIEWER, SELF),
        (blocks.is_blocked(VIEWER, other), BLOCKED),
        (related(friends, "user_id", "friend_id"), FRIENDS),
        (related(friend_requests, "sender_id", "receiver_id"), OUTGOING),
        (related(friend_requests, "receiver_id", "sender_id"), INCOMING),
        else_=NONE,
    )


STATE = _state(User.id)
IS_LISTED = User.id.not_in(blocks.hidden_from(VIEWER))


@dataclass(frozen=True)
class Relationship:
    """How a person is related to the viewer.

    state: SELF, NONE, OUTGOING, INCOMING, FRIENDS or BLOCKED. cooldown_until: until when the viewer may not send a
    request, or None. other_cooldown_until: the same for the person. open_requests: of the viewer, to anybody. since:
    of the friendship or the request between them. has_undo: whether something that one of them did can be undone.
    has_conversation: whether they have a conversation of two.
    """

    state: str
    cooldown_until: datetime | None
    other_cooldown_until: datetime | None
    open_requests: int
    since: datetime | None
    has_undo: bool
    has_conversation: bool


def _cooldown(sender, receiver):
    cooldowns = request_cooldowns.c
    until = select(cooldowns.until).where(cooldowns.sender_id == sender, cooldowns.receiver_id == receiver)
    return until.scalar_subquery()


def _requested_at(sender, receiver):
    requests = friend_requests.c
    at = select(requests.created_at).where(requests.sender_id == sender, requests.receiver_id == receiver)
    return at.scalar_subquery()


RELATIONSHIP = select(
    blocks.is_blocked(OTHER, VIEWER),
    _state(OTHER),
    _cooldown(VIEWER, OTHER),
    _cooldown(OTHER, VIEWER),
    select(func.count()).where(friend_requests.c.sender_id == VIEWER).scalar_subquery(),
    func.coalesce(
        select(friends.c.since).where(friends.c.user_id == VIEWER, friends.c.friend_id == OTHER).scalar_subquery(),
        _requested_at(VIEWER, OTHER),
        _requested_at(OTHER, VIEWER),
    ),
    exists().where(
        or_(
            and_(undo_records.c.actor_id == VIEWER, undo_records.c.person_id == OTHER),
            and_(undo_records.c.actor_id == OTHER, undo_records.c.person_id == VIEWER),
        )
    ),
    exists().where(
        or_(
            and_(Conversation.low_id == VIEWER, Conversation.high_id == OTHER),
            and_(Conversation.low_id == OTHER, Conversation.high_id == VIEWER),
        )
    ),
)


def get_relationship(viewer: User, person: User) -> Relationship:
    """Return how a person is related to the viewer, in one statement. Raises NotFound when the person blocks them."""
    is_hidden, *row = db.session.execute(RELATIONSHIP, {"viewer": viewer.id, "other": person.id}).one()
    if is_hidden:
        raise NotFound
    return Relationship(*row)


def get_cooldown(viewer: User, person: User) -> datetime | None:
    """Return until when the viewer may not ask a person again; None when they may."""
    until = select(_cooldown(viewer.id, person.id))
    return _future_or_none(db.session.scalar(until))


def _future_or_none(time: datetime | None) -> datetime | None:
    """Return a time that is still to come; None for one that has passed."""
    return time if time and time > now() else None


FIND = (
    with_profile()
    .add_columns(STATE)
    .join(PublicId, PublicId.user_id == User.id)
    .where(PublicId.key == bindparam("key"), User.id.not_in(blocks.hidden_from(VIEWER, include_blocked=False)))
)


def find_visible(viewer: User, public_id: str) -> tuple[User, str] | tuple[None, None]:
    """Return the person with this Public ID, present or former, and their state; (None, None) if there is none.

    A person who blocks the viewer does not exist for them.
    """
    return db.session.execute(FIND, {"viewer": viewer.id, "key": public_id.lower()}).first() or (None, None)


@dataclass(frozen=True)
class PersonRow:
    """A person in a list.

    state: of the friend button. online: only true for friends. note: shown below the name. ask_again_at: until when the
    viewer may not ask them again, or None.
    """

    person: Person
    state: str
    online: bool = False
    note: str = ""
    ask_again_at: datetime | None = None


def person_row(
    viewer: User, person: Person, state: str, note: str = "", cooldown_until: datetime | None = None
) -> PersonRow:
    """Return the row for a person. cooldown_until: until when the viewer may not ask them, if that is not over."""
    ask_again_at = _future_or_none(cooldown_until) if state == NONE else None
    return PersonRow(person, state, is_online(last_seen(viewer, person, state)), note, ask_again_at)


def last_seen(viewer: User, person: Person, state: str) -> datetime | None:
    """Return when somebody was active last, if the viewer may see that. state: how they are related."""
    return person.last_seen_at if state == FRIENDS and may_share_presence(viewer, person) else None


# With a parameter for each row of a page, since a list of any length costs a third of a millisecond each time.
FOUND_IDS = [f"id{number}" for number in range(keyset.PAGE_SIZE)]
IS_FOUND = User.id.in_([bindparam(name, type_=Integer) for name in FOUND_IDS])


def _may_be_found():
    """Return the condition that VIEWER finds a user by name, or by the exact Public ID in PUBLIC_ID."""
    mine, theirs = friends.alias("mine"), friends.alias("theirs")
    is_mine = exists().where(mine.c.user_id == VIEWER, mine.c.friend_id == theirs.c.friend_id)
    return or_(
        User.findable == BY_EVERYBODY,
        User.id == VIEWER,
        Profile.public_id_key == PUBLIC_ID,
        exists().where(mine.c.user_id == VIEWER, mine.c.friend_id == User.id),
        # Read from the side of the other, who has mostly few friends.
        exists().where(theirs.c.user_id == User.id, is_mine),
    )


LOAD_FOUND = select_people(STATE.label("state"), _cooldown(VIEWER, User.id).label("cooldown_until")).where(
    IS_FOUND, _may_be_found()
)
MAX_ROUNDS = 5  # of PAGE_SIZE hits that are looked at for a page


class FoundPerson(Person, Protocol):
    """Somebody whom a search has found. cooldown_until: until when the viewer may not ask them, which may be over."""

    state: str
    cooldown_until: datetime | None


def search_people(viewer: User, query: Query, cursor: str | None) -> keyset.Page:
    """Return a page of pairs of FoundPerson and state, best match first.

    Whichever search engine finds them, the database decides who may be seen. Where the viewer may find few of very many
    hits, a page is shorter than usual, or even empty, though others follow.
    """
    position = keyset.decode_cursor(cursor, int, str)
    after = Hit(0, *position) if position and EXACT <= position[0] <= SUBSTRING else None
    is_first, has_more, rows = after is None, True, list[tuple[FoundPerson, str]]()
    for _round in range(MAX_ROUNDS):
        hits = User.search(query, after, LIMIT, IS_LISTED, viewer=viewer.id)
        people, examined = _load_found(viewer, query, hits[: keyset.PAGE_SIZE]), 0
        for after in hits[: keyset.PAGE_SIZE]:
            examined += 1
            if after.id in people:
                rows.append(people[after.id])
            if len(rows) == keyset.PAGE_SIZE:
                break
        has_more = examined < len(hits)
        if len(rows) == keyset.PAGE_SIZE or not has_more:
            break
    next_cursor = keyset.encode_cursor(*after[1:]) if after and has_more else None
    return keyset.Page(rows, next_cursor, is_first)


def _load_found(viewer: User, query: Query, hits: list[Hit]) -> dict[int, tuple[FoundPerson, str]]:
    """Return those whom the viewer may find, with their state, by id. hits: up to PAGE_SIZE."""
    if not hits:
        return {}
    ids = [hit.id for hit in hits] + [0] * (keyset.PAGE_SIZE - len(hits))
    word = query.words[0] if len(query.words) == 1 else ""
    values = {"viewer": viewer.id, "public_id": word, **dict(zip(FOUND_IDS, ids, strict=True))}
    return {person.id: (person, person.state) for person in db.session.execute(LOAD_FOUND, values)}


@cache
def _friends(words: int, resumed: bool):
    # First a page of the list by its index, then the people on it; otherwise all of them are joined to show twenty.
    friend = friends.c
    listed = select(friend.friend_id, friend.search_text).where(
        friend.user_id == VIEWER, friend.friend_id.not_in(blocks.hidden_from(VIEWER))
    )
    if words:
        listed = listed.where(contains_all(friend.search_text, words))
    if resumed:
        listed = listed.where(friend.search_text > bindparam("after", type_=Text))
    page = listed.order_by(friend.search_text).limit(LIMIT).subquery()
    return select_people(page.c.search_text).join(page, page.c.friend_id == User.id).order_by(page.c.search_text)


def list_friends(viewer: User, query: Query, cursor: str | None) -> keyset.Page:
    """Return a page of friends by name, as Person.

    query: what their names must match; an empty one matches all.
    """
    after = keyset.decode_cursor(cursor, str)
    if query and not query.can_match:
        return keyset.Page([], None)
    values = {"viewer": viewer.id, **query.patterns, **({"after": after[0]} if after else {})}
    rows = db.session.execute(_friends(len(query.words), after is not None), values)
    return keyset.make_page(rows, cursor if after else None, lambda row: [row.search_text])


def list_requests(viewer: User, direction: str, query: Query, cursor: str | None) -> keyset.Page:
    """Return a page of people with a friend request to or from the viewer, newest first, as Person.

    direction: INCOMING or OUTGOING. query: as for list_friends.
    """
    if query and not query.can_match:
        return keyset.Page([], None)
    mine, theirs = ("receiver_id", "sender_id") if direction == INCOMING else ("sender_id", "receiver_id")
    return _newest_first(friend_requests, mine, theirs, "created_at", viewer, query, cursor)


def list_blocked(viewer: User, cursor: str | None) -> keyset.Page:
    """Return a page of people whom the viewer blocks, newest first, as Person."""
    return _newest_first(blocks.blocks, "blocker_id", "blocked_id", "since", viewer, Query(()), cursor)


@cache
def _by_time(table, mine: str, theirs: str, time: str, words: int, resumed: bool):
    at, other_id = table.c[time], table.c[theirs]
    # As above, by another index.
    listed = select(other_id.label("other_id"), at.label("time")).where(table.c[mine] == VIEWER)
    if table is not blocks.blocks:
        listed = listed.where(other_id.not_in(blocks.hidden_from(VIEWER)))
    if words:
        listed = listed.join(User, User.id == other_id).where(contains_all(User.search_text, words))
    if resumed:
        before = tuple_(bindparam("time", type_=UTCDateTime), bindparam("other_id", type_=Integer))
        listed = listed.where(tuple_(at, other_id) < before)
    page = listed.order_by(at.desc(), other_id.desc()).limit(LIMIT).subquery()
    rows = select_people(page.c.time).join(page, page.c.other_id == User.id)
    return rows.order_by(page.c.time.desc(), page.c.other_id.desc())


def _newest_first(table, mine, theirs, time, viewer: User, query: Query, cursor: str | None) -> keyset.Page:
    after = keyset.time_and_id(keyset.decode_cursor(cursor, str, int))
    position = {"time": after[0], "other_id": after[1]} if after else {}
    values = {"viewer": viewer.id, **query.patterns, **position}
    rows = db.session.execute(_by_time(table, mine, theirs, time, len(query.words), bool(after)), values)
    return keyset.make_page(rows, cursor if after else None, lambda row: (row.time.isoformat(), row.id))


ONLINE = "online"


@cache
def _home_lists(max_requests: int, max_friends: int, by_presence: bool):
    table = friend_requests.c
    requests = (
        select(table.sender_id.label("id"), literal(INCOMING).label("kind"), table.created_at.label("time"))
        .where(table.receiver_id == VIEWER)
        .order_by(table.created_at.desc())
        .limit(max_requests)
    )
    mine = select(User.id).join(friends, friends.c.friend_id == User.id).where(friends.c.user_id == VIEWER)
    # The order tells nothing about those who do not show their presence.
    is_shown = User.show_presence == TO_FRIENDS
    seen_at = case((and_(is_shown, User.last_seen_at > friends.c.since), User.last_seen_at), else_=friends.c.since)
    active_at = seen_at if by_presence else friends.c.since
    recent = mine.add_columns(literal(FRIENDS), active_at.label("time")).order_by(active_at.desc(), User.id)
    online = (
        mine.add_columns(literal(ONLINE), User.last_seen_at.label("time"))
        .where(is_shown, User.last_seen_at > bindparam("online_since", type_=UTCDateTime))
        .order_by(User.last_seen_at.desc(), User.id)
    )
    parts = [requests, recent.limit(max_friends), *([online.limit(MAX_ONLINE)] if by_presence else ())]
    every = union_all(*(select(part.subquery()) for part in parts)).subquery()
    rows = select_people(every.c.kind).join(every, every.c.id == User.id).where(IS_LISTED)
    return rows.order_by(every.c.time.desc(), User.id)


def home_lists(
    viewer: User, max_requests: int, max_friends: int
) -> tuple[list[Person], list[Person], list[Person] | None]:
    """Return who sent the newest incoming requests, the friends who were active last, and those who are online.

    In one statement. Of those who are online, up to MAX_ONLINE; None where the viewer does not show presence, and the
    friends are those who were made last.
    """
    by_presence = viewer.show_presence == TO_FRIENDS
    statement = _home_lists(max_requests, max_friends, by_presence)
    found = db.session.execute(statement, {"viewer": viewer.id, "online_since": now() - ONLINE_FOR}).all()
    return (
        [row for row in found if row.kind == INCOMING],
        [row for row in found if row.kind == FRIENDS],
        [row for row in found if row.kind == ONLINE] if by_presence else None,
    )


def list_online(viewer: User) -> list[Person] | None:
    """Return up to MAX_ONLINE friends who are online; None if the viewer may not see that."""
    return home_lists(viewer, 0, 0)[2]


@cache
def _suggestions():
    mine = select(friends.c.friend_id).where(friends.c.user_id == VIEWER)
    theirs, requests, shared = friends.alias(), friend_requests.c, func.count()
    cooldowns = request_cooldowns.c
    found = (
        select(theirs.c.friend_id.label("id"), shared.label("shared"))
        .where(
            theirs.c.user_id.in_(mine),
            theirs.c.friend_id != VIEWER,
            theirs.c.friend_id.not_in(mine),
            theirs.c.friend_id.not_in(select(requests.receiver_id).where(requests.sender_id == VIEWER)),
            theirs.c.friend_id.not_in(select(requests.sender_id).where(requests.receiver_id == VIEWER)),
            theirs.c.friend_id.not_in(select(cooldowns.receiver_id).where(cooldowns.sender_id == VIEWER)),
            theirs.c.friend_id.not_in(blocks.hidden_from(VIEWER)),
        )
        .group_by(theirs.c.friend_id)
        .order_by(shared.desc(), theirs.c.friend_id)
        .limit(MAX_SUGGESTIONS)
        .subquery()
    )
    rows = select_people(found.c.shared).join(found, found.c.id == User.id)
    return rows.order_by(found.c.shared.desc(), User.id)


def suggest_people(viewer: User) -> list[tuple[Person, int]]:
    """Return friends of friends with the number of friends in common, most of them first."""
    return [(row, row.shared) for row in db.session.execute(_suggestions(), {"viewer": viewer.id})]


@dataclass(frozen=True)
class ProfileDetails:
    """A person as their profile shows them to a viewer.

    person, state: as find_visible returns them. friend_count: of theirs. cooldown_until: until when the viewer may not
    ask them again, or None. in_common: up to MAX_IN_COMMON friends of both, by name. in_common_count: of all of those.
    """

    person: User
    state: str
    friend_count: int
    cooldown_until: datetime | None
    in_common: list[Person]
    in_common_count: int


FIND_DETAILS = FIND.add_columns(
    select(func.count()).where(friends.c.user_id == User.id).scalar_subquery(), _cooldown(VIEWER, User.id)
)


@cache
def _in_common():
    theirs = friends.alias()
    both = friends.join(theirs, friends.c.friend_id == theirs.c.friend_id)
    found = select_people(func.count().over().label("in_common_count")).join(both, User.id == friends.c.friend_id)
    found = found.where(friends.c.user_id == VIEWER, theirs.c.user_id == OTHER, IS_LISTED)
    return found.order_by(friends.c.search_text).limit(MAX_IN_COMMON)


def find_details(viewer: User, public_id: str) -> ProfileDetails | None:
    """Return what a profile shows, as find_visible finds the person; in two statements. None if there is nobody."""
    found = db.session.execute(FIND_DETAILS, {"viewer": viewer.id, "key": public_id.lower()}).first()
    if found is None:
        return None
    person, state, friend_count, cooldown_until = found
    in_common: Sequence[Row] = ()
    if friend_count and state not in (SELF, BLOCKED):
        in_common = db.session.execute(_in_common(), {"viewer": viewer.id, "other": person.id}).all()
    waits_until = _future_or_none(cooldown_until) if state == NONE else None
    count = in_common[0].in_common_count if in_common else 0
    return ProfileDetails(person, state, friend_count, waits_until, list(in_common), count)
