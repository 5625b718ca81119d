"""Signing in and out, cookies, guessing, and where one goes on to."""

import statistics
import time
from http.cookies import SimpleCookie

import pytest

from tests.conftest import PASSWORD, Browser, make_person

WRONG = "not the password 1"


@pytest.mark.parametrize("identifier", ["alice@nox.example", "ALICE@NOX.EXAMPLE", "alice", "Alice", "  alice "])
def test_email_or_public_id_whatever_the_case(any_app, identifier):
    make_person(any_app, "Alice", public_id="alice")
    guest = Browser(any_app)
    answer = guest.sign_in(identifier)
    assert (answer.status_code, answer.location) == (303, "/")
    assert "Alice" in guest.get("/").text


def test_htmx_is_sent_on_as_a_whole(alice, guest):
    answer = guest.post("/auth/login?next=/settings", {"identifier": "alice", "password": PASSWORD}, htmx=True)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (200, "/settings")


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize("who", ["alice", "nobody", "nobody@nox.example"])
def test_a_wrong_password_and_nobody_get_the_same_words(alice, guest, who, htmx):
    answer = guest.post("/auth/login", {"identifier": who, "password": WRONG}, htmx=htmx)
    assert answer.status_code == 422
    assert "E-mail, Public ID or password is wrong." in answer.text
    assert WRONG not in answer.text and f'value="{who}"' in answer.text


def test_known_and_unknown_take_the_same_time(make_app):
    app = make_app(SIGN_INS_PER_ACCOUNT_AND_ADDRESS=1000, SIGN_INS_PER_ADDRESS=1000)
    make_person(app, "Alice", public_id="alice")
    guest, times = Browser(app), {"alice": [], "nobody": []}
    token = guest.token()
    for _time in range(12):
        for who in times:
            began = time.perf_counter()
            guest.post("/auth/login", {"identifier": who, "password": WRONG}, token=token)
            times[who].append(time.perf_counter() - began)
    known, unknown = (statistics.median(values[1:]) for values in times.values())
    assert abs(known - unknown) < 0.3 * max(known, unknown), times


def tries(browser, who, count, **more):
    return [browser.sign_in(who, WRONG, **more).status_code for _time in range(count)]


def test_guessing_at_one_account_from_one_address(app, alice):
    guest = Browser(app, address="10.0.0.1")
    codes = tries(guest, "alice", 5) + tries(guest, "ALICE@nox.example", 5)
    assert codes == [422] * 9 + [429]
    answer = guest.sign_in("alice")
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
    assert Browser(app, address="10.0.0.2").sign_in("alice").status_code == 303


def test_nobody_is_throttled_like_somebody(app):
    assert tries(Browser(app, address="10.0.0.1"), "nobody", 10) == [422] * 9 + [429]


def test_guessing_at_many_accounts_from_one_address(make_app):
    app = make_app(SIGN_INS_PER_ADDRESS=5)
    guest = Browser(app, address="10.0.0.1")
    assert [guest.sign_in(f"nobody{number}", WRONG).status_code for number in range(5)] == [422] * 4 + [429]


def test_guessing_at_one_account_from_many_addresses_does_not_lock_its_owner_out(make_app):
    app = make_app(SIGN_INS_PER_ACCOUNT=5)
    make_person(app, "Alice", public_id="alice")
    owner = Browser(app, address="10.1.0.1")
    assert owner.sign_in("alice").status_code == 303
    assert owner.post("/auth/logout").status_code == 303
    codes = [Browser(app, address=f"10.0.0.{number}").sign_in("alice", WRONG).status_code for number in range(6)]
    assert codes[-1] == 429
    assert Browser(app, address="10.0.9.9").sign_in("alice").status_code == 429
    assert owner.sign_in("alice").status_code == 303  # a device that signed in before


def test_a_known_device_may_not_guess_for_ever_either(app, alice):
    owner = Browser(app)
    owner.sign_in("alice")
    owner.post("/auth/logout")
    assert 429 in tries(owner, "alice", 10)


def test_another_persons_device_cookie_is_no_pass(app, alice):
    make_person(app, "Bob", public_id="bobby")
    bob = Browser(app)
    bob.sign_in("bobby")
    bob.post("/auth/logout")
    assert tries(bob, "alice", 10)[-1] == 429


def test_a_forged_forwarded_for_changes_nothing(app, alice):
    guest = Browser(app, address="10.0.0.1")
    codes = [
        guest.post(
            "/auth/login", {"identifier": "alice", "password": WRONG}, headers={"X-Forwarded-For": f"1.2.3.{number}"}
        ).status_code
        for number in range(10)
    ]
    assert codes[-1] == 429


def test_known_proxies_are_believed(make_app):
    app = make_app(TRUSTED_PROXIES="10.0.0.0/8", SIGN_INS_PER_ADDRESS=3)
    proxied = Browser(app, address="10.0.0.1")

    def code(forwarded):
        fields = {"identifier": "nobody", "password": WRONG}
        return proxied.post("/auth/login", fields, headers={"X-Forwarded-For": forwarded}).status_code

    assert [code("9.9.9.9, 1.1.1.1, 10.0.0.7") for _time in range(3)] == [422, 422, 429]
    assert code("9.9.9.9, 2.2.2.2") == 422
    assert code("9.9.9.9, nonsense") == 422


def cookie(answer, name):
    jar = SimpleCookie()
    for line in answer.headers.getlist("Set-Cookie"):
        jar.load(line)
    return jar.get(name)


