"""Login and logout: cookies, rate limits, and redirects."""

from http.cookies import SimpleCookie

import pytest
from werkzeug.security import check_password_hash

from noxchat import passwords
from tests.conftest import PASSWORD, Browser, make_person, password_hash

WRONG = "not the password 1"


def test_login_by_email_or_public_id_ignores_case(any_app):
    make_person(any_app, "Alice", public_id="alice")
    for identifier in ("alice@nox.example", "ALICE@NOX.EXAMPLE", "alice", "Alice", "  alice "):
        anonymous = Browser(any_app)
        answer = anonymous.log_in(identifier)
        assert (answer.status_code, answer.location) == (303, "/"), identifier
        assert "Alice" in anonymous.get("/").text, identifier


def test_htmx_login_answers_with_hx_redirect(alice, anonymous):
    answer = anonymous.post("/auth/login?next=/settings", {"identifier": "alice", "password": PASSWORD}, htmx=True)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (200, "/settings")


@pytest.mark.parametrize("htmx", [False, True])
def test_wrong_password_and_unknown_account_get_the_same_message(alice, anonymous, htmx):
    for identifier in ("alice", "nobody", "nobody@nox.example"):
        answer = anonymous.post("/auth/login", {"identifier": identifier, "password": WRONG}, htmx=htmx)
        assert answer.status_code == 422, identifier
        assert "E-mail, Public ID or password is wrong." in answer.text, identifier
        assert WRONG not in answer.text and f'value="{identifier}"' in answer.text, identifier


def test_login_computes_one_hash_for_known_and_unknown_accounts(alice, anonymous, monkeypatch):
    """Which takes nearly all of the time, so that it does not tell which accounts exist."""
    checked = []

    def check(password_hash, password):
        checked.append(password_hash.partition("$")[0])
        return check_password_hash(password_hash, password)

    monkeypatch.setattr(passwords, "check_password_hash", check)
    for identifier in ("alice", "alice@nox.example", "nobody", "nobody@nox.example"):
        assert anonymous.log_in(identifier, WRONG).status_code == 422
    assert checked == [password_hash().partition("$")[0]] * 4  # of the same algorithm and cost


def failed_logins(browser, identifier, count, **more):
    return [browser.log_in(identifier, WRONG, **more).status_code for _attempt in range(count)]


def test_login_is_rate_limited_per_account_and_ip_address(app, alice):
    anonymous = Browser(app, address="10.0.0.1")
    codes = failed_logins(anonymous, "alice", 5) + failed_logins(anonymous, "ALICE@nox.example", 5)
    assert codes == [422] * 9 + [429]
    answer = anonymous.log_in("alice")
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
    assert Browser(app, address="10.0.0.2").log_in("alice").status_code == 303


def test_login_is_rate_limited_for_unknown_accounts(app):
    assert failed_logins(Browser(app, address="10.0.0.1"), "nobody", 10) == [422] * 9 + [429]


def test_login_is_rate_limited_per_ip_address(make_app):
    app = make_app(SIGN_INS_PER_ADDRESS=5)
    anonymous = Browser(app, address="10.0.0.1")
    assert [anonymous.log_in(f"nobody{number}", WRONG).status_code for number in range(5)] == [422] * 4 + [429]


def test_distributed_guessing_does_not_lock_out_a_known_device(make_app):
    app = make_app(SIGN_INS_PER_ACCOUNT=5)
    make_person(app, "Alice", public_id="alice")
    owner = Browser(app, address="10.1.0.1")
    assert owner.log_in("alice").status_code == 303
    assert owner.post("/auth/logout").status_code == 303
    codes = [Browser(app, address=f"10.0.0.{number}").log_in("alice", WRONG).status_code for number in range(6)]
    assert codes[-1] == 429
    assert Browser(app, address="10.0.9.9").log_in("alice").status_code == 429
    assert owner.log_in("alice").status_code == 303  # its device cookie has a limit of its own


def test_login_is_rate_limited_for_known_devices(app, alice):
    owner = Browser(app)
    assert owner.log_in("alice").status_code == 303
    assert owner.post("/auth/logout").status_code == 303
    assert failed_logins(owner, "alice", 10)[-1] == 429


def test_device_cookie_is_valid_only_for_its_own_account(app, alice):
    make_person(app, "Bob", public_id="bobby")
    bob = Browser(app)
    assert bob.log_in("bobby").status_code == 303
    assert bob.post("/auth/logout").status_code == 303
    assert failed_logins(bob, "alice", 10)[-1] == 429


def test_x_forwarded_for_is_ignored_without_trusted_proxies(app, alice):
    anonymous = Browser(app, address="10.0.0.1")
    codes = [
        anonymous.post(
            "/auth/login", {"identifier": "alice", "password": WRONG}, headers={"X-Forwarded-For": f"1.2.3.{number}"}
        ).status_code
        for number in range(10)
    ]
    assert codes[-1] == 429


def test_x_forwarded_for_is_used_behind_trusted_proxies(make_app):
    app = make_app(TRUSTED_PROXIES="10.0.0.0/8", SIGN_INS_PER_ADDRESS=3)
    proxied = Browser(app, address="10.0.0.1")

    def login_status(forwarded_for):
        fields = {"identifier": "nobody", "password": WRONG}
        return proxied.post("/auth/login", fields, headers={"X-Forwarded-For": forwarded_for}).status_code

    assert [login_status("9.9.9.9, 1.1.1.1, 10.0.0.7") for _attempt in range(3)] == [422, 422, 429]
    assert login_status("9.9.9.9, 2.2.2.2") == 422
    assert login_status("9.9.9.9, nonsense") == 422


