"""The mail server's certificate: nothing is handed to a server that cannot prove who it is. Real servers, with TLS."""

import socket
import ssl
import threading
import time
from contextlib import closing

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from sqlalchemy import func, select

from noxchat import health
from noxchat.extensions import db
from noxchat.mail import worker
from noxchat.models import QueuedEmail
from tests import certificates
from tests.certificates import EXPIRED, FUTURE, make_certificate
from tests.conftest import Browser, free_port, make_person, skip
from tests.test_cli import run_doctor

MODES = {"STARTTLS": {"MAIL_USE_TLS": 1}, "TLS": {"MAIL_USE_SSL": 1}}
LOGIN = {"MAIL_USERNAME": "nox-mailer", "MAIL_PASSWORD": "s3cret of the mail server"}
UNKNOWN, OTHER_NAME, TOO_OLD = "set MAIL_CA", "not valid for the name in MAIL_SERVER", "has expired or is not valid yet"


class RecordingSMTP(SMTP):
    """Records the commands that a client could hand something over with."""

    async def smtp_AUTH(self, arg):
        self.event_handler.commands.append("AUTH")
        await super().smtp_AUTH(arg)

    async def smtp_MAIL(self, arg):
        self.event_handler.commands.append("MAIL")
        await super().smtp_MAIL(arg)


class TLSServer(Controller):
    """A mail server that requires a login. context: of its certificate, or None to offer no encryption."""

    def __init__(self, mode, context, port):
        self.commands, self.logins, self.emails = [], [], []
        self.starttls_context = context if mode == "STARTTLS" else None
        super().__init__(self, hostname="127.0.0.1", port=port, ssl_context=context if mode == "TLS" else None)

    def factory(self):
        return RecordingSMTP(
            self,
            tls_context=self.starttls_context,
            authenticator=self.authenticate,
            auth_require_tls=False,  # so that it depends on the client alone
        )

    def authenticate(self, _server, _session, _envelope, _mechanism, login):
        self.logins.append((login.login.decode(), login.password.decode()))
        return AuthResult(success=True)

    async def handle_DATA(self, server, session, envelope):
        self.emails.append(envelope.content)
        return "250 OK"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    if not certificates.is_installed():
        skip("the openssl command is not installed: apt-get install openssl")
    return make_certificate(tmp_path_factory.mktemp("certificates"), "authority", kind="authority")


@pytest.fixture
def start_tls():
    """Return a function that starts a mail server with a certificate."""
    started = []

    def start(mode, certificate=None, port=None):
        server = TLSServer(mode, certificate and certificate.server_context(), port or free_port())
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        if server.server:
            server.stop(no_assert=True)


@pytest.fixture
def queue_email(make_app):
    """Return a function that makes an application with one e-mail in its queue, which nobody sends yet."""

    def queue(**settings):
        app = make_app(**{"MAIL_SERVER": "localhost", **LOGIN, **settings})
        app.extensions["mail_worker"].stopped = True
        make_person(app, "Alice", "alice@nox.example")
        assert Browser(app).post("/auth/reset", {"email": "alice@nox.example"}).status_code == 303
        return app

    return queue


def send(app):
    """Try to send the e-mail, and return how many are in the queue afterwards."""
    with app.app_context():
        assert worker.send_next()
        return db.session.scalar(select(func.count()).select_from(QueuedEmail))


def read_log(app):
    return (app.config["LOG_DIR"] / "noxchat.log").read_text()


def assert_refused(app, server, sentence):
    """Send, and expect that the server gets nothing, and that log and doctor say why in one line."""
    assert send(app) == 1
    assert (server.commands, server.logins, server.emails) == ([], [], [])
    with app.app_context():
        email = db.session.scalar(select(QueuedEmail))
        assert email.tries == 1
    (line,) = [line for line in read_log(app).splitlines() if sentence in line]
    assert "ERROR" in line and "email not sent" in line
    assert not [secret for secret in ("alice@", "localhost", *LOGIN.values()) if secret in line]
    assert "next try in 1 s" in read_log(app) and "Traceback" not in read_log(app)
    code, states, output = run_doctor(app)
    assert (code, states["Mail server"]) == (1, "WRONG") and sentence in output, output
    assert (server.commands, server.logins) == ([], [])
    return line


def assert_delivered(app, server):
    assert send(app) == 0, read_log(app)
    assert server.logins == [(LOGIN["MAIL_USERNAME"], LOGIN["MAIL_PASSWORD"])] and len(server.emails) == 1
    code, states, output = run_doctor(app)
    assert (code, states["Mail server"]) == (0, "ok") and "its certificate is valid" in output, output
    # doctor tries login and sender, and sends nothing
    assert server.commands == ["AUTH", "MAIL"] * 2 and len(server.emails) == 1


