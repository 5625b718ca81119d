"""Friendship actions, lists, search and counters, with htmx and with plain forms."""

import re
from datetime import timedelta

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import delete, update

from noxchat import friendships, keyset, relationships
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import Session, request_cooldowns
from tests.conftest import Browser, act, befriend, forget_relationships, make_friends, make_person


def make_alice_and_bob(app):
    """Return the application, Alice, Bob, and a browser for each of them."""
    alice = make_person(app, "Alice", public_id="alice")
    bob = make_person(app, "Bob", public_id="bobby")
    return app, alice, bob, Browser(app, alice), Browser(app, bob)


@pytest.fixture
def alice_and_bob(app):
    return make_alice_and_bob(app)


@pytest.fixture
def alice_and_bob_on_each_database(any_app):
    """For what depends on SQL. The rules themselves are tested on both databases in tests/test_friendships.py."""
    return make_alice_and_bob(any_app)


def run_action(app, action, one, other):
    with app.test_request_context():
        begin_write(db.session)
        act(action, one, other)
        db.session.commit()


def send_request(app, alice, bob):
    run_action(app, friendships.send, alice, bob)


def receive_request(app, alice, bob):
    run_action(app, friendships.send, bob, alice)


def block(app, alice, bob):
    run_action(app, friendships.block, alice, bob)


def do_nothing(app, alice, bob):
    pass


ACTIONS = {
    "send": (do_nothing, "request", "outgoing", "You asked Bob", (0, 0, 1)),
    "send to somebody who asked": (receive_request, "request", "friends", "are friends now", (1, 0, 0)),
    "accept": (receive_request, "request/accept", "friends", "are friends now", (1, 0, 0)),
    "decline": (receive_request, "request/decline", "none", "You declined Bob's request", (0, 0, 0)),
    "cancel": (send_request, "request/cancel", "none", "You cancelled your request", (0, 0, 0)),
    "unfriend": (befriend, "unfriend", "none", "no longer friends", (0, 0, 0)),
    "block": (befriend, "block", "blocked", "You blocked Bob", (0, 0, 0)),
    "unblock": (block, "unblock", "none", "You unblocked Bob", (0, 0, 0)),
}
OUTDATED_ACTIONS = {
    "send twice": (send_request, "request", "outgoing", "has not answered", (0, 0, 1)),
    "send to a friend": (befriend, "request", "friends", "friends already", (1, 0, 0)),
    "accept after cancel": (do_nothing, "request/accept", "none", "no longer exists", (0, 0, 0)),
    "accept own request": (send_request, "request/accept", "outgoing", "has not answered", (0, 0, 1)),
    "accept twice": (befriend, "request/accept", "friends", "friends already", (1, 0, 0)),
    "decline after cancel": (do_nothing, "request/decline", "none", "no longer exists", (0, 0, 0)),
    "decline a friend": (befriend, "request/decline", "friends", "friends already", (1, 0, 0)),
    "cancel after accept": (befriend, "request/cancel", "friends", "friends already", (1, 0, 0)),
    "cancel a received request": (receive_request, "request/cancel", "incoming", "waiting for your answer", (0, 1, 0)),
    "unfriend a stranger": (do_nothing, "unfriend", "none", "no longer exists", (0, 0, 0)),
    "block twice": (block, "block", "blocked", "blocked already", (0, 0, 0)),
    "unblock a stranger": (do_nothing, "unblock", "none", "no longer exists", (0, 0, 0)),
}


def notices(text):
    """Return the kind and text of each notice in an answer."""
    return [(notice["data-kind"], notice.get_text(" ", strip=True)) for notice in soup(text).select(".notice")]


def soup(text):
    return BeautifulSoup(text, "html.parser")


def counters(text):
    """Return the counters in an answer: friends, incoming, outgoing. Copies of one must show the same number."""
    numbers = {}
    for span in soup(text).select("[data-counter]"):
        numbers.setdefault(span["data-counter"], set()).add(int(span.text))
    assert all(len(values) == 1 for values in numbers.values())
    return tuple(next(iter(numbers[name])) for name in ("friends", "incoming", "outgoing"))


