"""The button and the lists, as people meet them: by htmx, by plain forms, and refused."""

import re
from threading import get_ident

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import event

from noxchat import friendships, relationships
from noxchat.database import begin_write
from noxchat.extensions import db
from tests.conftest import EVERYWHERE, Browser, befriend, make_person


@pytest.fixture
def two(any_app):
    """Alice and Bob, each at a browser of their own."""
    alice = make_person(any_app, "Alice", public_id="alice")
    bob = make_person(any_app, "Bob", public_id="bobby")
    return any_app, alice, bob, Browser(any_app, alice), Browser(any_app, bob)


def do(app, rule, one, other):
    with app.test_request_context():
        begin_write(db.session)
        rule(one, other)
        db.session.commit()


def asks(app, alice, bob):
    do(app, friendships.send, alice, bob)


def is_asked(app, alice, bob):
    do(app, friendships.send, bob, alice)


def blocks(app, alice, bob):
    do(app, friendships.block, alice, bob)


def nothing(app, alice, bob):
    pass


ACTIONS = {
    "ask": (nothing, "request", "outgoing", "is on its way", (0, 0, 1)),
    "ask who asked": (is_asked, "request", "friends", "are friends now", (1, 0, 0)),
    "accept": (is_asked, "request/accept", "friends", "are friends now", (1, 0, 0)),
    "decline": (is_asked, "request/decline", "none", "is declined", (0, 0, 0)),
    "cancel": (asks, "request/cancel", "none", "is cancelled", (0, 0, 0)),
    "part": (befriend, "unfriend", "none", "no longer friends", (0, 0, 0)),
    "block": (befriend, "block", "blocked", "is blocked", (0, 0, 0)),
    "unblock": (blocks, "unblock", "none", "not blocked any more", (0, 0, 0)),
}
LATE = {
    "ask twice": (asks, "request", "outgoing", "still open", (0, 0, 1)),
    "ask a friend": (befriend, "request", "friends", "friends already", (1, 0, 0)),
    "accept what was cancelled": (nothing, "request/accept", "none", "Nothing is open", (0, 0, 0)),
    "accept one's own": (asks, "request/accept", "outgoing", "still open", (0, 0, 1)),
    "accept twice": (befriend, "request/accept", "friends", "friends already", (1, 0, 0)),
    "decline what was cancelled": (nothing, "request/decline", "none", "Nothing is open", (0, 0, 0)),
    "decline a friend": (befriend, "request/decline", "friends", "friends already", (1, 0, 0)),
    "cancel what was accepted": (befriend, "request/cancel", "friends", "friends already", (1, 0, 0)),
    "cancel what was never sent": (is_asked, "request/cancel", "incoming", "waiting for your answer", (0, 1, 0)),
    "part from a stranger": (nothing, "unfriend", "none", "Nothing is open", (0, 0, 0)),
    "block twice": (blocks, "block", "blocked", "blocked already", (0, 0, 0)),
    "unblock a stranger": (nothing, "unblock", "none", "Nothing is open", (0, 0, 0)),
}


def told(text):
    """The kind and the words of each notice in an answer."""
    return [(notice["data-kind"], notice.get_text(" ", strip=True)) for notice in soup(text).select(".notice")]


def soup(text):
    return BeautifulSoup(text, "html.parser")


def counters(text):
    """What the counters in an answer show, all of them alike."""
    numbers = {}
    for span in soup(text).select("[data-counter]"):
        numbers.setdefault(span["data-counter"], set()).add(int(span.text))
    assert all(len(values) == 1 for values in numbers.values())
    return tuple(next(iter(numbers[name])) for name in ("friends", "incoming", "outgoing"))


@pytest.mark.parametrize("action", [*ACTIONS, *LATE])
def test_each_action_by_htmx_is_one_answer_with_the_button_and_the_counters(two, action):
    app, alice, bob, at_alice, _at_bob = two
    prepare, path, state, words, numbers = (ACTIONS | LATE)[action]
    prepare(app, alice, bob)
    answer = at_alice.post(f"/u/bobby/{path}", {"next": "/search?q=bob", "list": "search"}, htmx=True)
    assert answer.status_code == 200 and "<html" not in answer.text
    buttons = soup(answer.text).select("[data-friendship]")
    assert [button["data-friendship"] for button in buttons] == [state]
    assert counters(answer.text) == numbers
    assert len(answer.data) < 4096
    ((kind, text),) = told(answer.text)
    assert words in text and kind == ("ok" if action in ACTIONS else "info")
    # and the page says the same
    assert f'data-friendship="{state}"' in at_alice.get("/u/bobby").text


