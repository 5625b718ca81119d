"""Conversations, their members and their messages."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from noxchat.database import UTCDateTime, now
from noxchat.extensions import db
from noxchat.search import TEXT_BY_CODE_POINTS

DIRECT, GROUP = CONVERSATION_KINDS = ("direct", "group")
TITLE_LENGTH = (1, 60)
CLIENT_ID_LENGTH = 64
# What a message is: what somebody wrote, or a line about something that happened in a group.
TEXT, CREATED, ADDED, REMOVED, LEFT, JOINED, RENAMED, OWNER = MESSAGE_KINDS = (
    *("text", "created", "added", "removed"),
    *("left", "joined", "renamed", "owner"),
)


def _where(column: str) -> dict[str, Any]:
    """Return the options of an index of the rows that have a value in a column."""
    return {f"{database}_where": text(f"{column} IS NOT NULL") for database in ("sqlite", "postgresql")}


BIG_ID = BigInteger().with_variant(Integer, "sqlite")


class Conversation(db.Model):
    """A direct conversation of two people, or a group.

    low_id, high_id: of the two people, whose account may be deleted. title, owner_id: of a group. search_text: of its
    title. version: raised by every change of messages and members, which page and server compare. changed_at: when that
    was. last_message_id, last_at: of the newest message; last_at is when the conversation began as long as it has none.
    """

    __tablename__ = "conversations"
    __table_args__ = (
        CheckConstraint(f"kind IN {CONVERSATION_KINDS}", "kind"),
        UniqueConstraint("low_id", "high_id"),
        CheckConstraint("low_id < high_id", "pair_order"),
        CheckConstraint("kind = 'direct' OR (low_id IS NULL AND high_id IS NULL)", "pair"),
        CheckConstraint("kind = 'group' OR owner_id IS NULL", "owner"),
        CheckConstraint("(kind = 'group') = (length(title) BETWEEN {} AND {})".format(*TITLE_LENGTH), "title"),
        Index("ix_conversations_changed_at", "changed_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(6))
    low_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    high_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    title: Mapped[str] = mapped_column(String(TITLE_LENGTH[1]), default="")
    search_text: Mapped[str] = mapped_column(TEXT_BY_CODE_POINTS, default="")
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    version: Mapped[int] = mapped_column(BIG_ID, default=0)
    last_message_id: Mapped[int] = mapped_column(BIG_ID, default=0)
    last_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    changed_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


class Member(db.Model):
    """Somebody in a conversation.

    joined_after: the newest message at that time, which and those before it they do not see. read_up_to: the newest
    message that they have read. shown_up_to: the newest that they have read while both sides showed that. left_at: when
    they left by themselves; invited_at: when they were added again since, which makes them no member until they join.
    draft: what they have typed but not sent; draft_revision: raised by each change of it.
    """

    __tablename__ = "members"
    __table_args__ = (
        Index("ix_members_conversation_id", "conversation_id", "user_id"),
        CheckConstraint("left_at IS NOT NULL OR invited_at IS NULL", "invited"),
        CheckConstraint("read_up_to >= joined_after", "read_up_to"),
    )

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    joined_after: Mapped[int] = mapped_column(BIG_ID, default=0)
    read_up_to: Mapped[int] = mapped_column(BIG_ID, default=0)
    shown_up_to: Mapped[int] = mapped_column(BIG_ID, default=0)
    muted_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    left_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    invited_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    draft: Mapped[str] = mapped_column(Text, default="")
    draft_revision: Mapped[int] = mapped_column(BIG_ID, default=0)


class Message(db.Model):
    """A message, or a line about something that happened in a group.

    version: of the conversation at the last change. author_id: None for a deleted account. subject_id: whom a line is
    about. body: the text; the new title of RENAMED; empty once it is deleted. client_id: chosen by the page, so that a
    message that is sent again is stored once.
    """

    __tablename__ = "messages"
    __table_args__ = (
        # Begins with the author, since the deletion of an account looks for all of their messages.
        UniqueConstraint("author_id", "conversation_id", "client_id"),
        # A reply is to a message of the same conversation, so both are deleted together.
        UniqueConstraint("conversation_id", "id"),
        ForeignKeyConstraint(
            ["conversation_id", "reply_to_id"],
            ["messages.conversation_id", "messages.id"],
            name="fk_messages_reply_to_id",
            ondelete="CASCADE",
        ),
        Index("ix_messages_conversation_id_version", "conversation_id", "version"),
        Index("ix_messages_reply_to_id", "conversation_id", "reply_to_id", **_where("reply_to_id")),
        Index("ix_messages_subject_id", "subject_id", **_where("subject_id")),
        CheckConstraint(f"kind IN {MESSAGE_KINDS}", "kind"),
        CheckConstraint("(kind = 'text') = (client_id IS NOT NULL)", "client_id"),
        CheckConstraint("deleted_at IS NULL OR body = ''", "deleted"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    version: Mapped[int] = mapped_column(BIG_ID)
    kind: Mapped[str] = mapped_column(String(8), default=TEXT)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    subject_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    client_id: Mapped[str | None] = mapped_column(String(CLIENT_ID_LENGTH))
    body: Mapped[str] = mapped_column(Text, default="")
    reply_to_id: Mapped[int | None] = mapped_column(BIG_ID)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    edited_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