def test_cookies_on_tls(make_app):
    app = make_app(BASE_URL="https://nox.example")
    make_person(app, "Alice", public_id="alice")
    guest = Browser(app)
    options = {"base_url": "https://nox.example"}
    page = guest.get("/auth/login", **options).text
    from tests.conftest import TOKEN

    answer = guest.post(
        "/auth/login",
        {"identifier": "alice", "password": PASSWORD, "remember_me": "y"},
        token=TOKEN.search(page)[1],
        **options,
    )
    assert answer.status_code == 303
    lines = answer.headers.getlist("Set-Cookie")
    assert {line.split("=")[0] for line in lines} == {"__Host-session", "__Host-remember_token", "__Host-device"}
    for line in lines:
        attributes = {part.strip().split("=")[0].lower() for part in line.split(";")[1:]}
        assert {"secure", "httponly", "path", "samesite"} <= attributes and "domain" not in attributes
        assert "SameSite=Lax" in line and "Path=/" in line and len(line) < 4096
    assert "Strict-Transport-Security" in answer.headers


def test_a_remembered_browser_gets_a_new_cookie_when_it_uses_one(any_app):
    make_person(any_app, "Alice", public_id="alice")
    guest = Browser(any_app)
    old = cookie(guest.sign_in("alice", remember_me="y"), "remember_token").value

    def with_cookie(value):
        browser = Browser(any_app)
        browser.client.set_cookie("remember_token", value)
        return browser, browser.get("/settings")

    browser, answer = with_cookie(old)
    assert answer.status_code == 200
    new = cookie(answer, "remember_token").value
    assert new != old
    assert with_cookie(old)[1].status_code == 302  # a copy of the used one is dead
    browser, answer = with_cookie(new)
    newest = cookie(answer, "remember_token").value
    browser.post("/auth/logout")
    assert with_cookie(newest)[1].status_code == 302


def test_without_remember_me_there_is_no_such_cookie(alice, guest):
    assert cookie(guest.sign_in("alice"), "remember_token") is None


def test_a_copied_session_is_dead_after_signing_out(app, alice, guest):
    guest.sign_in("alice")
    thief = Browser(app)
    thief.client.set_cookie("session", guest.client.get_cookie("session").value)
    assert thief.get("/settings").status_code == 200
    guest.post("/auth/logout")
    assert thief.get("/settings").status_code == 302


def test_a_session_from_before_signing_in_stays_a_strangers(app, alice, guest):
    token = guest.token()
    before = guest.client.get_cookie("session").value
    guest.sign_in("alice")
    stranger = Browser(app)
    stranger.client.set_cookie("session", before)
    assert stranger.get("/settings").status_code == 302
    assert guest.post("/auth/logout", token=token).status_code == 400  # the token is new as well


def test_signing_out_by_htmx(at_alice):
    answer = at_alice.post("/auth/logout", htmx=True)
    assert answer.headers["HX-Redirect"] == "/"
    assert "You are logged out." in at_alice.get("/").text


HOSTILE = [
    "//evil.example",
    "/\\evil.example",
    "/\t/evil.example",
    "\\\\evil",
    "https://evil.example",
    "https:///evil",
    "https:evil.example",
    "javascript:alert(1)",
    "/%0d%0aSet-Cookie:x=y\r\n",
    "/x@evil.example:\\",
    "evil.example",
    "///evil.example",
    "/\n/evil",
    "http:evil",
    " //evil.example",
    "/\u2028/evil",
]


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize("htmx", [False, True])
def test_next_stays_on_the_site(alice, guest, target, htmx):
    fields = {"identifier": "alice", "password": PASSWORD}
    answer = guest.post("/auth/login", fields, htmx=htmx, query_string={"next": target})
    location = answer.headers.get("HX-Redirect") or answer.location
    assert location == "/" or (
        location.startswith("/") and not location.startswith(("//", "/\\")) and "evil" not in location.split("@")[0]
    )


@pytest.mark.parametrize("target", ["/settings", "/u/alice?x=1&y=a%20b", "/settings/sessions"])
def test_a_genuine_next_works(alice, guest, target):
    fields = {"identifier": "alice", "password": PASSWORD}
    assert guest.post("/auth/login", fields, query_string={"next": target}).location == target


def test_the_referer_is_never_a_target(alice, guest):
    fields = {"identifier": "alice", "password": PASSWORD}
    answer = guest.post("/auth/login", fields, headers={"Referer": "https://evil.example/"})
    assert answer.location == "/"


def test_a_huge_password_is_refused_at_once_and_unhashed(alice, guest, monkeypatch):
    from noxchat import passwords

    monkeypatch.setattr(passwords, "check_password_hash", lambda *_: pytest.fail("hashed"))
    token = guest.token()
    for length in (1025, 10**6):
        answer = guest.post("/auth/login", {"identifier": "alice", "password": "x" * length}, token=token)
        assert answer.status_code in {413, 422}


def test_an_old_session_ends_by_itself(app, alice, guest):
    from datetime import timedelta

    from sqlalchemy import update

    from noxchat.database import now
    from noxchat.extensions import db
    from noxchat.models import Session

    guest.sign_in("alice")
    with app.app_context():
        db.session.execute(update(Session).values(last_used_at=now() - timedelta(days=31)))
        db.session.commit()
    assert guest.get("/settings").status_code == 302
