"""The e-mail queue: an e-mail is a row that is written in the same transaction as what it is about."""

from flask_babel import get_locale
from sqlalchemy import func, select

from noxchat.database import now
from noxchat.extensions import db
from noxchat.mail.kinds import Kind
from noxchat.models import QueuedEmail, User


def enqueue(kind: Kind, user: User | None = None, *, address: str | None = None, language: str | None = None):
    """Queue an e-mail in the transaction at hand. Call worker.wake once that is committed.

    user: the account that it is about; the e-mail is deleted with it. address: where it goes, by default to the
    account's address; one of the two is required. language: by default the account's, or that of the request.
    """
    language = language or (user and user.language) or str(get_locale() or "en")
    db.session.add(QueuedEmail(kind=kind.name, user_id=user and user.id, address=address, language=language))
    db.session.flush()


def backlog() -> tuple[int, float]:
    """Return how many e-mails wait to be sent, and for how many seconds the oldest has waited."""
    count, oldest = db.session.execute(select(func.count(), func.min(QueuedEmail.created_at))).one()
    return count, (now() - oldest).total_seconds() if oldest else 0
