"""What holds for every route: access, CSRF protection, methods, headers, number of SQL statements."""

import re
from contextlib import contextmanager
from html import unescape
from threading import get_ident

import pytest
from sqlalchemy import event, select

from noxchat import names
from noxchat.extensions import db
from tests.architecture.routes import PAGES, POSTS, PRIVATE, ROUTES
from tests.conftest import PASSWORD, Browser, befriend, make_friends, make_person


def rules(app):
    return {rule.endpoint: rule for rule in app.url_map.iter_rules()}


def dump(app):
    """Return every row of every table, to compare the database before and after."""
    with app.app_context():
        return {
            name: [tuple(row) for row in db.session.execute(select(table))]
            for name, table in db.metadata.tables.items()
        }


def test_every_route_is_in_the_table(app):
    assert set(rules(app)) == set(ROUTES)


def test_every_path_in_the_table_matches_its_route(app):
    adapter = app.url_map.bind("localhost")
    for endpoint, route in ROUTES.items():
        method = "POST" if endpoint in POSTS and not route.page else "GET"
        assert adapter.match(route.path, method=method)[0] == endpoint


def test_parts_of_our_paths_are_reserved_public_ids(app):
    """The first of every route, and the second of the pages about oneself, from which links to phish with could be made."""
    parts = set()
    for rule in app.url_map.iter_rules():
        first, *others = rule.rule.strip("/").split("/")
        parts |= {first, *(others[:1] if first in {"settings", "auth"} else [])}
    parts = {part for part in parts if part and "<" not in part}
    assert {"u", "moment.js", "settings", "look", "logout"} < parts
    missing = parts - (names.RESERVED | names.PATHS)
    assert not missing, f"add to PATHS in noxchat/names.py: {' '.join(sorted(missing))}"
    assert all(map(names.is_reserved_public_id, parts))


def test_the_table_says_which_routes_accept_posts(app):
    assert set(POSTS) == {endpoint for endpoint, rule in rules(app).items() if "POST" in rule.methods}


def test_anonymous_requests_are_redirected_to_login(app, alice, anonymous):
    anonymous.get("/")  # the first request of all makes the installation's id
    before = dump(app)
    for endpoint in PRIVATE:
        route = ROUTES[endpoint]
        if route.page:
            response = anonymous.get(route.path)
            assert response.status_code == 302, endpoint
            assert response.location == f"/auth/login?next={route.path}"
            headers = {"HX-Current-URL": f"http://localhost{route.path}?x=1"}
            response = anonymous.get(route.path, htmx=True, headers=headers)
            assert (response.status_code, response.text) == (401, ""), endpoint
            assert response.headers["HX-Redirect"] == f"/auth/login?next={route.path}?x%3D1"
        if route.post:
            assert anonymous.post(route.path).status_code == 302, endpoint
            response = anonymous.post(route.path, htmx=True)
            assert response.status_code == 401, endpoint
            assert response.headers["HX-Redirect"].split("?")[0] == "/auth/login"
    assert dump(app) == before


@pytest.mark.parametrize(
    "current_url", ["https://evil.example/x", "//evil.example", "javascript:x", "http://localhost//evil.example"]
)
def test_login_redirect_ignores_foreign_current_url(anonymous, current_url):
    response = anonymous.get("/settings", htmx=True, headers={"HX-Current-URL": current_url})
    assert response.headers["HX-Redirect"] == "/auth/login"


@pytest.mark.parametrize("htmx", [False, True])
def test_forged_posts_change_nothing(app, alice, alice_browser, htmx):
    bob = Browser(app, make_person(app, "Bob", public_id="bobby"))
    anonymous = Browser(app)
    tokens = {"none": None, "nonsense": "x", "other user's": bob.token(), "anonymous user's": Browser(app).token()}
    tokens["NUL"] = "a\0b"
    own = {browser: browser.token() for browser in (alice_browser, anonymous)}
    before = dump(app)
    for endpoint in POSTS:
        route = ROUTES[endpoint]
        browser = anonymous if route.guests_only else alice_browser
        for kind, token in tokens.items():
            response = browser.post(route.path, {"username": "Zed", "theme": "night"}, token=token, htmx=htmx)
            assert response.status_code == 400, (endpoint, kind)
            assert ("<html" in response.text) is not htmx, (endpoint, kind)
            assert kind == "NUL" or "Load it again" in response.text, (endpoint, kind)
        for origin in ("https://evil.example", "null", "http://localhost:99", "http://localhost.evil.example", "\\"):
            headers = {"Origin": origin}
            response = browser.post(route.path, {"theme": "night"}, token=own[browser], htmx=htmx, headers=headers)
            assert response.status_code == 400, (endpoint, origin)
        assert dump(app) == before, endpoint


