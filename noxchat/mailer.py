"""Letters: a row in the outbox, written with what it is about, and a thread that hands it to Flask-Mail.

A request never waits for a mail server, and a letter is only forgotten once the server has taken it. A letter that is
being sent is lent out for LEASE; if its process dies, another one finds it again after that. So a letter may, rarely,
arrive twice, and never not at all.
"""

import logging
import os
import smtplib
import threading
from datetime import timedelta

from flask import Flask, current_app
from flask_babel import force_locale, get_locale
from flask_babel import gettext as _
from flask_mail import Message
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from noxchat import resets
from noxchat.database import now, start_writing
from noxchat.extensions import db, mail
from noxchat.models import Letter, User

log = logging.getLogger("noxchat.mailer")

LEASE = timedelta(seconds=30)
LONGEST_PAUSE = 30
LOOK_EVERY = 5  # seconds, for letters whose pause has ended or that another process left
GIVE_UP = timedelta(days=3)

RESET = "reset"
TAKEN = "taken"


def post(user: User, kind: str):
    """Put a letter to a person into the outbox, in the transaction at hand. Call `wake` once that is committed.

    kind: RESET, or TAKEN when somebody tried to register with this person's address.
    """
    db.session.add(Letter(user_id=user.id, kind=kind, language=user.language or str(get_locale() or "en")))
    db.session.flush()


def waiting() -> tuple[int, float]:
    """Return how many letters are still to be sent, and how many seconds the oldest has been waiting."""
    count, oldest = db.session.execute(select(func.count(), func.min(Letter.created_at))).one()
    return count, (now() - oldest).total_seconds() if oldest else 0


class Postman:
    """The thread that empties the outbox; one in each process that serves."""

    def __init__(self, app: Flask):
        self.app = app
        self.bell = threading.Event()
        self.thread = None
        self.process = None
        self.stopped = False

    def start(self):
        """Start the thread unless it already runs in this process. A fork has the object but not the thread."""
        if self.process != os.getpid():
            self.process = os.getpid()
            self.bell = threading.Event()
            self.thread = threading.Thread(target=self._work, name="postman", daemon=True)
            self.thread.start()

    def wake(self):
        """Say that there is a new letter."""
        self.start()
        self.bell.set()

    def stop(self):
        """End the thread, once the letter that it holds is sent."""
        self.stopped = True
        self.bell.set()
        if self.thread:
            self.thread.join()

    def _work(self):
        while not self.stopped:
            self.bell.wait(LOOK_EVERY)
            self.bell.clear()
            try:
                with self.app.app_context():
                    while not self.stopped and send_next():
                        pass
            except SQLAlchemyError as error:
                log.warning("outbox cannot be read: %s", type(error).__name__)
            except Exception:  # one letter that cannot be written must not keep the others from going
                log.exception("letter broken")


def start(app: Flask):
    """Start to send what is in the outbox, from this process."""
    app.extensions["postman"].start()


def wake():
    """Have the letters sent that were committed just now."""
    current_app.extensions["postman"].wake()


def send_next() -> bool:
    """Send one letter whose time has come. Returns False when there is none."""
    letter = _take()
    if letter is None:
        return False
    user = db.session.get(User, letter.user_id)
    try:
        message = user and write(user, letter.kind, letter.language)
        if message:
            _deliver(message)
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        _failed(letter, error)
    else:
        start_writing(db.session)
        db.session.execute(delete(Letter).where(Letter.id == letter.id))
        db.session.commit()
        log.info("letter sent: %s to user %s", letter.kind, letter.user_id)
    return True


def _take() -> Letter | None:
    """Take one letter that is due out of the hands of the other processes for LEASE, with the next try prepared."""
    start_writing(db.session)
    due = (
        select(Letter)
        .where(Letter.next_try_at <= now())
        .order_by(Letter.next_try_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    letter = db.session.scalar(due)
    if letter is not None:
        letter.tries += 1
        letter.next_try_at = now() + LEASE
    db.session.commit()
    return letter


def _failed(letter: Letter, error: Exception):
    """Say so in the log, without the letter, and try again after a pause that grows; or give up."""
    permanent = isinstance(error, smtplib.SMTPRecipientsRefused) and all(
        code >= 500 for code, _text in error.recipients.values()
    )
    start_writing(db.session)
    if permanent or letter.created_at < now() - GIVE_UP:
        db.session.execute(delete(Letter).where(Letter.id == letter.id))
        log.error("letter given up: %s to user %s: %s", letter.kind, letter.user_id, type(error).__name__)
    else:
        pause = min(2 ** (letter.tries - 1), LONGEST_PAUSE)
        db.session.execute(
            update(Letter).where(Letter.id == letter.id).values(next_try_at=now() + timedelta(seconds=pause))
        )
        log.warning(
            "letter not sent: %s to user %s: %s; next try in %s s",
            *(letter.kind, letter.user_id, type(error).__name__, pause),
        )
    db.session.commit()


def address(endpoint: str, **values) -> str:
    """Return the address of a page for a letter: under BASE_URL, never under what a request calls the host."""
    path = current_app.url_map.bind("localhost").build(endpoint, values)
    return current_app.config["BASE_URL"] + path


def write(user: User, kind: str, language: str) -> Message | None:
    """Return the letter of this kind to a person, as HTML and as plain text; None when it has no point any more."""
    host = current_app.config["BASE_URL"].partition("://")[2]
    about = {"username": user.username, "host": host, "language": language}
    if kind == RESET:
        if user.reset_nonce is None:  # the password was changed while this letter waited
            return None
        about["minutes"] = current_app.config["RESET_MINUTES"]
        about["link"] = address("auth.reset_password", token=resets.token(user))
    else:
        about["link"] = address("auth.reset")
    with force_locale(language):
        subject = {
            RESET: _("Reset your NoxChat password"),
            TAKEN: _("You already have a NoxChat account"),
        }[kind]
        render = current_app.jinja_env.get_template
        return Message(
            subject,
            recipients=[user.email],
            body=render(f"email/{kind}.txt").render(**about),
            html=render(f"email/{kind}.html").render(**about),
            # RFC 3834, 5: no holiday notes in answer to this.
            extra_headers={"Auto-Submitted": "auto-generated"},
        )


def _deliver(message: Message):
    """Hand a letter to the mail server; without one, leave it as a file in MAIL_DIR. Raises OSError, SMTPException."""
    if current_app.config["MAIL_SERVER"]:
        mail.send(message)
        return
    folder = current_app.config["MAIL_DIR"]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    message.date = message.date or now().timestamp()
    name = f"{now():%Y%m%d-%H%M%S-%f}-{os.getpid()}.eml"
    unfinished = folder / f".{name}"
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(message.as_bytes())
    unfinished.rename(folder / name)
    log.info("no mail server is set: letter left in %s", folder / name)
