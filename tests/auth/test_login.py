"""Login and logout: cookies, rate limits, and redirects."""

import contextlib
import re
import threading
import time
from datetime import timedelta
from http.cookies import SimpleCookie

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from werkzeug.security import check_password_hash

from config import Config
from noxchat import accounts, installation, passwords, sessions, throttle, tokens
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import Attempt, Session
from tests.conftest import DATABASES, PASSWORD, TOKEN, Browser, make_person, password_hash, run_in_threads

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


def log_in_at_once(make_app, app, count, passwords):
    """Log in to Alice's account with several passwords at once, in two processes' worth of applications."""
    other = make_app(uri=app.config["SQLALCHEMY_DATABASE_URI"])
    browsers = [Browser((app, other)[number % 2], address="10.0.0.1") for number in range(count)]
    tokens = [browser.token("/auth/login") for browser in browsers]

    def log_in(number):
        fields = {"identifier": "alice", "password": passwords[number % len(passwords)]}
        return browsers[number].post("/auth/login", fields, token=tokens[number]).status_code

    return run_in_threads(app, count, log_in)


@pytest.mark.parametrize("database", DATABASES)
def test_simultaneous_wrong_passwords_do_not_exceed_the_limit(make_app, database):
    app = make_app(database)
    make_person(app, "Alice", public_id="alice")
    codes = log_in_at_once(make_app, app, 40, [WRONG])
    assert sorted(codes) == [422] * 9 + [429] * 31


@pytest.mark.parametrize("database", DATABASES)
def test_simultaneous_wrong_passwords_from_many_addresses_do_not_exceed_the_limit(make_app, database):
    app = make_app(database, SIGN_INS_PER_ACCOUNT=4)
    make_person(app, "Alice", public_id="alice")
    browsers = [Browser(app, address=f"10.0.0.{number}") for number in range(12)]
    tokens = [browser.token("/auth/login") for browser in browsers]
    fields = {"identifier": "alice", "password": WRONG}
    codes = run_in_threads(
        app, 12, lambda number: browsers[number].post("/auth/login", fields, token=tokens[number]).status_code
    )
    assert sorted(codes) == [422] * 3 + [429] * 9


@pytest.mark.parametrize("database", DATABASES)
def test_simultaneous_right_passwords_wait_for_each_other_at_a_limit_of_one(make_app, database, monkeypatch):
    monkeypatch.setattr("noxchat.web.login.WAIT_SECONDS", 60)  # four hashes take longer than 2 s on a busy machine
    app = make_app(database, SIGN_INS_PER_ACCOUNT_AND_ADDRESS=1, SIGN_INS_PER_ADDRESS=1, SIGN_INS_PER_ACCOUNT=1)
    make_person(app, "Alice", public_id="alice")
    assert log_in_at_once(make_app, app, 4, [PASSWORD]) == [303] * 4
    with app.app_context():
        assert db.session.scalar(select(func.count(Attempt.id))) == 0


def test_limit_of_one_locks_out_nobody_who_is_right(make_app):
    app = make_app(SIGN_INS_PER_ACCOUNT_AND_ADDRESS=1, SIGN_INS_PER_ADDRESS=1, SIGN_INS_PER_ACCOUNT=1)
    make_person(app, "Alice", public_id="alice")
    owner = Browser(app)
    for _time in range(3):  # the second time on a known device
        assert owner.log_in("alice").status_code == 303
        assert owner.post("/auth/logout").status_code == 303
    owner.log_in("alice")
    change = {"current_password": PASSWORD, "password": "another lamp 42", "password2": "another lamp 42"}
    assert owner.post("/settings/password", change).status_code == 303
    assert owner.post("/settings/delete", {"password": WRONG}).status_code == 422
    assert owner.post("/settings/delete", {"password": "another lamp 42"}).status_code == 429


