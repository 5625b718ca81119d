"""Invitations."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from noxchat.database import UTCDateTime, now
from noxchat.extensions import db


class Invitation(db.Model):
    """An invitation for `max_uses` people until `expires_at`.

    inviter_id: who becomes their friend; None for one that the command line made. code: what the link names; it is
    signed there, so the table does not contain the links. uses: how many people have used it.
    """

    __tablename__ = "invitations"
    # AUTOINCREMENT: a page that is still open may name the id of an invitation that was revoked.
    __table_args__ = (CheckConstraint("uses BETWEEN 0 AND max_uses", "uses"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    inviter_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    code: Mapped[str] = mapped_column(String(16), unique=True)
    max_uses: Mapped[int]
    uses: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)

    @property
    def is_used_up(self) -> bool:
        return self.uses >= self.max_uses

    @property
    def is_expired(self) -> bool:
        return self.expires_at <= now()

    @property
    def is_open(self) -> bool:
        """Whether somebody can still use it."""
        return not (self.is_used_up or self.is_expired)
