"""The mail worker: a thread that takes e-mails from the queue and hands them to the mail server.

A request never waits for a mail server, and an e-mail is deleted only once the server has accepted it. An e-mail that
is being sent is leased for LEASE; if its process dies, another takes it after that. So an e-mail may, rarely, arrive
twice, but always at least once.
"""

import logging
import os
import smtplib
import threading
import time
from datetime import timedelta
from email import policy
from email.message import EmailMessage
from email.utils import make_msgid
from urllib.parse import urlsplit

from flask import Flask, current_app
from flask_babel import force_locale
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from noxchat.database import begin_write, now
from noxchat.extensions import db, mail
from noxchat.files import make_private_folder
from noxchat.mail.kinds import KINDS
from noxchat.mail.smtp import TIMEOUT_SECONDS, StarttlsMissing, describe_tls_error, supports_utf8
from noxchat.models import QueuedEmail, User
from noxchat.names import ascii_address

log = logging.getLogger("noxchat.mail")

LEASE = timedelta(seconds=30)
MAX_RETRY_SECONDS = 30
POLL_SECONDS = 5  # for e-mails that are due again, or that another process left
GIVE_UP_AFTER = timedelta(days=3)
MAX_TRIES = 5  # of an e-mail that cannot be written, whatever the server does
PROBE_SECONDS = 60  # between attempts to learn what the mail server supports


class MailWorker:
    """The thread that sends the queue; one in each server process."""

    def __init__(self, app: Flask):
        self.app = app
        self.wake_event = threading.Event()
        self.thread: threading.Thread | None = None
        self.process_id: int | None = None
        self.stopped = False
        self.supports_utf8: bool | None = None  # of the mail server; None: not known yet
        self.probe_at = 0.0

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
                    self._probe()
                    while not self.stopped and send_next():
                        pass
            except SQLAlchemyError as error:
                log.warning("email queue cannot be read: %s", type(error).__name__)

    def _probe(self):
        """Learn whether the mail server accepts addresses that are not in ASCII, if that is not known."""
        if self.supports_utf8 is None and time.monotonic() >= self.probe_at:
            self.probe_at = time.monotonic() + PROBE_SECONDS
            self.supports_utf8 = supports_utf8(self.app.config, TIMEOUT_SECONDS)


def start(app: Flask):
    """Start sending the queue from this process."""
    app.extensions["mail_worker"].start()


def wake():
    """Have e-mails sent that were committed just now."""
    current_app.extensions["mail_worker"].wake()


def accepts_address(email: str) -> bool:
    """Tell whether e-mails can be sent to an address: if it is not in ASCII, only by a server that supports it."""
    if ascii_address(email).isascii() or not current_app.config["MAIL_SERVER"]:
        return True
    return bool(current_app.extensions["mail_worker"].supports_utf8)


def send_next() -> bool:
    """Send one e-mail that is due. Returns False when there is none."""
    email = _lease_next()
    if email is None:
        return False
    try:
        message = compose(email)
        if message:
            _deliver(message)
    except SQLAlchemyError:
        raise
    except Exception as error:  # noqa: BLE001  an e-mail that cannot be written must not stop the others
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
    if not isinstance(error, OSError):  # which SMTPException is, too
        log.error("email failed: %s", email.kind, exc_info=error)
    begin_write(db.session)
    if is_permanent(error, email.tries) or email.created_at < now() - GIVE_UP_AFTER:
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


def is_permanent(error: Exception, tries: int) -> bool:
    """Tell whether sending an e-mail again would fail again, after so many tries.

    The server's replies to the sender, the recipient and the data count (RFC 5321, 4.2.1); another one, to a login say,
    is about the settings.
    """
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _text in error.recipients.values())
    if isinstance(error, smtplib.SMTPSenderRefused | smtplib.SMTPDataError):
        return error.smtp_code >= 500
    if isinstance(error, smtplib.SMTPNotSupportedError):  # of an address that is not in ASCII
        return not isinstance(error, StarttlsMissing)
    return not isinstance(error, OSError) and tries >= MAX_TRIES


def compose(email: QueuedEmail) -> EmailMessage | None:
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
        text = render(f"email/{kind.name}.txt").render(**context)
        html = render(f"email/{kind.name}.html").render(**context)
        return write_message(str(kind.subject), ascii_address(address), text, html)


def write_message(subject: str, address: str, text: str, html: str) -> EmailMessage:
    """Return an e-mail in 7 bits with lines of up to 78 characters, which every server accepts (RFC 5322, 2.1.1).

    address: with its domain in ASCII. If its local part is not, the headers are in UTF-8 (RFC 6532).
    """
    config = current_app.config
    message = EmailMessage(policy=policy.SMTP.clone(cte_type="7bit", utf8=not address.isascii()))
    message["Subject"], message["From"], message["To"] = subject, config["MAIL_DEFAULT_SENDER"], address
    message["Date"] = now()
    # Otherwise it would contain the name of this machine.
    message["Message-ID"] = make_msgid(domain=urlsplit(config["BASE_URL"]).hostname)
    message["Auto-Submitted"] = "auto-generated"  # no automatic replies to this (RFC 3834, 5)
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message


def _deliver(message: EmailMessage):
    """Send a message to the mail server, or write it to MAIL_DIR if none is set. Raises OSError, SMTPException."""
    if current_app.config["MAIL_SERVER"]:
        with mail.connect() as connection:
            connection.host.send_message(message)
        return
    folder = current_app.config["MAIL_DIR"]
    make_private_folder(folder)
    name = f"{now():%Y%m%d-%H%M%S-%f}-{os.getpid()}.eml"
    temporary = folder / f".{name}.part"  # not matched by *.eml, also where that includes hidden files
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(message.as_bytes())
    temporary.rename(folder / name)
    log.info("no mail server is set: email written to %s", folder / name)
