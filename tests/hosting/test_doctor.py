"""flask doctor: each thing that it finds is caused here, and told with what to do."""

import os
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from sqlalchemy import update

import config as config_module
from config import ROOT
from noxchat import changelog, doctor, health
from noxchat.changelog import ChangelogEntry
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.hosting import backup
from noxchat.models import User
from tests.conftest import Browser, free_port, settings
from tests.test_cli import run, run_doctor

HTTPS = {"BASE_URL": "https://localhost.example", "TRUSTED_PROXIES": "127.0.0.1"}


@pytest.fixture(autouse=True)
def every_host_exists(monkeypatch):
    """Have all names resolve to this machine, but those that end with `invalid`."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        if str(host).endswith("invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve("127.0.0.1" if str(host).endswith("example") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


SETTINGS = {
    "public address without BASE_URL": ({"HOST": "0.0.0.0"}, "Base URL", "WRONG", "is not set"),
    "http where https is meant": ({"BASE_URL": "http://nox.example"}, "Base URL", "WRONG", "write https://"),
    "wrong host name": ({"BASE_URL": "https://typo.invalid"}, "Base URL", "WRONG", "no such host"),
    "plain visitors": ({**HTTPS, "HOST": "0.0.0.0"}, "Proxy", "note", "past the proxy"),
    "proxies not set": ({"BASE_URL": "https://nox.example"}, "Proxy", "WRONG", "TRUSTED_PROXIES is not set"),
    "proxies too wide": ({**HTTPS, "TRUSTED_PROXIES": "0.0.0.0/0"}, "Proxy", "WRONG", "pretend any address"),
    "public network of proxies": ({**HTTPS, "TRUSTED_PROXIES": "8.0.0.0/8"}, "Proxy", "WRONG", "8.0.0.0/8"),
    "private network of proxies": ({**HTTPS, "TRUSTED_PROXIES": "172.16.0.0/12"}, "Proxy", "ok", "172.16.0.0/12"),
    "everything right": (HTTPS, "Base URL", "ok", "https://localhost.example"),
    "log to standard output": ({"LOG_TO": "stdout"}, "Log folder", "-", "standard output"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(make_app, name):
    variables, check, state, words = SETTINGS[name]
    _code, states, output = run_doctor(make_app(**variables))
    line = next(line for line in output.splitlines() if f"{check}:" in line)
    assert states[check] == state and words in line, line


def test_misspelled_settings_are_told_with_what_was_meant(app, tmp_path, monkeypatch):
    monkeypatch.setattr(config_module, "ROOT", tmp_path)
    monkeypatch.setenv("MAIL_SEVER", "smtp.nox.example")
    (tmp_path / ".env").write_text("BASE_ULR=https://x.example\nFLASK_DEBUG=0\nNONSENSE=1\n#COMMENT=1\nPORT=8000\n")
    (tmp_path / ".env").chmod(0o600)
    code, states, output = run_doctor(app)
    assert code == 1 and states["Settings"] == "WRONG"
    for words in ("BASE_ULR does not exist: did you mean BASE_URL?", "NONSENSE does not exist", "MAIL_SERVER?"):
        assert words in output
    assert "FLASK_DEBUG" not in output and "COMMENT" not in output


def test_files_that_others_can_read(app, alice, tmp_path, monkeypatch):
    assert run_doctor(app)[1]["Privacy of files"] == "ok"
    monkeypatch.setattr(config_module, "ROOT", tmp_path)
    (tmp_path / ".env").write_text("SECRET_KEY=x\n")
    (tmp_path / ".env").chmod(0o644)
    _code, states, output = run_doctor(app)
    assert states["Privacy of files"] == "WRONG" and f"chmod go= {tmp_path}/.env" in output
    (tmp_path / ".env").chmod(0o600)
    (app.config["DATA_DIR"] / "avatars" / "x").mkdir(parents=True, exist_ok=True)
    picture = app.config["DATA_DIR"] / "avatars" / "x" / "y.webp"
    picture.write_text("")
    picture.chmod(0o640)
    assert str(picture) in run_doctor(app)[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user(app, alice):
    picture = app.config["DATA_DIR"] / "avatars" / "y.webp"
    picture.parent.mkdir(exist_ok=True)
    picture.write_text("")
    picture.chmod(0o600)
    os.chown(picture, 12345, 12345)
    _code, states, output = run_doctor(app)
    assert states["Owner of files"] == "WRONG" and str(picture) in output and "chown -R" in output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
def test_doctor_of_root_creates_nothing_that_the_server_cannot_open(tmp_path, new_database):
    environment = settings(tmp_path, new_database("sqlite"))
    for folder in (tmp_path / "data", tmp_path / "logs"):
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, 12345)
    os.chown(tmp_path, 12345, 12345)
    subprocess.run(["chown", "-R", "nobody:nogroup", tmp_path], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "main", "doctor"],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    owners = {path: path.owner() for path in tmp_path.rglob("*")}
    assert set(owners.values()) == {"nobody"} and (tmp_path / "logs" / "noxchat.log").exists(), owners


@pytest.mark.parametrize(
    ("free", "state", "words"),
    [(5e6, "WRONG", "nothing can be saved"), (5e8, "note", "500 MB free of 100.0 GB"), (9e10, "ok", "90.0 GB")],
)
def test_disk(app, monkeypatch, free, state, words):
    monkeypatch.setattr(health.shutil, "disk_usage", lambda _path: health.DiskUsage(10**11, int(free)))
    _code, states, output = run_doctor(app)
    assert states["Disk"] == state and words in output


def test_age_of_the_last_backup(app, alice, monkeypatch):
    assert run_doctor(app)[1]["Backup"] == "-"  # a new place
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).values(created_at=now() - timedelta(days=30)))
        db.session.commit()
    assert run_doctor(app)[1]["Backup"] == "note"
    run(app, "backup")
    assert run_doctor(app)[1]["Backup"] == "ok"
    (app.config["DATA_DIR"] / backup.LAST_BACKUP).write_text((now() - timedelta(days=8)).isoformat())
    _code, states, output = run_doctor(app)
    assert states["Backup"] == "note" and "the last one was made on" in output


def test_demo_people_on_a_public_address(make_app):
    app = make_app(**HTTPS)
    run(app, "demo", "--people", "2")
    assert run_doctor(app)[1]["Demo people"] == "WRONG"


def test_clock_in_the_past(app, monkeypatch):
    entry = ChangelogEntry("9.9", datetime(2099, 1, 1, tzinfo=UTC), ("x",))
    monkeypatch.setattr(changelog, "latest_entries", lambda _language: [entry])
    assert run_doctor(app)[1]["Clock"] == "WRONG"


def test_clock_that_differs_from_the_database(make_app, monkeypatch):
    app = make_app("postgresql")
    assert run_doctor(app)[1]["Clock"] == "ok"
    monkeypatch.setattr(doctor, "now", lambda: datetime.now(UTC) + timedelta(minutes=10))
    assert run_doctor(app)[1]["Clock"] == "WRONG"


@pytest.mark.parametrize("version", [(3, 9), (3, 10)])
def test_old_python(app, monkeypatch, version):
    monkeypatch.setattr(doctor.sys, "version_info", (*version, 0))
    assert run_doctor(app)[1]["Python"] == "note"


def test_role_that_may_not_create_tables(make_app, postgres):
    """As with PostgreSQL 15, where only the owner of a database may use the schema public."""
    for statement in (
        "DROP DATABASE IF EXISTS nox_rights",
        "DROP ROLE IF EXISTS nox_guest",
        "CREATE ROLE nox_guest LOGIN",
        "CREATE DATABASE nox_rights",
    ):
        postgres.execute(statement)
    with psycopg.connect(postgres.uri("nox_rights"), autocommit=True) as connection:
        connection.execute("REVOKE CREATE ON SCHEMA public FROM public")
    app = make_app(uri=postgres.uri("nox_rights").replace("postgres@", "nox_guest@"))
    _code, states, output = run_doctor(app)
    assert states["Database rights"] == "WRONG" and 'GRANT USAGE, CREATE ON SCHEMA public TO "nox_guest"' in output


def test_check_that_fails_itself_is_a_finding(app, monkeypatch):
    def broken(_config):
        raise RuntimeError("unexpected")

    monkeypatch.setattr(doctor, "check_owner", broken)
    code, states, output = run_doctor(app)
    assert code == 1 and states["Owner of files"] == "WRONG" and "RuntimeError: unexpected" in output


def test_installation_that_cannot_be_read_is_a_sentence(tmp_path):
    """An unreadable key, a DATA_DIR that cannot be made, Redis without its package: for doctor and for a start."""
    (tmp_path / "file").write_text("")
    keyless = tmp_path / "keyless"
    keyless.mkdir()
    (keyless / "secret_key").write_bytes(b"\xff" * 40)
    for variables, words in (
        ({"DATA_DIR": tmp_path / "file" / "data"}, "DATA_DIR cannot be written"),
        ({"DATA_DIR": keyless, "SECRET_KEY": ""}, "secret_key cannot be read"),
    ):
        environment = {**os.environ, **settings(tmp_path, f"sqlite:///{tmp_path}/x.db"), "PORT": str(free_port())}
        environment |= {name: str(value) for name, value in variables.items()}
        for command in (["-m", "flask", "--app", "main", "doctor"], ["-m", "noxchat.web.server"]):
            done = subprocess.run(
                [sys.executable, *command],
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            output = done.stdout + done.stderr
            assert done.returncode == 1 and words in output and "Traceback" not in output, output


WITHOUT_REDIS = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "redis" else find(name, *rest)
sys.argv = ["flask", "--app", "main", "doctor"]
from flask.cli import main
main()
"""


