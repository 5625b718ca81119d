"""Password reset by e-mail."""

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
from tests.conftest import PASSWORD, Browser, make_person, wait_until

NEW = "another lamp in the night 8"
FIELDS = {"password": NEW, "password2": NEW}


def create_reset_link(app, user):
    """Create a reset link as the route does; return its path."""
    with app.app_context():
        user = db.session.get(User, user.id)
        tokens.renew_reset_nonce(user)
        db.session.commit()
        return f"/auth/reset/{tokens.create_reset_token(user)}"


@pytest.mark.parametrize("htmx", [False, True])
def test_unknown_email_gets_the_same_answer(app, alice, htmx):
    answers = []
    for email in ("alice@nox.example", "nobody@nox.example"):
        anonymous = Browser(app)
        answer = anonymous.post("/auth/reset", {"email": email}, htmx=htmx)
        location = answer.headers.get("HX-Redirect") or answer.location
        text = re.sub(r'(value|content)="[^"]*"', "", anonymous.get(location).text.replace(email, "@"))
        answers.append((answer.status_code, location, text))
    assert answers[0] == answers[1]
    assert answers[0][0] == (200 if htmx else 303)


@pytest.mark.parametrize("typed", ["jo@straße.example", "JO@xn--strae-oqa.example"])
def test_reset_email_goes_to_the_domain_of_the_account(make_app, typed):
    app = make_app()
    make_person(app, "Jo", "jo@straße.example")
    make_person(app, "Somebody", "jo@strasse.example")
    assert Browser(app).post("/auth/reset", {"email": typed}).status_code == 303
    email = wait_until(lambda: [path.read_text() for path in app.config["MAIL_DIR"].glob("*.eml")])[0]
    assert "To: jo@xn--strae-oqa.example\n" in email.replace("\r\n", "\n") and "strasse" not in email


def test_reset_takes_equally_long_for_unknown_emails(make_app):
    """Within a factor that the noise of other processes cannot reach, but composing or sending an e-mail would."""
    app = make_app(RESETS_PER_HOUR=1000, SIGN_UPS_PER_HOUR=1000)
    app.extensions["mail_worker"].start = lambda: None
    make_person(app, "Alice", "alice@nox.example")
    anonymous, times = Browser(app), {"alice@nox.example": [], "nobody@nox.example": []}
    token = anonymous.token()
    for _attempt in range(5):
        for email in times:
            began = time.perf_counter()
            assert anonymous.post("/auth/reset", {"email": email}, token=token).status_code == 303
            times[email].append(time.perf_counter() - began)
    known, unknown = (statistics.median(values) for values in times.values())
    assert max(known, unknown) < 3 * min(known, unknown), times


@pytest.mark.parametrize("email", ["", "nobody", "a@x\r\nBcc: b@y", "x" * 300 + "@y"])
@pytest.mark.parametrize("htmx", [False, True])
def test_invalid_email_is_refused(anonymous, email, htmx):
    assert anonymous.post("/auth/reset", {"email": email}, htmx=htmx).status_code == 422