def test_attempt_of_a_process_that_died_counts_as_failed(make_app):
    app = make_app(SIGN_INS_PER_ACCOUNT_AND_ADDRESS=2)
    make_person(app, "Alice", public_id="alice")
    with app.app_context():
        user = accounts.find_by_identifier("alice")
        begin_write(db.session)
        throttle.begin_attempt(throttle.login_limits("alice", user, "127.0.0.1", None))
        db.session.execute(update(Attempt).values(pending_until=now()))
        db.session.commit()
    answer = Browser(app).log_in("alice")
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 60  # not as for one that is under way


def test_attempts_at_numbers_and_words_do_not_count_for_others(make_app):
    """Such as the id of an account, or the words of other limits."""
    app = make_app(SIGN_INS_PER_ACCOUNT=4, SIGN_INS_PER_ADDRESS=5)
    alice = make_person(app, "Alice", public_id="alice")
    for number in range(5):
        Browser(app, address=f"10.0.0.{number}").log_in(str(alice.id), WRONG)
    assert Browser(app, address="10.0.0.9").log_in("alice").status_code == 303
    assert failed_logins(Browser(app, address="10.0.1.1"), "from", 3) == [422] * 3


@pytest.mark.parametrize("database", DATABASES)
def test_limit_of_several_accounts_is_counted_for_each(make_app, database):
    app = make_app(database)
    for name in ("alice", "bobby"):
        make_person(app, name.title(), public_id=name)
    guesser = Browser(app, address="10.0.0.1")
    assert failed_logins(guesser, "alice", 10) == [422] * 9 + [429]
    assert failed_logins(guesser, "bobby", 1) == [422]


def test_frozen_process_stops_no_login(make_app):
    """PostgreSQL would wait for its locks until the operating system finds out that it is gone."""
    app = make_app("postgresql")
    for name in ("alice", "bobby"):
        make_person(app, name.title(), public_id=name)
    frozen = threading.Event()

    def freeze():
        with app.app_context():
            user = accounts.find_by_identifier("alice")
            begin_write(db.session)
            throttle.begin_attempt(throttle.login_limits("alice", user, "10.0.0.1", None))
            frozen.wait(30)
            with contextlib.suppress(DBAPIError):
                db.session.rollback()

    thread = threading.Thread(target=freeze)
    thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert Browser(app, address="10.0.0.2").log_in("bobby").status_code == 303
    assert Browser(app, address="10.0.0.2").log_in("alice").status_code == 303
    assert time.monotonic() - began < 15
    frozen.set()
    thread.join()


def test_login_is_limited_while_too_many_others_wait_for_its_lock(make_app):
    app = make_app("postgresql")
    alice = make_person(app, "Alice", public_id="alice")
    with app.app_context(), db.engine.connect() as other:
        for limit in throttle.login_limits("alice", alice, "127.0.0.1", None):
            other.execute(select(func.pg_advisory_xact_lock(throttle.LOCK_CLASS, limit.lock_slot)))
        answer = Browser(app).log_in("alice")
        assert answer.status_code == 429 and int(answer.headers["Retry-After"]) == 10
        other.rollback()
    assert Browser(app).log_in("alice").status_code == 303


