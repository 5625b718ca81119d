"""Friends in a real browser: two people in two windows, with JavaScript and without; long lists; a bad network."""

import pytest
from playwright.sync_api import expect

from config import Config
from noxchat import create_app, profiles
from noxchat.database import begin_write
from noxchat.extensions import db
from tests.browser.conftest import register, sign_in
from tests.conftest import Browser, befriend, make_person, settings

numbers = iter(range(1000))
LETTERS = "abcdefghijkmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def inside(site):
    """An application on the site's own database, to put people into it."""
    app = create_app(Config(settings(site.folder, f"sqlite:///{site.folder}/nox.db"), debug=False))
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def somebody(inside, site, visit):
    """Return a function that makes a person and gives a window in which they are signed in."""

    def make(name, **options):
        public_id = f"{name.lower()}{next(numbers)}"
        user = make_person(inside, f"{name} {public_id}", f"{public_id}@nox.example", public_id=public_id)
        page = visit(**options)
        browser = Browser(inside, user)
        cookie = browser.client.get_cookie("session")
        page.context.add_cookies([{"name": "session", "value": cookie.value, "url": site.base}])
        page.user, page.id = user, public_id
        return page

    return make


def crowd(inside, user, count):
    """Give somebody so many friends, by names in order; return their Public IDs."""
    made = []
    for number in range(count):
        key = f"crowd{next(numbers)}"
        name = f"Crowd {LETTERS[number // 25]}{LETTERS[number % 25]} {key}"
        other = make_person(inside, name, f"{key}@nox.example", public_id=key)
        befriend(inside, user, other)
        made.append(key)
    return made


def state(page, who, scope=""):
    return page.locator(f"{scope} [data-friend='{who}']")


def counter(page, name):
    return page.locator(f"#count-{name} [data-counter]")