@pytest.mark.parametrize("htmx", [False, True])
def test_reset_link_works_once_and_ends_all_sessions(any_app, htmx):
    alice = make_person(any_app, "Alice", public_id="alice")
    logged_in, anonymous = Browser(any_app, alice), Browser(any_app)
    path = create_reset_link(any_app, alice)
    page = anonymous.get(path)
    assert page.status_code == 200 and page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    answer = anonymous.post(path, FIELDS, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") or answer.location) == "/auth/login"
    assert logged_in.get("/settings").status_code == 302
    assert anonymous.log_in("alice").status_code == 422
    assert anonymous.log_in("alice", NEW).status_code == 303
    assert Browser(any_app).get(path).status_code == 400
    assert Browser(any_app).post(path, FIELDS).status_code == 400


def test_reset_link_works_while_logged_in(app, alice, alice_browser):
    path = create_reset_link(app, alice)
    assert alice_browser.get(path).status_code == 200
    assert alice_browser.post(path, FIELDS).location == "/auth/login"
    assert alice_browser.get("/auth/login").status_code == 200


def test_reset_link_works_once_under_concurrent_use(any_app):
    alice = make_person(any_app, "Alice", public_id="alice")
    path = create_reset_link(any_app, alice)
    guests = [Browser(any_app) for _guest in range(6)]
    csrf_tokens = [anonymous.token() for anonymous in guests]
    barrier, codes = Barrier(6), []

    def submit(number):
        barrier.wait()
        fields = {"password": f"{NEW} {number}", "password2": f"{NEW} {number}"}
        codes.append(guests[number].post(path, fields, token=csrf_tokens[number]).status_code)

    threads = [Thread(target=submit, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(codes) == [303, 400, 400, 400, 400, 400]


@pytest.mark.parametrize(
    "fields",
    [{"password": "short", "password2": "short"}, {"password2": "other one 12"}, {"password": "", "password2": ""}],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_reset_link_stays_valid_after_an_invalid_password(app, alice, anonymous, fields, htmx):
    path = create_reset_link(app, alice)
    assert anonymous.post(path, {**FIELDS, **fields}, htmx=htmx).status_code == 422
    assert anonymous.post(path, FIELDS).status_code == 303


def invalid_tokens(app, alice):
    """Yield (reason, token) for every kind of token that must be refused."""
    valid = create_reset_link(app, alice).rpartition("/")[2]
    with app.app_context():
        user = db.session.get(User, alice.id)
        key = tokens._key(tokens.RESET)
        claims = {"sub": str(user.id), "aud": "reset", "jti": user.reset_nonce, "exp": now() + timedelta(minutes=5)}

    def encode_part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    numeric_claims = {**claims, "exp": int(claims["exp"].timestamp())}
    yield "damaged", valid[:-2] + ("AA" if valid[-2:] != "AA" else "BB")
    yield "empty signature", valid.rpartition(".")[0] + "."
    yield "algorithm none", f"{encode_part({'alg': 'none', 'typ': 'JWT'})}.{encode_part(numeric_claims)}."
    yield "expired", jwt.encode({**claims, "exp": now() - timedelta(seconds=1)}, key, "HS256")
    yield "other purpose", jwt.encode({**claims, "aud": "confirm"}, key, "HS256")
    yield "other key", jwt.encode(claims, app.config["SECRET_KEY"], "HS256")
    yield "no expiry", jwt.encode({k: v for k, v in claims.items() if k != "exp"}, key, "HS256")
    yield "other nonce", jwt.encode({**claims, "jti": "0" * 32}, key, "HS256")
    yield "no nonce", jwt.encode({**claims, "jti": ""}, key, "HS256")
    yield "unknown user", jwt.encode({**claims, "sub": "999"}, key, "HS256")
    yield "malformed user id", jwt.encode({**claims, "sub": "1 OR 1=1"}, key, "HS256")
    yield "huge user id", jwt.encode({**claims, "sub": "9" * 30}, key, "HS256")
    yield "not a token", "x" * 2000


def test_invalid_token_page_offers_a_new_link(any_app):
    alice = make_person(any_app, "Alice", public_id="alice")
    for reason, token in invalid_tokens(any_app, alice):
        for htmx in (False, True):
            answer = Browser(any_app).get(f"/auth/reset/{token}", htmx=htmx)
            assert answer.status_code == 400, reason
            assert "Send a new link" in answer.text and token not in answer.text, reason
        assert Browser(any_app).post(f"/auth/reset/{token}", FIELDS).status_code == 400, reason
    assert Browser(any_app).log_in("alice").status_code == 303


def test_newer_link_and_password_change_invalidate_older_links(app, alice, alice_browser, anonymous):
    old = create_reset_link(app, alice)
    new = create_reset_link(app, alice)
    assert anonymous.get(old).status_code == 400
    assert anonymous.get(new).status_code == 200
    alice_browser.post("/settings/password", {"current_password": PASSWORD, **FIELDS})
    assert anonymous.get(new).status_code == 400


def test_reset_is_rate_limited_per_email(app, alice):
    app.extensions["mail_worker"].stopped = True
    for email in ("alice@nox.example", "nobody@nox.example"):
        codes = [
            Browser(app, address=f"10.0.0.{n}").post("/auth/reset", {"email": email}).status_code for n in range(6)
        ]
        assert codes == [303] * 5 + [429]
    with app.app_context():
        assert len(list(db.session.scalars(select(QueuedEmail)))) == 5


def test_reset_is_rate_limited_per_ip_address(make_app):
    app = make_app(SIGN_UPS_PER_HOUR=3)
    anonymous = Browser(app, address="10.0.0.1")
    codes = [anonymous.post("/auth/reset", {"email": f"n{n}@nox.example"}).status_code for n in range(4)]
    assert codes == [303] * 3 + [429]