def test_attempts_are_forgotten_when_they_expire(make_app):
    app = make_app(SIGN_INS_PER_ACCOUNT_AND_ADDRESS=2)
    make_person(app, "Alice", public_id="alice")
    assert failed_logins(Browser(app), "alice", 2) == [422, 429]
    with app.app_context():
        db.session.execute(update(Attempt).values(expires_at=now() - timedelta(seconds=1)))
        db.session.commit()
    assert Browser(app).log_in("alice").status_code == 303
    with app.app_context():
        assert db.session.scalar(select(func.count(Attempt.id))) == 0


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


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("198.51.101.1:50123", "198.51.101.1"),
        ("[2001:db8:1::1]:443", "2001:db8:1::1"),
        ("[2001:DB8:1:0::1]", "2001:db8:1::1"),
        ('"[2001:db8:1::1]:443"', "2001:db8:1::1"),
        ("2001:db8:1::1", "2001:db8:1::1"),
        ("::ffff:198.51.101.1", "198.51.101.1"),
        ("[::ffff:198.51.101.1]:1", "198.51.101.1"),
        ("203.0.113.9, 198.51.101.1:50123 , 10.0.0.7:80", "198.51.101.1"),
        ("203.0.113.9, 198.51.101.1, [::ffff:10.0.0.7]:80", "198.51.101.1"),
        ("203.0.113.9, unknown", "10.0.0.1"),
        ("203.0.113.9, 198.51.101.1:x:y", "10.0.0.1"),
        ("", "10.0.0.1"),
        (",", "10.0.0.1"),
    ],
)
@pytest.mark.parametrize("proxy", ["10.0.0.1", "::ffff:10.0.0.1"])
@pytest.mark.parametrize("trusted", ["10.0.0.0/8", "::ffff:10.0.0.0/104"])
def test_forwarded_addresses_are_read_in_every_notation(trusted, proxy, forwarded, address):
    from noxchat.web.security import ClientAddress

    seen = {"REMOTE_ADDR": proxy, "HTTP_X_FORWARDED_FOR": forwarded}
    proxies = Config({"TRUSTED_PROXIES": trusted, "SECRET_KEY": "0123456789abcdef" * 4}).TRUSTED_PROXIES
    ClientAddress(lambda _environ, _start: [], proxies)(seen, None)
    assert seen["REMOTE_ADDR"] == address


def cookie(answer, ending):
    """Return the cookie that an answer sets and whose name ends so; None if it sets none."""
    jar = SimpleCookie()
    for header in answer.headers.getlist("Set-Cookie"):
        jar.load(header)
    return next((jar[name] for name in jar if name.endswith(f"_{ending}")), None)


def test_cookies_are_secure_over_https(make_app):
    app = make_app(BASE_URL="https://nox.example")
    make_person(app, "Alice", public_id="alice")
    anonymous = Browser(app)
    options = {"base_url": "https://nox.example"}
    page = anonymous.get("/auth/login", **options).text
    answer = anonymous.post(
        "/auth/login",
        {"identifier": "alice", "password": PASSWORD, "remember_me": "y"},
        token=TOKEN.search(page)[1],
        **options,
    )
    assert answer.status_code == 303
    cookie_headers = answer.headers.getlist("Set-Cookie")
    names = {header.split("=")[0] for header in cookie_headers}
    assert {name.rpartition("_")[2] for name in names} == {"session", "token", "device"}
    assert all(re.fullmatch("__Host-[0-9a-f]{16}_(session|remember_token|device)", name) for name in names)
    for header in cookie_headers:
        attributes = {part.strip().split("=")[0].lower() for part in header.split(";")[1:]}
        assert {"secure", "httponly", "path", "samesite"} <= attributes and "domain" not in attributes
        assert "SameSite=Lax" in header and "Path=/" in header and len(header) < 4096
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"  # other hosts are none of our business


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        ({"HSTS_SUBDOMAINS": "1"}, "max-age=31536000; includeSubDomains"),
        ({"HSTS_SECONDS": "0"}, "max-age=0"),
        ({"HSTS_SECONDS": "60", "HSTS_SUBDOMAINS": "no"}, "max-age=60"),
    ],
)
def test_hsts_is_a_setting(make_app, settings, header):
    browser = Browser(make_app(BASE_URL="https://nox.example", **settings))
    for path in ("/auth/login", "/nowhere", "/healthz"):
        assert browser.get(path, base_url="https://nox.example").headers["Strict-Transport-Security"] == header


def test_remember_cookie_is_rotated_on_use(any_app):
    make_person(any_app, "Alice", public_id="alice")
    anonymous = Browser(any_app)
    old = cookie(anonymous.log_in("alice", remember_me="y"), "remember_token").value

    def with_cookie(value):
        browser = Browser(any_app)
        browser.set_cookie("REMEMBER", value)
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