def test_action_by_htmx_returns_button_and_counters(alice_and_bob):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    for action, (prepare, path, state, message, numbers) in (ACTIONS | OUTDATED_ACTIONS).items():
        forget_relationships(app)
        prepare(app, alice, bob)
        answer = alice_browser.post(f"/u/bobby/{path}", {"next": "/search?q=bob", "list": "search"}, htmx=True)
        assert answer.status_code == 200 and "<html" not in answer.text, action
        buttons = soup(answer.text).select("[data-friendship]")
        assert [button["data-friendship"] for button in buttons] == [state], action
        assert counters(answer.text) == numbers, action
        assert len(answer.data) < 4096, action
        ((kind, text),) = notices(answer.text)
        assert message in text and kind == ("ok" if action in ACTIONS else "info"), action
        assert f'data-friendship="{state}"' in alice_browser.get("/u/bobby").text, action


def test_action_by_plain_form_redirects_with_a_notice(alice_and_bob):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    for action, (prepare, path, _state, message, numbers) in (ACTIONS | OUTDATED_ACTIONS).items():
        forget_relationships(app)
        prepare(app, alice, bob)
        answer = alice_browser.post(f"/u/bobby/{path}", {"next": "/friends/incoming?q=x"})
        assert (answer.status_code, answer.location) == (303, "/friends/incoming?q=x"), action
        page = alice_browser.get("/friends").text
        ((kind, text),) = notices(page)
        assert message in text and kind == ("ok" if action in ACTIONS else "info"), action
        assert counters(page) == numbers, action
        assert alice_browser.post(f"/u/bobby/{path}").location == "/u/bobby", action
        alice_browser.get("/friends")  # shows the notice of the second time


@pytest.mark.parametrize("htmx", [False, True])
def test_session_that_ends_while_an_action_is_refused_asks_to_log_in(any_app, monkeypatch, htmx):
    anna = make_person(any_app, "Anna", public_id="anna")
    browser, lock_pair = Browser(any_app, anna), friendships.lock_pair
    token = browser.token()

    def lock_after_logging_out_everywhere(*arguments):
        db.session.execute(delete(Session))
        db.session.commit()
        return lock_pair(*arguments)

    monkeypatch.setattr(friendships, "lock_pair", lock_after_logging_out_everywhere)
    answer = browser.post("/u/anna/request", {}, htmx=htmx, token=token)
    assert answer.status_code == (401 if htmx else 302)
    assert (answer.headers["HX-Redirect"] if htmx else answer.location).startswith("/auth/login")


@pytest.mark.parametrize("htmx", [False, True])
def test_action_is_refused_without_login_or_csrf_token(alice_and_bob, htmx):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    for action, (prepare, path, *_rest) in ACTIONS.items():
        forget_relationships(app)
        prepare(app, alice, bob)
        before = relationship_state(app, alice, bob)
        anonymous = Browser(app).client.post(f"/u/bobby/{path}", headers={"HX-Request": "true"} if htmx else {})
        assert anonymous.status_code == (401 if htmx else 302), action
        for token in (None, "stale"):
            assert alice_browser.post(f"/u/bobby/{path}", token=token, htmx=htmx).status_code == 400, action
        cross_origin = alice_browser.post(f"/u/bobby/{path}", htmx=htmx, headers={"Origin": "https://evil.example"})
        assert cross_origin.status_code == 400, action
        assert alice_browser.get(f"/u/bobby/{path}").status_code == 405, action
        assert relationship_state(app, alice, bob) == before, action


def relationship_state(app, alice, bob):
    with app.app_context():
        return relationships.get_relationship(alice, bob).state


@pytest.mark.parametrize("htmx", [False, True])
def test_action_on_unknown_user_or_oneself_is_refused(alice_and_bob, htmx):
    *_rest, alice_browser, _at_bob = alice_and_bob
    for path in ("request", "request/accept", "request/decline", "request/cancel", "unfriend", "block"):
        assert alice_browser.post(f"/u/nobody/{path}", htmx=htmx).status_code == 404, path
        answer = alice_browser.post(f"/u/alice/{path}", htmx=htmx)
        assert answer.status_code == (409 if htmx else 303), path
        if htmx:
            assert 'data-friendship="self"' in answer.text and notices(answer.text)[0][0] == "error", path


