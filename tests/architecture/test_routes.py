"""What is true of every route: who may see it, what a forged post does, which headers it carries, what it costs."""

import re
from threading import get_ident

import pytest
from sqlalchemy import event, select

from noxchat.extensions import db
from tests.architecture.routes import PAGES, POSTS, PRIVATE, ROUTES
from tests.conftest import Browser, befriend, make_person


def rules(app):
    return {rule.endpoint: rule for rule in app.url_map.iter_rules()}


def dump(app):
    """Everything in the database, as text."""
    with app.app_context():
        return {
            name: [tuple(row) for row in db.session.execute(select(table))]
            for name, table in db.metadata.tables.items()
        }


def test_every_route_is_in_the_table(app):
    assert set(rules(app)) == set(ROUTES)


def test_every_address_in_the_table_leads_to_its_route(app):
    adapter = app.url_map.bind("localhost")
    for endpoint, route in ROUTES.items():
        method = "POST" if endpoint in POSTS and not route.page else "GET"
        assert adapter.match(route.path, method=method)[0] == endpoint


def test_the_table_says_which_routes_accept_posts(app):
    assert set(POSTS) == {endpoint for endpoint, rule in rules(app).items() if "POST" in rule.methods}


@pytest.mark.parametrize("endpoint", PRIVATE)
def test_strangers_are_sent_to_sign_in(app, alice, guest, endpoint):
    route = ROUTES[endpoint]
    before = dump(app)
    if route.page:
        answer = guest.get(route.path)
        assert answer.status_code == 302
        assert answer.location == f"/auth/login?next={route.path}"
        current = {"HX-Current-URL": f"http://localhost{route.path}?x=1"}
        answer = guest.get(route.path, htmx=True, headers=current)
        assert (answer.status_code, answer.text) == (401, "")
        assert answer.headers["HX-Redirect"] == f"/auth/login?next={route.path}?x%3D1"
    if endpoint in POSTS:
        assert guest.post(route.path).status_code == 302
        answer = guest.post(route.path, htmx=True)
        assert (answer.status_code, answer.headers["HX-Redirect"].split("?")[0]) == (401, "/auth/login")
    assert dump(app) == before


@pytest.mark.parametrize(
    "current", ["https://evil.example/x", "//evil.example", "javascript:x", "http://localhost//evil.example"]
)
def test_the_page_one_was_on_is_ours_or_home(guest, current):
    answer = guest.get("/settings", htmx=True, headers={"HX-Current-URL": current})
    assert answer.headers["HX-Redirect"] == "/auth/login"


@pytest.mark.parametrize("endpoint", POSTS)
@pytest.mark.parametrize("htmx", [False, True])
def test_forged_posts_change_nothing(app, alice, at_alice, endpoint, htmx):
    bob = Browser(app, make_person(app, "Bob", public_id="bobby"))
    route = ROUTES[endpoint]
    browser = Browser(app) if route.guests_only else at_alice
    tokens = {
        "none": None,
        "nonsense": "x",
        "another's": bob.token(),
        "a visitor's": Browser(app).token(),
        "NUL": "a\0b",
    }
    own = browser.token()
    before = dump(app)
    for kind, token in tokens.items():
        answer = browser.post(route.path, {"username": "Zed", "theme": "night"}, token=token, htmx=htmx)
        assert answer.status_code == 400, kind
        assert ("<html" in answer.text) is not htmx
        if kind != "NUL":
            assert "Load it again" in answer.text
    for origin in ("https://evil.example", "null", "http://localhost:99", "http://localhost.evil.example", "\\"):
        answer = browser.post(route.path, {"theme": "night"}, token=own, htmx=htmx, headers={"Origin": origin})
        assert answer.status_code == 400, origin
    assert dump(app) == before


def test_our_own_origin_and_an_honest_null_pass(at_alice):
    for headers in ({"Origin": "http://localhost"}, {"Origin": "null", "Sec-Fetch-Site": "same-origin"}):
        assert at_alice.post("/settings/look", {"theme": "day"}, headers=headers).status_code == 303


def test_the_token_may_come_in_a_header(at_alice):
    token = at_alice.token()
    assert (
        at_alice.post("/settings/look", {"theme": "day"}, token=False, headers={"X-CSRFToken": token}).status_code
        == 303
    )


@pytest.mark.parametrize("endpoint", ROUTES)
def test_other_methods_are_405(app, at_alice, endpoint):
    route, allowed = ROUTES[endpoint], rules(app)[endpoint].methods
    also = {"POST"} if endpoint == "auth.reset_sent" else set()  # there "sent" is taken for a token
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - allowed - also:
        answer = at_alice.client.open(route.path, method=method, buffered=True)
        assert answer.status_code == 405
        assert allowed <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize("endpoint", PAGES)
def test_reading_changes_nothing(app, alice, at_alice, endpoint):
    before = dump(app)
    for htmx in (False, True):
        at_alice.get(ROUTES[endpoint].path, htmx=htmx)
        at_alice.client.head(ROUTES[endpoint].path)
    assert dump(app) == before