def restore_tabs(app, browser, count):
    """Request pages at once with the cookies of a browser that was closed, as it does when it restores its tabs."""
    session = browser.cookie_name("SESSION")
    cookies = "; ".join(f"{each.key}={each.value}" for each in browser.client._cookies.values() if each.key != session)
    tabs = [app.test_client(use_cookies=False) for _tab in range(count)]
    answers = run_in_threads(app, count, lambda number: tabs[number].get("/settings", headers={"Cookie": cookies}))
    for answer in answers:
        for header in answer.headers.getlist("Set-Cookie"):
            name, _equals, value = header.partition(";")[0].partition("=")
            browser.client.set_cookie(name, value)
    return answers


def test_tabs_restored_at_once_all_stay_logged_in(any_app):
    make_person(any_app, "Alice", public_id="alice")
    browser = Browser(any_app)
    browser.log_in("alice", remember_me="y")
    for _time in range(2):
        answers = restore_tabs(any_app, browser, 6)
        assert [answer.status_code for answer in answers] == [200] * 6
        assert len([answer for answer in answers if cookie(answer, "remember_token")]) == 1
        assert browser.get("/settings").status_code == 200
        for answer in answers:  # the forms of every tab work
            token = TOKEN.search(answer.text)[1]
            assert browser.post("/settings/look", {"theme": "night"}, token=token).status_code == 303


def test_replaced_remember_cookie_is_dead_elsewhere_after_a_while_and_after_logout(any_app):
    alice = make_person(any_app, "Alice", public_id="alice")
    browser = Browser(any_app)
    browser.log_in("alice", remember_me="y")
    old, device = browser.cookie("REMEMBER"), browser.cookie("DEVICE")
    browser.client.delete_cookie(browser.cookie_name("SESSION"))
    assert browser.get("/settings").status_code == 200

    def status(**cookies):
        other = Browser(any_app)
        for name, value in cookies.items():
            other.set_cookie(name, value)
        return other.get("/settings").status_code

    foreign = Browser(any_app)
    make_person(any_app, "Bob", public_id="bobby")
    foreign.log_in("bobby")
    assert status(REMEMBER=old, DEVICE=device) == 200
    assert status(REMEMBER=old) == status(REMEMBER=old, DEVICE=foreign.cookie("DEVICE")) == 302
    with any_app.app_context():
        recently = now() - sessions.GRACE - timedelta(seconds=1)
        db.session.execute(update(Session).where(Session.user_id == alice.id).values(replaced_at=recently))
        db.session.commit()
    assert status(REMEMBER=old, DEVICE=device) == 302
    with any_app.app_context():
        db.session.execute(update(Session).values(replaced_at=now()))
        db.session.commit()
    assert status(REMEMBER=old, DEVICE=device) == 200
    browser.post("/auth/logout")
    assert status(REMEMBER=old, DEVICE=device) == 302


def test_password_change_within_the_grace_ends_the_session_of_a_thief(any_app):
    """Who was faster with a copy of both cookies, and has the new token."""
    make_person(any_app, "Alice", public_id="alice")
    owner, thief = Browser(any_app), Browser(any_app)
    owner.log_in("alice", remember_me="y")
    owner.client.delete_cookie(owner.cookie_name("SESSION"))
    for name in ("REMEMBER", "DEVICE"):
        thief.set_cookie(name, owner.cookie(name))
    assert thief.get("/settings").status_code == 200
    assert owner.get("/settings").status_code == 200  # by the replaced token
    token = TOKEN.search(owner.get("/settings").text)[1]
    owner.set_cookie("SESSION", thief.cookie("SESSION"))  # as a browser with several tabs would have it
    change = {"current_password": PASSWORD, "password": "another lamp 42", "password2": "another lamp 42"}
    assert owner.post("/settings/password", change, token=token).status_code == 303
    assert (owner.get("/settings").status_code, thief.get("/settings").status_code) == (200, 302)