@pytest.mark.parametrize("htmx", [False, True])
def test_conflict_returns_an_error_notice_and_the_current_button(alice_and_bob, htmx):
    app, alice, bob, alice_browser, at_bob = alice_and_bob
    send_request(app, alice, bob)
    at_bob.post("/u/alice/request/decline")
    answer = alice_browser.post("/u/bobby/request", {"next": "/u/bobby"}, htmx=htmx)
    if htmx:
        assert answer.status_code == 409
        assert 'data-friendship="none"' in answer.text and counters(answer.text) == (0, 0, 0)
        assert notices(answer.text)[0][0] == "error"
    else:
        assert (answer.status_code, answer.location) == (303, "/u/bobby")
        assert notices(alice_browser.get("/u/bobby").text)[0][0] == "error"


@pytest.mark.parametrize("htmx", [False, True])
def test_friend_requests_are_rate_limited_per_hour(alice_and_bob, htmx):
    app, _alice, _bob, alice_browser, _at_bob = alice_and_bob
    app.config["REQUESTS_PER_HOUR"] = 1
    alice_browser.post("/u/bobby/request")
    alice_browser.post("/u/bobby/request/cancel")
    answer = alice_browser.post("/u/bobby/request", htmx=htmx)
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 3000


def test_extra_form_fields_are_ignored_and_next_stays_on_this_site(alice_and_bob):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    fields = {"sender_id": str(bob.id), "user_id": str(bob.id), "state": "friends", "next": "//evil.example"}
    answer = alice_browser.post("/u/bobby/request", fields)
    assert answer.location == "/" and relationship_state(app, alice, bob) == "outgoing"


LISTS = {"friends": befriend, "incoming": receive_request, "outgoing": send_request, "blocked": block}
PATHS = {"friends": "/friends", "incoming": "/friends/incoming", "outgoing": "/friends/outgoing"}
PATHS["blocked"] = "/settings/blocked"


ROWS_LEAVING = [
    ("friends", "unfriend", "none", "Removed", "remove", (0, 0, 0)),
    ("friends", "block", "blocked", "Blocked", "block", (0, 0, 0)),
    ("incoming", "request/accept", "friends", "Friends", None, (1, 0, 0)),
    ("incoming", "request/decline", "none", "Declined", "decline", (0, 0, 0)),
    ("outgoing", "request/cancel", "none", "Cancelled", "cancel", (0, 0, 0)),
    ("blocked", "unblock", "none", "Unblocked", None, (0, 0, 0)),
]


def test_row_that_was_acted_on_says_what_happened_and_offers_undo(alice_and_bob):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    for list_name, path, state, label, action, numbers in ROWS_LEAVING:
        forget_relationships(app)
        LISTS[list_name](app, alice, bob)
        page = soup(alice_browser.get(PATHS[list_name]).text)
        assert [row["data-user"] for row in page.select("[data-user]")] == ["bobby"], path
        answer = alice_browser.post(f"/u/bobby/{path}", {"list": list_name}, htmx=True)
        (button,) = soup(answer.text).select("[data-friendship]")
        assert button["data-friendship"] == state and "data-leaves" in button.attrs and label in button.text, path
        assert [field["value"] for field in button.select("[name=action]")] == ([action] if action else []), path
        # What a second click or press of Enter would hit: never the button that takes it back.
        assert button.select_one("[autofocus]").name == "span" and button.select("button, span")[-1].name == "span"
        assert counters(answer.text) == numbers, path
        assert soup(alice_browser.get(PATHS[list_name]).text).select("[data-user]") == [], path


