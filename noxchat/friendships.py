"""Who asks whom, and who is friends: send, accept, decline, cancel, remove, block.

Each of these may come twice, late, or at the same moment as another: it does what still can be done, and says with an
Outcome what that was. The rows of both people are locked first, in the order of their ids, so two of them about the
same person follow each other; whoever deletes an account locks all who are concerned in that order too.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from flask import current_app
from flask_babel import gettext as _
from flask_babel import ngettext
from sqlalchemy import and_, case, delete, exists, func, insert, literal, or_, select, tuple_, union_all

from noxchat import blocks, events, keyset, throttle
from noxchat.database import UTCDateTime, now, start_writing
from noxchat.extensions import db
from noxchat.models import Event, Profile, PublicId, User, friend_requests, friends, pauses
from noxchat.people import with_profile
from noxchat.refusal import Gone, Refused
from noxchat.search import Query

SELF, NONE, OUTGOING, INCOMING, FRIENDS, BLOCKED = "self", "none", "outgoing", "incoming", "friends", "blocked"

KNOWN_AT_MOST = 5  # with this many friends one has to be shown nobody
SUGGESTIONS = 6


class Outcome(Enum):
    """What really happened; UNCHANGED when things already were, or no longer are, as they would have to be."""

    SENT = "sent"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    REMOVED = "removed"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Between:
    """How two people stand to each other, from the first one's side."""

    friends: bool
    outgoing: bool
    incoming: bool
    blocked: bool
    paused_until: datetime | None

    @property
    def state(self) -> str:
        """One of the states of the button."""
        for state in (BLOCKED, FRIENDS, OUTGOING, INCOMING):
            if getattr(self, state):
                return state
        return NONE


@dataclass(frozen=True)
class Counters:
    """friends, incoming, outgoing: how many. event: the newest event that these numbers know of."""

    friends: int
    incoming: int
    outgoing: int
    event: int


def lock(*people: int) -> int:
    """Hold people's rows, in one order for everybody, until the transaction ends. Returns how many there still are."""
    rows = select(User.id).where(User.id.in_(people)).order_by(User.id).with_for_update(key_share=True)
    return len(db.session.scalars(rows).all())


def between(viewer: User, person: User) -> Between:
    """Return how two people stand now, in one statement. Raises Gone when the viewer may not see the person."""

    def there(table, one, other):
        return exists().where(table.c[one[0]] == one[1], table.c[other[0]] == other[1])

    me, them = viewer.id, person.id
    row = db.session.execute(
        select(
            there(friends, ("user_id", me), ("friend_id", them)),
            there(friend_requests, ("sender_id", me), ("receiver_id", them)),
            there(friend_requests, ("sender_id", them), ("receiver_id", me)),
            blocks.is_blocked(me, them),
            select(pauses.c.until).where(pauses.c.sender_id == me, pauses.c.receiver_id == them).scalar_subquery(),
            blocks.is_blocked(them, me),
        )
    ).one()
    if row[-1]:
        raise Gone
    return Between(*row[:-1])


def meet(viewer: User, person: User) -> Between:
    """Lock two people and return how they stand. Raises Gone when one is not there any more, or not to be seen."""
    if viewer.id == person.id:
        raise Refused(_("This is you."))
    if lock(viewer.id, person.id) < 2:
        raise Gone
    return between(viewer, person)


def send(viewer: User, person: User, tab: str = "") -> Outcome:
    """Ask somebody to be friends; if they asked first, that accepts.

    tab: the browser tab that this comes from, which needs not be told (see events). Raises Refused while the person is
    blocked, had declined lately, or with too many requests open; TooMany with too many in an hour; Gone.
    """
    pair = meet(viewer, person)
    if pair.incoming:
        return _befriend(viewer, person, tab)
    if pair.friends or pair.outgoing:
        return Outcome.UNCHANGED
    if pair.blocked:
        raise Refused(_("You blocked %(name)s. Unblock first, then ask.", name=person.username))
    if pair.paused_until and pair.paused_until > now():
        raise Refused(_("You asked %(name)s not long ago. Give it some time.", name=person.username))
    most = current_app.config["OPEN_REQUESTS"]
    mine = select(func.count()).select_from(friend_requests).where(friend_requests.c.sender_id == viewer.id)
    if db.session.scalar(mine) >= most:
        raise Refused(
            ngettext(
                "You have one request open. Cancel it before you send another.",
                "You have %(num)s requests open. Cancel some before you send more.",
                most,
            )
        )
    throttle.friend_request(viewer)
    _end_pauses(person, viewer)
    db.session.execute(insert(friend_requests).values(sender_id=viewer.id, receiver_id=person.id, created_at=now()))
    events.tell_both(viewer, person, tab)
    return Outcome.SENT