def test_password_change_by_a_replaced_token_sets_new_cookies(any_app):
    alice = make_person(any_app, "Alice", public_id="alice")
    with any_app.test_request_context():
        begin_write(db.session)
        user = sessions.create(db.session.get(type(alice), alice.id), "", timedelta(days=1))
        old = user.session_token
        assert sessions.replace_token(user, keep_previous=True)
        new, user.session_token = user.session_token, old
        assert not sessions.replace_token(user, keep_previous=True)  # somebody was faster
        assert sessions.load_by_previous_token(old)
        assert sessions.replace_token(user, keep_previous=False)
        db.session.commit()
        assert sessions.load(new, timedelta(days=1)) is sessions.load_by_previous_token(old) is None
        assert sessions.load(user.session_token, timedelta(days=1))


def test_device_cookie_is_renewed_with_the_remember_cookie(app, alice):
    browser = Browser(app)
    browser.log_in("alice", remember_me="y")
    browser.client.delete_cookie(browser.cookie_name("SESSION"))
    device = cookie(browser.get("/settings"), "device")
    assert device.value == browser.cookie("DEVICE") and int(device["max-age"]) == 365 * 24 * 3600


def test_password_change_ends_the_grace_of_a_replaced_cookie(app, alice):
    browser = Browser(app)
    browser.log_in("alice", remember_me="y")
    old, device = browser.cookie("REMEMBER"), browser.cookie("DEVICE")
    browser.client.delete_cookie(browser.cookie_name("SESSION"))
    assert browser.get("/settings").status_code == 200
    change = {"current_password": PASSWORD, "password": "another lamp 42", "password2": "another lamp 42"}
    assert browser.post("/settings/password", change).status_code == 303
    copy = Browser(app)
    copy.set_cookie("REMEMBER", old)
    copy.set_cookie("DEVICE", device)
    assert copy.get("/settings").status_code == 302


def test_installations_on_one_host_do_not_log_each_other_out(make_app):
    """A browser sends a host's cookies to all its ports."""
    apps = [make_app(), make_app()]
    browsers = [Browser(app) for app in apps]
    for app, browser in zip(apps, browsers, strict=True):
        make_person(app, "Alice", public_id="alice")
        browser.client._cookies = browsers[0].client._cookies
        assert browser.log_in("alice", remember_me="y").status_code == 303
        browser.post("/settings/look", {"theme": "night"})
    for _time in range(2):
        for browser in browsers:
            assert browser.get("/settings").status_code == 200
    names = [app.config[name] for app in apps for name in apps[0].extensions["cookie_names"].old]
    assert len(set(names)) == len(names) == 12
    assert browsers[0].post("/auth/logout").status_code == 303
    assert [browser.get("/settings").status_code for browser in browsers] == [302, 200]


@pytest.mark.parametrize("secure", [False, True])
def test_cookies_of_version_1_4_are_read_once(make_app, secure):
    app = make_app(**({"BASE_URL": "https://nox.example"} if secure else {}))
    make_person(app, "Alice", public_id="alice")
    base, prefix = ("https://nox.example", "__Host-") if secure else ("http://localhost", "")
    old_names = [f"{prefix}session", f"{prefix}remember_token", f"{prefix}device"]
    app.extensions["cookie_names"].is_known = True  # as long as it is, the names are those of 1.4
    browser = Browser(app)
    token = TOKEN.search(browser.get("/auth/login", base_url=base).text)[1]
    fields = {"identifier": "alice", "password": PASSWORD, "remember_me": "y"}
    assert browser.post("/auth/login", fields, token=token, base_url=base).status_code == 303
    assert sorted(each.key for each in browser.client._cookies.values()) == sorted(old_names)
    app.extensions["cookie_names"].is_known = False
    host = base.partition("://")[2]
    other = "another"
    browser.client.set_cookie("theme", "dark", domain=host)  # of another application
    browser.client.set_cookie("sessionid", other, domain=host)
    assert browser.get("/settings", base_url=base).status_code == 200
    names = {each.key for each in browser.client._cookies.values()}
    assert not names & set(old_names) and len(names) == 5
    assert browser.client.get_cookie("theme", domain=host).value == "dark"
    assert browser.get("/settings", base_url=base).status_code == 200
    browser.client.delete_cookie(app.config["SESSION_COOKIE_NAME"], domain=host)
    assert browser.get("/settings", base_url=base).status_code == 200  # the remember cookie came along
    assert browser.client.get_cookie("sessionid", domain=host).value == other


