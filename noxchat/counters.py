"""The numbers in the navigation."""

from dataclasses import dataclass

from sqlalchemy import Integer, bindparam, func, select

from noxchat.conversations import unread_conversations
from noxchat.extensions import db
from noxchat.models import Event, User, friend_requests, friends


@dataclass(frozen=True)
class Counters:
    """friends, incoming, outgoing: how many. unread: conversations with something unread, up to MAX_UNREAD.

    last_event_id: the latest event that these numbers include, or 0.
    """

    friends: int
    incoming: int
    outgoing: int
    unread: int
    last_event_id: int


def counter_columns(viewer):
    """Return the expressions for the fields of Counters. viewer: a column or parameter with the person's id."""

    def count(column):
        return select(func.count()).where(column == viewer).scalar_subquery()

    return (
        count(friends.c.user_id),
        count(friend_requests.c.receiver_id),
        count(friend_requests.c.sender_id),
        select(func.count()).select_from(unread_conversations(viewer).subquery()).scalar_subquery(),
        func.coalesce(select(func.max(Event.id)).where(Event.user_id == viewer).scalar_subquery(), 0),
    )


COUNTERS = select(*counter_columns(bindparam("viewer", type_=Integer)))


def get_counters(viewer: User) -> Counters:
    """Return all numbers of the navigation, in one statement."""
    return Counters(*db.session.execute(COUNTERS, {"viewer": viewer.id}).one())
