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
from sqlalchemy import and_, delete, exists, func, insert, or_, select, union_all

from noxchat import blocks, events, throttle
from noxchat.database import now, start_writing
from noxchat.extensions import db
from noxchat.models import User, friend_requests, friends, pauses
from noxchat.refusal import Gone, Refused

SELF, NONE, OUTGOING, INCOMING, FRIENDS, BLOCKED = "self", "none", "outgoing", "incoming", "friends", "blocked"


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
    """Put oneself out of somebody's sight; friendship and requests end. Raises Gone, and TooMany."""
    pair = meet(viewer, person)
    if pair.blocked:
        return Outcome.UNCHANGED
    throttle.block(viewer)
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
    """Take a block back. Raises Gone."""
    if not meet(viewer, person).blocked:
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
    number, public_id = user.id, user.profile.public_id  # a rollback would forget them
    lock(number, *(concerned := _concerned(number)))
    while _concerned(number) - concerned:  # somebody came before the lock: locking them now would be out of order
        db.session.rollback()
        start_writing(db.session)
        lock(number, *(concerned := _concerned(number)))
    events.tell_all(_concerned(number), public_id)


def _concerned(number: int) -> set[int]:
    ids = union_all(
        select(friends.c.friend_id).where(friends.c.user_id == number),
        select(friend_requests.c.receiver_id).where(friend_requests.c.sender_id == number),
        select(friend_requests.c.sender_id).where(friend_requests.c.receiver_id == number),
    )
    return set(db.session.scalars(ids))