def test_device_cookie_of_another_account_is_replaced_at_login(make_app):
    app = make_app()
    people = [make_person(app, name, public_id=name.lower()) for name in ("Alice", "Bobby")]
    app.extensions["cookie_names"].is_known = True  # as in version 1.4
    browser = Browser(app)
    browser.log_in("alice")
    browser.post("/auth/logout")
    app.extensions["cookie_names"].is_known = False
    assert browser.log_in("bobby").status_code == 303
    with app.app_context():
        assert tokens.verify_device_token(browser.cookie("DEVICE"), people[1])


def test_names_are_loaded_once_while_others_wait(app, alice_browser, monkeypatch):
    """Or a request in between would read cookies by the old names, and send people to the login page."""
    find_id = installation.find_id
    monkeypatch.setattr(installation, "find_id", lambda: time.sleep(0.5) or find_id())
    cookie = f"{alice_browser.cookie_name('SESSION')}={alice_browser.cookie('SESSION')}"
    names = app.extensions["cookie_names"]
    for setting, old in names.old.items():
        app.config[setting] = old
    names.is_known, names.retry_at = False, 0.0
    clients = [app.test_client(use_cookies=False) for _client in range(4)]
    answers = [None] * 4

    def get(number):
        answers[number] = clients[number].get("/settings", headers={"Cookie": cookie}).status_code

    threads = [threading.Thread(target=get, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 4


def test_old_name_of_another_application_is_left_alone(app, alice):
    browser = Browser(app)
    browser.client.set_cookie("session", "eyJ1c2VyIjogMX0.awAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAA")
    assert browser.log_in("alice", remember_me="y").status_code == 303
    assert browser.get("/settings").status_code == 200
    assert browser.client.get_cookie("session").value.startswith("eyJ1c2Vy")


def test_browser_that_sends_no_cookies_is_told_so(app, alice_browser):
    client = app.test_client(use_cookies=False)
    token = TOKEN.search(client.get("/auth/login").text)[1]
    fields = {"identifier": "alice", "password": PASSWORD, "csrf_token": token}
    for language, text in (("en", "Cookies are needed"), ("ru", "Нужны файлы cookie")):
        for headers in ({}, {"HX-Request": "true"}):
            for path in ("/auth/login", "/auth/register", "/settings/look"):
                answer = client.post(path, data=fields, headers={"Accept-Language": language, **headers})
                assert answer.status_code == 400 and text in answer.text and app.config["BASE_URL"] in answer.text
    stale = alice_browser.post("/settings/look", fields, token="stale")
    assert stale.status_code == 400 and "This page is out of date" in stale.text


def test_no_remember_cookie_without_remember_me(alice, anonymous):
    assert cookie(anonymous.log_in("alice"), "remember_token") is None


def test_logout_invalidates_a_copied_session_cookie(app, alice, anonymous):
    anonymous.log_in("alice")
    attacker = Browser(app)
    attacker.set_cookie("SESSION", anonymous.cookie("SESSION"))
    assert attacker.get("/settings").status_code == 200
    anonymous.post("/auth/logout")
    assert attacker.get("/settings").status_code == 302


def test_session_cookie_from_before_login_stays_anonymous(app, alice, anonymous):
    token = anonymous.token()
    old_cookie = anonymous.cookie("SESSION")
    anonymous.log_in("alice")
    other = Browser(app)
    other.set_cookie("SESSION", old_cookie)
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
    anonymous.log_in("alice")
    with app.app_context():
        db.session.execute(update(Session).values(last_used_at=now() - timedelta(days=31)))
        db.session.commit()
    assert anonymous.get("/settings").status_code == 302
