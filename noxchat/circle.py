"""Who is around somebody: how people stand to them, their counters, their lists.

All of it is read, page by page, and on every page of the place. So each statement is put together once, with the viewer
and whatever else differs as parameters.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache

from sqlalchemy import Integer, Text, bindparam, case, exists, func, literal, select, tuple_, union_all

from noxchat import blocks, keyset
from noxchat.database import UTCDateTime
from noxchat.extensions import db
from noxchat.friendships import BLOCKED, FRIENDS, INCOMING, NONE, OUTGOING, SELF
from noxchat.models import Event, PublicId, User, friend_requests, friends, pauses
from noxchat.people import with_profile
from noxchat.search import EXACT, INSIDE, Hit, Query, fits

VIEWER = bindparam("viewer", type_=Integer)
ONE_MORE = keyset.SIZE + 1  # than a page, to see whether there is another

KNOWN_AT_MOST = 5  # whoever has more friends than that is shown nobody whom they may know
SUGGESTIONS = 6


@dataclass(frozen=True)
class Counters:
    """friends, incoming, outgoing: how many. event: the newest event that these numbers know of."""

    friends: int
    incoming: int
    outgoing: int
    event: int


def _count(column):
    return select(func.count()).where(column == VIEWER).scalar_subquery()


COUNTERS = select(
    _count(friends.c.user_id),
    _count(friend_requests.c.receiver_id),
    _count(friend_requests.c.sender_id),
    func.coalesce(select(func.max(Event.id)).where(Event.user_id == VIEWER).scalar_subquery(), 0),
)


def counters(viewer: User) -> Counters:
    """Return all the numbers of the navigation, in one statement."""
    return Counters(*db.session.execute(COUNTERS, {"viewer": viewer.id}).one())


def _there(table, mine: str, theirs: str):
    return exists().where(table.c[mine] == VIEWER, table.c[theirs] == User.id)


# How the viewer stands to each User of a select: one of the states of the button.
STATE = case(
    (User.id == VIEWER, SELF),
    (_there(blocks.blocks, "blocker_id", "blocked_id"), BLOCKED),
    (_there(friends, "user_id", "friend_id"), FRIENDS),
    (_there(friend_requests, "sender_id", "receiver_id"), OUTGOING),
    (_there(friend_requests, "receiver_id", "sender_id"), INCOMING),
    else_=NONE,
)
LISTED = User.id.not_in(blocks.out_of_sight(VIEWER))

FIND = (
    with_profile()
    .add_columns(STATE)
    .join(PublicId, PublicId.user_id == User.id)
    .where(PublicId.key == bindparam("key"), User.id.not_in(blocks.out_of_sight(VIEWER, listed=False)))
)


def find(viewer: User, public_id: str) -> tuple[User, str] | tuple[None, None]:
    """Return who has this Public ID, or had it and keeps it, and how they stand to the viewer, if that may see them."""
    return db.session.execute(FIND, {"viewer": viewer.id, "key": public_id.lower()}).first() or (None, None)


@lru_cache(maxsize=128)
def _searched(hits):
    rows = with_profile().add_columns(STATE, hits.c.rank, hits.c.search_text).join(hits, hits.c.id == User.id)
    return rows.where(LISTED).order_by(hits.c.rank, hits.c.search_text)


def search(viewer: User, query: Query, cursor: str | None) -> keyset.Page:
    """Return the people who are called so, best first, as pairs of User and how they stand to the viewer.

    Whatever engine found them, here the database says who may be seen.
    """
    place = keyset.decode(cursor, int, str)
    after = Hit(0, *place) if place and EXACT <= place[0] <= INSIDE else None
    rows = User.search(query, after, ONE_MORE, _searched, unseen=blocks.UNSEARCHED, viewer=viewer.id)
    rows = [((person, state), *place) for person, state, *place in rows]
    return keyset.page(rows, cursor if after else None, lambda row: row[1:])


@cache
def _friends(words: int, resumed: bool):
    # Or PostgreSQL walks the names of everybody there is, hoping to meet friends.
    mine = select(friends.c.friend_id).where(friends.c.user_id == VIEWER).cte("mine")
    mine = mine.prefix_with("MATERIALIZED", dialect="postgresql")
    rows = with_profile().add_columns(User.search_text).join(mine, mine.c.friend_id == User.id).where(LISTED)
    if words:
        rows = rows.where(fits(User.search_text, words))
    if resumed:
        rows = rows.where(User.search_text > bindparam("after", type_=Text))
    return rows.order_by(User.search_text).limit(ONE_MORE)


def page_of_friends(viewer: User, query: Query, cursor: str | None) -> keyset.Page:
    """Return friends by name, as User.

    query: what to look for in their names; nothing for all of them.
    """
    after = keyset.decode(cursor, str)
    if query and not query.is_possible:
        return keyset.Page([], None)
    values = {"viewer": viewer.id, **query.values, **({"after": after[0]} if after else {})}
    rows = db.session.execute(_friends(len(query.words), after is not None), values)
    return keyset.page(rows, cursor if after else None, lambda row: row[1:])


def page_of_requests(viewer: User, direction: str, query: Query, cursor: str | None) -> keyset.Page:
    """Return who asked somebody, or whom they asked, the newest first, as User.

    direction: INCOMING or OUTGOING. query: as at page_of_friends.
    """
    if query and not query.is_possible:
        return keyset.Page([], None)
    mine, theirs = ("receiver_id", "sender_id") if direction == INCOMING else ("sender_id", "receiver_id")
    return _newest_first(friend_requests, mine, theirs, "created_at", viewer, query, cursor)


def page_of_blocked(viewer: User, cursor: str | None) -> keyset.Page:
    """Return whom somebody blocked, the latest first, as User."""
    return _newest_first(blocks.blocks, "blocker_id", "blocked_id", "since", viewer, Query(()), cursor)


@cache
def _by_time(table, mine: str, theirs: str, time: str, words: int, resumed: bool):
    time, number = table.c[time], table.c[theirs]
    # A page of the list first, by its index, and then the people on it; else all of them are joined, to show twenty.
    listed = select(number.label("number"), time.label("time")).where(table.c[mine] == VIEWER)
    if table is not blocks.blocks:
        listed = listed.where(number.not_in(blocks.out_of_sight(VIEWER)))
    if words:
        listed = listed.join(User, User.id == number).where(fits(User.search_text, words))
    if resumed:
        before = tuple_(bindparam("time", type_=UTCDateTime), bindparam("number", type_=Integer))
        listed = listed.where(tuple_(time, number) < before)
    page = listed.order_by(time.desc(), number.desc()).limit(ONE_MORE).subquery()
    rows = with_profile().add_columns(page.c.time).join(page, page.c.number == User.id)
    return rows.order_by(page.c.time.desc(), page.c.number.desc())


def _newest_first(table, mine, theirs, time, viewer: User, query: Query, cursor: str | None) -> keyset.Page:
    after = _moment(keyset.decode(cursor, str, int))
    values = {"viewer": viewer.id, **query.values, **(after or {})}
    rows = db.session.execute(_by_time(table, mine, theirs, time, len(query.words), bool(after)), values)
    return keyset.page(rows, cursor if after else None, lambda row: (row[1].isoformat(), row[0].id))


def _moment(place) -> dict | None:
    """Return the time and number that a cursor named, if it is one of such a list."""
    try:
        moment = datetime.fromisoformat(place[0]) if place else None
        return {"time": moment.astimezone(UTC), "number": place[1]} if moment and moment.tzinfo else None
    except (ValueError, OverflowError):  # no moment, or one that no other zone can name
        return None


@cache
def _at_home(requests: int, seen: int):
    table, there = friend_requests.c, func.coalesce(User.last_seen_at, User.created_at)
    asking = (
        select(table.sender_id.label("id"), literal(INCOMING).label("kind"), table.created_at.label("time"))
        .where(table.receiver_id == VIEWER)
        .order_by(table.created_at.desc())
        .limit(requests)
    )
    around = (
        select(User.id, literal(FRIENDS), there.label("time"))
        .join(friends, friends.c.friend_id == User.id)
        .where(friends.c.user_id == VIEWER)
        .order_by(there.desc(), User.id)
        .limit(seen)
    )
    both = union_all(select(asking.subquery()), select(around.subquery())).subquery()
    rows = with_profile().add_columns(both.c.kind).join(both, both.c.id == User.id).where(LISTED)
    return rows.order_by(both.c.time.desc(), User.id)


def at_home(viewer: User, requests: int, seen: int) -> tuple[list[User], list[User]]:
    """Return the newest requests to answer, and the friends who were there last, in one statement.

    requests, seen: how many of each at most.
    """
    found = db.session.execute(_at_home(requests, seen), {"viewer": viewer.id}).all()
    return [user for user, kind in found if kind == INCOMING], [user for user, kind in found if kind == FRIENDS]


@cache
def _may_know():
    mine = select(friends.c.friend_id).where(friends.c.user_id == VIEWER)
    theirs, requests, shared = friends.alias(), friend_requests.c, func.count()
    found = (
        select(theirs.c.friend_id.label("id"), shared.label("shared"))
        .where(
            theirs.c.user_id.in_(mine),
            theirs.c.friend_id != VIEWER,
            theirs.c.friend_id.not_in(mine),
            theirs.c.friend_id.not_in(select(requests.receiver_id).where(requests.sender_id == VIEWER)),
            theirs.c.friend_id.not_in(select(requests.sender_id).where(requests.receiver_id == VIEWER)),
            theirs.c.friend_id.not_in(select(pauses.c.receiver_id).where(pauses.c.sender_id == VIEWER)),
            theirs.c.friend_id.not_in(blocks.out_of_sight(VIEWER)),
        )
        .group_by(theirs.c.friend_id)
        .order_by(shared.desc(), theirs.c.friend_id)
        .limit(SUGGESTIONS)
        .subquery()
    )
    rows = with_profile().add_columns(found.c.shared).join(found, found.c.id == User.id)
    return rows.order_by(found.c.shared.desc(), User.id)


def may_know(viewer: User) -> list[tuple[User, int]]:
    """Return friends of friends with the number of friends in common, most of them first."""
    return [tuple(row) for row in db.session.execute(_may_know(), {"viewer": viewer.id})]


def neighbour(viewer: User, person: User) -> User | None:
    """Return the friend whose name comes next after a friend's, to know where in the list they belong."""
    here = select(User.search_text).where(User.id == person.id).scalar_subquery()
    return db.session.scalar(
        with_profile()
        .join(friends, friends.c.friend_id == User.id)
        .where(friends.c.user_id == viewer.id, User.search_text > here)
        .order_by(User.search_text)
        .limit(1)
    )
