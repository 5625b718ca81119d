"""The log: one line an event, nothing secret, and no crash where it cannot be written."""

import logging
import os
import stat

from noxchat.web.logs import SingleLineFormatter
from tests.conftest import PASSWORD, Browser


def log_of(app):
    return (app.config["LOG_DIR"] / "noxchat.log").read_text()


def test_one_event_is_one_line_whatever_was_typed():
    record = logging.LogRecord("x", logging.INFO, "", 0, "a\r\nINFO forged\x1b[31m\u2028\x85end", (), None)
    line = SingleLineFormatter().format(record)
    assert not set("\r\n\x1b\u2028\x85") & set(line)
    assert "\\r\\nINFO forged" in line


def test_a_traceback_is_one_line_too():
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    line = SingleLineFormatter().format(logging.LogRecord("x", logging.ERROR, "", 0, "broken", (), info))
    assert "\n" not in line and "ValueError" in line


def test_requests_are_logged_by_route_with_their_id(app, guest):
    answer = guest.get("/auth/reset/secret-token-that-nobody-should-read")
    assert answer.headers["X-Request-ID"] in log_of(app)
    assert "GET /auth/reset/<token> 400" in log_of(app)


def test_nothing_secret_is_logged(app, at_alice, guest):
    guest.sign_in("alice@nox.example", "wrong password \r\n that I use elsewhere")
    guest.sign_in("alice@nox.example")
    guest.post("/auth/reset", {"email": "alice@nox.example"})
    guest.get("/nowhere?password=hunter2hunter2", headers={"Cookie": "session=forged-cookie"})
    text = log_of(app)
    for secret in (PASSWORD, "I use elsewhere", "hunter2hunter2", "forged-cookie", "alice@nox.example"):
        assert secret not in text
    for words in ("login failed", "login ok", "reset requested"):
        assert words in text
    for header in ("Set-Cookie",):
        assert header not in text


def test_refusals_are_logged_in_fixed_words(app, at_alice):
    at_alice.post("/auth/logout", token=False)
    at_alice.post("/auth/logout", headers={"Origin": "https://evil.example"})
    assert log_of(app).count("csrf refused") == 2


def test_the_log_is_its_owners(app, guest):
    guest.get("/")
    assert stat.S_IMODE((app.config["LOG_DIR"] / "noxchat.log").stat().st_mode) == 0o600


def test_an_unwritable_folder_is_a_warning_and_standard_error(make_app, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    app = make_app(LOG_DIR=tmp_path / "file" / "logs")
    assert Browser(app).get("/healthz").status_code == 200
    said = capfd.readouterr().err
    assert "cannot be written" in said and "GET /healthz 200" in said


def test_it_rotates_by_size_and_keeps_what_it_should(make_app):
    app = make_app(LOG_FILE_BYTES=10_000, LOG_FILES=2)
    for _time in range(400):
        app.logger.info("x" * 100)
    files = sorted(path.name for path in app.config["LOG_DIR"].glob("noxchat.log*"))
    assert files == ["noxchat.log", "noxchat.log.1", "noxchat.log.2"]


def test_several_processes_share_it_without_losing_a_line(make_app):
    app = make_app(LOG_FILE_BYTES=100_000, LOG_FILES=50)
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            for line in range(300):
                app.logger.info("child %s line %s %s", child, line, "x" * 200)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    text = "".join(path.read_text() for path in app.config["LOG_DIR"].glob("noxchat.log*"))
    assert text.count("child ") == 1200
