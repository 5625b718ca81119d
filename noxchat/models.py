"""The tables. What must never be wrong is a constraint here, not an `if` elsewhere."""

from datetime import datetime

from flask_login import UserMixin
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    select,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from noxchat.database import UTCDateTime, now
from noxchat.extensions import db
from noxchat.search import SearchableMixin

USERNAME_LENGTH = (2, 32)
PUBLIC_ID_LENGTH = (3, 32)
BIO_LENGTH = 140
EMAIL_LENGTH = 254  # RFC 5321, 4.5.3.1.3: a path of 256 with its angle brackets
PASSWORD_LENGTH = (8, 1024)


class User(SearchableMixin, UserMixin, db.Model):
    """An account: who may sign in, and how they like the place to look."""

    __tablename__ = "users"
    __searchable__ = ("username", "profile.public_id")
    # A deleted account's number is never given to another: signed cookies and tokens may still name it.
    __table_args__ = (
        CheckConstraint("length(username) BETWEEN {} AND {}".format(*USERNAME_LENGTH), "username_length"),
        CheckConstraint(f"length(email) BETWEEN 3 AND {EMAIL_LENGTH}", "email_length"),
        CheckConstraint("theme IN ('auto', 'day', 'night')", "theme"),
        # In the order of names, and with all that a search reads of people whom it does not show.
        Index("ix_users_search_text", "search_text", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(USERNAME_LENGTH[1]))
    username_key: Mapped[str] = mapped_column(String(255), unique=True)
    email: Mapped[str] = mapped_column(String(EMAIL_LENGTH))
    email_key: Mapped[str] = mapped_column(String(EMAIL_LENGTH), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    reset_nonce: Mapped[str | None] = mapped_column(String(32), unique=True)
    language: Mapped[str | None] = mapped_column(String(2))
    theme: Mapped[str] = mapped_column(String(5), default="auto")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    last_seen_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    profile: Mapped["Profile"] = relationship(
        back_populates="user", lazy="raise", cascade="all, delete-orphan", passive_deletes=True
    )

    # The session that this request came with, and its secret while that is known: see sessions.py.
    session = None
    session_token = None

    @classmethod
    def exactly(cls, word):
        """Return a select of the id of whoever has this Public ID."""
        return select(Profile.user_id).where(Profile.public_id_key == word)

    def get_id(self):
        """Flask-Login's name for who is signed in: the secret of a session, not of a person, so each can be ended."""
        return self.session_token


class Profile(db.Model):
    """What other people see of somebody."""

    __tablename__ = "profiles"
    __table_args__ = (
        CheckConstraint("length(public_id) BETWEEN {} AND {}".format(*PUBLIC_ID_LENGTH), "public_id_length"),
        CheckConstraint("public_id_key = lower(public_id)", "public_id_key"),
        CheckConstraint(f"length(bio) <= {BIO_LENGTH}", "bio_length"),
        # Nobody goes by a Public ID that is kept for another.
        ForeignKeyConstraint(
            ["public_id_key", "user_id"], ["public_ids.key", "public_ids.user_id"], ondelete="CASCADE"
        ),
    )

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    public_id: Mapped[str] = mapped_column(String(PUBLIC_ID_LENGTH[1]))
    public_id_key: Mapped[str] = mapped_column(String(PUBLIC_ID_LENGTH[1]), unique=True)
    bio: Mapped[str] = mapped_column(Text, default="")
    avatar: Mapped[str | None] = mapped_column(String(64))

    user: Mapped[User] = relationship(back_populates="profile", lazy="raise")

    def found_with(self):
        """Return the person whose text for the search holds the Public ID."""
        return self.__dict__.get("user") or db.session.get(User, self.user_id)


class PublicId(db.Model):
    """A Public ID in lower case and whose it is, now or formerly: a released one stays its owner's."""

    __tablename__ = "public_ids"
    __table_args__ = (UniqueConstraint("key", "user_id"),)

    key: Mapped[str] = mapped_column(String(PUBLIC_ID_LENGTH[1]), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)


class Session(db.Model):
    """A browser in which somebody is signed in. Only a hash of its secret is kept."""

    __tablename__ = "sessions"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    user_agent: Mapped[str] = mapped_column(String(255), default="")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    last_used_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


class Letter(db.Model):
    """A letter that is still to be sent. Its words and links are made when it goes, so no secret lies here."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(32))
    language: Mapped[str] = mapped_column(String(2))
    tries: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now, index=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


class Event(db.Model):
    """Something changed that somebody may be looking at: see events.py. Kept for a day, for who was away."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_user_id_id", "user_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(32))
    about: Mapped[str] = mapped_column(String(64), default="")
    tab: Mapped[str] = mapped_column(String(32), default="")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


friends = Table(
    "friends",
    db.metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("friend_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("since", UTCDateTime, nullable=False, default=now),
    CheckConstraint("user_id <> friend_id", "not_oneself"),
    # A friendship's other direction must be there at the end of every transaction, and goes with it.
    ForeignKeyConstraint(
        ["friend_id", "user_id"],
        ["friends.user_id", "friends.friend_id"],
        ondelete="CASCADE",
        deferrable=True,
        initially="DEFERRED",
    ),
)

# A request from one to another and one the other way are the same pair: at most one of them can be there.
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
    # Newest first, page by page.
    Index("ix_friend_requests_sent", "sender_id", "created_at", "receiver_id"),
    Index("ix_friend_requests_received", "receiver_id", "created_at", "sender_id"),
)

# Who was declined may not ask the same person again before `until`.
pauses = Table(
    "pauses",
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
