"""The log file: one line per event, no secrets, rotation, and standard error where it cannot be written."""

import logging
import os
import stat

from noxchat.web.logs import SingleLineFormatter
from tests.conftest import PASSWORD, Browser


def read_log(app):
    return (app.config["LOG_DIR"] / "noxchat.log").read_text()


def test_line_breaks_and_control_characters_are_escaped():
    record = logging.LogRecord("x", logging.INFO, "", 0, "a\r\nINFO forged\x1b[31m\u2028\x85end", (), None)
    line = SingleLineFormatter().format(record)
    assert not set("\r\n\x1b\u2028\x85") & set(line)
    assert "\\r\\nINFO forged" in line


def test_traceback_is_one_line():
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    line = SingleLineFormatter().format(logging.LogRecord("x", logging.ERROR, "", 0, "broken", (), info))
    assert "\n" not in line and "ValueError" in line


def test_requests_are_logged_as_routes_with_request_id(app, anonymous):
    response = anonymous.get("/auth/reset/secret-token-that-nobody-should-read")
    assert response.headers["X-Request-ID"] in read_log(app)
    assert "GET /auth/reset/<token> 400" in read_log(app)


def test_no_secrets_are_logged(app, alice_browser, anonymous):
    anonymous.log_in("alice@nox.example", "wrong password \r\n that I use elsewhere")
    anonymous.log_in("alice@nox.example")
    anonymous.post("/auth/reset", {"email": "alice@nox.example"})
    anonymous.get("/nowhere?password=hunter2hunter2", headers={"Cookie": "session=forged-cookie"})
    text = read_log(app)
    for secret in (PASSWORD, "I use elsewhere", "hunter2hunter2", "forged-cookie", "alice@nox.example"):
        assert secret not in text
    for message in ("login failed", "login ok", "reset requested"):
        assert message in text
    assert "Set-Cookie" not in text


def test_csrf_refusals_are_logged(app, alice_browser):
    alice_browser.post("/auth/logout", token=False)
    alice_browser.post("/auth/logout", headers={"Origin": "https://evil.example"})
    assert read_log(app).count("csrf refused") == 2


def test_log_is_readable_by_owner_only(app, anonymous):
    anonymous.get("/")
    assert stat.S_IMODE((app.config["LOG_DIR"] / "noxchat.log").stat().st_mode) == 0o600


def test_unwritable_folder_logs_to_standard_error_with_warning(make_app, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    app = make_app(LOG_DIR=tmp_path / "file" / "logs")
    assert Browser(app).get("/healthz").status_code == 200
    output = capfd.readouterr().err
    assert "cannot be written" in output and "GET /healthz 200" in output


def test_log_that_is_a_link_is_not_followed(make_app, tmp_path, capfd):
    (tmp_path / "logs").mkdir()
    (tmp_path / "foreign").write_text("foreign\n")
    (tmp_path / "foreign").chmod(0o644)
    (tmp_path / "logs" / "noxchat.log").symlink_to(tmp_path / "foreign")
    Browser(make_app(LOG_DIR=tmp_path / "logs")).get("/healthz")
    assert "GET /healthz 200" in capfd.readouterr().err
    assert (tmp_path / "foreign").read_text() == "foreign\n"
    assert stat.S_IMODE((tmp_path / "foreign").stat().st_mode) == 0o644


def test_log_rotates_by_size_and_keeps_configured_number_of_files(make_app):
    app = make_app(LOG_FILE_BYTES=10_000, LOG_FILES=2)
    for _time in range(400):
        app.logger.info("x" * 100)
    files = sorted(path.name for path in app.config["LOG_DIR"].glob("noxchat.log*"))
    assert files == ["noxchat.log", "noxchat.log.1", "noxchat.log.2"]


def test_processes_share_log_without_losing_lines(make_app):
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


def test_refusals_carry_the_address_and_nothing_else_does(app):
    stranger, friend = Browser(app, address="203.0.113.5"), Browser(app, address="203.0.113.6")
    stranger.get("/nowhere")
    stranger.post("/auth/login", {"identifier": "x"}, token=False)
    stranger.get("/auth/login", headers={"Host": "evil.example"})
    stranger.get("/metrics")
    friend.get("/auth/login")
    lines = read_log(app).splitlines()
    assert not any("203.0.113.6" in line for line in lines)
    for words in (
        "GET - 404",
        "csrf refused: token missing or stale, from",
        "foreign host refused: from",
        "GET /metrics 403",
    ):
        assert any(words in line and line.endswith("203.0.113.5") for line in lines), words


def test_log_goes_to_standard_output_in_containers(make_app, capfd):
    app = make_app(LOG_TO="stdout")
    Browser(app).get("/healthz")
    assert "GET /healthz 200" in capfd.readouterr().out and not app.config["LOG_DIR"].exists()
