"""Friendships and friend requests: send, accept, decline, cancel, remove, block.

Each action may arrive twice, late, or at the same time as another. It does what can still be done and returns what
that was. The rows of both people are locked first, in the order of their ids, so that two actions on the same person
follow each other; deleting an account locks everybody affected in the same order.
"""

from datetime import timedelta
from enum import Enum

from flask import current_app
from flask_babel import gettext as _
from flask_babel import ngettext
from sqlalchemy import and_, delete, func, insert, or_, select, union_all

from noxchat import blocks, events, throttle
from noxchat.database import now
from noxchat.exceptions import Conflict, NotFound
from noxchat.extensions import db
from noxchat.models import User, friend_requests, friends, request_cooldowns
from noxchat.relationships import BLOCKED, FRIENDS, INCOMING, NONE, OUTGOING, Relationship, get_relationship

EVENT = "friendship"  # its data is the Public ID of the person with whom something changed


class FriendshipChange(Enum):
    """What an action changed. UNCHANGED: its result was there already, or it is no longer possible."""

    SENT = "sent"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    REMOVED = "removed"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    UNCHANGED = "unchanged"


def lock_users(*user_ids: int) -> int:
    """Lock users' rows in the order of their ids until the transaction ends. Returns how many of them exist."""
    rows = select(User.id).where(User.id.in_(user_ids)).order_by(User.id).with_for_update(key_share=True)
    return len(db.session.scalars(rows).all())


def lock_pair(viewer: User, person: User) -> Relationship:
    """Lock two people and return their relationship, from the viewer's side.

    Raises Conflict when they are the same person, and NotFound when one does not exist or blocks the viewer.
    """
    if viewer.id == person.id:
        raise Conflict(_("This is you."))
    if lock_users(viewer.id, person.id) < 2:
        raise NotFound
    return get_relationship(viewer, person)


def send(viewer: User, person: User, tab: str = "") -> FriendshipChange:
    """Send a friend request; accept theirs if there is one.

    tab: the browser tab that is not told by an event. Raises Conflict when the viewer blocks them, was declined lately
    or has too many open requests; RateLimited; NotFound.
    """
    relationship = lock_pair(viewer, person)
    if relationship.state == INCOMING:
        return _befriend(viewer, person, tab)
    if relationship.state in (FRIENDS, OUTGOING):
        return FriendshipChange.UNCHANGED
    if relationship.state == BLOCKED:
        raise Conflict(_("You blocked %(name)s. Unblock first, then ask.", name=person.username))
    if relationship.cooldown_until and relationship.cooldown_until > now():
        raise Conflict(_("You asked %(name)s not long ago. Give it some time.", name=person.username))
    _check_open_requests(viewer)
    throttle.count_friend_request(viewer)
    _delete_cooldowns(viewer, person)
    db.session.execute(insert(friend_requests).values(sender_id=viewer.id, receiver_id=person.id, created_at=now()))
    _notify_both(viewer, person, tab)
    return FriendshipChange.SENT


def accept(viewer: User, person: User, tab: str = "") -> FriendshipChange:
    """Accept somebody's request. Raises NotFound."""
    if lock_pair(viewer, person).state != INCOMING:
        return FriendshipChange.UNCHANGED
    return _befriend(viewer, person, tab)


def decline(viewer: User, person: User, tab: str = "") -> FriendshipChange:
    """Decline somebody's request. They are not told, and cannot send another for PAUSE_DAYS. Raises NotFound."""
    if lock_pair(viewer, person).state != INCOMING:
        return FriendshipChange.UNCHANGED
    _delete_request(person, viewer)
    _delete_cooldowns(person, viewer, both_directions=False)
    until = now() + timedelta(days=current_app.config["PAUSE_DAYS"])
    db.session.execute(insert(request_cooldowns).values(sender_id=person.id, receiver_id=viewer.id, until=until))
    _notify(viewer, person, tab)
    return FriendshipChange.DECLINED


def cancel(viewer: User, person: User, tab: str = "") -> FriendshipChange:
    """Take back one's own request. Raises NotFound."""
    if lock_pair(viewer, person).state != OUTGOING:
        return FriendshipChange.UNCHANGED
    _delete_request(viewer, person)
    _notify_both(viewer, person, tab)
    return FriendshipChange.CANCELLED


def remove(viewer: User, person: User, tab: str = "") -> FriendshipChange:
    """End a friendship. Raises NotFound."""
    if lock_pair(viewer, person).state != FRIENDS:
        return FriendshipChange.UNCHANGED
    _delete_friendship(viewer, person)
    _notify_both(viewer, person, tab)
    return FriendshipChange.REMOVED


