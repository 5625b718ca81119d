"""Letters: to a real SMTP server that is up, down, slow or refusing; into files where there is none; never lost."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import closing
from email import policy
from email.parser import BytesParser

import pytest
from aiosmtpd.controller import Controller
from jinja2 import ChoiceLoader, DictLoader
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from config import ROOT
from noxchat import tokens
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.mail import kinds, queue, worker
from noxchat.models import QueuedEmail, User
from tests.conftest import Browser, free_port, make_person, settings, wait_until


class Post:
    """A handler that keeps what it gets, after a pause, or refuses it."""

    def __init__(self, pause=0.0, refuse=""):
        self.letters, self.pause, self.refuse = [], pause, refuse

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        import asyncio

        await asyncio.sleep(self.pause)
        self.letters.append(BytesParser(policy=policy.default).parsebytes(envelope.content))
        return "250 OK"


@pytest.fixture
def smtp():
    """Start SMTP servers: smtp(port, handler)."""
    started = []

    def start(port, handler):
        controller = Controller(handler, hostname="127.0.0.1", port=port)
        controller.start()
        started.append(controller)
        return controller

    yield start
    for controller in started:
        controller.stop(no_assert=True)


def waiting(app):
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(QueuedEmail))


def ask(app, email="alice@nox.example", **headers):
    began = time.perf_counter()
    answer = Browser(app).post("/auth/reset", {"email": email}, headers=headers)
    assert answer.status_code == 303
    return time.perf_counter() - began


def body(letter, kind):
    return letter.get_body((kind,)).get_content()


@pytest.mark.parametrize("language", ["en", "ru"])
def test_a_letter_arrives_with_a_link_that_works(make_app, smtp, language):
    post, port = Post(), free_port()
    smtp(port, post)
    app = make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=port, BASE_URL="https://nox.example")
    alice = make_person(app, "Alice", "alice@nox.example")
    with app.app_context():
        db.session.get(User, alice.id).language = language
        db.session.commit()
    guest = Browser(app)
    options = {"base_url": "https://nox.example"}
    from tests.conftest import TOKEN

    token = TOKEN.search(guest.get("/auth/reset", **options).text)[1]
    guest.post("/auth/reset", {"email": "ALICE@nox.example"}, token=token, **options)
    (letter,) = wait_until(lambda: post.letters)
    assert letter["To"] == "alice@nox.example" and letter["Auto-Submitted"] == "auto-generated"
    assert letter["Subject"] == {"en": "Reset your NoxChat password", "ru": "Сброс пароля NoxChat"}[language]
    for kind in ("plain", "html"):
        text = body(letter, kind)
        assert "https://nox.example/auth/reset/" in text and "Alice" in text
        assert {"en": "10 minutes", "ru": "10 минут"}[language] in text
    link = next(line for line in body(letter, "plain").splitlines() if line.startswith("https://"))
    assert Browser(app).get(link.removeprefix("https://nox.example"), **options).status_code == 200
    wait_until(lambda: waiting(app) == 0)


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "Forwarded", "X-Host", "X-Forwarded-Server"])
def test_letters_know_only_the_configured_host(make_app, header):
    app = make_app()
    make_person(app, "Alice", "alice@nox.example")
    ask(app, **{header: "host=evil.example"})
    (path,) = wait_until(lambda: list(app.config["MAIL_DIR"].glob("*.eml")))
    assert "evil.example" not in path.read_text()


def test_a_foreign_host_is_refused(app):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "a b"):
        answer = Browser(app).get("/auth/reset", headers={"Host": host})
        assert answer.status_code == 400
        assert "evil" not in answer.text
        assert Browser(app).get("/healthz", headers={"Host": host}).status_code == 200


def test_without_a_server_letters_are_files_that_are_whole(app):
    make_person(app, "Alice", "alice@nox.example")
    ask(app)
    (path,) = wait_until(lambda: list(app.config["MAIL_DIR"].glob("*.eml")))
    letter = BytesParser(policy=policy.default).parsebytes(path.read_bytes())
    assert "http://127.0.0.1:8000/auth/reset/" in body(letter, "plain")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    log = (app.config["LOG_DIR"] / "noxchat.log").read_text()
    assert "no mail server is set" in log and "auth/reset/ey" not in log


def test_a_name_adds_nothing_to_a_letter(app):
    from bs4 import BeautifulSoup

    alice = make_person(app, "Alice", "alice@nox.example")
    with app.test_request_context():
        begin_write(db.session)
        hostile = {"username": "<b>Bcc: x@y</b>\r\nBcc: evil@x", "reset_nonce": "n"}
        db.session.execute(update(User).where(User.id == alice.id).values(hostile))
        queue.enqueue(kinds.password_reset, db.session.get(User, alice.id))
        letter = worker.compose(db.session.scalar(select(QueuedEmail)))
        soup = BeautifulSoup(letter.html, "html.parser")
        assert not soup.find_all("b")
        letter.sender = "nox@nox.example"
        assert b"evil" not in letter.as_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")[0]


def test_a_new_kind_of_email_needs_a_function_and_templates_and_may_go_to_a_bare_address(app, monkeypatch):
    @kinds.email_kind("You are invited")
    def invitation(email, user):
        assert user is None
        return {"link": kinds.absolute_url("auth.register"), "to": email.address}

    monkeypatch.setitem(kinds.KINDS, "invitation", kinds.KINDS.pop("invitation"))  # removed again after the test
    body_block = "{% extends 'email/layout.html' %}{% block title %}Invitation{% endblock %}"
    templates = {"email/invitation.html": body_block, "email/invitation.txt": "{{ to }}: {{ link }}"}
    app.jinja_env.loader = ChoiceLoader([DictLoader(templates), app.jinja_env.loader])
    app.extensions["mail_worker"].stopped = True
    with app.app_context():
        begin_write(db.session)
        queue.enqueue(invitation, address="zoe@nox.example", language="ru")
        db.session.commit()
        assert worker.send_next()
    (path,) = app.config["MAIL_DIR"].glob("*.eml")
    email = BytesParser(policy=policy.default).parsebytes(path.read_bytes())
    assert (email["To"], email["Subject"]) == ("zoe@nox.example", "You are invited")
    assert "zoe@nox.example: http://127.0.0.1:8000/auth/register" in body(email, "plain")
    assert "Invitation" in body(email, "html") and 'lang="ru"' in body(email, "html")


def test_an_email_without_a_recipient_is_refused_by_the_database(any_app):
    with any_app.app_context(), pytest.raises(IntegrityError):
        queue.enqueue(kinds.address_taken)


def test_the_other_letter_says_that_there_is_an_account(app):
    alice = make_person(app, "Alice", "alice@nox.example")
    from tests.auth.test_register import MILA

    Browser(app).post("/auth/register", {**MILA, "email": "alice@nox.example"})
    (path,) = wait_until(lambda: list(app.config["MAIL_DIR"].glob("*.eml")))
    text = body(BytesParser(policy=policy.default).parsebytes(path.read_bytes()), "plain")
    assert "already" in text and alice.username in text and "http://127.0.0.1:8000/auth/reset" in text


def test_a_server_that_is_down_slows_no_page_and_loses_no_letter(make_app, smtp):
    port = free_port()
    app = make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=port)
    make_person(app, "Alice", "alice@nox.example")
    assert ask(app) < 2
    wait_until(lambda: "email not sent" in (app.config["LOG_DIR"] / "noxchat.log").read_text())
    assert waiting(app) == 1
    post = Post()
    smtp(port, post)
    wait_until(lambda: post.letters, 40)
    wait_until(lambda: waiting(app) == 0)
    log = (app.config["LOG_DIR"] / "noxchat.log").read_text()
    assert "ConnectionRefusedError; next try in 1 s" in log and "alice@" not in log


def test_pauses_grow_to_thirty_seconds_and_no_further(make_app):
    from datetime import timedelta

    from noxchat.database import now

    app = make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=free_port())
    app.extensions["mail_worker"].stopped = True
    make_person(app, "Alice", "alice@nox.example")
    ask(app)
    delays = []
    with app.app_context():
        for _try in range(8):
            assert worker.send_next()
            letter = db.session.scalar(select(QueuedEmail).execution_options(populate_existing=True))
            delays.append(round((letter.next_try_at - now()).total_seconds()))
            letter.next_try_at = now() - timedelta(seconds=1)
            db.session.commit()
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_server_that_accepts_and_says_nothing_is_given_up(make_app, monkeypatch):
    monkeypatch.setattr("noxchat.mail.smtp.TIMEOUT_SECONDS", 1)
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        app = make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=silent.getsockname()[1])
        make_person(app, "Alice", "alice@nox.example")
        assert ask(app) < 2
        wait_until(lambda: "email not sent" in (app.config["LOG_DIR"] / "noxchat.log").read_text())
        assert waiting(app) == 1


def test_a_slow_server_gets_the_letter_once(make_app, smtp):
    post, port = Post(pause=2), free_port()
    smtp(port, post)
    app = make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=port)
    make_person(app, "Alice", "alice@nox.example")
    assert ask(app) < 2
    wait_until(lambda: waiting(app) == 0)
    assert len(post.letters) == 1


@pytest.mark.parametrize(("refusal", "left"), [("550 no such person", 0), ("451 later", 1)])
def test_a_refusal_for_good_is_dropped_and_one_for_now_is_not(make_app, smtp, refusal, left):
    port = free_port()
    smtp(port, Post(refuse=refusal))
    app = make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=port)
    make_person(app, "Alice", "alice@nox.example")
    ask(app)
    words = "email given up" if left == 0 else "email not sent"
    wait_until(lambda: words in (app.config["LOG_DIR"] / "noxchat.log").read_text())
    assert waiting(app) == left


def test_a_letter_is_sent_once_by_several_postmen(any_app):
    from threading import Thread

    any_app.extensions["mail_worker"].stopped = True
    for name in "abcdef":
        make_person(any_app, f"Person {name}", f"{name}@nox.example")
        ask(any_app, f"{name}@nox.example")

    def work():
        with any_app.app_context():
            while worker.send_next():
                continue

    threads = [Thread(target=work) for _postman in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(list(any_app.config["MAIL_DIR"].glob("*.eml"))) == 6
    assert waiting(any_app) == 0


def test_a_letter_without_point_is_dropped(app):
    app.extensions["mail_worker"].stopped = True
    alice = make_person(app, "Alice", "alice@nox.example")
    ask(app)
    with app.app_context():
        user = db.session.get(User, alice.id)
        user.reset_nonce = None
        db.session.commit()
        assert worker.send_next()
    assert not app.config["MAIL_DIR"].exists() and waiting(app) == 0


def test_the_row_and_the_wish_are_one_transaction(app, monkeypatch):
    make_person(app, "Alice", "alice@nox.example")
    monkeypatch.setattr(tokens, "renew_reset_nonce", lambda user: (_ for _ in ()).throw(RuntimeError))
    assert Browser(app).post("/auth/reset", {"email": "alice@nox.example"}).status_code == 500
    assert waiting(app) == 0


def test_a_killed_process_loses_no_letter(make_app, tmp_path, new_database, smtp):
    """A server is killed while it sends; the next one sends the letter, within lease and pause."""
    uri, port = new_database("sqlite"), free_port()
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", port))
        silent.listen()
        app = make_app(uri=uri, MAIL_SERVER="127.0.0.1", MAIL_PORT=port)
        app.extensions["mail_worker"].stopped = True
        make_person(app, "Alice", "alice@nox.example")
        ask(app)
        environment = {**os.environ, **settings(tmp_path, uri, MAIL_SERVER="127.0.0.1", MAIL_PORT=port, DEMO=0)}

        def serve():
            return subprocess.Popen(
                [sys.executable, "-m", "noxchat.web.server"],
                env={**environment, "PORT": str(free_port())},
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

        first = serve()
        wait_until(lambda: tries(app) == 1)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    post = Post()
    smtp(port, post)
    second = serve()
    try:
        wait_until(lambda: post.letters, 60)
    finally:
        second.terminate()
        second.wait(35)
    assert waiting(app) == 0


def tries(app):
    with app.app_context():
        return db.session.scalar(select(QueuedEmail.tries))
