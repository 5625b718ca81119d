"""Who sees whom: every route that shows people, for each of VIEWERS. The expected answers are in routes.py."""

import pytest
from bs4 import BeautifulSoup

from noxchat import accounts, friendships, profiles, relationships
from noxchat.database import begin_write
from noxchat.extensions import db
from tests.architecture.routes import ABOUT_BOB, LISTS, POSTS, ROUTES, VIEWERS
from tests.conftest import Browser, befriend, make_person


@pytest.fixture
def viewer_browser(any_app):
    """Return a function that makes Bob and whoever looks at him, and gives the latter's browser."""

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
        alice = make_person(any_app, "Alice", public_id="alice")
        befriend(any_app, alice, bob)
        with any_app.test_request_context():
            begin_write(db.session)
            if kind == "stranger":
                friendships.remove(alice, bob)
            if kind == "blocked":
                friendships.block(bob, alice)
            if kind == "blocker":
                friendships.block(alice, bob)
            db.session.commit()
        return Browser(any_app, alice)

    return make


def test_every_route_with_a_public_id_is_about_bob(app):
    personal = {rule.endpoint for rule in app.url_map.iter_rules() if "public_id" in rule.arguments}
    assert personal == set(ABOUT_BOB)


def answers(browser, endpoint):
    """What somebody is answered at Bob's address, and at the one he gave up, as page and as fragment."""
    path = ROUTES[endpoint].path.replace("alice", "bobby")
    ask = browser.post if endpoint in POSTS else browser.get
    return ask(path), ask(path, htmx=True), ask(path.replace("bobby", "bobby2"))


@pytest.mark.parametrize("kind", VIEWERS)
@pytest.mark.parametrize("endpoint", ABOUT_BOB)
def test_what_is_answered_about_somebody(viewer_browser, endpoint, kind):
    browser = viewer_browser(kind)
    page, fragment, former = answers(browser, endpoint)
    wanted = ROUTES[endpoint].about_bob[VIEWERS.index(kind)]
    assert page.status_code == wanted
    if endpoint == "friends.row":
        assert fragment.status_code == (401 if kind == "anonymous" else 200)
    elif wanted == 404 and kind != "anonymous":
        assert fragment.status_code == former.status_code == 404
        nobody = browser.get("/u/nobody")
        assert page.text.replace(page.headers["X-Request-ID"], "") == nobody.text.replace(
            nobody.headers["X-Request-ID"], ""
        )
    elif kind == "anonymous":
        assert endpoint == "main.avatar" or (fragment.status_code == 401 and former.status_code == 302)
    else:
        assert fragment.status_code in {200, 409}
    if kind in {"blocked", "anonymous"}:
        assert "Bob<" not in page.text + fragment.text + former.text and 'data-friend="bobby' not in fragment.text


@pytest.mark.parametrize("kind", VIEWERS)
@pytest.mark.parametrize("endpoint", LISTS)
def test_whether_somebody_is_in_a_list(viewer_browser, endpoint, kind):
    browser = viewer_browser(kind)
    path = ROUTES[endpoint].path + ("?q=bob" if endpoint == "main.search" else "")
    for htmx in (False, True):
        text = browser.get(path, htmx=htmx).text
        shown = BeautifulSoup(text, "html.parser").select("[data-user=bobby]")
        assert bool(shown) is ROUTES[endpoint].lists_bob[VIEWERS.index(kind)]
        assert shown or "bobby" not in text


@pytest.mark.parametrize("kind", ["blocked", "blocker"])
def test_blocking_takes_somebody_out_of_the_counters(viewer_browser, kind):
    text = viewer_browser(kind).get("/friends").text
    assert 'data-counter="friends">0<' in text and 'data-counter="incoming">0<' in text


def test_a_third_person_sees_no_requests_of_others(viewer_browser, any_app):
    browser = viewer_browser("stranger")
    with any_app.test_request_context():
        begin_write(db.session)
        friendships.send(profiles.find_by_public_id("clara"), profiles.find_by_public_id("bobby"))
        db.session.commit()
    for path in ("/", "/friends/incoming", "/friends/outgoing"):
        assert "data-user=" not in browser.get(path).text
    for verb in ("accept", "decline", "cancel"):
        browser.post(f"/u/bobby/request/{verb}")
        browser.post(f"/u/clara/request/{verb}")
    with any_app.test_request_context():
        assert (
            relationships.get_relationship(
                profiles.find_by_public_id("clara"), profiles.find_by_public_id("bobby")
            ).state
            == "outgoing"
        )