def test_list_as_page_and_fragment(alice_and_bob_on_each_database):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob_on_each_database
    for list_name, relate in LISTS.items():
        forget_relationships(app)
        empty = soup(alice_browser.get(PATHS[list_name]).text)
        assert empty.select_one("#results .empty h2") and not empty.select("[data-user]"), list_name
        relate(app, alice, bob)
        page, fragment = alice_browser.get(PATHS[list_name]), alice_browser.get(PATHS[list_name], htmx=True)
        assert "<html" in page.text and "<html" not in fragment.text, list_name
        for text in (page.text, fragment.text):
            (row,) = soup(text).select("#results [data-user]")
            assert row["data-user"] == "bobby"
            assert row.select_one("[data-friendship]")["data-friendship"] == list_name


def test_settings_link_to_blocked_people(alice_browser):
    assert 'href="/settings/blocked"' in alice_browser.get("/settings").text


def test_pagination_shows_each_row_once(alice_and_bob_on_each_database):
    app, alice, _bob, alice_browser, _at_bob = alice_and_bob_on_each_database
    make_friends(app, alice, 45)
    for path in ("/friends", "/friends?q=friend", "/search?q=friend", "/search?q=rie"):
        expected = None
        for htmx in (False, True):
            seen, link = [], path
            while link:
                text = alice_browser.get(link, htmx=htmx).text
                rows = [row["data-user"] for row in soup(text).select("[data-user]")]
                assert 0 < len(rows) <= 20
                if htmx and link != path:
                    assert "<ul" not in text  # rows only: they replace the link
                seen += rows
                next_link = soup(text).select_one("[data-next]")
                link = next_link and next_link["href"]
                assert not next_link or next_link["data-hx-get"] == next_link["href"]
            assert len(seen) == len(set(seen)) == 45
            expected = expected or seen
            assert seen == expected
    second = soup(alice_browser.get("/friends").text).select_one("[data-next]")["href"]
    assert "Back to the beginning" in alice_browser.get(second).text


INVALID_CURSORS = {
    **{text: text for text in ("0", "-1", "1" + "0" * 20, "abc", "1.5", "é", "NaN", "W10")},
    "of another list": keyset.encode_cursor(1, 2),
    "time without a zone": keyset.encode_cursor("2026-01-01", 1),
    "huge number": keyset.encode_cursor("2026-01-01T00:00:00+00:00", 2**70),
    "unknown kind of hit": keyset.encode_cursor(9, "friend"),
}


def test_invalid_cursor_returns_the_first_page(alice_and_bob):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    make_friends(app, alice, 2)
    for list_name in ("incoming", "outgoing", "blocked"):
        LISTS[list_name](app, alice, make_person(app, f"Person {list_name}"))
    for path in ("/friends", "/friends/incoming", "/friends/outgoing", "/search?q=friend", "/settings/blocked"):
        expected = [row["data-user"] for row in soup(alice_browser.get(path).text).select("[data-user]")]
        assert expected, path
        for reason, cursor in INVALID_CURSORS.items():
            for htmx in (False, True):
                query = {"after": cursor, **({"q": "friend"} if "search" in path else {})}
                answer = alice_browser.get(path.partition("?")[0], query_string=query, htmx=htmx)
                assert answer.status_code == 200, (path, reason)
                assert [row["data-user"] for row in soup(answer.text).select("[data-user]")] == expected, (path, reason)


def test_page_size_parameters_are_ignored(alice_and_bob):
    app, alice, _bob, alice_browser, _at_bob = alice_and_bob
    make_friends(app, alice, 21)
    for size in ("per_page=1000", "per_page=-1", "limit=1", "size=0", "page=2", "page=abc", "before=1"):
        assert alice_browser.get(f"/friends?{size}").text.count("data-user=") == 20, size


def test_search_without_term_or_hits_shows_a_hint(alice_and_bob):
    *_rest, alice_browser, _at_bob = alice_and_bob
    for path in ("/search", "/search?q=", "/search?q=+++"):
        text = alice_browser.get(path).text
        assert "data-user=" not in text and "Who are you looking for?" in text
    text = alice_browser.get("/search?q=zephyrine").text
    assert "No results for “zephyrine”" in text and "Nobody found" in text