def test_redis_without_its_package_is_a_sentence(tmp_path, new_database):
    environment = settings(tmp_path, new_database("sqlite"), RATELIMIT_STORAGE_URI="redis://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_REDIS],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "pip install -r requirements-redis.txt" in done.stderr
    assert "Traceback" not in done.stderr


class Refusing(SMTP):
    """A mail server that refuses senders of other domains than nox.example, and recipients named nobody."""

    async def smtp_MAIL(self, arg):
        if "@nox.example" not in arg:
            await self.push("553 5.7.1 not your domain")
            return
        await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg):
        if "nobody@" in arg:
            await self.push("550 no such user")
            return
        await super().smtp_RCPT(arg)


@pytest.fixture
def mail_server():
    """A mail server with the login nox / right, on a free port."""

    class Server(Controller):
        emails: list = []

        def factory(self):
            def authenticate(_server, _session, _envelope, _mechanism, login):
                return AuthResult(success=login.password == b"right")

            options = {"auth_require_tls": False, "auth_required": True, "authenticator": authenticate}
            return Refusing(self.handler, **options)

        async def handle_DATA(self, _server, _session, envelope):
            self.emails.append(envelope)
            return "250 OK"

    server = Server(None, hostname="127.0.0.1", port=free_port())
    server.handler = server
    server.emails = []
    server.start()
    yield server
    server.stop()


