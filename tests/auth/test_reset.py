"""Getting back in by e-mail."""

import base64
import json
import re
import statistics
import time
from datetime import timedelta
from threading import Barrier, Thread

import jwt
import pytest
from sqlalchemy import select

from noxchat import tokens
from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import QueuedEmail, User
from tests.conftest import PASSWORD, Browser, make_person

NEW = "another lamp in the night 8"
FIELDS = {"password": NEW, "password2": NEW}


def link(app, user):
    """Ask for a link as the route does, and return its path."""
    with app.app_context():
        user = db.session.get(User, user.id)
        tokens.renew_reset_nonce(user)
        db.session.commit()
        return f"/auth/reset/{tokens.create_reset_token(user)}"


@pytest.mark.parametrize("htmx", [False, True])
def test_known_and_unknown_get_the_same_answer(app, alice, htmx):
    answers = []
    for email in ("alice@nox.example", "nobody@nox.example"):
        guest = Browser(app)
        answer = guest.post("/auth/reset", {"email": email}, htmx=htmx)
        where = answer.headers.get("HX-Redirect") or answer.location
        words = re.sub(r'(value|content)="[^"]*"', "", guest.get(where).text.replace(email, "@"))
        answers.append((answer.status_code, where, words))
    assert answers[0] == answers[1]
    assert answers[0][0] == (200 if htmx else 303)


def test_known_and_unknown_take_the_same_time(make_app):
    app = make_app(RESETS_PER_HOUR=1000, SIGN_UPS_PER_HOUR=1000)
    make_person(app, "Alice", "alice@nox.example")
    guest, times = Browser(app), {"alice@nox.example": [], "nobody@nox.example": []}
    token = guest.token()
    for _time in range(8):
        for email in times:
            began = time.perf_counter()
            guest.post("/auth/reset", {"email": email}, token=token)
            times[email].append(time.perf_counter() - began)
    known, unknown = (statistics.median(values) for values in times.values())
    assert abs(known - unknown) < 0.3 * max(known, unknown), times


@pytest.mark.parametrize("email", ["", "nobody", "a@x\r\nBcc: b@y", "x" * 300 + "@y"])
@pytest.mark.parametrize("htmx", [False, True])
def test_what_is_no_address_is_refused(guest, email, htmx):
    assert guest.post("/auth/reset", {"email": email}, htmx=htmx).status_code == 422


