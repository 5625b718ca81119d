"""The e-mail queue, and changes of addresses."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from noxchat.database import UTCDateTime, now
from noxchat.extensions import db
from noxchat.models.people import EMAIL_LENGTH


class QueuedEmail(db.Model):
    """An e-mail that has not been sent yet. Text and links are made when it is sent, so no secret is stored.

    user_id: the account that it is about. address: where it goes; by default to the account's own address.
    """

    __tablename__ = "email_queue"
    __table_args__ = (CheckConstraint("user_id IS NOT NULL OR address IS NOT NULL", "recipient"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    address: Mapped[str | None] = mapped_column(String(EMAIL_LENGTH))
    kind: Mapped[str] = mapped_column(String(32))
    language: Mapped[str] = mapped_column(String(2))
    tries: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now, index=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)


class EmailChange(db.Model):
    """A change of address that its former address, which was confirmed, can still undo. nonce: of the link for that."""

    __tablename__ = "email_changes"
    # AUTOINCREMENT: undoing a change undoes all later ones, which have higher ids.
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    former_email: Mapped[str] = mapped_column(String(EMAIL_LENGTH))
    nonce: Mapped[str] = mapped_column(String(32), unique=True)
    changed_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now)
