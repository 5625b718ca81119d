"""Privacy settings: who sees when somebody is online, and who finds them by name."""

from datetime import timedelta

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select, update

from noxchat import friendships, profiles, relationships
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import Session, User
from noxchat.search import Query
from tests.architecture.test_routes import recorded
from tests.conftest import Browser, act, befriend, index_everything, make_person
from tests.test_search import add_people, engine_app  # noqa: F401  the fixture


def choose(browser, **fields):
    return browser.post("/settings/privacy", fields)


def be_active(app, *people):
    """Have people been active just now."""
    with app.app_context():
        begin_write(db.session)
        for person in people:
            db.session.get(User, person.id).last_seen_at = now()
        db.session.commit()


def make_friends(app):
    """Return the browsers of two friends who are both active."""
    alice, bob = make_person(app, "Alice", public_id="alice"), make_person(app, "Bob", public_id="bobby")
    befriend(app, alice, bob)
    be_active(app, alice, bob)
    return Browser(app, alice), Browser(app, bob)


@pytest.mark.parametrize("htmx", [False, True])
def test_choices_are_saved_and_shown(any_app, htmx):
    browser = Browser(any_app, make_person(any_app, "Alice", public_id="alice"))
    fields = {"show_presence": "nobody", "findable": "friends_of_friends"}
    answer = browser.post("/settings/privacy", fields, htmx=htmx)
    assert (answer.status_code, answer.location) == ((200, None) if htmx else (303, "/settings/privacy"))
    notice = answer.text if htmx else browser.get("/settings/privacy").text
    assert 'data-kind="ok"' in notice and "Your choice is saved." in notice
    assert browser.post("/settings/privacy", {"findable": "everybody"}, htmx=htmx).status_code == (200 if htmx else 303)
    for path in ("/settings", "/settings/privacy"):
        checked = BeautifulSoup(browser.get(path).text, "html.parser").select("#privacy-form [checked]")
        assert [each["value"] for each in checked] == ["nobody", "everybody"]


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize(
    "fields", [{}, {"show_presence": "all"}, {"findable": ""}, {"show_presence": "nobody", "findable": "x"}]
)
def test_unknown_choices_are_refused(app, alice_browser, fields, htmx):
    answer = alice_browser.post("/settings/privacy", fields, htmx=htmx)
    assert answer.status_code == 422 and "Choose one of the options." in answer.text
    checked = BeautifulSoup(alice_browser.get("/settings").text, "html.parser").select("#privacy-form [checked]")
    assert [each["value"] for each in checked] == ["friends", "everybody", "1"]


SHOWN_AT = {
    "/": "#online li",
    "/friends": ".avatar[data-online]",
    "/search?q=bob": ".avatar[data-online]",
    "/u/bobby": ".presence",
}


@pytest.mark.parametrize("hides", ["the viewer", "the friend"])
def test_who_hides_presence_is_not_seen_and_sees_nobody(any_app, hides):
    alice, bob = make_friends(any_app)
    for path, selector in SHOWN_AT.items():
        assert BeautifulSoup(alice.get(path).text, "html.parser").select(selector), path
    assert "Bob" in alice.get("/friends/online", htmx=True).text
    assert choose(alice if hides == "the viewer" else bob, show_presence="nobody").status_code == 303
    for path, selector in SHOWN_AT.items():
        page = alice.get(path)
        assert not BeautifulSoup(page.text, "html.parser").select(selector), path
        assert "last seen" not in page.text, path
    assert "Bob" not in alice.get("/friends/online", htmx=True).text
    assert ("Online now" in alice.get("/").text) is (hides == "the friend")


def test_order_of_friends_on_home_does_not_tell_who_was_active(any_app):
    alice = make_person(any_app, "Alice", public_id="alice")
    people = [make_person(any_app, name) for name in ("Bob", "Clara", "Dora")]
    for friend in people:
        befriend(any_app, alice, friend)
    browser = Browser(any_app, alice)

    def names():
        return [row.bdi.text for row in BeautifulSoup(browser.get("/").text, "html.parser").select(".rows--grid .row")]

    be_active(any_app, people[0])
    assert names()[0] == "Bob"
    assert choose(Browser(any_app, people[0]), show_presence="nobody").status_code == 303
    assert names() == ["Dora", "Clara", "Bob"]  # who became a friend last
    be_active(any_app, people[0])
    assert names() == ["Dora", "Clara", "Bob"]
    be_active(any_app, people[1])
    assert names()[0] == "Clara"
    assert choose(browser, show_presence="nobody").status_code == 303
    assert names() == ["Dora", "Clara", "Bob"]


def test_everybody_who_is_online_is_shown_however_many_friends_hide_it(any_app):
    alice = make_person(any_app, "Alice", public_id="alice")
    hidden = [make_person(any_app, f"Hidden {letter}") for letter in "abcdefghjkmnop"]
    shown = [make_person(any_app, f"Shown {letter}") for letter in "abcdefghjkmnop"]
    for friend in (*shown, *hidden):
        befriend(any_app, alice, friend)
    be_active(any_app, *shown, *hidden)
    with any_app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.username.startswith("Hidden")).values(show_presence="nobody"))
        db.session.commit()
    card = BeautifulSoup(Browser(any_app, alice).get("/").text, "html.parser").select_one("#online")
    assert {face.bdi.text for face in card.select("li")} == {friend.username for friend in shown}
    assert card.select_one(".count").text == "14"