def test_same_origin_posts_are_accepted(alice_browser):
    for headers in ({"Origin": "http://localhost"}, {"Origin": "null", "Sec-Fetch-Site": "same-origin"}):
        assert alice_browser.post("/settings/look", {"theme": "day"}, headers=headers).status_code == 303


def test_csrf_token_is_accepted_in_header(alice_browser):
    token = alice_browser.token()
    assert (
        alice_browser.post("/settings/look", {"theme": "day"}, token=False, headers={"X-CSRFToken": token}).status_code
        == 303
    )


def test_other_methods_are_405(app, alice_browser):
    for endpoint, rule in rules(app).items():
        # The path of auth.reset_sent also matches auth.reset_password, with "sent" as the token, which accepts POST.
        ambiguous = {"POST"} if endpoint == "auth.reset_sent" else set()
        same_path = {method for other in rules(app).values() if other.rule == rule.rule for method in other.methods}
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - same_path - ambiguous:
            response = alice_browser.client.open(ROUTES[endpoint].path, method=method, buffered=True)
            assert response.status_code == 405, (endpoint, method)
            assert rule.methods <= set(response.headers["Allow"].split(", ")), (endpoint, method)


def test_get_and_head_change_nothing(app, alice, alice_browser):
    before = dump(app)
    for endpoint in PAGES:
        for htmx in (False, True):
            page = alice_browser.get(ROUTES[endpoint].path, htmx=htmx)
            assert page.status_code == expected_status(endpoint, htmx), endpoint
            head = alice_browser.client.head(ROUTES[endpoint].path, headers=alice_browser.headers(htmx))
            assert (head.status_code, head.data) == (page.status_code, b""), endpoint
        assert dump(app) == before, endpoint


def expected_status(endpoint, htmx=False):
    """Return the status of a page for somebody who is logged in."""
    redirects = ROUTES[endpoint].guests_only and not htmx  # with htmx, in a header
    return 303 if redirects else ROUTES[endpoint].status


def test_htmx_headers_choose_page_or_fragment(app, alice_browser, anonymous):
    for endpoint in PAGES:
        path, browser = ROUTES[endpoint].path, anonymous if ROUTES[endpoint].public else alice_browser
        page = browser.get(path)
        assert "<html" in page.text and page.text.lstrip().startswith("<!doctype html>"), endpoint
        for headers in ({"HX-Boosted": "true"}, {"HX-History-Restore-Request": "true"}, {"HX-Request-Type": "full"}):
            assert "<html" in browser.get(path, htmx=True, headers=headers).text, (endpoint, headers)
        if endpoint != "main.home":  # the landing page of anonymous visitors has no fragment
            assert "<html" not in browser.get(path, htmx=True).text, endpoint


@pytest.mark.parametrize("htmx", [False, True])
def test_html_responses_have_security_headers(app, alice_browser, anonymous, htmx):
    for path in [*(ROUTES[endpoint].path for endpoint in PAGES), "/nowhere"]:
        for browser in (anonymous, alice_browser):
            for response in (browser.get(path, htmx=htmx), browser.post(path, htmx=htmx, token=None)):
                if response.status_code not in {302, 303, 401}:
                    check_security_headers(response, path)


def check_security_headers(response, path):
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy, path
    for directive in ("object-src 'none'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"):
        assert directive in policy, path
    assert response.headers["X-Content-Type-Options"] == "nosniff", path
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin", path
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin", path
    assert "Permissions-Policy" in response.headers, path
    assert response.headers["Referrer-Policy"] in {"same-origin", "no-referrer"}, path
    assert "HX-Request" in response.headers["Vary"], path
    assert response.headers["Cache-Control"] == "no-store", path
    assert "Strict-Transport-Security" not in response.headers, path
    assert not re.search("Werkzeug|Python", response.headers.get("Server", "")), path
    assert "ETag" not in response.headers, path


