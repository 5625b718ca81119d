"""Attempts that are limited."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from noxchat.database import UTCDateTime
from noxchat.extensions import db


class Attempt(db.Model):
    """An attempt that counts against a limit until it expires (see throttle.py).

    key: a hash of what is limited, such as the logins to an account from an address. pending_until: while the attempt
    is under way, until when; after that it counts as failed, because its process has died.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        Index("ix_attempts_key_expires_at", "key", "expires_at"),
        Index("ix_attempts_expires_at", "expires_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
    pending_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
