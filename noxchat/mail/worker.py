"""The mail worker: a thread that takes e-mails from the queue and hands them to the mail server.

A request never waits for a mail server, and an e-mail is deleted only once the server has accepted it. An e-mail that
is being sent is leased for LEASE; if its process dies, another takes it after that. So an e-mail may, rarely, arrive
twice, but always at least once.
"""

import logging
import os
import smtplib
import threading
from datetime import timedelta

from flask import Flask, current_app
from flask_babel import force_locale
from flask_mail import Message
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from noxchat.database import begin_write, now
from noxchat.extensions import db, mail
from noxchat.files import make_private_folder
from noxchat.mail.kinds import KINDS
from noxchat.mail.smtp import describe_tls_error
from noxchat.models import QueuedEmail, User
from noxchat.names import ascii_address

log = logging.getLogger("noxchat.mail")

LEASE = timedelta(seconds=30)
MAX_RETRY_SECONDS = 30
POLL_SECONDS = 5  # for e-mails that are due again, or that another process left
GIVE_UP_AFTER = timedelta(days=3)


class MailWorker:
    """The thread that sends the queue; one in each server process."""

    def __init__(self, app: Flask):
        self.app = app
        self.wake_event = threading.Event()
        self.thread: threading.Thread | None = None
        self.process_id: int | None = None
        self.stopped = False

    def start(self):
        """Start the thread unless it runs in this process already. A forked process has the object but no thread."""
        if self.process_id != os.getpid():
            self.process_id = os.getpid()
            self.wake_event = threading.Event()
            self.thread = threading.Thread(target=self._run, name="mail-worker", daemon=True)
            self.thread.start()

    def wake(self):
        """Have the queue looked at now."""
        self.start()
        self.wake_event.set()

    def stop(self):
        """End the thread after the e-mail that it is sending."""
        self.stopped = True
        self.wake_event.set()
        if self.thread:
            self.thread.join()

    def _run(self):
        while not self.stopped:
            self.wake_event.wait(POLL_SECONDS)
            self.wake_event.clear()
            try:
                with self.app.app_context():
                    while not self.stopped and send_next():
                        pass
            except SQLAlchemyError as error:
                log.warning("email queue cannot be read: %s", type(error).__name__)
            except Exception:  # an e-mail that cannot be rendered must not stop the others
                log.exception("email failed")


def start(app: Flask):
    """Start sending the queue from this process."""
    app.extensions["mail_worker"].start()


def wake():
    """Have e-mails sent that were committed just now."""
    current_app.extensions["mail_worker"].wake()


def send_next() -> bool:
    """Send one e-mail that is due. Returns False when there is none."""
    email = _lease_next()
    if email is None:
        return False
    try:
        message = compose(email)
        if message:
            _deliver(message)
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        _retry_or_give_up(email, error)
    else:
        begin_write(db.session)
        db.session.execute(delete(QueuedEmail).where(QueuedEmail.id == email.id))
        db.session.commit()
        log.info("email sent: %s, user %s", email.kind, email.user_id)
    return True


def _lease_next() -> QueuedEmail | None:
    """Lease one e-mail that is due, so that no other process takes it."""
    begin_write(db.session)
    due = (
        select(QueuedEmail)
        .where(QueuedEmail.next_try_at <= now())
        .order_by(QueuedEmail.next_try_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    email = db.session.scalar(due)
    if email is not None:
        email.tries += 1
        email.next_try_at = now() + LEASE
    db.session.commit()
    return email


def _retry_or_give_up(email: QueuedEmail, error: Exception):
    """Schedule the next try with exponential backoff, or give up; the log does not contain the address."""
    if problem := describe_tls_error(error):
        log.error("email not sent: %s", problem)
    permanent = isinstance(error, smtplib.SMTPRecipientsRefused) and all(
        code >= 500 for code, _text in error.recipients.values()
    )
    begin_write(db.session)
    if permanent or email.created_at < now() - GIVE_UP_AFTER:
        db.session.execute(delete(QueuedEmail).where(QueuedEmail.id == email.id))
        log.error("email given up: %s, user %s: %s", email.kind, email.user_id, type(error).__name__)
    else:
        seconds = min(2 ** (email.tries - 1), MAX_RETRY_SECONDS)
        next_try_at = now() + timedelta(seconds=seconds)
        db.session.execute(update(QueuedEmail).where(QueuedEmail.id == email.id).values(next_try_at=next_try_at))
        log.warning(
            "email not sent: %s, user %s: %s; next try in %s s",
            *(email.kind, email.user_id, type(error).__name__, seconds),
        )
    db.session.commit()


def compose(email: QueuedEmail) -> Message | None:
    """Return the message for a queued e-mail, as HTML and plain text; None when it is no longer needed."""
    user = db.session.get(User, email.user_id) if email.user_id else None
    if email.user_id and user is None:  # deleted since it was leased
        return None
    kind = KINDS[email.kind]
    context = kind.context(email, user)
    if context is None:
        return None
    host = current_app.config["BASE_URL"].partition("://")[2]
    context = {"username": user and user.username, "host": host, "language": email.language, **context}
    address = email.address or (user.email if user else None)
    assert address  # by the table's constraint
    render = current_app.jinja_env.get_template
    with force_locale(email.language):
        return Message(
            str(kind.subject),
            recipients=[ascii_address(address)],  # or Flask-Mail would encode it, by the rules of 2003
            body=render(f"email/{kind.name}.txt").render(**context),
            html=render(f"email/{kind.name}.html").render(**context),
            # RFC 3834, 5: no automatic replies to this.
            extra_headers={"Auto-Submitted": "auto-generated"},
        )


def _deliver(message: Message):
    """Send a message to the mail server, or write it to MAIL_DIR if none is set. Raises OSError, SMTPException."""
    if current_app.config["MAIL_SERVER"]:
        mail.send(message)
        return
    folder = current_app.config["MAIL_DIR"]
    make_private_folder(folder)
    message.date = message.date or now().timestamp()
    name = f"{now():%Y%m%d-%H%M%S-%f}-{os.getpid()}.eml"
    temporary = folder / f".{name}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(message.as_bytes())
    temporary.rename(folder / name)
    log.info("no mail server is set: email written to %s", folder / name)