def test_static_files_are_immutable_and_set_no_cookie(anonymous):
    page = anonymous.get("/auth/login").text
    paths = re.findall(r'(?:href|src)="(/static/[^"]+|/moment[^"]+)"', page)
    assert len(paths) >= 7
    for path in paths:
        response = anonymous.get(path)
        assert response.status_code == 200 and "Set-Cookie" not in response.headers
        assert "immutable" in response.headers["Cache-Control"] and "Cookie" not in response.headers.get("Vary", "")


SEARCHES = ("/friends?q=fr", "/search?q=friend", "/search?q=r", "/search?q=nobody")


@contextmanager
def recorded(app):
    """Record the statements that this thread executes, and how its transactions end."""
    statements, ends, this_thread = [], [], get_ident()  # the mail worker and the indexer have statements of their own

    def record_statement(_connection, _cursor, statement, *_more):
        if get_ident() == this_thread and not statement.startswith("BEGIN"):
            statements.append(statement)

    def record_end(how):
        return lambda _connection: ends.append(how) if get_ident() == this_thread else None

    with app.app_context():
        engine = db.engine
    listeners = [
        (engine, "before_cursor_execute", record_statement),
        (engine, "commit", record_end("commit")),
        (engine, "rollback", record_end("rollback")),
    ]
    for listener in listeners:
        event.listen(*listener)
    try:
        yield statements, ends
    finally:
        for listener in listeners:
            event.remove(*listener)


def test_pages_execute_at_most_three_statements_and_commit(any_app):
    """Pages with lists of 26 people, their next pages, and all others. What is left over of reading is committed."""
    alice = make_person(any_app, "Alice", public_id="alice")
    bob, clara = make_person(any_app, "Bob", public_id="bobby"), make_person(any_app, "Clara", public_id="clara")
    befriend(any_app, alice, clara)
    befriend(any_app, bob, clara)
    make_friends(any_app, alice, 25)
    browser = Browser(any_app, alice)
    browser.get("/")
    pages = {ROUTES[endpoint].path: expected_status(endpoint) for endpoint in PAGES if not ROUTES[endpoint].guests_only}
    next_pages = 0
    with recorded(any_app) as (statements, ends):
        more = ("/u/bobby", "/u/clara", *SEARCHES)
        for start, status in [*pages.items(), *((path, 200) for path in more)]:
            for htmx in (False, True):
                path = start
                while path:
                    statements.clear()
                    ends.clear()
                    response = browser.get(path, htmx=htmx)
                    assert response.status_code == status, path
                    # A search may need a second statement. With Elasticsearch, one without hits only loads the session.
                    most = 5 if path.startswith("/search?") else 3
                    assert 1 <= len(statements) <= most, (path, statements)
                    assert set(ends) == {"rollback" if status == 404 else "commit"}, (path, ends)
                    next_link = re.search(r"<a [^>]*data-next[^>]*>", response.text)
                    path = next_link and unescape(re.search(r'href="([^"]+)"', next_link[0])[1])
                    next_pages += bool(path)
    assert next_pages == 8  # of /friends, /friends?q=fr, /search?q=friend and /chats/new


@pytest.mark.parametrize("htmx", [False, True])
def test_friendship_actions_execute_few_statements(any_app, htmx):
    """A plain form at most six; one more each for the counters (htmx), to record what can be undone, to delete that."""
    people = [make_person(any_app, name, public_id=f"{name}-1".lower()) for name in ("Alice", "Bob")]
    alice, bob = (Browser(any_app, person) for person in people)
    actions = [
        (alice, "bob-1", "request"),
        (alice, "bob-1", "request/cancel"),
        (alice, "bob-1", "request"),
        (bob, "alice-1", "request/decline"),
        (bob, "alice-1", "request"),
        (alice, "bob-1", "request/accept"),
        (alice, "bob-1", "unfriend"),
        (alice, "bob-1", "block"),
        (alice, "bob-1", "unblock"),
    ]
    tokens = {browser: browser.token() for browser in (alice, bob)}
    has_record = False  # of what can be undone, which each action deletes
    with recorded(any_app) as (statements, ends):
        for browser, public_id, action in actions:
            statements.clear()
            ends.clear()
            response = browser.post(f"/u/{public_id}/{action}", {"next": "/"}, htmx=htmx, token=tokens[browser])
            assert response.status_code == (200 if htmx else 303), action
            is_undoable = action in ("request/cancel", "request/decline", "unfriend", "block")
            deletes_cooldown = browser is bob and action == "request"  # of Alice
            most = 6 + htmx + is_undoable + has_record + deletes_cooldown
            assert len(statements) <= most, (action, statements)
            has_record = is_undoable
            assert set(ends) == {"commit"}, action