def accept(viewer: User, person: User, tab: str = "") -> Outcome:
    """Accept somebody's request, if it is still there. Raises Gone."""
    return _befriend(viewer, person, tab) if meet(viewer, person).incoming else Outcome.UNCHANGED


def decline(viewer: User, person: User, tab: str = "") -> Outcome:
    """Decline somebody's request, if it is still there. They are not told, and cannot ask again for a while.

    Raises Gone.
    """
    if not meet(viewer, person).incoming:
        return Outcome.UNCHANGED
    _end_request(person, viewer)
    _end_pauses(person, viewer, both=False)
    until = now() + timedelta(days=current_app.config["PAUSE_DAYS"])
    db.session.execute(insert(pauses).values(sender_id=person.id, receiver_id=viewer.id, until=until))
    events.tell(viewer, person, tab)
    return Outcome.DECLINED


def cancel(viewer: User, person: User, tab: str = "") -> Outcome:
    """Take one's own request back, if it is still there. Raises Gone."""
    if not meet(viewer, person).outgoing:
        return Outcome.UNCHANGED
    _end_request(viewer, person)
    events.tell_both(viewer, person, tab)
    return Outcome.CANCELLED


def remove(viewer: User, person: User, tab: str = "") -> Outcome:
    """End a friendship, if there is one. Raises Gone."""
    if not meet(viewer, person).friends:
        return Outcome.UNCHANGED
    _part(viewer, person)
    events.tell_both(viewer, person, tab)
    return Outcome.REMOVED


def block(viewer: User, person: User, tab: str = "") -> Outcome:
    """Put oneself out of somebody's sight; friendship and requests end. Raises Gone."""
    pair = meet(viewer, person)
    if pair.blocked:
        return Outcome.UNCHANGED
    blocks.add(viewer, person)
    _part(viewer, person)
    _end_request(viewer, person)
    _end_request(person, viewer)
    if pair.state == NONE:
        events.tell(viewer, person, tab)  # a stranger had nothing of the viewer, so nothing changes for them
    else:
        events.tell_both(viewer, person, tab)
    return Outcome.BLOCKED


def unblock(viewer: User, person: User, tab: str = "") -> Outcome:
    """Take a block back, also from somebody who blocks in turn."""
    if lock(viewer.id, person.id) < 2:
        raise Gone
    if not db.session.scalar(select(blocks.is_blocked(viewer.id, person.id))):
        return Outcome.UNCHANGED
    blocks.remove(viewer, person)
    events.tell(viewer, person, tab)
    return Outcome.UNBLOCKED


def _befriend(viewer: User, person: User, tab: str) -> Outcome:
    _end_request(person, viewer)
    _end_pauses(viewer, person)
    pairs = ((viewer.id, person.id), (person.id, viewer.id))
    db.session.execute(insert(friends), [{"user_id": one, "friend_id": other, "since": now()} for one, other in pairs])
    events.tell_both(viewer, person, tab)
    return Outcome.ACCEPTED


def _end_request(sender: User, receiver: User):
    of_them = and_(friend_requests.c.sender_id == sender.id, friend_requests.c.receiver_id == receiver.id)
    db.session.execute(delete(friend_requests).where(of_them))


def _end_pauses(one: User, other: User, *, both: bool = True):
    """End the pause that one has towards the other, and unless told otherwise the other way round too."""
    this = and_(pauses.c.sender_id == one.id, pauses.c.receiver_id == other.id)
    that = and_(pauses.c.sender_id == other.id, pauses.c.receiver_id == one.id)
    db.session.execute(delete(pauses).where(or_(this, that) if both else this))


def _part(one: User, other: User):
    # The other direction goes with this one: see models.friends.
    db.session.execute(delete(friends).where(friends.c.user_id == one.id, friends.c.friend_id == other.id))


def leave(user: User):
    """Lock an account that is about to go, after everybody who will notice it, and tell them.

    Without this, two friends who go at once, and whoever accepts one of them just then, could wait for each other.
    """
    lock(user.id, *(concerned := _concerned(user)))
    while _concerned(user) - concerned:  # somebody came before the lock: locking them now would be out of order
        db.session.rollback()
        start_writing(db.session)
        lock(user.id, *(concerned := _concerned(user)))
    events.tell_all(_concerned(user), user.profile.public_id)


