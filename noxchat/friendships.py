"""Friendships and friend requests: send, accept, decline, cancel, remove, block, undo.

Each action may arrive twice, late, or at the same time as another. It does what can still be done and returns what
that was. The rows of both people are locked first, in the order of their ids, so that two actions on the same person
follow each other; deleting an account locks everybody affected in the same order.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from flask import current_app
from flask_babel import format_date, ngettext
from flask_babel import gettext as _
from sqlalchemy import and_, bindparam, delete, insert, or_, select, tuple_, union_all
from sqlalchemy.orm import undefer

from noxchat import blocks, conversations, events, throttle
from noxchat.database import execute_dml, now
from noxchat.exceptions import Conflict, NotFound
from noxchat.extensions import db
from noxchat.models import PublicId, User, friend_requests, friends, request_cooldowns, undo_records
from noxchat.profiles import lock_users, with_profile
from noxchat.relationships import (
    BLOCKED,
    FRIENDS,
    INCOMING,
    NONE,
    OUTGOING,
    VIEWER,
    Relationship,
    get_relationship,
)

# Events. Their data is the Public ID of the person with whom something changed, or who accepted a request.
EVENT, ACCEPTED_EVENT = "friendship", "accepted"


class FriendshipChange(Enum):
    """What an action changed. UNCHANGED: its result was there already, or it is no longer possible."""

    SENT = "sent"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    REMOVED = "removed"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    UNDONE = "undone"
    UNCHANGED = "unchanged"


STATE_AFTER = {
    FriendshipChange.SENT: OUTGOING,
    FriendshipChange.ACCEPTED: FRIENDS,
    FriendshipChange.DECLINED: NONE,
    FriendshipChange.CANCELLED: NONE,
    FriendshipChange.REMOVED: NONE,
    FriendshipChange.BLOCKED: BLOCKED,
    FriendshipChange.UNBLOCKED: NONE,
}

# What can be undone, as the records and the forms call it.
UNDOABLE = {
    FriendshipChange.DECLINED: "decline",
    FriendshipChange.CANCELLED: "cancel",
    FriendshipChange.REMOVED: "remove",
    FriendshipChange.BLOCKED: "block",
}
UNDO_PERIOD = timedelta(minutes=1)
DELETED_AT_ONCE = 1000


@dataclass(frozen=True)
class Pair:
    """The viewer and another person, whose rows are locked, and how they are related, from the viewer's side."""

    viewer: User
    person: User
    relationship: Relationship

    @property
    def state(self) -> str:
        return self.relationship.state

    def state_after(self, change: FriendshipChange) -> str:
        """Return the state once a change is committed."""
        return STATE_AFTER.get(change, self.state)


TARGET = select(PublicId.user_id).where(PublicId.key == bindparam("key")).scalar_subquery()
LOCK_PAIR = (
    with_profile()
    .add_columns(TARGET)
    .where(or_(User.id == VIEWER, User.id == TARGET))
    .order_by(User.id)
    .options(undefer(User.search_text))
    .with_for_update(key_share=True, of=User)
    .execution_options(populate_existing=True)
)


def lock_pair(viewer: User, public_id: str) -> Pair:
    """Lock the viewer and the person with this Public ID, until the transaction ends.

    Raises Conflict when that is the viewer, and NotFound when there is nobody, or somebody who blocks the viewer.
    """
    rows = db.session.execute(LOCK_PAIR, {"viewer": viewer.id, "key": public_id.lower()}).all()
    if any(target == viewer.id for _user, target in rows):
        raise Conflict(_("This is you."))
    if len(rows) < 2:
        raise NotFound
    person = next(user for user, _target in rows if user.id != viewer.id)
    # Only now, since another transaction may have changed it before these locks were acquired.
    return Pair(viewer, person, get_relationship(viewer, person))


def send(pair: Pair, tab: str = "") -> FriendshipChange:
    """Send a friend request; accept theirs if there is one.

    tab: the browser tab that is not told by an event. Raises Conflict when the viewer blocks them, was declined lately
    or has too many open requests; RateLimited.
    """
    cooldown_until = pair.relationship.cooldown_until
    if pair.state == INCOMING:
        return befriend(pair, tab)
    if pair.state in (FRIENDS, OUTGOING):
        return FriendshipChange.UNCHANGED
    check_not_blocked(pair)
    if cooldown_until and cooldown_until > now():
        date = format_date(cooldown_until, "d MMMM")
        raise Conflict(_("You can ask %(name)s again on %(date)s.", name=pair.person.username, date=date))
    _check_open_requests(pair.relationship.open_requests)
    throttle.count_friend_request(pair.viewer)
    _forget_undo(pair)
    _delete_cooldowns(pair)
    _insert_request(pair.viewer, pair.person, now())
    _notify_both(pair, tab)
    return FriendshipChange.SENT


def check_not_blocked(pair: Pair):
    """Raise Conflict when the viewer blocks the person."""
    if pair.state == BLOCKED:
        raise Conflict(_("You blocked %(name)s. Unblock them first.", name=pair.person.username))