@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_two_people_find_each_other_and_become_friends(somebody, script):
    anna, boris = somebody("Anna", java_script_enabled=script), somebody("Boris", java_script_enabled=script)
    boris.goto("/friends/incoming")
    expect(boris.locator("#results h2")).to_have_text("Nobody is waiting")
    anna.goto("/")
    anna.click("nav >> text=Search")
    anna.fill("#q", boris.id)
    if not script:
        anna.press("#q", "Enter")
    row = anna.locator(f"[data-user='{boris.id}']")
    row.locator("text=Add").click()
    expect(state(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
    assert boris.id in anna.url
    if not script:
        boris.reload()
    # The other sees it at once, in the list and in the navigation.
    asked = boris.locator(f"[data-user='{anna.id}']")
    expect(asked).to_be_visible(timeout=2000)
    expect(boris.locator("#nav-friends [data-counter=incoming]")).to_have_text("1")
    expect(counter(boris, "incoming")).to_have_text("1")
    asked.locator("text=Accept").click()
    expect(asked).to_have_count(0)
    expect(boris.locator("#nav-friends")).to_be_hidden()
    expect(counter(boris, "friends")).to_have_text("1")
    if not script:
        anna.reload()
    expect(state(anna, boris.id)).to_have_attribute("data-friendship", "friends", timeout=2000)
    anna.goto(f"/u/{boris.id}")
    assert anna.trouble == [] and boris.trouble == []


@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_declining_cancelling_parting_blocking(inside, somebody, script):
    anna = somebody("Anna", java_script_enabled=script)
    boris = somebody("Boris", java_script_enabled=script)
    for ask, answer, left in (
        (f"/u/{boris.id}", "Cancel request", "none"),
        (f"/u/{boris.id}", "Cancel request", "none"),
    ):
        anna.goto(ask)
        anna.click("#profile >> text=Add")
        expect(state(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
        anna.click(f"#profile >> text={answer}")
        expect(state(anna, boris.id)).to_have_attribute("data-friendship", left)
    anna.click("#profile >> text=Add")
    boris.goto(f"/u/{anna.id}")
    boris.click("#profile >> text=Decline")
    expect(state(boris, anna.id)).to_have_attribute("data-friendship", "none")
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile >> text=Add")
    expect(anna.locator(".notice[data-kind=error]")).to_contain_text("not long ago")
    boris.click("#profile >> text=Add")
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile >> text=Accept")
    expect(state(anna, boris.id)).to_have_attribute("data-friendship", "friends")
    anna.click("#profile [popovertarget]")
    anna.click("#profile >> text=Block")
    expect(state(anna, boris.id)).to_have_attribute("data-friendship", "blocked")
    boris.wait_for_timeout(1000)  # with JavaScript the page notices by itself, and loads anew
    assert boris.goto(f"/u/{anna.id}").status == 404
    anna.goto("/settings")
    anna.click("text=See blocked people")
    anna.click(f"[data-user='{boris.id}'] >> text=Unblock")
    expect(anna.locator(f"[data-user='{boris.id}']")).to_have_count(0)
    expect(anna.locator("#results h2")).to_have_text("Nobody is blocked")
    assert anna.trouble == []


def test_one_click_is_one_request_and_a_double_click_too(somebody):
    anna, boris = somebody("Anna"), somebody("Boris")
    anna.goto(f"/search?q={boris.id}")
    anna.wait_for_timeout(300)
    asked = []
    anna.on("request", lambda request: asked.append((request.method, request.url)))
    anna.dblclick(f"[data-user='{boris.id}'] >> text=Add")
    expect(state(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
    anna.wait_for_timeout(800)
    assert [method for method, url in asked if "/events" not in url] == ["POST"]
    # the new button has the focus, and what happened is said aloud
    assert anna.evaluate("document.activeElement.textContent.trim()").startswith("Cancel request")
    assert "is on its way" in anna.inner_text("#toasts[role=status]")


def test_a_failure_leaves_the_button_as_it_was_and_says_why(somebody):
    anna, boris = somebody("Anna"), somebody("Boris")
    anna.goto(f"/u/{boris.id}")
    anna.route("**/request", lambda route: route.abort())
    anna.click("#profile >> text=Add")
    expect(anna.locator("#toasts .notice[data-kind=error]")).to_contain_text("network does not answer")
    expect(state(anna, boris.id)).to_have_attribute("data-friendship", "none")
    assert anna.is_enabled("#profile >> text=Add")
    anna.unroute("**/request")
    anna.route("**/request", lambda route: route.fulfill(status=500, body="oops"))
    anna.click("#profile >> text=Add")
    expect(anna.locator("#toasts .notice[data-kind=error]")).to_have_count(2)
    expect(state(anna, boris.id)).to_have_attribute("data-friendship", "none")


def test_the_focus_goes_on_to_the_next_row(inside, somebody):
    anna = somebody("Anna")
    first, second, third = crowd(inside, anna.user, 3)
    anna.goto("/friends")
    for who, heir in ((first, second), (third, second)):
        row = anna.locator(f"[data-user='{who}']")
        row.locator("[popovertarget]").click()
        row.locator("text=Remove friend").click()
        expect(row).to_have_count(0)
        expect(anna.locator(f"[data-user='{heir}'] .row__link")).to_be_focused()
    row = anna.locator(f"[data-user='{second}']")
    row.locator("[popovertarget]").press("Enter")
    row.locator(".menu .btn").first.press("Enter")
    expect(anna.locator("#main h1")).to_be_focused()
    expect(anna.locator("#results h2")).to_have_text("A clear sky")
    assert anna.trouble == []


def test_searching_while_typing(somebody, inside):
    anna = somebody("Anna")
    for name in ("Zebra one", "Zebra two", "Zorro"):
        key = f"zed{next(numbers)}"
        make_person(inside, f"{name} {key}", f"{key}@nox.example", public_id=key)
    anna.goto("/search")
    asked = []
    anna.on("request", lambda request: asked.append(request.url) if "/search" in request.url else None)
    anna.locator("#q").press_sequentially("zeb", delay=40)
    expect(anna.locator("#results [data-user]")).to_have_count(2)
    assert len(asked) == 1  # not for every key
    assert anna.url.endswith("/search?q=zeb")
    expect(anna.locator("#results-status")).to_have_text("2 people found")
    expect(anna.locator("#results mark").first).to_have_text("Zeb")
    assert anna.evaluate("document.activeElement.id") == "q"
    # what is shared shows the same
    other = somebody("Otto")
    other.goto(anna.url)
    expect(other.locator("#results [data-user]")).to_have_count(2)
    assert other.input_value("#q") == "zeb"
    anna.fill("#q", "")
    expect(anna.locator("#results h2")).to_have_text("Who are you looking for?")
    assert anna.trouble == []


def test_older_answers_never_overtake_newer_ones(somebody, inside):
    anna = somebody("Anna")
    for name in ("Quince", "Quartz"):
        key = f"qed{next(numbers)}"
        make_person(inside, f"{name} {key}", f"{key}@nox.example", public_id=key)
    anna.goto("/search")

    def slow(route):
        if route.request.url.endswith("q=qu"):
            anna.wait_for_timeout(1200)
        route.continue_()

    anna.route("**/search?*", slow)
    anna.fill("#q", "qu")
    anna.wait_for_timeout(350)
    anna.fill("#q", "quart")
    expect(anna.locator("#results [data-user]")).to_have_count(1, timeout=6000)
    anna.wait_for_timeout(1500)
    expect(anna.locator("#results [data-user]")).to_have_count(1)
    assert anna.url.endswith("q=quart")


def test_an_endless_list_to_its_end_on_a_bad_network(inside, somebody):
    """One page fails, and is offered again; nobody is lost, nobody is there twice, nothing is hammered."""
    anna = somebody("Anna")
    made = crowd(inside, anna.user, 65)
    anna.goto("/friends")
    tries = []

    def network(route):
        tries.append(route.request.url)
        anna.wait_for_timeout(150)
        if len(tries) == 2:
            route.fulfill(status=503, body="")
        else:
            route.continue_()

    anna.route("**/friends?after=*", network)
    for _scroll in range(12):
        anna.mouse.wheel(0, 3000)
        anna.wait_for_timeout(200)
    expect(anna.locator("[data-next]")).to_have_text("Try again")
    assert len(tries) == 2
    expect(anna.locator("#toasts .notice[data-kind=error]")).to_have_count(1)
    anna.click("[data-next]")
    for _scroll in range(12):
        anna.mouse.wheel(0, 3000)
        anna.wait_for_timeout(200)
    expect(anna.locator("[data-user]")).to_have_count(65)
    shown = anna.eval_on_selector_all("[data-user]", "rows => rows.map(row => row.dataset.user)")
    assert shown == made and len(tries) == 4
    expect(anna.locator("[data-next]")).to_have_count(0)


def test_an_endless_list_without_script_is_walked_by_links(inside, somebody):
    anna = somebody("Anna", java_script_enabled=False)
    made, seen = crowd(inside, anna.user, 45), []
    anna.goto("/friends")
    while True:
        seen += anna.eval_on_selector_all("[data-user]", "rows => rows.map(row => row.dataset.user)")
        if not anna.locator("[data-next]").count():
            break
        anna.click("[data-next]")
    assert seen == made
    anna.click("text=Back to the beginning")
    assert anna.url.endswith("/friends")


def test_the_back_button_lands_where_one_was(inside, somebody):
    anna = somebody("Anna")
    made = crowd(inside, anna.user, 65)
    anna.goto("/friends")
    row = anna.locator(f"[data-user='{made[50]}']")
    for _scroll in range(15):
        anna.mouse.wheel(0, 3000)
        anna.wait_for_timeout(100)
    row.locator(".row__link").click()
    anna.wait_for_url(f"**/u/{made[50]}")
    anna.go_back()
    expect(row).to_be_in_viewport(timeout=8000)
    expect(row.locator(".row__link")).to_be_focused()


def test_a_friend_appears_in_the_list_at_their_place(inside, somebody):
    anna = somebody("Anna")
    made = crowd(inside, anna.user, 3)
    boris = somebody("Crowd")
    anna.goto("/friends")
    anna.wait_for_timeout(500)
    boris.goto(f"/u/{anna.id}")
    boris.click("#profile >> text=Add")
    expect(anna.locator("#nav-friends [data-counter=incoming]")).to_have_text("1", timeout=2000)
    other = anna.context.new_page()
    other.goto("/friends/incoming")
    other.click("text=Accept")
    expect(anna.locator(f"[data-user='{boris.id}']")).to_be_visible(timeout=2000)
    shown = anna.eval_on_selector_all("[data-user]", "rows => rows.map(row => row.dataset.user)")
    assert shown == [*made, boris.id]  # Crowd aa, Crowd ab, Crowd ac, Crowd crowd…
    expect(counter(anna, "friends")).to_have_text("4")


def test_whoever_is_blocked_sees_the_other_leave(inside, somebody):
    anna, boris = somebody("Anna"), somebody("Boris")
    befriend(inside, anna.user, boris.user)
    boris.goto("/friends")
    expect(boris.locator(f"[data-user='{anna.id}']")).to_be_visible()
    boris.wait_for_timeout(500)
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile [popovertarget]")
    anna.click("#profile >> text=Block")
    expect(boris.locator(f"[data-user='{anna.id}']")).to_have_count(0, timeout=2000)
    expect(counter(boris, "friends")).to_have_text("0")
    assert boris.locator("#toasts .notice").count() == 0


def test_without_a_stream_the_page_asks(somebody):
    anna, boris = somebody("Anna"), somebody("Boris")
    boris.route("**/events*", lambda route: route.fulfill(status=503, body=""))
    boris.clock.install()
    boris.goto("/friends/incoming")
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile >> text=Add")
    expect(state(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
    boris.clock.fast_forward(31_000)
    expect(boris.locator(f"[data-user='{anna.id}']")).to_be_visible()
    expect(boris.locator("#nav-friends [data-counter=incoming]")).to_have_text("1")
    assert boris.locator("#toasts .notice").count() == 0


def test_signing_out_elsewhere_ends_what_this_window_shows(site, visit):
    page = visit()
    name = f"Leaver{next(numbers)}"
    register(page, name)
    sign_in(page, f"{name.lower()}@nox.example")
    page.goto("/friends")
    page.wait_for_timeout(500)
    other = visit()
    sign_in(other, f"{name.lower()}@nox.example")
    other.goto("/settings/sessions")
    other.click("text=Log out everywhere else")
    page.wait_for_url("**/auth/login**", timeout=40_000)


def test_the_menu_opens_by_keyboard_and_closes_by_escape(inside, somebody):
    anna = somebody("Anna")
    (who,) = crowd(inside, anna.user, 1)
    anna.goto(f"/u/{who}")
    more = anna.locator("#profile [popovertarget]")
    more.press("Enter")
    expect(anna.locator(f"#menu-{who}")).to_be_visible()
    anna.keyboard.press("Escape")
    expect(anna.locator(f"#menu-{who}")).to_be_hidden()
    expect(more).to_be_focused()


def test_a_click_for_a_new_tab_opens_one(inside, somebody):
    anna = somebody("Anna")
    crowd(inside, anna.user, 25)
    anna.goto("/friends")
    anna.route("**/friends?after=*", lambda route: route.abort())
    with anna.context.expect_page() as opened:
        anna.locator(".row__link").first.click(modifiers=["Control"])
    assert "/u/" in opened.value.url or opened.value.wait_for_url("**/u/**") is None


def test_people_are_made_without_the_forms(inside):
    """What the fixtures above rely on."""
    with inside.test_request_context():
        begin_write(db.session)
        assert profiles.find_by_public_id("mila")
        db.session.rollback()


def test_a_hidden_tab_has_no_stream_until_it_is_seen(somebody):
    """A browser opens six lines to a host: tabs opened in the background must not take them all."""
    anna = somebody("Anna")
    anna.add_init_script("Object.defineProperty(document, 'hidden', {get: () => !window.seen})")
    anna.goto("about:blank")  # where signing in led to a page that was in view, and may only now begin its stream
    asked = []
    anna.on("request", lambda request: asked.append(request.url) if "/events" in request.url else None)
    anna.goto("/friends")
    anna.wait_for_timeout(500)
    assert asked == []
    with anna.expect_response("**/events?*"):
        anna.evaluate("window.seen = true; document.dispatchEvent(new Event('visibilitychange'))")


def test_a_change_from_elsewhere_leaves_the_focus_somewhere(inside, somebody):
    anna, boris, clara = somebody("Anna"), somebody("Boris"), somebody("Clara")
    for other in (clara, boris):
        other.goto(f"/u/{anna.id}")
        other.click("#profile >> text=Add")
        expect(state(other, anna.id)).to_have_attribute("data-friendship", "outgoing")
    with anna.expect_response("**/events?*"):
        anna.goto("/friends/incoming")
    anna.locator(f"[data-user='{boris.id}'] >> text=Accept").focus()
    boris.click("#profile >> text=Cancel request")
    expect(anna.locator(f"[data-user='{boris.id}']")).to_have_count(0, timeout=3000)
    expect(anna.locator(f"[data-user='{clara.id}'] .row__link")).to_be_focused()


def test_several_changes_at_once_put_somebody_into_the_list_once(inside, somebody):
    anna, boris = somebody("Anna"), somebody("Boris")
    with anna.expect_response("**/events?*"):
        anna.goto("/friends/incoming")
    boris.goto(f"/u/{anna.id}")
    for press in ("Add", "Cancel request", "Add"):
        boris.click(f"#profile >> text={press}")
        boris.wait_for_timeout(60)
    expect(anna.locator(f"[data-user='{boris.id}']")).to_have_count(1, timeout=3000)
    anna.wait_for_timeout(700)
    expect(anna.locator(f"[data-user='{boris.id}']")).to_have_count(1)
    expect(counter(anna, "incoming")).to_have_text("1")