def _concerned(user: User) -> set[int]:
    ids = union_all(
        select(friends.c.friend_id).where(friends.c.user_id == user.id),
        select(friend_requests.c.receiver_id).where(friend_requests.c.sender_id == user.id),
        select(friend_requests.c.sender_id).where(friend_requests.c.receiver_id == user.id),
    )
    return set(db.session.scalars(ids))


def counters(viewer: User) -> Counters:
    """Return all the numbers of the navigation, in one statement."""

    def count(column):
        return select(func.count()).where(column == viewer.id).scalar_subquery()

    newest = select(func.max(Event.id)).where(Event.user_id == viewer.id).scalar_subquery()
    numbers = select(
        count(friends.c.user_id),
        count(friend_requests.c.receiver_id),
        count(friend_requests.c.sender_id),
        func.coalesce(newest, 0),
    )
    return Counters(*db.session.execute(numbers).one())


def state_towards(viewer: User):
    """Return the expression of how somebody stands to each User of a select: one of the states of the button."""

    def there(table, mine, theirs):
        return exists().where(table.c[mine] == viewer.id, table.c[theirs] == User.id)

    return case(
        (User.id == viewer.id, SELF),
        (there(blocks.blocks, "blocker_id", "blocked_id"), BLOCKED),
        (there(friends, "user_id", "friend_id"), FRIENDS),
        (there(friend_requests, "sender_id", "receiver_id"), OUTGOING),
        (there(friend_requests, "receiver_id", "sender_id"), INCOMING),
        else_=NONE,
    )


def find(viewer: User, public_id: str) -> tuple[User, str] | tuple[None, None]:
    """Return who has this Public ID, or had it and keeps it, and how they stand to the viewer, if that may see them."""
    rows = with_profile().add_columns(state_towards(viewer)).join(PublicId, PublicId.user_id == User.id)
    rows = rows.where(PublicId.key == public_id.lower(), User.id.not_in(blocks.out_of_sight(viewer.id, listed=False)))
    return db.session.execute(rows).first() or (None, None)


def find_blocked(viewer: User, public_id: str) -> User | None:
    """Return who has this Public ID if the viewer blocks them, whatever they do to the viewer."""
    rows = with_profile().join(blocks.blocks, blocks.blocks.c.blocked_id == User.id)
    return db.session.scalar(
        rows.where(Profile.public_id_key == public_id.lower(), blocks.blocks.c.blocker_id == viewer.id)
    )


def meet_all(viewer: User, ids: list[int]) -> list[tuple[User, str]]:
    """Return the people with these ids whom the viewer may see in a list, in this order, and how they stand."""
    rows = with_profile().add_columns(state_towards(viewer))
    rows = rows.where(User.id.in_(ids), User.id.not_in(blocks.out_of_sight(viewer.id)))
    found = {person.id: (person, state) for person, state in db.session.execute(rows)}
    return [found[number] for number in ids if number in found]


def page_of_friends(viewer: User, query: Query, cursor: str | None) -> keyset.Page:
    """Return friends by name, as User.

    query: what to look for in their names; nothing for all of them.
    """
    mine = select(friends.c.friend_id).where(friends.c.user_id == viewer.id).cte("mine")
    # Or PostgreSQL walks the names of everybody there is, hoping to meet friends.
    mine = mine.prefix_with("MATERIALIZED", dialect="postgresql")
    rows = (
        with_profile()
        .add_columns(User.search_text)
        .join(mine, mine.c.friend_id == User.id)
        .where(User.id.not_in(blocks.out_of_sight(viewer.id)))
        .order_by(User.search_text)
        .limit(keyset.SIZE + 1)
    )
    if query:
        rows = rows.where(query.fits(User.search_text))
    if after := keyset.decode(cursor, str):
        rows = rows.where(User.search_text > after[0])
    found = keyset.page(db.session.execute(rows), cursor if after else None, lambda row: row[1:])
    return keyset.Page([person for person, _text in found.items], found.next, found.start)


