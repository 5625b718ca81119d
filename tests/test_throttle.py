"""Rate limits counted in Redis: shared by processes, and in memory while Redis fails."""

import logging
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress

import psutil
import pytest
from limits import RateLimitItemPerHour

from config import ROOT, ConfigError
from noxchat import throttle
from noxchat.exceptions import RateLimited
from noxchat.extensions import db
from tests import certificates
from tests.conftest import PASSWORD, Browser, free_port, make_person, skip, wait_until
from tests.test_config import config

TWICE = RateLimitItemPerHour(2)
FAILED, RECOVERED = "limits are counted in this process", "limits are counted in RATELIMIT_STORAGE_URI again"


class Redis:
    """A real Redis server. options: of its command line."""

    def __init__(self, folder, *options):
        if not shutil.which("redis-server"):
            skip("Redis is not installed: apt-get install redis-server")
        self.port, self.folder, self.options = free_port(), folder, options
        self.start()

    def start(self):
        own = ["--port", self.port, "--bind", "127.0.0.1", "--save", "", "--dir", self.folder, *self.options]
        self.process = subprocess.Popen(["redis-server", *map(str, own)], stdout=subprocess.DEVNULL)
        wait_until(self.answers)

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    @property
    def uri(self):
        return f"redis://127.0.0.1:{self.port}"


@pytest.fixture
def redis(tmp_path):
    server = Redis(tmp_path)
    yield server
    server.stop()


def log_lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "noxchat.throttle"]


def hit(limiter, name="somebody"):
    """Count an attempt; return whether it was allowed, and after how many seconds that was known."""
    began = time.monotonic()
    return not limiter.hit(TWICE, name), time.monotonic() - began


def test_attempts_are_counted_for_all_processes(redis):
    one, other = throttle.Limiter(redis.uri), throttle.Limiter(redis.uri)
    assert [hit(limiter)[0] for limiter in (one, other, one, other)] == [True, True, False, False]
    assert 3500 < one.hit(TWICE, "somebody") <= 3601


def test_limits_are_counted_in_memory_while_redis_is_down_and_in_redis_again_afterwards(redis, caplog, monkeypatch):
    monkeypatch.setattr(throttle, "RETRY_SECONDS", 0.2)
    caplog.set_level(logging.INFO)
    limiter = throttle.Limiter(redis.uri)
    assert hit(limiter)[0] and limiter.check() == ""
    redis.stop()
    assert [hit(limiter)[0] for _attempt in range(4)] == [True, True, False, False]
    assert limiter.check() and hit(limiter, "somebody else")[0]
    redis.start()
    wait_until(lambda: limiter.hit(TWICE, "traffic") is not None and not limiter.problem)
    assert hit(limiter)[0]  # Redis kept nothing, and what was counted meanwhile stays in memory
    lines = log_lines(caplog)
    assert [line.startswith(FAILED) for line in lines] == [True, False] and lines[1] == RECOVERED


def test_a_hanging_redis_delays_one_request_and_is_asked_again_later(redis, monkeypatch, caplog):
    limiter = throttle.Limiter(redis.uri)
    assert hit(limiter)[0]
    redis.process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(throttle, "RETRY_SECONDS", 3600)
    allowed, seconds = hit(limiter)
    assert allowed and throttle.STORE_SECONDS <= seconds < 5
    asked = []
    monkeypatch.setattr(limiter, "_ask", asked.append)
    assert [hit(limiter, str(number))[0] for number in range(50)] == [True] * 50 and not asked
    monkeypatch.undo()
    redis.process.send_signal(signal.SIGCONT)
    limiter._retry_at = 0.0
    assert hit(limiter, "somebody new")[0] and limiter.problem == ""
    assert log_lines(caplog)[-1] == RECOVERED