def test_one_letter_search_suggests_a_longer_term(alice_and_bob):
    *_rest, alice_browser, _at_bob = alice_and_bob
    text = alice_browser.get("/search?q=b", htmx=True).text
    assert 'data-user="bobby"' in text and "Type more letters" in text
    assert "Type more letters" not in alice_browser.get("/search?q=bob").text


def test_search_term_is_kept_and_escaped(alice_and_bob):
    *_rest, alice_browser, _at_bob = alice_and_bob
    page = soup(alice_browser.get("/search", query_string={"q": '"><script>alert(1)</script>'}).text)
    assert page.select_one("#q")["value"] == '"><script>alert(1)</script>' and not page.select("#results script")


def test_row_placeholders_in_the_query_string_are_not_filled_in(alice_and_bob):
    *_rest, alice_browser, _at_bob = alice_and_bob
    page = soup(alice_browser.get("/search", query_string={"q": "bob", "x": "~id~~name~"}).text)
    assert page.select_one("[data-user=bobby] [name=next]")["value"].endswith("x=~id~~name~")
    assert page.select_one("[data-user=bobby] [formaction]")["formaction"] == "/u/bobby/request"


def test_search_status_shows_the_number_of_hits(alice_and_bob):
    app, alice, _bob, alice_browser, _at_bob = alice_and_bob
    make_friends(app, alice, 21)
    assert "More than 20 people found" in alice_browser.get("/search?q=friend").text
    assert "One person found" in alice_browser.get("/search?q=bob").text
    fragment = soup(alice_browser.get("/search?q=bob", htmx=True).text)
    assert fragment.select_one("#results-status")["hx-swap-oob"] == "true"


def test_search_does_not_match_emails(alice_and_bob_on_each_database):
    *_rest, alice_browser, _at_bob = alice_and_bob_on_each_database
    for term in ("bob@nox.example", "nox.example", "@nox"):
        text = alice_browser.get("/search", query_string={"q": term}).text
        assert "data-user=" not in text
    assert "bob@nox.example" not in alice_browser.get("/search?q=bob").text


def test_home_shows_requests_and_suggestions(alice_and_bob_on_each_database):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob_on_each_database
    clara = make_person(app, "Clara", public_id="clara")
    befriend(app, bob, clara)
    befriend(app, alice, bob)
    receive_request(app, alice, make_person(app, "Dora", public_id="dora"))
    home = soup(alice_browser.get("/").text)
    assert [row["data-user"] for row in home.select(".asking [data-user]")] == ["dora"]
    suggestions = home.select_one("[aria-labelledby=h-known]")
    assert suggestions.select_one("[data-user]")["data-user"] == "clara" and "One friend in common" in suggestions.text
    assert home.select_one("#h-news")


def test_counters_and_button_as_fragments(alice_and_bob):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    receive_request(app, alice, bob)
    answer = alice_browser.get("/counters", htmx=True)
    assert counters(answer.text) == (0, 1, 0)
    assert alice_browser.get("/counters").status_code == 302
    answer = alice_browser.get("/u/bobby/button?list=profile&next=/u/bobby", htmx=True)
    assert 'data-friendship="incoming"' in answer.text and "autofocus" not in answer.text
    assert alice_browser.get("/u/bobby/button").location == "/u/bobby"
    assert alice_browser.get("/u/nobody/button", htmx=True).status_code == 404
    # A row that no longer belongs to its list says so, with nothing to press.
    answer = alice_browser.get("/u/bobby/button?list=friends", htmx=True)
    assert "data-leaves" in answer.text and "No longer friends" in answer.text and "<button" not in answer.text


def test_row_is_for_those_who_belong_to_the_list(alice_and_bob_on_each_database):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob_on_each_database
    befriend(app, alice, bob)
    answer = alice_browser.get("/u/bobby/row?list=friends&rows=0", htmx=True).text
    assert 'data-user="bobby"' in answer and 'data-hx-target="#people" data-hx-swap="afterbegin"' in answer
    for query in ("list=incoming", "list=friends&q=x", "list=nonsense", ""):
        answer = alice_browser.get(f"/u/bobby/row?{query}&rows=0", htmx=True).text
        assert "data-user" not in answer and counters(answer) == (1, 0, 0)
    assert counters(alice_browser.get("/u/nobody/row?list=friends", htmx=True).text) == (1, 0, 0)
    assert alice_browser.get("/u/bobby/row").location == "/u/bobby"