def befriend(pair: Pair, tab: str = "") -> FriendshipChange:
    """Make two people friends, whatever requests there are between them: for a request or an invitation of one of them.

    Neither may block the other: check_not_blocked.
    """
    if pair.state == FRIENDS:
        return FriendshipChange.UNCHANGED
    viewer, person = pair.viewer, pair.person
    _forget_undo(pair)
    if pair.state == INCOMING:
        _delete_request(person, viewer)
    elif pair.state == OUTGOING:
        _delete_request(viewer, person)
    _delete_cooldowns(pair)
    _insert_friendship(pair, now())
    # Whoever asked is told in words.
    kind = ACCEPTED_EVENT if pair.state == INCOMING else EVENT
    to_viewer, to_person = (pair.viewer.id, EVENT, person.public_id), (person.id, kind, viewer.public_id)
    events.publish_all([to_viewer, to_person], tab)
    return FriendshipChange.ACCEPTED


def accept(pair: Pair, tab: str = "") -> FriendshipChange:
    """Accept somebody's request."""
    if pair.state != INCOMING:
        return FriendshipChange.UNCHANGED
    return befriend(pair, tab)


def decline(pair: Pair, tab: str = "") -> FriendshipChange:
    """Decline somebody's request. They are not told, and cannot send another for PAUSE_DAYS."""
    if pair.state != INCOMING:
        return FriendshipChange.UNCHANGED
    viewer, person = pair.viewer, pair.person
    _record(pair, FriendshipChange.DECLINED)
    _delete_request(person, viewer)
    if pair.relationship.other_cooldown_until:
        _delete_cooldown(person, viewer)
    _insert_cooldown(person, viewer, now() + timedelta(days=current_app.config["PAUSE_DAYS"]))
    _notify(pair, tab)
    return FriendshipChange.DECLINED


def cancel(pair: Pair, tab: str = "") -> FriendshipChange:
    """Take back one's own request."""
    if pair.state != OUTGOING:
        return FriendshipChange.UNCHANGED
    _record(pair, FriendshipChange.CANCELLED)
    _delete_request(pair.viewer, pair.person)
    _notify_both(pair, tab)
    return FriendshipChange.CANCELLED


def remove(pair: Pair, tab: str = "") -> FriendshipChange:
    """End a friendship."""
    if pair.state != FRIENDS:
        return FriendshipChange.UNCHANGED
    _record(pair, FriendshipChange.REMOVED)
    _delete_friendship(pair)
    _notify_both(pair, tab)
    return FriendshipChange.REMOVED


def block(pair: Pair, tab: str = "") -> FriendshipChange:
    """Block somebody; friendship and requests end. Raises RateLimited."""
    if pair.state == BLOCKED:
        return FriendshipChange.UNCHANGED
    throttle.count_block(pair.viewer)
    _record(pair, FriendshipChange.BLOCKED)
    blocks.add(pair.viewer, pair.person)
    if pair.state == NONE:
        _notify(pair, tab)  # nothing that the other sees has changed
        return FriendshipChange.BLOCKED
    _delete_friendship(pair)
    _delete_request(pair.viewer, pair.person)
    _delete_request(pair.person, pair.viewer)
    _notify_both(pair, tab)
    return FriendshipChange.BLOCKED


def unblock(pair: Pair, tab: str = "") -> FriendshipChange:
    """Unblock somebody."""
    if pair.state != BLOCKED:
        return FriendshipChange.UNCHANGED
    _forget_undo(pair)
    blocks.remove(pair.viewer, pair.person)
    _notify(pair, tab)
    return FriendshipChange.UNBLOCKED


def undo(pair: Pair, action: str, tab: str = "") -> FriendshipChange:
    """Take back what the viewer did to the person last, if it was this action and less than UNDO_PERIOD ago.

    What was between them is as it was, with its time; nobody is notified. action: a value of UNDOABLE. Raises Conflict
    when the viewer has too many open requests by now; RateLimited.
    """
    record = _find_record(pair, action)
    if record is None:
        return FriendshipChange.UNCHANGED
    throttle.count_undo(pair.viewer)
    _forget_undo(pair)
    if action == UNDOABLE[FriendshipChange.BLOCKED]:
        blocks.remove(pair.viewer, pair.person)
    if action == UNDOABLE[FriendshipChange.DECLINED]:
        _delete_cooldown(pair.person, pair.viewer)
        if record.cooldown_until:
            _insert_cooldown(pair.person, pair.viewer, record.cooldown_until)
    if record.state == FRIENDS:
        _insert_friendship(pair, record.since)
    elif record.state == OUTGOING:
        _check_open_requests(pair.relationship.open_requests)
        _insert_request(pair.viewer, pair.person, record.since)
    elif record.state == INCOMING:
        _insert_request(pair.person, pair.viewer, record.since)
    # Whoever was not told of the action is not told of this either.
    is_secret = record.state == NONE or action == UNDOABLE[FriendshipChange.DECLINED]
    (_notify if is_secret else _notify_both)(pair, tab)
    return FriendshipChange.UNDONE


