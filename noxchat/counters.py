"""The numbers in the navigation."""

from dataclasses import dataclass

from sqlalchemy import Integer, bindparam, func, select

from noxchat.extensions import db
from noxchat.models import Event, User, friend_requests, friends

VIEWER = bindparam("viewer", type_=Integer)


@dataclass(frozen=True)
class Counters:
    """friends, incoming, outgoing: how many. last_event_id: the latest event that these numbers include, or 0."""

    friends: int
    incoming: int
    outgoing: int
    last_event_id: int


def _count(column):
    return select(func.count()).where(column == VIEWER).scalar_subquery()


COUNTERS = select(
    _count(friends.c.user_id),
    _count(friend_requests.c.receiver_id),
    _count(friend_requests.c.sender_id),
    func.coalesce(select(func.max(Event.id)).where(Event.user_id == VIEWER).scalar_subquery(), 0),
)


def get_counters(viewer: User) -> Counters:
    """Return all numbers of the navigation, in one statement."""
    return Counters(*db.session.execute(COUNTERS, {"viewer": viewer.id}).one())