def cookie(answer, name):
    jar = SimpleCookie()
    for header in answer.headers.getlist("Set-Cookie"):
        jar.load(header)
    return jar.get(name)


def test_cookies_are_secure_over_https(make_app):
    app = make_app(BASE_URL="https://nox.example")
    make_person(app, "Alice", public_id="alice")
    anonymous = Browser(app)
    options = {"base_url": "https://nox.example"}
    page = anonymous.get("/auth/login", **options).text
    from tests.conftest import TOKEN

    answer = anonymous.post(
        "/auth/login",
        {"identifier": "alice", "password": PASSWORD, "remember_me": "y"},
        token=TOKEN.search(page)[1],
        **options,
    )
    assert answer.status_code == 303
    cookie_headers = answer.headers.getlist("Set-Cookie")
    assert {header.split("=")[0] for header in cookie_headers} == {
        "__Host-session",
        "__Host-remember_token",
        "__Host-device",
    }
    for header in cookie_headers:
        attributes = {part.strip().split("=")[0].lower() for part in header.split(";")[1:]}
        assert {"secure", "httponly", "path", "samesite"} <= attributes and "domain" not in attributes
        assert "SameSite=Lax" in header and "Path=/" in header and len(header) < 4096
    assert "Strict-Transport-Security" in answer.headers


def test_remember_cookie_is_rotated_on_use(any_app):
    make_person(any_app, "Alice", public_id="alice")
    anonymous = Browser(any_app)
    old = cookie(anonymous.log_in("alice", remember_me="y"), "remember_token").value

    def with_cookie(value):
        browser = Browser(any_app)
        browser.client.set_cookie("remember_token", value)
        return browser, browser.get("/settings")

    browser, answer = with_cookie(old)
    assert answer.status_code == 200
    new = cookie(answer, "remember_token").value
    assert new != old
    assert with_cookie(old)[1].status_code == 302  # it was used once already
    browser, answer = with_cookie(new)
    newest = cookie(answer, "remember_token").value
    browser.post("/auth/logout")
    assert with_cookie(newest)[1].status_code == 302


def test_no_remember_cookie_without_remember_me(alice, anonymous):
    assert cookie(anonymous.log_in("alice"), "remember_token") is None


def test_logout_invalidates_a_copied_session_cookie(app, alice, anonymous):
    anonymous.log_in("alice")
    attacker = Browser(app)
    attacker.client.set_cookie("session", anonymous.client.get_cookie("session").value)
    assert attacker.get("/settings").status_code == 200
    anonymous.post("/auth/logout")
    assert attacker.get("/settings").status_code == 302


def test_session_cookie_from_before_login_stays_anonymous(app, alice, anonymous):
    token = anonymous.token()
    old_cookie = anonymous.client.get_cookie("session").value
    anonymous.log_in("alice")
    other = Browser(app)
    other.client.set_cookie("session", old_cookie)
    assert other.get("/settings").status_code == 302
    assert anonymous.post("/auth/logout", token=token).status_code == 400  # the CSRF token is renewed as well


def test_htmx_logout_answers_with_hx_redirect(alice_browser):
    answer = alice_browser.post("/auth/logout", htmx=True)
    assert answer.headers["HX-Redirect"] == "/"
    assert "You are logged out." in alice_browser.get("/").text


UNSAFE_TARGETS = [
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


def test_next_cannot_redirect_to_another_site(make_app):
    app = make_app(SIGN_INS_PER_ACCOUNT_AND_ADDRESS=1000, SIGN_INS_PER_ADDRESS=1000)
    make_person(app, "Alice", public_id="alice")
    fields = {"identifier": "alice", "password": PASSWORD}
    for target in UNSAFE_TARGETS:
        for htmx in (False, True) if target in UNSAFE_TARGETS[:3] else (False,):
            browser = Browser(app)
            token = browser.token("/auth/login")
            answer = browser.post("/auth/login", fields, token=token, htmx=htmx, query_string={"next": target})
            assert answer.status_code == (200 if htmx else 303), target
            location = answer.headers.get("HX-Redirect") or answer.location
            assert location == "/" or (
                location.startswith("/")
                and not location.startswith(("//", "/\\"))
                and "evil" not in location.split("@")[0]
            ), target


@pytest.mark.parametrize("target", ["/settings", "/u/alice?x=1&y=a%20b", "/settings/sessions"])
def test_login_redirects_to_next(alice, anonymous, target):
    fields = {"identifier": "alice", "password": PASSWORD}
    assert anonymous.post("/auth/login", fields, query_string={"next": target}).location == target


def test_login_ignores_referer(alice, anonymous):
    fields = {"identifier": "alice", "password": PASSWORD}
    answer = anonymous.post("/auth/login", fields, headers={"Referer": "https://evil.example/"})
    assert answer.location == "/"


def test_overlong_password_is_refused_without_hashing(alice, anonymous, monkeypatch):
    monkeypatch.setattr(passwords, "check_password_hash", lambda *_: pytest.fail("hashed"))
    token = anonymous.token()
    for length, status in ((1025, 422), (10**6, 413)):
        answer = anonymous.post("/auth/login", {"identifier": "alice", "password": "x" * length}, token=token)
        assert answer.status_code == status


def test_unused_session_expires(app, alice, anonymous):
    from datetime import timedelta

    from sqlalchemy import update

    from noxchat.database import now
    from noxchat.extensions import db
    from noxchat.models import Session

    anonymous.log_in("alice")
    with app.app_context():
        db.session.execute(update(Session).values(last_used_at=now() - timedelta(days=31)))
        db.session.commit()
    assert anonymous.get("/settings").status_code == 302
