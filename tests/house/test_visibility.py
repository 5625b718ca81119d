"""Who sees whom: every route, for a friend, a stranger, somebody who is blocked, somebody who blocks, and a guest.

A route that is in none of these tables fails the test: decide what it shows of people, and write it down here.
"""

import pytest
from bs4 import BeautifulSoup

from noxchat import friendships, people
from noxchat.database import start_writing
from noxchat.extensions import db
from tests.conftest import Browser, befriend, make_person
from tests.house.routes import ROUTES
from tests.house.test_routes import POSTS

LOOKERS = ("friend", "stranger", "blocked", "blocker", "signed out")

# What each looker is answered, at an address of Bob's.
ABOUT_BOB = {
    "main.profile": (200, 200, 404, 200, 302),
    "main.button": (302, 302, 404, 302, 302),
    "main.row": (302, 302, 302, 302, 302),
    "main.send_request": (303, 303, 404, 303, 302),
    "main.accept_request": (303, 303, 404, 303, 302),
    "main.decline_request": (303, 303, 404, 303, 302),
    "main.cancel_request": (303, 303, 404, 303, 302),
    "main.unfriend": (303, 303, 404, 303, 302),
    "main.block": (303, 303, 404, 303, 302),
    "main.unblock": (303, 303, 404, 303, 302),
    "main.avatar": (404, 404, 404, 404, 404),  # its name cannot be guessed: whoever was shown it may load it
}
# Whether Bob is on the page.
LISTS = {
    "main.home": (True, False, False, False, False),
    "main.friends": (True, False, False, False, False),
    "main.incoming": (False, False, False, False, False),
    "main.outgoing": (False, False, False, False, False),
    "main.search": (True, True, False, False, False),
    "main.blocked": (False, False, False, True, False),
}
# Shows nobody but whoever looks.
NOBODY = {
    *("static", "main.healthz", "main.readyz", "main.moment_js", "main.counters", "main.events"),
    *("main.settings", "main.edit_profile", "main.remove_avatar", "main.change_look", "main.delete_account"),
    *("auth.register", "auth.login", "auth.logout", "auth.reset", "auth.reset_sent", "auth.reset_password"),
    *("auth.change_password", "auth.list_sessions", "auth.revoke_session", "auth.revoke_other_sessions"),
}


@pytest.fixture
def looker(any_app):
    """Return a function that makes Bob and whoever looks at him, and gives the latter's browser."""

    def make(kind):
        bob = make_person(any_app, "Bob", public_id="bobby")
        make_person(any_app, "Clara", public_id="clara")
        with any_app.app_context():
            start_writing(db.session)
            people.edit(people.locked(bob), username="Bob", public_id="bobby2", bio="")
            people.edit(people.locked(bob), username="Bob", public_id="bobby", bio="")
            db.session.commit()
        if kind == "signed out":
            return Browser(any_app)
        alice = make_person(any_app, "Alice", public_id="alice")
        befriend(any_app, alice, bob)
        with any_app.test_request_context():
            start_writing(db.session)
            if kind == "stranger":
                friendships.remove(alice, bob)
            if kind == "blocked":
                friendships.block(bob, alice)
            if kind == "blocker":
                friendships.block(alice, bob)
            db.session.commit()
        return Browser(any_app, alice)

    return make


def test_every_route_has_its_place_in_the_tables(app):
    assert set(ABOUT_BOB) | set(LISTS) | NOBODY == set(ROUTES)
    personal = {rule.endpoint for rule in app.url_map.iter_rules() if "public_id" in rule.arguments}
    assert personal == set(ABOUT_BOB)


def answers(browser, endpoint):
    """What somebody is answered at Bob's address, and at the one he gave up, as page and as fragment."""
    path = ROUTES[endpoint].path.replace("alice", "bobby")
    ask = browser.post if endpoint in POSTS else browser.get
    return ask(path), ask(path, htmx=True), ask(path.replace("bobby", "bobby2"))


@pytest.mark.parametrize("kind", LOOKERS)
@pytest.mark.parametrize("endpoint", ABOUT_BOB)
def test_what_is_answered_about_somebody(looker, endpoint, kind):
    browser = looker(kind)
    page, fragment, former = answers(browser, endpoint)
    wanted = ABOUT_BOB[endpoint][LOOKERS.index(kind)]
    assert page.status_code == wanted
    if endpoint == "main.row":
        assert fragment.status_code == (401 if kind == "signed out" else 200)
    elif wanted == 404 and kind != "signed out":
        assert fragment.status_code == former.status_code == 404
        nobody = browser.get("/u/nobody")
        assert page.text.replace(page.headers["X-Request-ID"], "") == nobody.text.replace(
            nobody.headers["X-Request-ID"], ""
        )
    elif kind == "signed out":
        assert endpoint == "main.avatar" or (fragment.status_code == 401 and former.status_code == 302)
    else:
        assert fragment.status_code in {200, 409}
    if kind in {"blocked", "signed out"}:
        assert "Bob<" not in page.text + fragment.text + former.text and 'data-friend="bobby' not in fragment.text


@pytest.mark.parametrize("kind", LOOKERS)
@pytest.mark.parametrize("endpoint", LISTS)
def test_whether_somebody_is_in_a_list(looker, endpoint, kind):
    browser = looker(kind)
    path = ROUTES[endpoint].path + ("?q=bob" if endpoint == "main.search" else "")
    for htmx in (False, True):
        text = browser.get(path, htmx=htmx).text
        shown = BeautifulSoup(text, "html.parser").select("[data-user=bobby]")
        assert bool(shown) is LISTS[endpoint][LOOKERS.index(kind)]
        assert shown or "bobby" not in text


@pytest.mark.parametrize("kind", ["blocked", "blocker"])
def test_blocking_takes_somebody_out_of_the_counters(looker, kind):
    text = looker(kind).get("/friends").text
    assert 'data-counter="friends">0<' in text and 'data-counter="incoming">0<' in text


def test_a_third_person_sees_no_requests_of_others(looker, any_app):
    browser = looker("stranger")
    with any_app.test_request_context():
        start_writing(db.session)
        friendships.send(people.find("clara"), people.find("bobby"))
        db.session.commit()
    for path in ("/", "/friends/incoming", "/friends/outgoing"):
        assert "data-user=" not in browser.get(path).text
    for verb in ("accept", "decline", "cancel"):
        browser.post(f"/u/bobby/request/{verb}")
        browser.post(f"/u/clara/request/{verb}")
    with any_app.test_request_context():
        assert friendships.between(people.find("clara"), people.find("bobby")).outgoing
