"""Where one is signed in; the password; and what ends when it changes."""

import pytest
from sqlalchemy import select

from noxchat import sessions
from noxchat.extensions import db
from noxchat.models import Session
from tests.conftest import PASSWORD, Browser, make_person

NEW = "another lamp in the night 8"
CHANGE = {"current_password": PASSWORD, "password": NEW, "password2": NEW}


def test_the_list_shows_devices_in_words_and_which_one_this_is(app, alice, at_alice):
    Browser(app, alice)
    page = at_alice.get("/settings/sessions").text
    assert page.count("data-session=") == 2
    assert "Firefox on Linux" in page and page.count("this one") == 1
    assert "<html" not in at_alice.get("/settings/sessions", htmx=True).text


@pytest.mark.parametrize("htmx", [False, True])
def test_ending_one_and_ending_the_others(any_app, htmx):
    alice = make_person(any_app, "Alice", public_id="alice")
    here, there, elsewhere = (Browser(any_app, alice) for _browser in range(3))
    with any_app.app_context():
        ids = list(db.session.scalars(select(Session.id).order_by(Session.id)))
    answer = here.post(f"/settings/sessions/{ids[1]}/revoke", htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert there.get("/settings").status_code == 302
    assert elsewhere.get("/settings").status_code == 200
    answer = here.post("/settings/sessions/revoke-others", htmx=htmx)
    assert elsewhere.get("/settings").status_code == 302
    assert here.get("/settings").status_code == 200
    if htmx:
        assert answer.text.count("data-session=") == 1 and 'data-kind="ok"' in answer.text


def test_ending_what_is_gone_says_nothing_happened(at_alice):
    answer = at_alice.post("/settings/sessions/424242/revoke", htmx=True)
    assert answer.status_code == 200 and "data-kind" not in answer.text


def test_ending_ones_own_session_signs_out(app, at_alice):
    with app.app_context():
        own = db.session.scalar(select(Session.id))
    assert at_alice.post(f"/settings/sessions/{own}/revoke").location == "/"
    assert at_alice.get("/settings").status_code == 302


def test_nobody_ends_another_persons_session(any_app):
    alice, bob = make_person(any_app, "Alice"), make_person(any_app, "Bob")
    at_alice, at_bob = Browser(any_app, alice), Browser(any_app, bob)
    with any_app.app_context():
        hers = db.session.scalar(select(Session.id).where(Session.user_id == alice.id))
    at_bob.post(f"/settings/sessions/{hers}/revoke")
    at_bob.post("/settings/sessions/revoke-others")
    assert at_alice.get("/settings").status_code == 200


@pytest.mark.parametrize("number", ["0", "99999999999999999999", "-1", "abc"])
def test_odd_numbers_are_nobodys(at_alice, number):
    assert at_alice.post(f"/settings/sessions/{number}/revoke").status_code in {303, 404}


@pytest.mark.parametrize("htmx", [False, True])
def test_a_password_change_ends_every_other_session(any_app, htmx):
    alice = make_person(any_app, "Alice", public_id="alice")
    here, there, remembered = Browser(any_app, alice), Browser(any_app, alice), Browser(any_app)
    remembered.sign_in("alice", remember_me="y")
    remembered.client.delete_cookie("session")
    answer = here.post("/settings/password", CHANGE, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert here.get("/settings").status_code == 200
    assert there.get("/settings").status_code == 302
    assert remembered.get("/settings").status_code == 302
    assert Browser(any_app).sign_in("alice").status_code == 422
    assert Browser(any_app).sign_in("alice", NEW).status_code == 303


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"current_password": "wrong one 12"}, "This is not your password."),
        ({"password": "short", "password2": "short"}, "at least 8 characters"),
        ({"password2": "different one 9"}, "passwords differ"),
        ({"password": "qwerty123", "password2": "qwerty123"}, "first that get guessed"),
    ],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_a_bad_change_is_refused(app, at_alice, fields, words, htmx):
    answer = at_alice.post("/settings/password", {**CHANGE, **fields}, htmx=htmx)
    assert answer.status_code == 422 and words in answer.text
    assert Browser(app).sign_in("alice").status_code == 303


def test_guessing_the_current_password_is_throttled(at_alice):
    codes = [
        at_alice.post("/settings/password", {**CHANGE, "current_password": "wrong one 12"}).status_code
        for _t in range(11)
    ]
    assert codes == [422] * 10 + [429]


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1", ("Safari", "iPhone")),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/150.0 Safari/537.36 Edg/150.0", ("Edge", "Windows")),
        ("Mozilla/5.0 (Linux; Android 16) Chrome/150.0 Mobile Safari/537.36", ("Chrome", "Android")),
        ("", ("", "")),
    ],
)
def test_devices_in_words(agent, words):
    assert sessions.device(agent) == words


def test_presence_is_written_at_most_once_a_minute(app, alice, at_alice):
    from datetime import timedelta

    from sqlalchemy import event, update

    from noxchat.database import now
    from noxchat.models import User

    writes = []
    with app.app_context():
        event.listen(
            db.engine, "before_cursor_execute", lambda *a: writes.append(a[2]) if a[2].startswith("UPDATE") else None
        )
        at_alice.get("/")
        assert writes == []  # the session was made just now
        db.session.execute(update(Session).values(last_used_at=now() - timedelta(minutes=2)))
        db.session.commit()
        writes.clear()
    at_alice.get("/")
    at_alice.get("/settings")
    assert len(writes) == 2  # the session and the person, once
    with app.app_context():
        assert db.session.get(User, alice.id).last_seen_at > now() - timedelta(seconds=10)