def test_responses_are_small(alice_and_bob):
    """Limits: 2 kB for a button; 40 kB, or 5 kB compressed, for a page of 20 people."""
    import brotli

    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    sizes = {}
    for action, (prepare, path, *_rest) in ACTIONS.items():
        forget_relationships(app)
        prepare(app, alice, bob)
        sizes[action] = len(
            alice_browser.post(f"/u/bobby/{path}", {"next": "/search?q=bob", "list": "search"}, htmx=True).data
        )
    forget_relationships(app)
    make_friends(app, alice, 25)
    page = alice_browser.get("/friends", htmx=True).data
    print(f"button {sizes}, twenty people {len(page)} bytes, {len(brotli.compress(page, quality=4))} compressed")
    assert len(page) < 40_000 and len(brotli.compress(page, quality=4)) < 5_000
    assert max(sizes.values()) < 2_000, sizes


def test_page_connects_to_the_event_stream(alice_and_bob):
    *_rest, alice_browser, _at_bob = alice_and_bob
    page = alice_browser.get("/friends").text
    assert re.search(r'data-hx-sse:connect="/events\?after=\d+&amp;tab=\w+"', page)


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize(
    ("prepare", "path", "action", "state"),
    [
        (receive_request, "request/decline", "decline", "incoming"),
        (send_request, "request/cancel", "cancel", "outgoing"),
        (befriend, "unfriend", "remove", "friends"),
        (befriend, "block", "block", "friends"),
    ],
)
def test_undo_by_htmx_and_by_plain_form(alice_and_bob_on_each_database, prepare, path, action, state, htmx):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob_on_each_database
    prepare(app, alice, bob)
    alice_browser.post(f"/u/bobby/{path}", {"next": "/friends"}, htmx=htmx)
    if not htmx:
        (form,) = soup(alice_browser.get("/friends").text).select(".notice form")
        assert (form["action"], form.select_one("[name=action]")["value"]) == ("/u/bobby/undo", action)
    answer = alice_browser.post("/u/bobby/undo", {"action": action, "next": "/friends"}, htmx=htmx)
    if htmx:
        assert (
            answer.status_code == 200 and soup(answer.text).select_one("[data-friendship]")["data-friendship"] == state
        )
        assert notices(answer.text)[0][0] == "ok"
    else:
        assert (answer.status_code, answer.location) == (303, "/friends")
        assert notices(alice_browser.get("/friends").text)[0][0] == "ok"
    assert relationship_state(app, alice, bob) == state
    again = alice_browser.post("/u/bobby/undo", {"action": action}, htmx=htmx)
    assert again.status_code == (200 if htmx else 303)
    text = again.text if htmx else alice_browser.get("/").text
    assert notices(text)[0][0] == "info"


@pytest.mark.parametrize("htmx", [False, True])
def test_undo_is_refused_to_others_and_without_a_record(alice_and_bob, htmx):
    app, alice, bob, alice_browser, at_bob = alice_and_bob
    befriend(app, alice, bob)
    alice_browser.post("/u/bobby/unfriend")
    for fields in ({}, {"action": ""}, {"action": "block"}, {"action": "x" * 5000}):
        assert alice_browser.post("/u/bobby/undo", fields, htmx=htmx).status_code == (200 if htmx else 303)
    assert at_bob.post("/u/alice/undo", {"action": "remove"}, htmx=htmx).status_code == (200 if htmx else 303)
    assert Browser(app).post("/u/bobby/undo", {"action": "remove"}, htmx=htmx).status_code == (401 if htmx else 302)
    assert alice_browser.post("/u/bobby/undo", {"action": "remove"}, token=None, htmx=htmx).status_code == 400
    assert alice_browser.post("/u/nobody/undo", {"action": "remove"}, htmx=htmx).status_code == 404
    at_bob.post("/u/alice/block")
    assert alice_browser.post("/u/bobby/undo", {"action": "remove"}, htmx=htmx).status_code == 404