@pytest.mark.parametrize("endpoint", PAGES)
def test_pages_and_fragments_by_the_headers(app, at_alice, guest, endpoint):
    route = ROUTES[endpoint]
    browser = guest if route.public else at_alice
    page = browser.get(route.path)
    assert "<html" in page.text and page.text.lstrip().startswith("<!doctype html>")
    for headers in ({"HX-Boosted": "true"}, {"HX-History-Restore-Request": "true"}, {"HX-Request-Type": "full"}):
        assert "<html" in browser.get(route.path, htmx=True, headers=headers).text
    if endpoint != "main.home":  # strangers' landing page has no part of its own
        assert "<html" not in browser.get(route.path, htmx=True).text


@pytest.mark.parametrize("endpoint", [*PAGES, "nowhere"])
@pytest.mark.parametrize("htmx", [False, True])
def test_every_html_answer_is_sealed(app, at_alice, guest, endpoint, htmx):
    path = ROUTES[endpoint].path if endpoint in ROUTES else "/nowhere"
    for browser in (guest, at_alice):
        for answer in (browser.get(path, htmx=htmx), browser.post(path, htmx=htmx, token=None)):
            if answer.status_code in {302, 303, 401}:
                continue
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'") and "unsafe" not in policy
            for part in ("object-src 'none'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"):
                assert part in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "Permissions-Policy" in answer.headers
            assert answer.headers["Referrer-Policy"] in {"same-origin", "no-referrer"}
            assert "HX-Request" in answer.headers["Vary"]
            assert answer.headers["Cache-Control"] == "no-store"
            assert "Strict-Transport-Security" not in answer.headers
            assert not re.search("Werkzeug|Python", answer.headers.get("Server", ""))
            assert "ETag" not in answer.headers


def test_static_files_stay_for_ever_and_bring_no_cookie(guest):
    page = guest.get("/auth/login").text
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+|/moment[^"]+)"', page)
    assert len(addresses) >= 7
    for address in addresses:
        answer = guest.get(address)
        assert answer.status_code == 200 and "Set-Cookie" not in answer.headers
        assert "immutable" in answer.headers["Cache-Control"] and "Cookie" not in answer.headers.get("Vary", "")


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in PAGES if not ROUTES[endpoint].guests_only])
@pytest.mark.parametrize("htmx", [False, True])
def test_a_page_costs_at_most_four_statements_and_ends_with_a_commit(any_app, endpoint, htmx):
    alice = make_person(any_app, "Alice", public_id="alice")
    for number in range(15):
        befriend(any_app, alice, make_person(any_app, f"Friend {'abcdefghijkmnop'[number]}", f"f{number}@nox.example"))
    browser, statements, ends = Browser(any_app, alice), [], []
    browser.get("/")
    with any_app.app_context():
        engine = db.engine

    here = get_ident()  # what other threads do is not the page's

    def count(_connection, _cursor, statement, *_more):
        if get_ident() == here:
            statements.append(statement)

    def end(how):
        return lambda _connection: ends.append(how) if get_ident() == here else None

    listeners = [
        (engine, "before_cursor_execute", count),
        (engine, "commit", end("commit")),
        (engine, "rollback", end("rollback")),
    ]
    for listener in listeners:
        event.listen(*listener)
    assert browser.get(ROUTES[endpoint].path, htmx=htmx).status_code in {200, 400}
    for listener in listeners:
        event.remove(*listener)
    asked = [statement for statement in statements if not statement.startswith("BEGIN")]
    assert len(asked) <= 4, asked
    assert set(ends) <= {"commit"}, ends


def test_private_pages_are_not_kept_for_the_back_button(at_alice):
    answer = at_alice.get(
        "/settings", headers={"If-Modified-Since": "Wed, 01 Jan 2030 00:00:00 GMT", "If-None-Match": "*"}
    )
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("htmx", [False, True])
def test_every_error_is_a_page_and_a_fragment_without_the_database(app, language, htmx, monkeypatch):
    from noxchat import errors

    monkeypatch.setattr(db.session, "execute", lambda *_: pytest.fail("asked the database"))
    monkeypatch.setattr(db.session, "scalar", lambda *_: pytest.fail("asked the database"))
    headers = {"Cookie": f"language={language}", **({"HX-Request": "true"} if htmx else {})}
    for code in (400, 403, 404, 405, 409, 413, 422, 429, 500, 503, 418, 502):
        with app.test_request_context("/somewhere", headers=headers):
            answer = errors.error_response(code)
            assert answer.status_code == code
            assert ("<html" in answer.get_data(as_text=True)) is not htmx
            assert (answer.headers.get("HX-Retarget") == "#toasts") is htmx
            assert htmx or f'lang="{language}"' in answer.get_data(as_text=True)


def test_what_breaks_is_a_500_with_an_id_and_no_detail(app, alice, at_alice, monkeypatch):

    from noxchat import relationships

    monkeypatch.setattr(relationships, "home_lists", lambda *_: 1 / 0)
    for htmx in (False, True):
        answer = at_alice.get("/", htmx=htmx)
        assert answer.status_code == 500
        assert answer.headers["X-Request-ID"] in answer.text
        assert "ZeroDivision" not in answer.text and "Traceback" not in answer.text
    log = (app.config["LOG_DIR"] / "noxchat.log").read_text()
    assert answer.headers["X-Request-ID"] in log and "ZeroDivisionError" in log