def test_what_a_page_asks_for_by_itself_does_not_count_as_being_active(any_app):
    alice, _bob = make_friends(any_app)
    with any_app.app_context():
        begin_write(db.session)
        db.session.get(User, alice.user_id).last_seen_at = None
        for session in db.session.scalars(select(Session)):
            session.last_used_at = now() - timedelta(hours=1)
        db.session.commit()

    def last_seen():
        with any_app.app_context():
            return db.session.get(User, alice.user_id).last_seen_at

    background = {"X-Background": "1"}
    for path in ("/friends/online", "/counters", "/u/bobby", "/u/bobby/button", "/u/bobby/row"):
        assert alice.get(path, htmx=True, headers=background).status_code == 200
    assert last_seen() is None
    alice.get("/friends")
    assert last_seen() is not None


def test_limited_person_is_found_by_friends_their_friends_and_exact_public_id(engine_app):  # noqa: F811
    app = engine_app
    limited, friend, friend_of_friend, stranger = (
        make_person(app, name, public_id=public_id)
        for name, public_id in (("Limited One", "lim_one-1"), ("Fred", "fred"), ("Fay", "fay"), ("Stan", "stan"))
    )
    befriend(app, limited, friend)
    befriend(app, friend, friend_of_friend)
    assert choose(Browser(app, limited), findable="friends_of_friends").status_code == 303

    def found(viewer, term):
        with app.test_request_context():
            if app.extensions["indexer"]:
                index_everything(app)
            page = relationships.search_people(db.session.get(User, viewer.id), Query.parse(term), None)
            return [person.username for person, _state in page.items]

    for viewer in (friend, friend_of_friend, limited):
        for term in ("limited one", "limited", "lim", "imi", "one lim", "lim_one-1"):
            assert found(viewer, term) == ["Limited One"], (viewer.username, term)
    for term in ("limited one", "limited", "lim", "imi", "one lim", "lim_one", "im_one-1"):
        assert found(stranger, term) == [], term
    for term in ("lim_one-1", "@lim_one-1", "LIM_ONE-1"):
        assert found(stranger, term) == ["Limited One"], term
    browser = Browser(app, stranger)
    assert browser.get("/u/lim_one-1").status_code == 200
    assert browser.post("/u/lim_one-1/request").status_code == 303
    with app.test_request_context():
        begin_write(db.session)
        act(friendships.block, profiles.find_by_public_id("lim_one-1"), profiles.find_by_public_id("stan"))
        db.session.commit()
    assert found(stranger, "lim_one-1") == []


@pytest.mark.parametrize("rounds", [relationships.MAX_ROUNDS, 1, 2])
def test_pages_are_filled_from_those_who_may_be_found(any_app, monkeypatch, rounds):
    """Of 130 people, a fifth. Where too many have to be looked at, a page is shorter, and nobody is lost."""
    monkeypatch.setattr(relationships, "MAX_ROUNDS", rounds)
    viewer = make_person(any_app, "Viewer", public_id="viewer")
    with any_app.test_request_context():
        add_people([f"Ann {number:03}" for number in range(130)], "id-")
        begin_write(db.session)
        db.session.execute(update(User).where(User.id != viewer.id).values(findable="friends_of_friends"))
        visible = [f"Ann {number:03}" for number in range(0, 130, 5)]
        db.session.execute(update(User).where(User.username.in_(visible)).values(findable="everybody"))
        db.session.commit()
        pages, cursor = [], None
        with recorded(any_app) as (statements, _ends):
            person = db.session.get(User, viewer.id)
            while not pages or cursor:
                statements.clear()
                page = relationships.search_people(person, Query.parse("ann"), cursor)
                assert len(statements) <= 3 * rounds + 1
                pages.append([found.username for found, _state in page.items])
                cursor = page.next_cursor
    assert sum(pages, []) == visible
    sizes = {1: [4] * 6 + [2], 2: [8] * 3 + [2]}
    assert [len(names) for names in pages] == sizes.get(rounds, [20, 6])


def test_limited_person_is_still_listed_among_requests_and_suggestions(any_app):
    bob, clara, dora = (make_person(any_app, name) for name in ("Bob", "Clara", "Dora"))
    befriend(any_app, bob, clara)
    befriend(any_app, clara, dora)
    emil = make_person(any_app, "Emil", public_id="emil")
    for limited in (dora, emil):
        assert choose(Browser(any_app, limited), findable="friends_of_friends").status_code == 303
    browser = Browser(any_app, bob)
    assert "Dora" in browser.get("/").text
    Browser(any_app, emil).post(f"/u/{bob.public_id}/request")
    for path in ("/", "/friends/incoming", "/friends/incoming?q=emil"):
        assert 'data-user="emil"' in browser.get(path).text, path
    assert 'data-user="emil"' not in browser.get("/search?q=emi").text
    browser.post("/u/emil/request/decline")
    browser.post("/u/emil/request")
    for path in ("/friends/outgoing", "/friends/outgoing?q=emil"):
        assert 'data-user="emil"' in browser.get(path).text, path


def test_switches_are_changed_alone_and_with_the_whole_form(app, alice_browser):
    """A whole form leaves out a switch that is off; the page's own forms send 0, and nothing else."""

    def switched_on():
        page = BeautifulSoup(alice_browser.get("/settings/privacy").text, "html.parser")
        return [box["name"] for box in page.select("[type=checkbox][checked]")]

    choices = {"show_presence": "friends", "findable": "everybody"}
    assert switched_on() == ["show_typing"]
    for fields, expected in (
        ({"show_seen": ["1", "0"]}, ["show_typing", "show_seen"]),
        ({"show_presence": "friends"}, ["show_typing", "show_seen"]),
        ({"show_typing": "0"}, ["show_seen"]),
        ({**choices, "show_typing": "1"}, ["show_typing"]),
        (choices, []),
    ):
        for htmx in (False, True):
            answer = alice_browser.post("/settings/privacy", fields, htmx=htmx)
            assert answer.status_code == (200 if htmx else 303)
            assert switched_on() == expected, fields