@pytest.mark.parametrize("mode", MODES)
def test_certificate_of_the_configured_authority_is_accepted(mode, authority, start_tls, queue_email, tmp_path):
    server = start_tls(mode, make_certificate(tmp_path, "localhost", authority))
    assert_delivered(queue_email(MAIL_PORT=server.port, MAIL_CA=authority.path, **MODES[mode]), server)


@pytest.mark.parametrize("mode", MODES)
def test_certificate_of_an_authority_of_the_machine_is_accepted(
    mode, authority, start_tls, queue_email, tmp_path, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    server = start_tls(mode, make_certificate(tmp_path, "localhost", authority))
    assert_delivered(queue_email(MAIL_PORT=server.port, **MODES[mode]), server)


@pytest.mark.parametrize("mode", MODES)
def test_self_signed_certificate_is_accepted_as_its_own_authority(mode, authority, start_tls, queue_email, tmp_path):
    certificate = make_certificate(tmp_path, "localhost")
    server = start_tls(mode, certificate)
    assert_delivered(queue_email(MAIL_PORT=server.port, MAIL_CA=certificate.path, **MODES[mode]), server)


@pytest.mark.parametrize("mode", MODES)
def test_certificate_for_an_address_is_accepted(mode, authority, start_tls, queue_email, tmp_path):
    certificate = make_certificate(tmp_path, "mail", authority, alternative="IP:127.0.0.1")
    server = start_tls(mode, certificate)
    settings = {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": server.port, "MAIL_CA": authority.path}
    assert_delivered(queue_email(**settings, **MODES[mode]), server)


@pytest.mark.parametrize("mode", MODES)
def test_self_signed_certificate_gets_neither_password_nor_email(mode, authority, start_tls, queue_email, tmp_path):
    server = start_tls(mode, make_certificate(tmp_path, "localhost"))
    line = assert_refused(queue_email(MAIL_PORT=server.port, **MODES[mode]), server, UNKNOWN)
    assert "if it is self-signed" in line


@pytest.mark.parametrize("mode", MODES)
def test_certificate_of_an_unknown_authority_is_refused(mode, authority, start_tls, queue_email, tmp_path):
    server = start_tls(mode, make_certificate(tmp_path, "localhost", authority))
    assert_refused(queue_email(MAIL_PORT=server.port, **MODES[mode]), server, UNKNOWN)


@pytest.mark.parametrize("mode", MODES)
def test_certificate_of_another_authority_than_the_configured_one_is_refused(
    mode, authority, start_tls, queue_email, tmp_path
):
    other = make_certificate(tmp_path, "other", kind="authority")
    server = start_tls(mode, make_certificate(tmp_path, "localhost", authority))
    assert_refused(queue_email(MAIL_PORT=server.port, MAIL_CA=other.path, **MODES[mode]), server, UNKNOWN)


@pytest.mark.parametrize(("name", "alternative"), [("localhost", "DNS:mail.nox.example"), ("mail", "IP:127.0.0.1")])
@pytest.mark.parametrize("mode", MODES)
def test_certificate_for_another_name_is_refused(mode, name, alternative, authority, start_tls, queue_email, tmp_path):
    server = start_tls(mode, make_certificate(tmp_path, name, authority, alternative=alternative))
    assert_refused(queue_email(MAIL_PORT=server.port, MAIL_CA=authority.path, **MODES[mode]), server, OTHER_NAME)


@pytest.mark.parametrize("mode", MODES)
def test_certificate_for_another_address_is_refused(mode, authority, start_tls, queue_email, tmp_path):
    server = start_tls(mode, make_certificate(tmp_path, "localhost", authority))
    settings = {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": server.port, "MAIL_CA": authority.path}
    assert_refused(queue_email(**settings, **MODES[mode]), server, OTHER_NAME)


@pytest.mark.parametrize("period", [EXPIRED, FUTURE], ids=["expired", "not yet valid"])
@pytest.mark.parametrize("mode", MODES)
def test_certificate_outside_its_period_is_refused(mode, period, authority, start_tls, queue_email, tmp_path):
    server = start_tls(mode, make_certificate(tmp_path, "localhost", authority, period=period))
    assert_refused(queue_email(MAIL_PORT=server.port, MAIL_CA=authority.path, **MODES[mode]), server, TOO_OLD)


def test_nothing_is_sent_in_clear_to_a_server_without_starttls(start_tls, queue_email):
    """As behind somebody who takes STARTTLS out of the server's reply; login and e-mail would be accepted."""
    server = start_tls("STARTTLS")
    assert_refused(queue_email(MAIL_PORT=server.port, MAIL_USE_TLS=1), server, "offers no STARTTLS")


def test_nothing_is_sent_in_clear_to_a_server_that_does_not_speak_tls(start_tls, queue_email):
    server = start_tls("STARTTLS")
    assert_refused(queue_email(MAIL_PORT=server.port, MAIL_USE_SSL=1), server, "no TLS connection can be made")


def test_refused_email_is_delivered_once_the_certificate_is_valid(authority, start_tls, queue_email, tmp_path):
    port = free_port()
    refused = start_tls("STARTTLS", make_certificate(tmp_path, "localhost"), port)
    app = queue_email(MAIL_PORT=port, MAIL_CA=authority.path, MAIL_USE_TLS=1)
    assert_refused(app, refused, UNKNOWN)
    refused.stop()
    server = start_tls("STARTTLS", make_certificate(tmp_path, "localhost", authority), port)
    time.sleep(1)  # the delay before the second try
    assert_delivered(app, server)


def test_failed_login_closes_the_connection(start_tls, queue_email):
    """Otherwise pytest's filter for ResourceWarning fails this test."""
    server = start_tls("STARTTLS")
    server.authenticate = lambda *_arguments: AuthResult(success=False, handled=False)
    assert send(queue_email(MAIL_PORT=server.port)) == 1
    assert "AUTH" in server.commands and "MAIL" not in server.commands


NAMES = {"localhost": "ok", "LOCALHOST.": "ok", "127.0.0.1": "ok", "smtp.nox.example": "note"}


@pytest.mark.parametrize(("name", "state"), NAMES.items())
def test_doctor_warns_when_the_password_travels_unencrypted(name, state, make_app, start_tls, monkeypatch):
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **kw: resolve("127.0.0.1", *args, **kw))
    server = start_tls("STARTTLS")
    code, states, output = run_doctor(make_app(MAIL_SERVER=name, MAIL_PORT=server.port, **LOGIN))
    assert (code, states["Mail server"]) == (0, state), output
    assert ("travels unencrypted" in output) is (state == "note")
    # Without a login there is no password to protect.
    assert run_doctor(make_app(MAIL_SERVER=name, MAIL_PORT=server.port))[1]["Mail server"] == "ok"


def speak_slowly(listener, greeting):
    """Accept connections, and send a byte of the greeting each tenth of a second, from the start when it ends."""

    def speak():
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:  # closed by the test
                return
            with connection:
                try:
                    while greeting:
                        for number in range(len(greeting)):
                            connection.sendall(greeting[number : number + 1])
                            time.sleep(0.1)
                    connection.recv(100)
                    connection.recv(100)
                except OSError:
                    continue

    threading.Thread(target=speak, daemon=True).start()


@pytest.mark.parametrize("settings", [{}, *MODES.values()], ids=["plain", *MODES])
@pytest.mark.parametrize("greeting", [b"", b"220-wait\r\n"], ids=["silent", "slow"])
def test_neither_readyz_nor_doctor_waits_for_a_mail_server(greeting, settings, make_app, monkeypatch):
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(health, "MAIL_SECONDS", 2)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        speak_slowly(listener, greeting)
        app = make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=listener.getsockname()[1], **settings)
        began = time.monotonic()
        ready = Browser(app).get("/readyz")
        checked = health.check_mail_server(app.config, thorough=True)
        assert time.monotonic() - began < 5
        assert ready.status_code == 200 and ready.json["mail"] == "answers"  # it only connects
        assert not checked.ok and "e-mails wait in the queue" in checked.message


def test_name_that_cannot_be_resolved_is_a_sentence(make_app):
    code, states, output = run_doctor(make_app(MAIL_SERVER="a..b"))
    assert (code, states["Mail server"]) == (1, "WRONG") and "check MAIL_SERVER" in output


def test_settings_are_read_when_a_connection_is_made(authority, start_tls, queue_email, tmp_path):
    """A certificate that the host replaces is used without a restart."""
    used = tmp_path / "used.pem"
    used.write_text(make_certificate(tmp_path, "old", kind="authority").path.read_text())
    server = start_tls("TLS", make_certificate(tmp_path, "localhost", authority))
    app = queue_email(MAIL_PORT=server.port, MAIL_CA=used, MAIL_USE_SSL=1)
    assert_refused(app, server, UNKNOWN)
    used.write_text(authority.path.read_text())
    time.sleep(1)
    assert_delivered(app, server)


def test_context_checks_certificate_and_name(make_app):
    from noxchat.mail.smtp import _tls_context

    context = _tls_context(make_app().config)
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