LOGIN = {"MAIL_SERVER": "127.0.0.1", "MAIL_USERNAME": "nox", "MAIL_PASSWORD": "right"}


WITHOUT_TLS = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # the server's own


@WITHOUT_TLS
@pytest.mark.parametrize(
    ("variables", "state", "words"),
    [
        ({}, "ok", "accepts the sender"),
        ({"MAIL_PASSWORD": "wrong"}, "WRONG", "check MAIL_USERNAME and MAIL_PASSWORD"),
        ({"MAIL_DEFAULT_SENDER": "a@other.example"}, "WRONG", "check MAIL_DEFAULT_SENDER (553 5.7.1 not your domain)"),
    ],
)
def test_login_and_sender_are_tried(make_app, mail_server, variables, state, words):
    app = make_app(**{**LOGIN, "MAIL_PORT": mail_server.port, "MAIL_DEFAULT_SENDER": "a@nox.example", **variables})
    _code, states, output = run_doctor(app)
    assert states["Mail server"] == state and words in output, output
    assert mail_server.emails == []
    sent = run(app, "mail", "test", "me@nox.example")
    assert (sent.exit_code == 0) == (state == "ok") == (len(mail_server.emails) == 1), sent.output
    assert state == "ok" or words in sent.output


@WITHOUT_TLS
def test_mail_test_tells_each_step(make_app, mail_server):
    app = make_app(**LOGIN, MAIL_PORT=mail_server.port, MAIL_DEFAULT_SENDER="a@nox.example")
    sent = run(app, "mail", "test", "me@nox.example")
    assert [line.removesuffix(" …") for line in sent.output.splitlines()][
        :5
    ] == "connection login sender recipient message".split()
    refused = run(app, "mail", "test", "nobody@nox.example")
    assert refused.exit_code == 1 and "recipient: the recipient is refused (550 no such user)" in refused.output
    assert run(make_app(), "mail", "test", "me@nox.example").exit_code == 1


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_another_service_on_the_mail_port(make_app, monkeypatch, greeting):
    """Redis and web servers wait for the client; SSH greets with words of its own."""
    monkeypatch.setattr(health, "MAIL_SECONDS", 20)
    monkeypatch.setattr("noxchat.mail.smtp.TIMEOUT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _address = listener.accept()
            with connection:
                connection.sendall(greeting)
                connection.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        _code, states, output = run_doctor(make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=listener.getsockname()[1]))
        thread.join()
    line = next(line for line in output.splitlines() if "Mail server:" in line)
    assert states["Mail server"] == "WRONG" and "MAIL_PORT" in line and "mail server" in line


def test_commands_are_logged_with_who_and_what(app, alice, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "volunteer")
    assert run(app, "users", "delete", "alice", "--yes").exit_code == 0
    log = (app.config["LOG_DIR"] / "noxchat.log").read_text()
    assert f"command: users delete by root (volunteer by sudo): user {alice.id}" in log or os.geteuid() != 0
    assert "alice@nox.example" not in log


def test_somebody_who_has_just_logged_in_was_seen(app, alice):
    assert run(app, "users", "list").output.splitlines()[0].endswith("never")

    Browser(app).log_in("alice")
    assert f"\t{now():%Y-%m-%d }" in run(app, "users", "list").output.splitlines()[0]