def test_a_store_that_sends_a_byte_at_a_time_is_given_up(caplog):
    """Each byte arrives within the time limit of the connection."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        limiter = throttle.Limiter(f"redis://127.0.0.1:{listener.getsockname()[1]}")

        def drip():
            connection, _address = listener.accept()
            with closing(connection), suppress(OSError):  # closed by the limiter
                for _byte in range(100):
                    connection.sendall(b"+")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        allowed, seconds = hit(limiter)
    assert allowed and seconds < 5 and "no answer within" in limiter.problem


def test_an_error_of_redis_is_handled_as_an_outage(tmp_path):
    """And the password is in no message."""
    server = Redis(tmp_path, "--requirepass", "a secret")
    try:
        limiter = throttle.Limiter(f"redis://:wrong-one@127.0.0.1:{server.port}")
        assert hit(limiter)[0] and limiter.problem == "AuthenticationError"
        limiter = throttle.Limiter(f"redis://:a%20secret@127.0.0.1:{server.port}")
        assert hit(limiter)[0] and limiter.problem == ""
    finally:
        server.stop()


@pytest.mark.parametrize("signed_by", ["known authority", "unknown authority", "another name"])
def test_the_certificate_of_redis_is_checked(tmp_path, signed_by):
    if not certificates.is_installed():
        skip("OpenSSL is not installed: apt-get install openssl")
    authority = certificates.make_certificate(tmp_path, "Authority", kind="authority")
    name = "other.example" if signed_by == "another name" else "localhost"
    made = certificates.make_certificate(tmp_path, name, authority)
    trusted = "" if signed_by == "unknown authority" else f"?ssl_ca_certs={authority.path}"
    tls = [
        "--tls-port",
        free_port(),
        "--tls-cert-file",
        made.path,
        "--tls-key-file",
        made.key,
        "--tls-auth-clients",
        "no",
    ]
    server = Redis(tmp_path, *tls)
    try:
        wait_until(server.answers)
        limiter = throttle.Limiter(f"rediss://localhost:{tls[1]}{trusted}")
        assert limiter.check() == ("" if signed_by == "known authority" else "ConnectionError")
    finally:
        server.stop()


def test_people_register_while_redis_hangs_and_readyz_says_it(make_app, redis):
    app = make_app(RATELIMIT_STORAGE_URI=redis.uri, SIGN_UPS_PER_HOUR=2)
    redis.process.send_signal(signal.SIGSTOP)

    def register(name):
        browser = Browser(app)
        fields = {"username": name, "email": f"{name}@nox.example", "password": PASSWORD, "password2": PASSWORD}
        return browser.post("/auth/register", fields, token=browser.token("/auth/register")).status_code

    assert [register(name) for name in ("Mila", "Boris", "Clara")] == [303, 303, 429]
    browser = Browser(app)
    ready = browser.get("/readyz")
    assert ready.status_code == 200 and "each process counts by itself meanwhile" in ready.json["limits"]
    redis.process.send_signal(signal.SIGCONT)
    wait_until(lambda: browser.get("/readyz").json["limits"] == "the store answers")


def test_friend_requests_and_blocks_do_not_depend_on_redis(make_app):
    """They are counted in the database, with the transaction that saves them."""
    app = make_app(RATELIMIT_STORAGE_URI="redis://127.0.0.1:9", REQUESTS_PER_HOUR=1)
    alice, _bob, _clara = (make_person(app, name, public_id=name.lower()) for name in ("Alice", "Bobby", "Clara"))
    browser = Browser(app, alice)
    assert browser.post("/u/bobby/request").status_code == 303
    assert browser.post("/u/clara/request").status_code == 429
    assert browser.post("/u/bobby/block").status_code == 303
    assert app.extensions["limiter"].problem == ""  # nobody asked


def test_counting_inside_a_transaction_fails_the_tests(app):
    with app.test_request_context():
        db.session.connection()
        with pytest.raises(AssertionError, match="commit before"):
            throttle.count_registration("192.0.2.1")
        db.session.rollback()
        app.config["SIGN_UPS_PER_HOUR"] = 1
        throttle.count_registration("192.0.2.1")
        with pytest.raises(RateLimited):
            throttle.count_registration("192.0.2.1")


def test_missing_redis_package_is_a_sentence_at_start(monkeypatch):
    monkeypatch.setattr("config.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -r requirements-redis\.txt"):
        config(RATELIMIT_STORAGE_URI="rediss://localhost")
    config()


@pytest.mark.parametrize(
    ("environment", "file", "expected"),
    [
        ({}, None, False),
        ({}, "RATELIMIT_STORAGE_URI=memory://\n", False),
        ({}, "#RATELIMIT_STORAGE_URI=redis://localhost\n", False),
        ({}, "\ufeffRATELIMIT_STORAGE_URI=redis://localhost\n", True),
        ({}, "PORT=1\nexport RATELIMIT_STORAGE_URI = 'rediss://localhost'\n", True),
        ({}, "RATELIMIT_STORAGE_URI=redis://localhost\nRATELIMIT_STORAGE_URI=memory://\n", False),
        ({"RATELIMIT_STORAGE_URI": " redis://localhost"}, None, True),
        ({"RATELIMIT_STORAGE_URI": "memory://"}, "RATELIMIT_STORAGE_URI=redis://localhost\n", False),
    ],
)
def test_bin_run_installs_redis_packages_only_where_they_are_set(tmp_path, environment, file, expected):
    if file is not None:
        (tmp_path / ".env").write_text(file)
    (tmp_path / "requirements-redis.txt").write_text("redis\n")
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import _setup;"
        "_setup.ROOT = _setup.VENV = pathlib.Path(sys.argv[2]); _setup.pip = lambda *words: print(*words);"
        "_setup.install_redis(); _setup.install_redis()"
    )
    command = [sys.executable, "-I", "-c", script, str(ROOT / "bin"), str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == (["install", str(tmp_path / "requirements-redis.txt")] if expected else [])


def test_server_starts_and_answers_while_redis_is_down(serve, redis):
    server = serve("postgresql", WORKERS=2, RATELIMIT_STORAGE_URI=redis.uri)
    redis.stop()
    assert "each process counts by itself meanwhile" in server.get("/readyz").text
    redis.start()
    wait_until(lambda: "the store answers" in server.get("/readyz").text)
    assert len(psutil.Process(server.process.pid).children()) == 2
