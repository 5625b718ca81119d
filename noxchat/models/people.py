"""Accounts and profiles."""

from datetime import datetime
from typing import Any

from flask_login import UserMixin
from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    Text,
    UniqueConstraint,
    false,
    select,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from noxchat.database import UTCDateTime, now
from noxchat.extensions import db
from noxchat.models.sessions import Session
from noxchat.search import SearchableMixin

USERNAME_LENGTH = (2, 32)
PUBLIC_ID_LENGTH = (3, 32)
BIO_LENGTH = 140
EMAIL_LENGTH = 254  # RFC 5321, 4.5.3.1.3: a path of 256 with its angle brackets
PASSWORD_LENGTH = (8, 1024)
# To whom somebody shows when they are online.
TO_FRIENDS, TO_NOBODY = SHOW_PRESENCE = ("friends", "nobody")
# By whom somebody is found by their name.
BY_EVERYBODY, BY_FRIENDS_OF_FRIENDS = FINDABLE = ("everybody", "friends_of_friends")


class User(SearchableMixin, UserMixin, db.Model):
    """An account: how somebody logs in, and their preferences."""

    __tablename__ = "users"
    __searchable__ = ("username", "profile.public_id")
    # AUTOINCREMENT: the id of a deleted account is never reused, since signed cookies and tokens may still name it.
    __table_args__ = (
        CheckConstraint("length(username) BETWEEN {} AND {}".format(*USERNAME_LENGTH), "username_length"),
        CheckConstraint(f"length(email) BETWEEN 3 AND {EMAIL_LENGTH}", "email_length"),
        CheckConstraint("theme IN ('auto', 'day', 'night')", "theme"),
        CheckConstraint(f"show_presence IN {SHOW_PRESENCE}", "show_presence"),
        CheckConstraint(f"findable IN {FINDABLE}", "findable"),
        # In the order of names, and covering what a search reads of people it does not return. Unique for the table of
        # friends, which refers to both columns.
        Index("ix_users_search_text", "search_text", "id", unique=True),
        # Several accounts may give an address, but only one can have confirmed it.
        Index("ix_users_email_key", "email_key"),
        Index(
            "uq_users_confirmed_email_key",
            "email_key",
            unique=True,
            sqlite_where=text("email_confirmed_at IS NOT NULL"),
            postgresql_where=text("email_confirmed_at IS NOT NULL"),
        ),
        CheckConstraint(f"length(pending_email) BETWEEN 3 AND {EMAIL_LENGTH}", "pending_email_length"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(USERNAME_LENGTH[1]))
    username_key: Mapped[str] = mapped_column(String(255), unique=True)
    email: Mapped[str] = mapped_column(String(EMAIL_LENGTH))
    email_key: Mapped[str] = mapped_column(String(EMAIL_LENGTH))
    email_confirmed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    # The address to which the account changes once it is confirmed.
    pending_email: Mapped[str | None] = mapped_column(String(EMAIL_LENGTH))
    # Of the link that confirms `unconfirmed_email`.
    email_nonce: Mapped[str | None] = mapped_column(String(32), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    reset_nonce: Mapped[str | None] = mapped_column(String(32), unique=True)
    language: Mapped[str | None] = mapped_column(String(2))
    theme: Mapped[str] = mapped_column(String(5), default="auto")
    show_presence: Mapped[str] = mapped_column(String(7), default=TO_FRIENDS, server_default=TO_FRIENDS)
    findable: Mapped[str] = mapped_column(String(18), default=BY_EVERYBODY, server_default=BY_EVERYBODY)
    # Whether others see that they are typing, and how far they have read; and whether they see that of others.
    show_typing: Mapped[bool] = mapped_column(default=True, server_default=true())
    show_seen: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    last_seen_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    profile: Mapped["Profile"] = relationship(
        back_populates="user", lazy="raise", cascade="all, delete-orphan", passive_deletes=True
    )

    # The session that this request belongs to, its token while that is known, and the numbers of the navigation if they
    # were loaded with it: set by sessions.py, and no columns.
    __allow_unmapped__ = True
    session: Session | None = None
    session_token: str | None = None
    counters: Any = None

    @property
    def public_id(self) -> str:
        return self.profile.public_id

    @property
    def avatar(self) -> str | None:
        return self.profile.avatar

    @property
    def confirmed_email(self) -> str | None:
        """The address that this account has proved, if any."""
        return self.email if self.email_confirmed_at else None

    @property
    def unconfirmed_email(self) -> str | None:
        """The address that waits to be confirmed, if any."""
        return self.pending_email or (None if self.email_confirmed_at else self.email)

    @classmethod
    def exact_match_ids(cls, word):
        """Return a select of the id of the person with this Public ID (in lower case)."""
        return select(Profile.user_id).where(Profile.public_id_key == word)

    def get_id(self):
        """Return Flask-Login's id: the token of a session, not of a person, so that each session can be ended."""
        return self.session_token


class Profile(db.Model):
    """What other people see of somebody."""

    __tablename__ = "profiles"
    __table_args__ = (
        CheckConstraint("length(public_id) BETWEEN {} AND {}".format(*PUBLIC_ID_LENGTH), "public_id_length"),
        CheckConstraint("public_id_key = lower(public_id)", "public_id_key"),
        CheckConstraint(f"length(bio) <= {BIO_LENGTH}", "bio_length"),
        # Nobody can have a Public ID that is reserved for another.
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

    def search_owner(self):
        """Return the user, whose search text contains the Public ID."""
        return self.__dict__.get("user") or db.session.get(User, self.user_id)


class PublicId(db.Model):
    """A Public ID in lower case with its owner, present or former: a released one stays reserved for its owner."""

    __tablename__ = "public_ids"
    __table_args__ = (UniqueConstraint("key", "user_id"),)

    key: Mapped[str] = mapped_column(String(PUBLIC_ID_LENGTH[1]), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
