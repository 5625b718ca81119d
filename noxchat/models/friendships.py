"""Friendships, friend requests, blocks, and what can be undone."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    select,
)

from noxchat.database import UTCDateTime, now
from noxchat.extensions import db
from noxchat.models.people import User
from noxchat.search import TEXT_BY_CODE_POINTS


def _search_text_of_friend(context):
    friend_id = context.get_current_parameters()["friend_id"]
    return context.root_connection.scalar(select(User.search_text).where(User.id == friend_id))


friends = Table(
    "friends",
    db.metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("friend_id", Integer, primary_key=True, index=True),
    Column("since", UTCDateTime, nullable=False, default=now),
    # The friend's, kept up to date by the foreign key, so that a page of friends by name is a range of an index.
    Column("search_text", TEXT_BY_CODE_POINTS, nullable=False, default=_search_text_of_friend),
    ForeignKeyConstraint(
        ["friend_id", "search_text"], ["users.id", "users.search_text"], onupdate="CASCADE", ondelete="CASCADE"
    ),
    Index("ix_friends_search_text", "user_id", "search_text", "friend_id"),
    CheckConstraint("user_id <> friend_id", "not_oneself"),
    # A friendship is two rows. At the end of each transaction the opposite row must exist; deleting one deletes both.
    ForeignKeyConstraint(
        ["friend_id", "user_id"],
        ["friends.user_id", "friends.friend_id"],
        ondelete="CASCADE",
        deferrable=True,
        initially="DEFERRED",
    ),
)

# A request in either direction has the same low_id and high_id, so that two people have at most one between them.
LOWER = "WHEN sender_id < receiver_id"

friend_requests = Table(
    "friend_requests",
    db.metadata,
    Column("sender_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("receiver_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("created_at", UTCDateTime, nullable=False, default=now),
    Column("low_id", Integer, Computed(f"CASE {LOWER} THEN sender_id ELSE receiver_id END", persisted=True)),
    Column("high_id", Integer, Computed(f"CASE {LOWER} THEN receiver_id ELSE sender_id END", persisted=True)),
    CheckConstraint("sender_id <> receiver_id", "not_oneself"),
    Index("uq_friend_requests_pair", "low_id", "high_id", unique=True),
    # For the lists, newest first, by keyset.
    Index("ix_friend_requests_sent", "sender_id", "created_at", "receiver_id"),
    Index("ix_friend_requests_received", "receiver_id", "created_at", "sender_id"),
)

# After a decline, the sender may not ask the same receiver again before `until`.
request_cooldowns = Table(
    "request_cooldowns",
    db.metadata,
    Column("sender_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("receiver_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("until", UTCDateTime, nullable=False),
    CheckConstraint("sender_id <> receiver_id", "not_oneself"),
)

blocks = Table(
    "blocks",
    db.metadata,
    Column("blocker_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("blocked_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("since", UTCDateTime, nullable=False, default=now),
    CheckConstraint("blocker_id <> blocked_id", "not_oneself"),
    Index("ix_blocks_since", "blocker_id", "since", "blocked_id"),
)

# What somebody did last to another, and how the two were related before, so that it can be undone for a moment. state:
# NONE, OUTGOING, INCOMING or FRIENDS of relationships.py, from the actor's side. since: of that request or friendship.
# cooldown_until: of the person, before a decline.
undo_records = Table(
    "undo_records",
    db.metadata,
    Column("actor_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("person_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("action", String(8), nullable=False),
    Column("done_at", UTCDateTime, nullable=False, index=True),
    Column("state", String(8), nullable=False),
    Column("since", UTCDateTime),
    Column("cooldown_until", UTCDateTime),
    CheckConstraint("actor_id <> person_id", "not_oneself"),
    CheckConstraint("action IN ('decline', 'cancel', 'remove', 'block')", "action"),
    CheckConstraint("(state = 'none') = (since IS NULL)", "since"),
)