def block(viewer: User, person: User, tab: str = "") -> FriendshipChange:
    """Block somebody; friendship and requests end. Raises NotFound and RateLimited."""
    relationship = lock_pair(viewer, person)
    if relationship.state == BLOCKED:
        return FriendshipChange.UNCHANGED
    throttle.count_block(viewer)
    blocks.add(viewer, person)
    _delete_friendship(viewer, person)
    _delete_request(viewer, person)
    _delete_request(person, viewer)
    if relationship.state == NONE:
        _notify(viewer, person, tab)  # nothing that the other sees has changed
    else:
        _notify_both(viewer, person, tab)
    return FriendshipChange.BLOCKED


def unblock(viewer: User, person: User, tab: str = "") -> FriendshipChange:
    """Unblock somebody. Raises NotFound."""
    if lock_pair(viewer, person).state != BLOCKED:
        return FriendshipChange.UNCHANGED
    blocks.remove(viewer, person)
    _notify(viewer, person, tab)
    return FriendshipChange.UNBLOCKED


def _check_open_requests(viewer: User):
    limit = current_app.config["OPEN_REQUESTS"]
    mine = select(func.count()).select_from(friend_requests).where(friend_requests.c.sender_id == viewer.id)
    if db.session.scalar(mine) >= limit:
        raise Conflict(
            ngettext(
                "You have one request open. Cancel it before you send another.",
                "You have %(num)s requests open. Cancel some before you send more.",
                limit,
            )
        )


def _befriend(viewer: User, person: User, tab: str) -> FriendshipChange:
    _delete_request(person, viewer)
    _delete_cooldowns(viewer, person)
    pairs = ((viewer.id, person.id), (person.id, viewer.id))
    db.session.execute(insert(friends), [{"user_id": one, "friend_id": other, "since": now()} for one, other in pairs])
    _notify_both(viewer, person, tab)
    return FriendshipChange.ACCEPTED


def _delete_request(sender: User, receiver: User):
    pair = and_(friend_requests.c.sender_id == sender.id, friend_requests.c.receiver_id == receiver.id)
    db.session.execute(delete(friend_requests).where(pair))


def _delete_cooldowns(sender: User, receiver: User, *, both_directions: bool = True):
    cooldown = request_cooldowns.c
    pair = and_(cooldown.sender_id == sender.id, cooldown.receiver_id == receiver.id)
    opposite = and_(cooldown.sender_id == receiver.id, cooldown.receiver_id == sender.id)
    db.session.execute(delete(request_cooldowns).where(or_(pair, opposite) if both_directions else pair))


def _delete_friendship(one: User, other: User):
    # The opposite row is deleted by its foreign key: see models/friendships.py.
    db.session.execute(delete(friends).where(friends.c.user_id == one.id, friends.c.friend_id == other.id))


def _notify(viewer: User, person: User, tab: str):
    """Tell the viewer's other pages that something changed with a person."""
    events.publish(EVENT, [(viewer.id, person.profile.public_id)], tab)


def _notify_both(viewer: User, person: User, tab: str):
    """Tell two people's pages that something changed between them."""
    events.publish(EVENT, [(viewer.id, person.profile.public_id), (person.id, viewer.profile.public_id)], tab)


def lock_for_deletion(user: User):
    """Lock an account together with everybody who will notice its deletion.

    Without the locks, two friends who delete their accounts at once could wait for each other, and so could somebody
    who accepts a request of theirs at that moment.
    """
    while True:
        affected = _affected(user.id)
        attempt = db.session.begin_nested()
        lock_users(user.id, *affected)
        if _affected(user.id) <= affected:
            attempt.commit()
            return
        # A new one came before the lock. Locking them now would break the order; rolling back releases the locks.
        attempt.rollback()


def deletion_events(user: User) -> list[tuple[int, str, str]]:
    """Return the events that tell people of the deletion of an account, as for events.publish_all."""
    return [(user_id, EVENT, user.profile.public_id) for user_id in _affected(user.id)]


def _affected(user_id: int) -> set[int]:
    """Return the ids of friends, and of people with a request in either direction."""
    ids = union_all(
        select(friends.c.friend_id).where(friends.c.user_id == user_id),
        select(friend_requests.c.receiver_id).where(friend_requests.c.sender_id == user_id),
        select(friend_requests.c.sender_id).where(friend_requests.c.receiver_id == user_id),
    )
    return set(db.session.scalars(ids))