def _find_record(pair: Pair, action: str):
    record = undo_records.c
    of_viewer = and_(record.actor_id == pair.viewer.id, record.person_id == pair.person.id)
    found = select(undo_records).where(of_viewer, record.action == action, record.done_at > now() - UNDO_PERIOD)
    return db.session.execute(found).first()


def _record(pair: Pair, change: FriendshipChange):
    """Remember what is between two people before the viewer changes it."""
    _forget_undo(pair)
    values = {
        "actor_id": pair.viewer.id,
        "person_id": pair.person.id,
        "action": UNDOABLE[change],
        "done_at": now(),
        "state": pair.state,
        "since": pair.relationship.since,
        "cooldown_until": pair.relationship.other_cooldown_until if change == FriendshipChange.DECLINED else None,
    }
    db.session.execute(insert(undo_records).values(values))


def _forget_undo(pair: Pair):
    """Delete what the two can undo: each later act of either ends that."""
    if pair.relationship.has_undo:
        one, other, record = pair.viewer.id, pair.person.id, undo_records.c
        either = or_(
            and_(record.actor_id == one, record.person_id == other),
            and_(record.actor_id == other, record.person_id == one),
        )
        db.session.execute(delete(undo_records).where(either))


def delete_old(session) -> bool:
    """Delete some records of what cannot be undone any more. Returns whether there may be more."""
    record = undo_records.c
    old = select(record.actor_id, record.person_id).where(record.done_at < now() - UNDO_PERIOD).limit(DELETED_AT_ONCE)
    is_old = tuple_(record.actor_id, record.person_id).in_(old.with_for_update(skip_locked=True))
    return execute_dml(session, delete(undo_records).where(is_old)) == DELETED_AT_ONCE


def _check_open_requests(number: int):
    limit = current_app.config["OPEN_REQUESTS"]
    if number >= limit:
        raise Conflict(
            ngettext(
                "You have one request open. Cancel it before you send another.",
                "You have %(num)s requests open. Cancel some before you send more.",
                limit,
            )
        )


def _insert_friendship(pair: Pair, since: datetime):
    rows = [
        {"user_id": one.id, "friend_id": other.id, "search_text": other.search_text, "since": since}
        for one, other in ((pair.viewer, pair.person), (pair.person, pair.viewer))
    ]
    db.session.execute(insert(friends), rows)
    _update_conversation(pair)


def _insert_request(sender: User, receiver: User, created_at: datetime):
    row = {"sender_id": sender.id, "receiver_id": receiver.id, "created_at": created_at}
    db.session.execute(insert(friend_requests), row)


def _insert_cooldown(sender: User, receiver: User, until: datetime):
    row = {"sender_id": sender.id, "receiver_id": receiver.id, "until": until}
    db.session.execute(insert(request_cooldowns), row)


def _delete_request(sender: User, receiver: User):
    pair = and_(friend_requests.c.sender_id == sender.id, friend_requests.c.receiver_id == receiver.id)
    db.session.execute(delete(friend_requests).where(pair))


def _delete_cooldowns(pair: Pair):
    if pair.relationship.cooldown_until:
        _delete_cooldown(pair.viewer, pair.person)
    if pair.relationship.other_cooldown_until:
        _delete_cooldown(pair.person, pair.viewer)


def _delete_cooldown(sender: User, receiver: User):
    cooldown = request_cooldowns.c
    pair = and_(cooldown.sender_id == sender.id, cooldown.receiver_id == receiver.id)
    db.session.execute(delete(request_cooldowns).where(pair))


def _delete_friendship(pair: Pair):
    # The opposite row is deleted by its foreign key: see models/friendships.py.
    one, other = pair.viewer.id, pair.person.id
    db.session.execute(delete(friends).where(friends.c.user_id == one, friends.c.friend_id == other))
    _update_conversation(pair)


def _update_conversation(pair: Pair):
    """Have what two people can do in their conversation follow their friendship."""
    if pair.relationship.has_conversation:
        conversations.friendship_changed(pair.viewer.id, pair.person.id)


def _notify(pair: Pair, tab: str):
    """Tell the viewer's other pages that something changed with the person."""
    events.publish(EVENT, [(pair.viewer.id, pair.person.public_id)], tab)


def _notify_both(pair: Pair, tab: str):
    """Tell two people's pages that something changed between them."""
    viewer, person = pair.viewer, pair.person
    events.publish(EVENT, [(viewer.id, person.public_id), (person.id, viewer.public_id)], tab)


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
    return [(user_id, EVENT, user.public_id) for user_id in _affected(user.id)]


def _affected(user_id: int) -> set[int]:
    """Return the ids of friends, and of people with a request in either direction."""
    ids = union_all(
        select(friends.c.friend_id).where(friends.c.user_id == user_id),
        select(friend_requests.c.receiver_id).where(friend_requests.c.sender_id == user_id),
        select(friend_requests.c.sender_id).where(friend_requests.c.receiver_id == user_id),
    )
    return set(db.session.scalars(ids))
