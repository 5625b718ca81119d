"""The endpoints for machines: /healthz, /readyz and /metrics."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import text

from noxchat import health
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import QueuedEmail
from tests.conftest import DATABASES, Browser, make_person


def test_healthz_and_readyz_answer_without_cookies(make_app):
    app = make_app()
    anonymous = Browser(app)
    assert anonymous.get("/healthz").json == {"status": "ok"}
    ready = anonymous.get("/readyz")
    assert ready.status_code == 200 and ready.json["database"] == "sqlite, answers, tables are current"
    for answer in (ready, anonymous.get("/healthz")):
        assert "Set-Cookie" not in answer.headers


def test_readyz_is_503_without_tables(make_app, tmp_path):
    ready = Browser(make_app(uri=f"sqlite:///{tmp_path}/nothing.db")).get("/readyz")
    assert ready.status_code == 503 and "db upgrade" in ready.json["database"]


def test_readyz_is_200_while_mail_search_or_limits_are_degraded(make_app):
    app = make_app(
        MAIL_SERVER="127.0.0.1",
        MAIL_PORT=9,
        ELASTICSEARCH_URL="http://127.0.0.1:9",
        RATELIMIT_STORAGE_URI="redis://127.0.0.1:9",
    )
    ready = Browser(app).get("/readyz")
    assert ready.status_code == 200
    assert "queue" in ready.json["mail"] and "database searches" in ready.json["elasticsearch"]
    assert "each process counts by itself" in ready.json["limits"]


@pytest.mark.parametrize("database", DATABASES)
def test_readyz_tells_a_full_disk(database, make_app, monkeypatch):
    monkeypatch.setattr(health.shutil, "disk_usage", lambda _path: health.DiskUsage(10**9, 10**6))
    ready = Browser(make_app(database)).get("/readyz")
    assert ready.status_code == 503 and ready.json["status"] == "unavailable"
    assert "1 MB free of 1.0 GB: nothing can be saved" in ready.json["disk"]


def test_readyz_tells_a_queue_that_is_stuck(app, alice):
    with app.app_context():
        begin_write(db.session)
        late = now() - timedelta(hours=1)
        db.session.add(QueuedEmail(user_id=alice.id, kind="password_reset", language="en", created_at=late))
        db.session.commit()
    ready = Browser(app).get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (200, "degraded") and "is the mail server up" in ready.json[
        "queue"
    ]


def test_readyz_tells_a_database_that_can_only_be_read(make_app, new_database):
    uri = new_database("sqlite").replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"
    ready = Browser(make_app(uri=uri)).get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (200, "degraded") and "can only be read" in ready.json[
        "writing"
    ]


TOKEN = "a-token-of-this-test-0"
ELSEWHERE = "203.0.113.5"


@pytest.mark.parametrize(
    ("address", "headers", "settings", "may"),
    [
        ("127.0.0.1", {}, {}, True),
        ("::1", {}, {}, True),
        (ELSEWHERE, {}, {}, False),
        (ELSEWHERE, {"Authorization": f"Bearer {TOKEN}"}, {"MONITORING_TOKEN": TOKEN}, True),
        (ELSEWHERE, {"Authorization": "Bearer wrong"}, {"MONITORING_TOKEN": TOKEN}, False),
        (ELSEWHERE, {"Authorization": "Bearer "}, {}, False),
        # Through a proxy that is not named, everybody seems to be on this machine.
        ("127.0.0.1", {"X-Forwarded-For": ELSEWHERE}, {}, False),
        ("127.0.0.1", {"X-Forwarded-For": ELSEWHERE}, {"TRUSTED_PROXIES": "127.0.0.1"}, False),
        ("127.0.0.1", {"X-Forwarded-For": ELSEWHERE}, {"TRUSTED_PROXIES": "10.0.0.1"}, False),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, {"TRUSTED_PROXIES": "127.0.0.1"}, True),
    ],
)
def test_reasons_and_metrics_are_for_this_machine_and_for_the_token(make_app, address, headers, settings, may):
    visitor = Browser(make_app(**settings), address=address)
    assert visitor.get("/metrics", headers=headers).status_code == (200 if may else 403)
    ready = visitor.get("/readyz", headers=headers)
    assert ready.status_code == 200 and ("database" in ready.json) == may


def metrics(browser):
    """Return the metrics by name and labels."""
    answer = browser.get("/metrics")
    assert answer.mimetype == "text/plain" and "Set-Cookie" not in answer.headers
    return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", answer.text, re.M)}


def test_metrics_count_requests_by_route_and_tell_the_state(any_app):
    browser = Browser(any_app, make_person(any_app, "Alice", public_id="alice"))
    for _time in range(3):
        browser.get("/u/alice")
    browser.get("/u/nobody")
    found = metrics(browser)
    requests = 'noxchat_requests_total{method="GET",route="/u/<public_id>",status="%s"}'
    assert found[requests % 200] == 3 and found[requests % 404] == 1
    assert found['noxchat_request_seconds_count{route="/u/<public_id>"}'] == 4
    assert 0 < found['noxchat_request_seconds_sum{route="/u/<public_id>"}'] < 10
    assert found["noxchat_database_up"] == 1 and found["noxchat_emails_queued"] == 0 == found["noxchat_streams"]
    assert found['noxchat_database_connections{state="idle"}'] >= 0
    assert sum(value > 10**6 for name, value in found.items() if name.startswith("noxchat_disk_free_bytes")) >= 1
    assert not any("alice" in name for name in found)
    for number in range(5):
        browser.client.open("/healthz", method=f"INVENTED{number}")
    assert sum("other" in name for name in metrics(browser)) <= 2 and "INVENTED" not in "".join(metrics(browser))


def test_metrics_work_while_the_database_is_away(make_app, tmp_path):
    found = metrics(Browser(make_app(uri=f"sqlite:///{tmp_path}/nothing.db")))
    assert found["noxchat_database_up"] == 0


def test_metrics_of_several_processes_are_added_up(serve):
    server = serve("postgresql", WORKERS=2)
    for _time in range(40):
        assert server.get("/auth/login").status == 200
    found = dict(re.findall(r"^(\S+) (\S+)$", server.get("/metrics").text, re.M))
    assert float(found['noxchat_requests_total{method="GET",route="/auth/login",status="200"}']) == 40


SENTENCE = {"en": "The disk of NoxChat is full", "ru": "Диск NoxChat заполнен"}


@pytest.mark.parametrize("language", SENTENCE)
def test_full_disk_is_told_in_words_and_what_was_there_stays(app, alice, language):
    browser = Browser(app, alice)
    browser.post("/settings/look", {"language": language})
    with app.app_context():
        db.engine.dispose()

        def limit(connection, _record):
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")

        db.event.listen(db.engine, "connect", limit)
    token = browser.token()
    answers = [
        browser.post("/settings/profile", {"username": "Alice", "public_id": "alice", "bio": "x" * 140}, token=token)
        for _time in range(3)
    ]
    for number in range(80):  # until no page has room for one more row
        body = {"username": f"Somebody {number:x}", "email": f"{number}@nox.example", "password": "a lamp at night 7"}
        answers.append(Browser(app).post("/auth/register", body))
        if answers[-1].status_code != 303:
            break
    refused = answers[-1]
    assert refused.status_code == 503 and "The disk of NoxChat is full" in refused.text, refused.status_code
    assert browser.get("/").status_code == 200
    with app.app_context():
        assert db.session.scalar(text("PRAGMA integrity_check")) == "ok"