@pytest.mark.parametrize("htmx", [False, True])
def test_a_link_sets_a_password_once_and_ends_every_session(any_app, htmx):
    alice = make_person(any_app, "Alice", public_id="alice")
    signed_in, guest = Browser(any_app, alice), Browser(any_app)
    path = link(any_app, alice)
    page = guest.get(path)
    assert page.status_code == 200 and page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    answer = guest.post(path, FIELDS, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") or answer.location) == "/auth/login"
    assert signed_in.get("/settings").status_code == 302
    assert guest.sign_in("alice").status_code == 422
    assert guest.sign_in("alice", NEW).status_code == 303
    assert Browser(any_app).get(path).status_code == 400
    assert Browser(any_app).post(path, FIELDS).status_code == 400


def test_it_works_for_somebody_who_is_signed_in_too(app, alice, at_alice):
    path = link(app, alice)
    assert at_alice.get(path).status_code == 200
    assert at_alice.post(path, FIELDS).location == "/auth/login"
    assert at_alice.get("/auth/login").status_code == 200


def test_six_simultaneous_uses_have_one_winner(any_app):
    alice = make_person(any_app, "Alice", public_id="alice")
    path = link(any_app, alice)
    guests = [Browser(any_app) for _guest in range(6)]
    tokens = [guest.token() for guest in guests]
    barrier, codes = Barrier(6), []

    def use(number):
        barrier.wait()
        fields = {"password": f"{NEW} {number}", "password2": f"{NEW} {number}"}
        codes.append(guests[number].post(path, fields, token=tokens[number]).status_code)

    threads = [Thread(target=use, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(codes) == [303, 400, 400, 400, 400, 400]


@pytest.mark.parametrize(
    "fields",
    [{"password": "short", "password2": "short"}, {"password2": "other one 12"}, {"password": "", "password2": ""}],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_a_bad_password_leaves_the_link_good(app, alice, guest, fields, htmx):
    path = link(app, alice)
    assert guest.post(path, {**FIELDS, **fields}, htmx=htmx).status_code == 422
    assert guest.post(path, FIELDS).status_code == 303


def forged(app, alice):
    """Every token that must not work, by what is wrong with it."""
    good = link(app, alice).rpartition("/")[2]
    with app.app_context():
        user = db.session.get(User, alice.id)
        key = tokens._key()
        claims = {"sub": str(user.id), "aud": "reset", "jti": user.reset_nonce, "exp": now() + timedelta(minutes=5)}

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    plain = {**claims, "exp": int(claims["exp"].timestamp())}
    yield "damaged", good[:-2] + ("AA" if good[-2:] != "AA" else "BB")
    yield "empty signature", good.rpartition(".")[0] + "."
    yield "algorithm none", f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(plain)}."
    yield "too old", jwt.encode({**claims, "exp": now() - timedelta(seconds=1)}, key, "HS256")
    yield "other purpose", jwt.encode({**claims, "aud": "confirm"}, key, "HS256")
    yield "other key", jwt.encode(claims, app.config["SECRET_KEY"], "HS256")
    yield "without end", jwt.encode({k: v for k, v in claims.items() if k != "exp"}, key, "HS256")
    yield "other nonce", jwt.encode({**claims, "jti": "0" * 32}, key, "HS256")
    yield "no nonce", jwt.encode({**claims, "jti": ""}, key, "HS256")
    yield "nobody", jwt.encode({**claims, "sub": "999"}, key, "HS256")
    yield "odd person", jwt.encode({**claims, "sub": "1 OR 1=1"}, key, "HS256")
    yield "huge number", jwt.encode({**claims, "sub": "9" * 30}, key, "HS256")
    yield "nonsense", "x" * 2000


def test_forged_and_old_tokens_get_a_page_that_offers_a_new_one(any_app):
    alice = make_person(any_app, "Alice", public_id="alice")
    for wrong, token in forged(any_app, alice):
        for htmx in (False, True):
            answer = Browser(any_app).get(f"/auth/reset/{token}", htmx=htmx)
            assert answer.status_code == 400, wrong
            assert "Send a new link" in answer.text and token not in answer.text, wrong
        assert Browser(any_app).post(f"/auth/reset/{token}", FIELDS).status_code == 400, wrong
    assert Browser(any_app).sign_in("alice").status_code == 303


def test_a_newer_link_and_a_password_change_end_an_older_one(app, alice, at_alice, guest):
    old = link(app, alice)
    new = link(app, alice)
    assert guest.get(old).status_code == 400
    assert guest.get(new).status_code == 200
    at_alice.post("/settings/password", {"current_password": PASSWORD, **FIELDS})
    assert guest.get(new).status_code == 400


def test_letters_to_one_account_are_limited_whether_or_not_it_exists(app, alice):
    app.extensions["mail_worker"].stopped = True
    for email in ("alice@nox.example", "nobody@nox.example"):
        codes = [
            Browser(app, address=f"10.0.0.{n}").post("/auth/reset", {"email": email}).status_code for n in range(6)
        ]
        assert codes == [303] * 5 + [429]
    with app.app_context():
        assert len(list(db.session.scalars(select(QueuedEmail)))) == 5


def test_wishes_from_one_address_are_limited(make_app):
    app = make_app(SIGN_UPS_PER_HOUR=3)
    guest = Browser(app, address="10.0.0.1")
    codes = [guest.post("/auth/reset", {"email": f"n{n}@nox.example"}).status_code for n in range(4)]
    assert codes == [303] * 3 + [429]
