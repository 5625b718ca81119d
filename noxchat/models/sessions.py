"""Where people are logged in."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from noxchat.database import UTCDateTime, now
from noxchat.extensions import db


class Session(db.Model):
    """A browser in which somebody is logged in. Only a hash of its token is stored.

    previous_token_hash: of the token that was replaced at replaced_at, and is still valid for a moment.
    """

    __tablename__ = "sessions"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    user_agent: Mapped[str] = mapped_column(String(255), default="")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    last_used_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    previous_token_hash: Mapped[str | None] = mapped_column(String(64), unique=True, index=True)
    replaced_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