@pytest.mark.parametrize("action", [*ACTIONS, *LATE])
def test_each_action_by_a_plain_form_leads_back_and_tells(two, action):
    app, alice, bob, at_alice, _at_bob = two
    prepare, path, state, words, numbers = (ACTIONS | LATE)[action]
    prepare(app, alice, bob)
    answer = at_alice.post(f"/u/bobby/{path}", {"next": "/friends/incoming?q=x"})
    assert (answer.status_code, answer.location) == (303, "/friends/incoming?q=x")
    page = at_alice.get("/friends").text
    ((kind, text),) = told(page)
    assert words in text and kind == ("ok" if action in ACTIONS else "info")
    assert counters(page) == numbers
    assert at_alice.post(f"/u/bobby/{path}").location == "/u/bobby"


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("htmx", [False, True])
def test_each_action_is_refused_to_strangers_and_without_a_token(two, action, htmx):
    app, alice, bob, at_alice, _at_bob = two
    prepare, path, _state, _words, _numbers = ACTIONS[action]
    prepare(app, alice, bob)
    before = at_alice.get("/u/bobby").text.count("data-friendship"), state_of(app, alice, bob)
    stranger = Browser(app).client.post(f"/u/bobby/{path}", headers={"HX-Request": "true"} if htmx else {})
    assert stranger.status_code == (401 if htmx else 302)
    for token in (None, "stale"):
        assert at_alice.post(f"/u/bobby/{path}", token=token, htmx=htmx).status_code == 400
    foreign = at_alice.post(f"/u/bobby/{path}", htmx=htmx, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 400
    assert at_alice.get(f"/u/bobby/{path}").status_code == 405
    assert before[1] == state_of(app, alice, bob)


def state_of(app, alice, bob):
    with app.app_context():
        return relationships.get_relationship(alice, bob).state


@pytest.mark.parametrize(
    "path", ["request", "request/accept", "request/decline", "request/cancel", "unfriend", "block"]
)
@pytest.mark.parametrize("htmx", [False, True])
def test_nobody_and_oneself_are_refused(two, path, htmx):
    *_rest, at_alice, _at_bob = two
    assert at_alice.post(f"/u/nobody/{path}", htmx=htmx).status_code == 404
    answer = at_alice.post(f"/u/alice/{path}", htmx=htmx)
    assert answer.status_code == (409 if htmx else 303)
    if htmx:
        assert 'data-friendship="self"' in answer.text and told(answer.text)[0][0] == "error"


@pytest.mark.parametrize("htmx", [False, True])
def test_a_rule_that_says_no_is_told_with_the_button_as_it_is(two, htmx):
    app, alice, bob, at_alice, at_bob = two
    asks(app, alice, bob)
    at_bob.post("/u/alice/request/decline")
    answer = at_alice.post("/u/bobby/request", {"next": "/u/bobby"}, htmx=htmx)
    if htmx:
        assert answer.status_code == 409
        assert 'data-friendship="none"' in answer.text and counters(answer.text) == (0, 0, 0)
        assert told(answer.text)[0][0] == "error"
    else:
        assert (answer.status_code, answer.location) == (303, "/u/bobby")
        assert told(at_alice.get("/u/bobby").text)[0][0] == "error"


@pytest.mark.parametrize("htmx", [False, True])
def test_too_many_requests_in_an_hour_are_429(two, htmx):
    app, _alice, _bob, at_alice, _at_bob = two
    app.config["REQUESTS_PER_HOUR"] = 1
    at_alice.post("/u/bobby/request")
    at_alice.post("/u/bobby/request/cancel")
    answer = at_alice.post("/u/bobby/request", htmx=htmx)
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 3000


def test_extra_fields_do_nothing_and_next_stays_on_the_site(two):
    app, alice, bob, at_alice, _at_bob = two
    fields = {"sender_id": str(bob.id), "user_id": str(bob.id), "state": "friends", "next": "//evil.example"}
    answer = at_alice.post("/u/bobby/request", fields)
    assert answer.location == "/" and state_of(app, alice, bob) == "outgoing"


LISTS = {"friends": befriend, "incoming": is_asked, "outgoing": asks, "blocked": blocks}
PATHS = {"friends": "/friends", "incoming": "/friends/incoming", "outgoing": "/friends/outgoing"}
PATHS["blocked"] = "/settings/blocked"


@pytest.mark.parametrize(
    ("list_name", "path"),
    [
        ("friends", "unfriend"),
        ("friends", "block"),
        ("incoming", "request/accept"),
        ("incoming", "request/decline"),
        ("outgoing", "request/cancel"),
        ("blocked", "unblock"),
    ],
)
def test_a_row_leaves_the_list_where_it_does_not_belong_any_more(two, list_name, path):
    app, alice, bob, at_alice, _at_bob = two
    LISTS[list_name](app, alice, bob)
    page = soup(at_alice.get(PATHS[list_name]).text)
    assert [row["data-user"] for row in page.select("[data-user]")] == ["bobby"]
    answer = at_alice.post(f"/u/bobby/{path}", {"list": list_name}, htmx=True)
    assert answer.status_code == 200 and "data-friendship" not in answer.text
    assert 'data-hx-target="#person-bobby" data-hx-swap="delete"' in answer.text
    assert counters(answer.text)
    assert soup(at_alice.get(PATHS[list_name]).text).select("[data-user]") == []


@pytest.mark.parametrize("list_name", LISTS)
def test_lists_page_and_fragment(two, list_name):
    app, alice, bob, at_alice, _at_bob = two
    empty = soup(at_alice.get(PATHS[list_name]).text)
    assert empty.select_one("#results .empty h2") and not empty.select("[data-user]")
    LISTS[list_name](app, alice, bob)
    page, fragment = at_alice.get(PATHS[list_name]), at_alice.get(PATHS[list_name], htmx=True)
    assert "<html" in page.text and "<html" not in fragment.text
    for text in (page.text, fragment.text):
        row = soup(text).select_one("#results [data-user=bobby]")
        assert row.select_one("[data-friendship]")["data-friendship"] == {"blocked": "blocked"}.get(
            list_name, list_name
        )


def test_blocked_people_are_in_the_settings(two):
    app, alice, bob, at_alice, _at_bob = two
    blocks(app, alice, bob)
    assert "/settings/blocked" in at_alice.get("/settings").text
    assert 'data-user="bobby"' in at_alice.get("/settings/blocked").text


def crowd(app, alice, count=45):
    """Alice's friends by the name of Friend aa, ab …"""
    letters = "abcdefghijkmnopqrstuvwxyz"
    for number in range(count):
        name = f"Friend {letters[number // 25]}{letters[number % 25]}"
        befriend(app, alice, make_person(app, name, f"{number}@nox.example"))


def test_a_long_list_is_walked_to_its_end_by_links_and_by_htmx(two):
    app, alice, _bob, at_alice, _at_bob = two
    crowd(app, alice)
    for path in ("/friends", "/friends?q=friend", "/search?q=friend", "/search?q=rie"):
        whole = None
        for htmx in (False, True):
            seen, link = [], path
            while link:
                text = at_alice.get(link, htmx=htmx).text
                rows = [row["data-user"] for row in soup(text).select("[data-user]")]
                assert 0 < len(rows) <= 20
                if htmx and link != path:
                    assert "<ul" not in text  # rows only, to go where the link was
                seen += rows
                more = soup(text).select_one("[data-next]")
                link = more and more["href"]
                assert not more or more["data-hx-get"] == more["href"]
            assert len(seen) == len(set(seen)) == 45
            whole = whole or seen
            assert seen == whole
    # a page in the middle says how to get back
    second = soup(at_alice.get("/friends").text).select_one("[data-next]")["href"]
    assert "Back to the beginning" in at_alice.get(second).text


@pytest.mark.parametrize("path", ["/friends", "/friends/incoming", "/friends/outgoing", "/search", "/settings/blocked"])
@pytest.mark.parametrize(
    "cursor", ["0", "-1", "1" + "0" * 20, "abc", "W10", "WzIsIm5pa2EiXQ", "WyIyMDI2IiwxXQ", "1.5", "é", "NaN"]
)
def test_odd_cursors_begin_at_the_beginning(at_alice, path, cursor):
    for htmx in (False, True):
        assert at_alice.get(path, query_string={"after": cursor, "q": "a"}, htmx=htmx).status_code == 200


@pytest.mark.parametrize("size", ["per_page=1000", "limit=1", "size=0"])
def test_other_sizes_are_ignored(two, size):
    app, alice, _bob, at_alice, _at_bob = two
    crowd(app, alice, 21)
    assert at_alice.get(f"/friends?{size}").text.count("data-user=") == 20


def statements(app, work):
    """What is asked of the database meanwhile."""
    asked, here = [], get_ident()  # what other threads do is not the page's

    def count(_connection, _cursor, statement, *_more):
        if get_ident() == here and not statement.startswith("BEGIN"):
            asked.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", count)
    work()
    event.remove(engine, "before_cursor_execute", count)
    return asked


@pytest.mark.parametrize(
    "path", ["/", "/friends", "/friends?q=fr", "/search?q=friend", "/search?q=r", "/search?q=nobody", "/u/bobby"]
)
@pytest.mark.parametrize("htmx", [False, True])
def test_a_page_costs_at_most_four_statements_however_long(two, path, htmx):
    app, alice, _bob, at_alice, _at_bob = two
    crowd(app, alice, 25)
    at_alice.get("/")
    asked = statements(app, lambda: at_alice.get(path, htmx=htmx))
    fewest = 1 if EVERYWHERE else 2  # to a search that finds nobody by Elasticsearch there is only the session
    assert fewest <= len(asked) <= 4, asked
    more = soup(at_alice.get(path, htmx=htmx).text).select_one("[data-next]")
    if more:
        assert len(statements(app, lambda: at_alice.get(more["href"], htmx=htmx))) <= 4


def test_the_empty_box_lists_nobody_and_says_what_to_do(two):
    *_rest, at_alice, _at_bob = two
    for path in ("/search", "/search?q=", "/search?q=+++"):
        text = at_alice.get(path).text
        assert "data-user=" not in text and "Who are you looking for?" in text
    text = at_alice.get("/search?q=zephyrine").text
    assert "Nobody called “zephyrine”" in text and "Nobody found" in text


def test_one_letter_suggests_typing_more(two):
    *_rest, at_alice, _at_bob = two
    text = at_alice.get("/search?q=b", htmx=True).text
    assert 'data-user="bobby"' in text and "Type more letters" in text
    assert "Type more letters" not in at_alice.get("/search?q=bob").text


def test_the_box_keeps_what_was_typed_as_text(two):
    *_rest, at_alice, _at_bob = two
    page = soup(at_alice.get("/search", query_string={"q": '"><script>alert(1)</script>'}).text)
    assert page.select_one("#q")["value"] == '"><script>alert(1)</script>' and not page.select("#results script")


def test_a_search_for_what_a_list_fills_in_is_only_text(two):
    *_rest, at_alice, _at_bob = two
    page = soup(at_alice.get("/search", query_string={"q": "bob", "x": "~id~~name~"}).text)
    assert page.select_one("[data-user=bobby] [name=next]")["value"].endswith("x=~id~~name~")
    assert page.select_one("[data-user=bobby] [formaction]")["formaction"] == "/u/bobby/request"


def test_searching_counts_what_it_found(two):
    app, alice, _bob, at_alice, _at_bob = two
    crowd(app, alice, 21)
    assert "More than 20 people found" in at_alice.get("/search?q=friend").text
    assert "One person found" in at_alice.get("/search?q=bob").text
    fragment = soup(at_alice.get("/search?q=bob", htmx=True).text)
    assert fragment.select_one("#results-status")["hx-swap-oob"] == "true"


def test_addresses_are_found_by_nobody(two):
    *_rest, at_alice, _at_bob = two
    for typed in ("bob@nox.example", "nox.example", "@nox"):
        text = at_alice.get("/search", query_string={"q": typed}).text
        assert "data-user=" not in text
    assert "bob@nox.example" not in at_alice.get("/search?q=bob").text


def test_home_shows_what_awaits_and_whom_one_may_know(two):
    app, alice, bob, at_alice, _at_bob = two
    clara = make_person(app, "Clara", public_id="clara")
    befriend(app, bob, clara)
    befriend(app, alice, bob)
    is_asked(app, alice, make_person(app, "Dora", public_id="dora"))
    home = soup(at_alice.get("/").text)
    assert [row["data-user"] for row in home.select(".asking [data-user]")] == ["dora"]
    known = home.select_one("[aria-labelledby=h-known]")
    assert known.select_one("[data-user]")["data-user"] == "clara" and "One friend in common" in known.text
    assert home.select_one("#h-news")


def test_counters_and_buttons_can_be_fetched_alone(two):
    app, alice, bob, at_alice, _at_bob = two
    is_asked(app, alice, bob)
    answer = at_alice.get("/counters", htmx=True)
    assert counters(answer.text) == (0, 1, 0)
    assert at_alice.get("/counters").status_code == 302
    answer = at_alice.get("/u/bobby/button?list=profile&next=/u/bobby", htmx=True)
    assert 'data-friendship="incoming"' in answer.text and "autofocus" not in answer.text
    assert at_alice.get("/u/bobby/button").location == "/u/bobby"
    assert at_alice.get("/u/nobody/button", htmx=True).status_code == 404
    answer = at_alice.get("/u/bobby/button?list=friends", htmx=True)
    assert 'data-hx-swap="delete"' in answer.text


def test_a_newcomer_is_put_where_they_belong_in_the_list(two):
    app, alice, bob, at_alice, _at_bob = two
    zoe = make_person(app, "Zoe", public_id="zoe")
    befriend(app, alice, zoe)
    befriend(app, alice, bob)
    answer = at_alice.get("/u/bobby/row?list=friends", htmx=True).text
    assert 'data-hx-target="#person-zoe" data-hx-swap="beforebegin"' in answer and 'data-user="bobby"' in answer
    answer = at_alice.get("/u/zoe/row?list=friends", htmx=True).text
    assert "#people:not(:has(.more))" in answer
    for query in ("list=incoming", "list=friends&q=x", "list=nonsense", ""):
        answer = at_alice.get(f"/u/bobby/row?{query}", htmx=True).text
        assert "data-user" not in answer and counters(answer) == (2, 0, 0)
    is_asked(app, alice, make_person(app, "Dora", public_id="dora"))
    answer = at_alice.get("/u/dora/row?list=incoming", htmx=True).text
    assert 'data-hx-target="#people" data-hx-swap="afterbegin"' in answer
    assert counters(at_alice.get("/u/nobody/row?list=friends", htmx=True).text) == (2, 1, 0)
    assert at_alice.get("/u/bobby/row").location == "/u/bobby"


def test_answers_are_small(two):
    """The figures: a button's answer under 2 kB, a page of twenty under 40 kB, under 5 kB compressed."""
    import brotli

    app, alice, bob, at_alice, _at_bob = two
    sizes = {}
    for action, (prepare, path, *_rest) in ACTIONS.items():
        with app.app_context():
            for rule in (friendships.unblock, friendships.remove):
                begin_write(db.session)
                rule(alice, bob)
                db.session.commit()
        prepare(app, alice, bob)
        sizes[action] = len(
            at_alice.post(f"/u/bobby/{path}", {"next": "/search?q=bob", "list": "search"}, htmx=True).data
        )
        do(app, friendships.cancel, alice, bob)
    crowd(app, alice, 25)
    page = at_alice.get("/friends", htmx=True).data
    print(f"button {sizes}, twenty people {len(page)} bytes, {len(brotli.compress(page, quality=4))} compressed")
    assert len(page) < 40_000 and len(brotli.compress(page, quality=4)) < 5_000
    assert max(sizes.values()) < 2_000, sizes


def test_cookies_stay_small_and_links_are_marked(two):
    *_rest, at_alice, _at_bob = two
    page = at_alice.get("/friends").text
    assert re.search(r'data-hx-sse:connect="/events\?after=\d+&amp;tab=\w+"', page)