def test_registering_and_invitations_execute_few_statements(any_app):
    any_app.extensions["mail_worker"].stopped = True
    alice = make_person(any_app, "Alice", "known@nox.example", public_id="alice")
    own, bob = Browser(any_app, alice), Browser(any_app, make_person(any_app, "Bob"))
    own.post("/settings/invitations")
    link = re.search(r'value="http://[^/]+(/i/[^"]+)"', own.get("/settings/invitations").text)[1]
    guests = [Browser(any_app) for _guest in range(3)]
    fields = {"password": PASSWORD, "invitation": ""}
    posts = [
        (guests[0], "/auth/register", {**fields, "username": "Mila", "email": "unknown@nox.example"}, 14),
        (guests[1], "/auth/register", {**fields, "username": "Nika", "email": "known@nox.example"}, 14),
        (
            guests[2],
            "/auth/register",
            {"username": "Leo", "email": "leo@x", "password": PASSWORD, "invitation": link[3:]},
            21,
        ),
        (bob, link, {}, 7),
        (bob, "/settings/invitations", {}, 6),
        (bob, "/settings/invitations/9/revoke", {}, 3),
        (bob, "/settings/email/resend", {}, 2),
        (bob, "/settings/email", {"email": "new@nox.example", "password": PASSWORD}, 13),
    ]
    tokens = {browser: browser.token() for browser, *_rest in posts}
    with recorded(any_app) as (statements, _ends):
        for browser, path, data, most in posts:
            statements.clear()
            assert browser.post(path, data, token=tokens[browser]).status_code == 303, path
            assert len(statements) <= most, (path, statements)
        for browser, most in ((bob, 3), (Browser(any_app), 1)):
            statements.clear()
            assert browser.get(link).status_code == 200
            assert len(statements) == most, statements


def test_private_pages_are_not_cached(alice_browser):
    response = alice_browser.get(
        "/settings", headers={"If-Modified-Since": "Wed, 01 Jan 2030 00:00:00 GMT", "If-None-Match": "*"}
    )
    assert response.status_code == 200 and response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("htmx", [False, True])
def test_error_responses_need_no_database(app, alice_browser, language, htmx):
    from noxchat.errors import responses

    # Of somebody who is logged in, which only the database could tell.
    names = [alice_browser.cookie_name(name) for name in ("SESSION", "LANGUAGE")]
    cookies = f"{names[0]}={alice_browser.cookie('SESSION')}; {names[1]}={language}"
    connections = []
    with app.app_context():
        event.listen(db.engine, "engine_connect", connections.append)
    headers = {"Cookie": cookies, **({"HX-Request": "true"} if htmx else {})}
    for code in (400, 403, 404, 405, 409, 413, 422, 429, 500, 503, 418, 502):
        with app.test_request_context("/somewhere", headers=headers):
            response = responses.error_response(code)
            assert response.status_code == code
            assert ("<html" in response.get_data(as_text=True)) is not htmx
            assert (response.headers.get("HX-Retarget") == "#toasts") is htmx
            assert htmx or f'lang="{language}"' in response.get_data(as_text=True)
            assert connections == [], code


def test_unexpected_exception_is_500_with_request_id_and_no_details(app, alice, alice_browser, monkeypatch):
    from noxchat import relationships

    monkeypatch.setattr(relationships, "home_lists", lambda *_: 1 / 0)
    for htmx in (False, True):
        response = alice_browser.get("/", htmx=htmx)
        assert response.status_code == 500
        assert response.headers["X-Request-ID"] in response.text
        assert "ZeroDivision" not in response.text and "Traceback" not in response.text
    log = (app.config["LOG_DIR"] / "noxchat.log").read_text()
    assert response.headers["X-Request-ID"] in log and "ZeroDivisionError" in log
