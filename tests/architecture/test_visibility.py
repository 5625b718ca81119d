"""Who sees whom: every route that shows people, for each of VIEWERS. The expected results are in routes.py."""

import pytest
from bs4 import BeautifulSoup

from noxchat import accounts, friendships, profiles, relationships
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.models import blocks, friends
from tests.architecture.routes import ABOUT_BOB, LISTS, POSTS, ROUTES, VIEWERS
from tests.conftest import Browser, act, forget_relationships, make_person


@pytest.fixture
def viewer_browser(any_app):
    """Return a function that creates Bob and a viewer, and returns the viewer's browser."""

    def make(kind):
        bob = make_person(any_app, "Bob", public_id="bobby")
        make_person(any_app, "Clara", public_id="clara")
        with any_app.app_context():
            begin_write(db.session)
            profiles.edit(accounts.lock_account(bob), username="Bob", public_id="bobby2", bio="")
            profiles.edit(accounts.lock_account(bob), username="Bob", public_id="bobby", bio="")
            db.session.commit()
        if kind == "anonymous":
            return Browser(any_app)
        browser = Browser(any_app, make_person(any_app, "Alice", public_id="alice"))
        relate(browser, kind)
        return browser

    return make


def relate(browser, kind):
    """Make the person of a browser a friend, a stranger, blocked by Bob or Bob's blocker, whatever they were before."""
    forget_relationships(browser.app)
    with browser.app.test_request_context():
        begin_write(db.session)
        alice, bob = profiles.find_by_public_id("alice"), profiles.find_by_public_id("bobby")
        if kind == "friend":
            pairs = [(alice, bob), (bob, alice)]
            db.session.execute(friends.insert(), [{"user_id": a.id, "friend_id": b.id} for a, b in pairs])
        if kind in {"blocked", "blocker"}:
            one, other = (bob, alice) if kind == "blocked" else (alice, bob)
            db.session.execute(blocks.insert(), [{"blocker_id": one.id, "blocked_id": other.id}])
        db.session.commit()


def test_every_route_with_a_public_id_has_expected_statuses(app):
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules() if "public_id" in rule.arguments}
    assert endpoints == set(ABOUT_BOB)


def request_about_bob(browser, endpoint):
    """Return the responses at Bob's path: as page, as fragment, and at his former Public ID as page."""
    path = ROUTES[endpoint].path.replace("alice", "bobby")
    send = browser.post if endpoint in POSTS else browser.get
    return send(path), send(path, htmx=True), send(path.replace("bobby", "bobby2"))


@pytest.mark.parametrize("kind", VIEWERS)
def test_status_of_routes_about_a_person(viewer_browser, kind):
    browser = viewer_browser(kind)
    for endpoint in ABOUT_BOB:
        if kind != "anonymous":
            relate(browser, kind)
        page, fragment, former = request_about_bob(browser, endpoint)
        expected = ROUTES[endpoint].about_bob[VIEWERS.index(kind)]
        assert page.status_code == expected, endpoint
        if endpoint == "friends.row":
            assert fragment.status_code == (401 if kind == "anonymous" else 200)
        elif expected == 404 and kind != "anonymous":
            assert fragment.status_code == former.status_code == 404, endpoint
            unknown = browser.get("/u/nobody")
            assert page.text.replace(page.headers["X-Request-ID"], "") == unknown.text.replace(
                unknown.headers["X-Request-ID"], ""
            ), endpoint
        elif kind == "anonymous":
            assert endpoint == "main.avatar" or (fragment.status_code, former.status_code) == (401, 302), endpoint
        else:
            refused = kind == "blocker" and endpoint == "friends.send_request"
            assert fragment.status_code == (409 if refused or expected == 409 else 200), endpoint
        if kind in {"blocked", "anonymous"}:
            assert "Bob<" not in page.text + fragment.text + former.text, endpoint
            assert 'data-friend="bobby' not in fragment.text, endpoint


@pytest.mark.parametrize("kind", VIEWERS)
def test_person_is_listed_only_to_permitted_viewers(viewer_browser, kind):
    browser = viewer_browser(kind)
    for endpoint in LISTS:
        path = ROUTES[endpoint].path + ("?q=bob" if endpoint == "main.search" else "")
        for htmx in (False, True):
            text = browser.get(path, htmx=htmx).text
            shown = BeautifulSoup(text, "html.parser").select("[data-user=bobby]")
            assert bool(shown) is ROUTES[endpoint].lists_bob[VIEWERS.index(kind)], path
            assert shown or "bobby" not in text, path


@pytest.mark.parametrize("kind", ["blocked", "blocker"])
def test_blocked_people_are_not_counted(viewer_browser, kind):
    text = viewer_browser(kind).get("/friends").text
    assert 'data-counter="friends">0<' in text and 'data-counter="incoming">0<' in text


def test_requests_between_others_are_invisible_and_unchangeable(viewer_browser, any_app):
    browser = viewer_browser("stranger")
    with any_app.test_request_context():
        begin_write(db.session)
        act(friendships.send, profiles.find_by_public_id("clara"), profiles.find_by_public_id("bobby"))
        db.session.commit()
    for path in ("/", "/friends/incoming", "/friends/outgoing"):
        assert "data-user=" not in browser.get(path).text
    for action in ("accept", "decline", "cancel"):
        for public_id in ("bobby", "clara"):
            assert browser.post(f"/u/{public_id}/request/{action}").status_code == 303
    with any_app.test_request_context():
        assert (
            relationships.get_relationship(
                profiles.find_by_public_id("clara"), profiles.find_by_public_id("bobby")
            ).state
            == "outgoing"
        )