def page_of_requests(viewer: User, direction: str, query: Query, cursor: str | None) -> keyset.Page:
    """Return who asked somebody, or whom they asked, the newest first, as User.

    direction: INCOMING or OUTGOING. query: as at page_of_friends.
    """
    mine, theirs = ("receiver_id", "sender_id") if direction == INCOMING else ("sender_id", "receiver_id")
    table = friend_requests.c
    rows = (
        with_profile()
        .add_columns(table.created_at)
        .join(friend_requests, table[theirs] == User.id)
        .where(table[mine] == viewer.id, User.id.not_in(blocks.out_of_sight(viewer.id)))
    )
    if query:
        rows = rows.where(query.fits(User.search_text))
    return _newest_first(rows, table.created_at, table[theirs], cursor)


def page_of_blocked(viewer: User, cursor: str | None) -> keyset.Page:
    """Return whom somebody blocked, the latest first, as User. Also who blocks in turn: it is to be taken back."""
    table = blocks.blocks.c
    rows = with_profile().add_columns(table.since).join(blocks.blocks, table.blocked_id == User.id)
    return _newest_first(rows.where(table.blocker_id == viewer.id), table.since, table.blocked_id, cursor)


def _newest_first(rows, time, number, cursor: str | None) -> keyset.Page:
    """Return a page of people by a time and, where that is the same, by their number.

    rows: a select of users and the time.
    """
    after = _moment(keyset.decode(cursor, str, int))
    if after:
        rows = rows.where(tuple_(time, number) < tuple_(literal(after[0], UTCDateTime), literal(after[1])))
    rows = db.session.execute(rows.order_by(time.desc(), number.desc()).limit(keyset.SIZE + 1))
    found = keyset.page(rows, cursor if after else None, lambda row: (row[1].isoformat(), row[0].id))
    return keyset.Page([person for person, _time in found.items], found.next, found.start)


def _moment(place) -> tuple[datetime, int] | None:
    """Return the time and number that a cursor named, if it is one of such a list."""
    try:
        moment = datetime.fromisoformat(place[0]) if place else None
    except ValueError:
        return None
    return (moment, place[1]) if moment and moment.tzinfo else None


def at_home(viewer: User, requests: int, seen: int) -> tuple[list[User], list[User]]:
    """Return the newest requests to answer, and the friends who were there last, in one statement.

    requests, seen: how many of each at most.
    """
    table = friend_requests.c
    asking = (
        select(table.sender_id.label("id"), literal(INCOMING).label("kind"), table.created_at.label("time"))
        .where(table.receiver_id == viewer.id)
        .order_by(table.created_at.desc())
        .limit(requests)
    )
    there = (
        select(User.id, literal(FRIENDS), func.coalesce(User.last_seen_at, User.created_at).label("time"))
        .join(friends, friends.c.friend_id == User.id)
        .where(friends.c.user_id == viewer.id)
        .order_by(func.coalesce(User.last_seen_at, User.created_at).desc(), User.id)
        .limit(seen)
    )
    both = union_all(select(asking.subquery()), select(there.subquery())).subquery()
    rows = (
        with_profile()
        .add_columns(both.c.kind)
        .join(both, both.c.id == User.id)
        .where(User.id.not_in(blocks.out_of_sight(viewer.id)))
        .order_by(both.c.time.desc(), User.id)
    )
    found = db.session.execute(rows).all()
    return [user for user, kind in found if kind == INCOMING], [user for user, kind in found if kind == FRIENDS]


def may_know(viewer: User) -> list[tuple[User, int]]:
    """Return friends of friends with the number of friends in common, most of them first."""
    mine = select(friends.c.friend_id).where(friends.c.user_id == viewer.id)
    theirs, requests = friends.alias(), friend_requests.c
    shared = func.count()
    found = (
        select(theirs.c.friend_id.label("id"), shared.label("shared"))
        .where(
            theirs.c.user_id.in_(mine),
            theirs.c.friend_id != viewer.id,
            theirs.c.friend_id.not_in(mine),
            theirs.c.friend_id.not_in(select(requests.receiver_id).where(requests.sender_id == viewer.id)),
            theirs.c.friend_id.not_in(select(requests.sender_id).where(requests.receiver_id == viewer.id)),
            theirs.c.friend_id.not_in(select(pauses.c.receiver_id).where(pauses.c.sender_id == viewer.id)),
            theirs.c.friend_id.not_in(blocks.out_of_sight(viewer.id)),
        )
        .group_by(theirs.c.friend_id)
        .order_by(shared.desc(), theirs.c.friend_id)
        .limit(SUGGESTIONS)
        .subquery()
    )
    rows = with_profile().add_columns(found.c.shared).join(found, found.c.id == User.id)
    return db.session.execute(rows.order_by(found.c.shared.desc(), User.id)).all()


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