def test_newcomers_are_announced_above_a_list_and_inserted_only_into_an_empty_one(alice_and_bob):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    receive_request(app, alice, bob)
    query = {"list": "incoming", "next": "/friends/incoming"}
    inserted = alice_browser.get("/u/bobby/row", htmx=True, query_string={**query, "rows": 0, "count": 1}).text
    assert 'data-user="bobby"' in inserted and "newcomers" not in inserted
    for count, text in (
        (1, "1 new request, show"),
        (3, "3 new requests, show"),
        ("x", "1 new request, show"),
        (10**9, "99 new"),
    ):
        answer = alice_browser.get("/u/bobby/row", htmx=True, query_string={**query, "rows": 5, "count": count}).text
        link = soup(answer).select_one("#newcomers a")
        assert text in link.text and link["href"] == "/friends/incoming" and "data-user" not in answer
        assert soup(answer).select_one("#newcomers")["hx-swap-oob"] == "true"


def test_profile_says_when_one_may_ask_again(alice_and_bob):
    app, alice, bob, alice_browser, at_bob = alice_and_bob
    send_request(app, alice, bob)
    at_bob.post("/u/alice/request/decline")
    for answer in (
        alice_browser.get("/u/bobby"),
        alice_browser.get("/u/bobby/button", htmx=True, query_string={"list": "profile"}),
        alice_browser.post("/u/bobby/request", {"list": "profile"}, htmx=True),
    ):
        assert "You can ask again on" in answer.text and 'formaction="/u/bobby/request"' not in answer.text
    assert 'formaction="/u/alice/request"' in at_bob.get("/u/alice").text


def test_acceptance_is_told_in_words(alice_and_bob):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    assert notices(alice_browser.get("/u/bobby/row?accepted=1", htmx=True).text) == []
    befriend(app, alice, bob)
    assert notices(alice_browser.get("/u/bobby/row?accepted=1", htmx=True).text)[0][1].startswith("Bob accepted")
    assert notices(alice_browser.get("/u/bobby/row", htmx=True).text) == []


def test_accepting_in_a_search_leaves_nothing_to_press(alice_and_bob):
    app, alice, bob, alice_browser, _at_bob = alice_and_bob
    receive_request(app, alice, bob)
    answer = soup(alice_browser.post("/u/bobby/request/accept", {"next": "/search"}, htmx=True).text)
    done = answer.select_one("[data-done]")
    assert done["data-friendship"] == "friends" and "data-leaves" not in done.attrs
    assert done.select("button, a, form") == [] and done.get_text(strip=True) == "Friends"


def test_search_says_when_one_may_ask_again(alice_and_bob):
    app, alice, bob, alice_browser, at_bob = alice_and_bob
    send_request(app, alice, bob)
    at_bob.post("/u/alice/request/decline")
    row = soup(alice_browser.get("/search?q=bob").text).select_one("[data-user=bobby]")
    assert "You can ask again on" in row.text and row.select("button") == []
    refused = alice_browser.post("/u/bobby/request", {"next": "/search?q=bob"}, htmx=True)
    until = now() + timedelta(days=app.config["PAUSE_DAYS"])
    assert refused.status_code == 409 and soup(refused.text).select("button[formaction]") == []
    assert notices(refused.text) == [("error", f"You can ask Bob again on {until:%-d %B}.")]
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(request_cooldowns).values(until=now()))
        db.session.commit()
    assert soup(alice_browser.get("/search?q=bob").text).select_one("[data-user=bobby] button")


def test_searching_for_oneself_finds_oneself_marked_you(alice_and_bob):
    _app, _alice, _bob, alice_browser, _at_bob = alice_and_bob
    row = soup(alice_browser.get("/search?q=alice").text).select_one("[data-user=alice]")
    mark = row.select_one("[data-friendship=self]")
    assert mark.select_one(".friend__state").get_text(strip=True) == "You"
    assert row.select("form, [formaction]") == []
