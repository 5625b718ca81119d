"""Durable events."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from noxchat.database import UTCDateTime, now
from noxchat.extensions import db


class Event(db.Model):
    """A change that a person's open pages are told about (see events.py). Kept for a day, so that streams can resume.

    kind, data: the name and the data of the server-sent event. tab: the browser tab that made the change.
    """

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_user_id_id", "user_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[str] = mapped_column(String(64), default="")
    tab: Mapped[str] = mapped_column(String(32), default="")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
