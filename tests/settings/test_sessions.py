"""The session list, revoking sessions, and changing the password."""

import pytest
from sqlalchemy import select

from noxchat import sessions
from noxchat.extensions import db
from noxchat.models import Session
from tests.conftest import PASSWORD, Browser, make_person

NEW = "another lamp in the night 8"
CHANGE = {"current_password": PASSWORD, "password": NEW, "password2": NEW}


def test_session_list_shows_devices_and_marks_the_current_one(app, alice, alice_browser):
    Browser(app, alice)
    page = alice_browser.get("/settings/sessions").text
    assert page.count("data-session=") == 2
    assert "Firefox on Linux" in page and page.count("this one") == 1
    assert "<html" not in alice_browser.get("/settings/sessions", htmx=True).text


@pytest.mark.parametrize("htmx", [False, True])
def test_revoke_one_session_and_all_others(any_app, htmx):
    alice = make_person(any_app, "Alice", public_id="alice")
    current, second, third = (Browser(any_app, alice) for _browser in range(3))
    with any_app.app_context():
        ids = list(db.session.scalars(select(Session.id).order_by(Session.id)))
    answer = current.post(f"/settings/sessions/{ids[1]}/revoke", htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert second.get("/settings").status_code == 302
    assert third.get("/settings").status_code == 200
    answer = current.post("/settings/sessions/revoke-others", htmx=htmx)
    assert third.get("/settings").status_code == 302
    assert current.get("/settings").status_code == 200
    if htmx:
        assert answer.text.count("data-session=") == 1 and 'data-kind="ok"' in answer.text


def test_revoking_a_missing_session_shows_no_notice(alice_browser):
    answer = alice_browser.post("/settings/sessions/424242/revoke", htmx=True)
    assert answer.status_code == 200 and "data-kind" not in answer.text


def test_revoking_the_current_session_logs_out(app, alice_browser):
    with app.app_context():
        session_id = db.session.scalar(select(Session.id))
    assert alice_browser.post(f"/settings/sessions/{session_id}/revoke").location == "/"
    assert alice_browser.get("/settings").status_code == 302


def test_sessions_of_other_users_cannot_be_revoked(any_app):
    alice, bob = make_person(any_app, "Alice"), make_person(any_app, "Bob")
    alice_browser, at_bob = Browser(any_app, alice), Browser(any_app, bob)
    with any_app.app_context():
        session_id = db.session.scalar(select(Session.id).where(Session.user_id == alice.id))
    assert at_bob.post(f"/settings/sessions/{session_id}/revoke").status_code == 303
    assert at_bob.post("/settings/sessions/revoke-others").status_code == 303
    assert alice_browser.get("/settings").status_code == 200


def test_invalid_session_id_is_handled(alice_browser):
    for session_id, status in (("0", 303), ("99999999999999999999", 404), ("-1", 404), ("abc", 404)):
        assert alice_browser.post(f"/settings/sessions/{session_id}/revoke").status_code == status, session_id


@pytest.mark.parametrize("htmx", [False, True])
def test_password_change_ends_all_other_sessions(any_app, htmx):
    alice = make_person(any_app, "Alice", public_id="alice")
    current, second, remembered = Browser(any_app, alice), Browser(any_app, alice), Browser(any_app)
    remembered.log_in("alice", remember_me="y")
    remembered.client.delete_cookie(remembered.cookie_name("SESSION"))
    answer = current.post("/settings/password", CHANGE, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert current.get("/settings").status_code == 200
    assert second.get("/settings").status_code == 302
    assert remembered.get("/settings").status_code == 302
    assert Browser(any_app).log_in("alice").status_code == 422
    assert Browser(any_app).log_in("alice", NEW).status_code == 303


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"current_password": "wrong one 12"}, "This is not your password."),
        ({"password": "short", "password2": "short"}, "at least 8 characters"),
        ({"password2": "different one 9"}, "passwords do not match"),
        ({"password": "qwerty123", "password2": "qwerty123"}, "too easy to guess"),
    ],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_invalid_password_change_is_refused(app, alice_browser, fields, message, htmx):
    answer = alice_browser.post("/settings/password", {**CHANGE, **fields}, htmx=htmx)
    assert answer.status_code == 422 and message in answer.text
    assert Browser(app).log_in("alice").status_code == 303


def test_wrong_current_and_weak_new_password_are_told_at_once(app, alice_browser):
    fields = {"current_password": "wrong one 12", "password": "qwerty123", "password2": "qwerty124"}
    answer = alice_browser.post("/settings/password", fields)
    assert answer.status_code == 422 and "3 fields need another look" in answer.text
    for message in ("This is not your password.", "too easy to guess", "passwords do not match"):
        assert message in answer.text
    assert Browser(app).log_in("alice").status_code == 303


def test_guessing_the_current_password_is_rate_limited(alice_browser):
    codes = [
        alice_browser.post("/settings/password", {**CHANGE, "current_password": "wrong one 12"}).status_code
        for _attempt in range(11)
    ]
    assert codes == [422] * 10 + [429]


@pytest.mark.parametrize(
    ("user_agent", "device"),
    [
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1", ("Safari", "iPhone")),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/150.0 Safari/537.36 Edg/150.0", ("Edge", "Windows")),
        ("Mozilla/5.0 (Linux; Android 16) Chrome/150.0 Mobile Safari/537.36", ("Chrome", "Android")),
        ("", ("", "")),
    ],
)
def test_device_is_described_from_user_agent(user_agent, device):
    assert sessions.device(user_agent) == device


def test_presence_is_written_at_most_once_a_minute(app, alice, alice_browser):
    from datetime import timedelta

    from sqlalchemy import event, update

    from noxchat.database import now
    from noxchat.models import User

    writes = []
    with app.app_context():
        event.listen(
            db.engine, "before_cursor_execute", lambda *a: writes.append(a[2]) if a[2].startswith("UPDATE") else None
        )
        alice_browser.get("/")
        assert writes == []  # the session was created just now
        db.session.execute(update(Session).values(last_used_at=now() - timedelta(minutes=2)))
        db.session.commit()
        writes.clear()
    alice_browser.get("/")
    alice_browser.get("/settings")
    assert len(writes) == 2  # the session and the user, once each
    with app.app_context():
        assert db.session.get(User, alice.id).last_seen_at > now() - timedelta(seconds=10)
