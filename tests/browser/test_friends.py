"""Friends and lists in a browser: two people at once, with and without JavaScript; infinite scroll; network failures."""

import pytest
from playwright.sync_api import expect

from noxchat import profiles
from noxchat.database import begin_write
from noxchat.extensions import db
from tests.browser.conftest import log_in, numbers, register, send
from tests.conftest import befriend, make_person

LETTERS = "abcdefghijkmnopqrstuvwxyz"


def add_friends(site_app, user, count):
    """Create count friends of a user; return their Public IDs in the order of their names."""
    friend_ids = []
    for number in range(count):
        key = f"crowd{next(numbers)}"
        name = f"Crowd {LETTERS[number // 25]}{LETTERS[number % 25]} {key}"
        friend = make_person(site_app, name, f"{key}@nox.example", public_id=key)
        befriend(site_app, user, friend)
        friend_ids.append(key)
    return friend_ids


def friend_button(page, public_id):
    return page.locator(f"[data-friend='{public_id}']")


def counter(page, name):
    return page.locator(f"#count-{name} [data-counter]")


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_two_people_become_friends(logged_in_page, javascript):
    anna = logged_in_page("Anna", java_script_enabled=javascript)
    boris = logged_in_page("Boris", java_script_enabled=javascript)
    boris.goto("/friends/incoming")
    expect(boris.locator("#results h2")).to_have_text("Nobody is waiting")
    anna.goto("/")
    anna.click("nav >> text=Search")
    anna.fill("#q", boris.id)
    if not javascript:
        anna.press("#q", "Enter")
    row = anna.locator(f"[data-user='{boris.id}']")
    row.locator("text=Add").click()
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
    assert boris.id in anna.url
    if not javascript:
        boris.reload()
    request_row = boris.locator(f"[data-user='{anna.id}']")
    expect(request_row).to_be_visible(timeout=5000)
    expect(boris.locator("#nav-friends [data-counter=incoming]")).to_have_text("1")
    expect(counter(boris, "incoming")).to_have_text("1")
    request_row.locator("text=Accept").click()
    if javascript:  # the row stays for a while
        expect(request_row.locator("[data-done]")).to_have_text("Friends")
    else:
        expect(request_row).to_have_count(0)
    expect(boris.locator("#nav-friends")).to_be_hidden()
    expect(counter(boris, "friends")).to_have_text("1")
    if not javascript:
        anna.reload()
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "friends", timeout=5000)
    anna.goto(f"/u/{boris.id}")
    assert anna.problems == [] and boris.problems == []


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_cancel_decline_accept_block_and_unblock(site_app, logged_in_page, javascript):
    anna = logged_in_page("Anna", java_script_enabled=javascript)
    boris = logged_in_page("Boris", java_script_enabled=javascript)
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile >> text=Add")
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
    anna.click("#profile >> text=Cancel request")
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "none")
    anna.click("text=Undo")
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
    boris.goto(f"/u/{anna.id}")
    boris.click("#profile >> text=Decline")
    expect(friend_button(boris, anna.id)).to_have_attribute("data-friendship", "none")
    anna.goto(f"/u/{boris.id}")
    expect(friend_button(anna, boris.id)).to_contain_text("You can ask again on")
    boris.goto(f"/u/{anna.id}")
    boris.click("#profile >> text=Add")
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile >> text=Accept")
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "friends")
    anna.click("#profile [popovertarget]")
    anna.click("#profile >> text=Block")
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "blocked")
    boris.wait_for_timeout(1000)  # with JavaScript, the event reloads the page, which would interrupt goto
    assert boris.goto(f"/u/{anna.id}").status == 404
    anna.goto("/settings")
    anna.click("text=See blocked people")
    anna.click(f"[data-user='{boris.id}'] >> text=Unblock")
    if javascript:
        expect(anna.locator(f"[data-user='{boris.id}'] [data-done]")).to_have_text("Unblocked")
        anna.reload()
    expect(anna.locator("#results h2")).to_have_text("Nobody is blocked")
    assert anna.problems == []


@pytest.mark.parametrize("is_slow", [False, True])
def test_double_click_sends_one_request(logged_in_page, is_slow):
    """Also when the answer to the first click is there before the second one."""
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    anna.goto(f"/search?q={boris.id}")
    anna.wait_for_timeout(300)
    requests = []
    anna.on("request", lambda request: requests.append((request.method, request.url)))
    button = anna.locator(f"[data-user='{boris.id}'] >> text=Add")
    box = button.bounding_box()
    if is_slow:
        button.click()
        expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
        cancel = anna.locator(f"[data-user='{boris.id}'] >> text=Cancel request").bounding_box()
        anna.mouse.move(cancel["x"] + cancel["width"] / 2, cancel["y"] + cancel["height"] / 2)
        anna.mouse.down(click_count=2)
        anna.mouse.up(click_count=2)
    else:
        anna.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
    anna.wait_for_timeout(800)
    assert [method for method, url in requests if "/events" not in url] == ["POST"]
    # The new button has the focus, and a live region announces the result.
    assert anna.evaluate("document.activeElement.textContent.trim()").startswith("Cancel request")
    assert "You asked" in anna.inner_text("#toasts[role=status]")


def test_failed_request_keeps_friend_button_and_shows_error(logged_in_page):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    anna.goto(f"/u/{boris.id}")
    anna.route("**/request", lambda route: route.abort())
    anna.click("#profile >> text=Add")
    expect(anna.locator("#toasts .notice[data-kind=error]")).to_contain_text("network does not answer")
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "none")
    assert anna.is_enabled("#profile >> text=Add")
    anna.unroute("**/request")
    anna.route("**/request", lambda route: route.fulfill(status=500, body="oops"))
    anna.click("#profile >> text=Add")
    # The network answers again, so that the first notice is over.
    expect(anna.locator("#toasts .notice[data-kind=error]")).to_contain_text("Something went wrong")
    assert anna.locator("#toasts .notice[data-kind=error]").count() == 1
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "none")


@pytest.mark.parametrize("width", [390, 1280])
def test_row_stays_under_the_pointer_and_leaves_when_nobody_points_at_it(site_app, logged_in_page, width):
    """Two clicks at one spot must not decline two people, and the second must not take the first back."""
    anna = logged_in_page("Anna", viewport={"width": width, "height": 800})
    senders = [logged_in_page("Sender") for _each in range(3)]
    for sender in senders:
        send(site_app, sender.user, anna.user)
    anna.clock.install()
    anna.goto("/friends/incoming")
    first, second, third = (anna.locator(f"[data-user='{sender.id}']") for sender in reversed(senders))
    decline = first.locator("text=Decline").bounding_box()
    spot = decline["x"] + decline["width"] / 2, decline["y"] + decline["height"] / 2
    top = second.bounding_box()["y"]
    anna.mouse.click(*spot)
    expect(first.locator("[data-done]")).to_contain_text("Declined")
    for _again in range(2):
        anna.mouse.click(*spot)
        anna.wait_for_timeout(200)
    anna.keyboard.press("Enter")  # the focus is on what happened, not on Undo
    anna.wait_for_timeout(200)
    expect(first.locator("[data-done]")).to_contain_text("Declined")
    assert second.bounding_box()["y"] == top and second.get_attribute("data-user") == senders[1].id
    expect(counter(anna, "incoming")).to_have_text("2")
    anna.clock.run_for(30_000)  # while it is pointed at, the row stays
    expect(first).to_be_visible()
    anna.mouse.move(5, 5)
    anna.locator("#main").focus()
    anna.clock.run_for(21_000)
    expect(first).to_have_count(0)
    second.locator("text=Decline").click()
    second.locator("text=Undo").click()
    expect(second.locator("[data-friendship]")).to_have_attribute("data-friendship", "incoming")
    expect(counter(anna, "incoming")).to_have_text("2")
    assert anna.problems == []


def test_number_and_text_of_a_searched_list_agree_when_its_only_row_leaves(logged_in_page, site_app):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    send(site_app, boris.user, anna.user)
    anna.clock.install()
    anna.goto(f"/friends/incoming?q={boris.id}")
    expect(anna.locator("#results-status")).to_have_text("One person found")
    anna.click("text=Decline")
    expect(anna.locator("[data-done]")).to_be_visible()
    anna.mouse.move(5, 5)
    anna.clock.run_for(21_000)
    expect(anna.locator("#results h2")).to_contain_text("No results")
    expect(anna.locator("#results-status")).to_have_text("Nobody found")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_accepting_in_the_search_moves_no_other_row(site_app, logged_in_page, width):
    page = logged_in_page("Anna", viewport={"width": width, "height": 800})
    key = f"row{next(numbers)}"
    people = [make_person(site_app, f"Row {letter} {key}", public_id=f"{key}-{letter}") for letter in "abc"]
    for person in people:
        send(site_app, person, page.user)
    page.clock.install()
    page.goto(f"/search?q={key}")
    rows = [page.locator(f"[data-user='{person.public_id}']") for person in people]
    boxes = [row.bounding_box() for row in rows]
    accept = rows[0].get_by_role("button", name="Accept").bounding_box()
    spot = accept["x"] + accept["width"] / 2, accept["y"] + accept["height"] / 2
    page.mouse.click(*spot)
    expect(rows[0].locator("[data-done]")).to_have_text("Friends")
    assert [row.bounding_box() for row in rows] == boxes
    page.mouse.click(*spot)
    page.mouse.move(5, 5)
    page.locator("#q").focus()
    page.clock.run_for(21_000)
    expect(rows[0].get_by_role("button", name="Message")).to_be_visible()
    assert [row.bounding_box() for row in rows] == boxes
    expect(page.locator("[data-friendship=incoming]")).to_have_count(2)
    assert page.url.endswith(f"/search?q={key}")


def test_undo_button_gives_way_to_the_usual_one_on_a_profile(logged_in_page):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    anna.clock.install()
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile >> text=Add")
    anna.click("#profile >> text=Cancel request")
    expect(anna.locator("#profile >> text=Undo")).to_be_visible()
    anna.mouse.move(5, 5)
    anna.locator("#main").focus()
    anna.clock.run_for(21_000)
    expect(anna.locator("#profile >> text=Add")).to_be_visible()
    assert anna.problems == []


def test_search_as_you_type(logged_in_page, site_app):
    anna = logged_in_page("Anna")
    for name in ("Zebra one", "Zebra two", "Zorro"):
        key = f"zed{next(numbers)}"
        make_person(site_app, f"{name} {key}", f"{key}@nox.example", public_id=key)
    anna.goto("/search")
    requests = []
    anna.on("request", lambda request: requests.append(request.url) if "/search" in request.url else None)
    anna.locator("#q").press_sequentially("zeb", delay=40)
    expect(anna.locator("#results [data-user]")).to_have_count(2)
    assert len(requests) < 3  # not one per keystroke
    assert anna.url.endswith("/search?q=zeb")
    expect(anna.locator("#results-status")).to_have_text("2 people found")
    expect(anna.locator("#results mark").first).to_have_text("Zeb")
    assert anna.evaluate("document.activeElement.id") == "q"
    # The URL can be shared.
    other = logged_in_page("Otto")
    other.goto(anna.url)
    expect(other.locator("#results [data-user]")).to_have_count(2)
    assert other.input_value("#q") == "zeb"
    anna.fill("#q", "")
    expect(anna.locator("#results h2")).to_have_text("Who are you looking for?")
    assert anna.problems == []


def test_late_search_response_does_not_replace_newer_one(logged_in_page, site_app):
    anna = logged_in_page("Anna")
    for name in ("Quince", "Quartz"):
        key = f"qed{next(numbers)}"
        make_person(site_app, f"{name} {key}", f"{key}@nox.example", public_id=key)
    anna.goto("/search")

    def delay_first(route):
        if route.request.url.endswith("q=qu"):
            anna.wait_for_timeout(1200)
        route.continue_()

    anna.route("**/search?*", delay_first)
    anna.fill("#q", "qu")
    anna.wait_for_timeout(350)
    anna.fill("#q", "quart")
    expect(anna.locator("#results [data-user]")).to_have_count(1, timeout=6000)
    anna.wait_for_timeout(1500)
    expect(anna.locator("#results [data-user]")).to_have_count(1)
    assert anna.url.endswith("q=quart")


def scroll_until(page, locator):
    """Scroll the list down until something is there."""
    page.mouse.move(0.35 * page.viewport_size["width"], 400)
    for _scroll in range(100):
        if locator.count():
            return
        page.mouse.wheel(0, 3000)
        page.wait_for_timeout(100)
    pytest.fail("not found")


def test_infinite_scroll_offers_retry_after_failed_page(site_app, logged_in_page):
    """Every row is loaded exactly once, and the failed page is not requested again until the retry is clicked."""
    anna = logged_in_page("Anna")
    friend_ids = add_friends(site_app, anna.user, 65)
    anna.goto("/friends")
    requests = []

    def fail_second(route):
        requests.append(route.request.url)
        anna.wait_for_timeout(150)
        if len(requests) == 2:
            route.fulfill(status=503, body="")
        else:
            route.continue_()

    anna.route("**/friends?after=*", fail_second)
    scroll_until(anna, anna.get_by_text("Try again"))
    for _scroll in range(3):
        anna.mouse.wheel(0, 3000)
        anna.wait_for_timeout(200)
    assert len(requests) == 2
    expect(anna.locator("[data-next]")).to_have_text("The rest could not be loaded. Try again")
    assert anna.locator("#toasts .notice").count() == 0  # the list itself says so
    anna.click("[data-next]")
    scroll_until(anna, anna.locator(f"[data-user='{friend_ids[-1]}']"))
    expect(anna.locator("[data-user]")).to_have_count(65)
    shown = anna.eval_on_selector_all("[data-user]", "rows => rows.map(row => row.dataset.user)")
    assert shown == friend_ids and len(requests) == 4
    expect(anna.locator("[data-next]")).to_have_count(0)


def test_list_is_paginated_by_links_without_javascript(site_app, logged_in_page):
    anna = logged_in_page("Anna", java_script_enabled=False)
    friend_ids, seen = add_friends(site_app, anna.user, 45), []
    anna.goto("/friends")
    while True:
        seen += anna.eval_on_selector_all("[data-user]", "rows => rows.map(row => row.dataset.user)")
        if not anna.locator("[data-next]").count():
            break
        anna.click("[data-next]")
    assert seen == friend_ids
    anna.click("text=Back to the beginning")
    assert anna.url.endswith("/friends")


@pytest.mark.parametrize("width", [390, 1280])
def test_back_button_restores_scroll_position_and_focus(site_app, logged_in_page, width):
    anna = logged_in_page("Anna", viewport={"width": width, "height": 720})
    friend_ids = add_friends(site_app, anna.user, 65)
    anna.goto("/friends")
    row = anna.locator(f"[data-user='{friend_ids[50]}']")
    scroll_until(anna, row)
    row.locator(".row__link").click()
    anna.wait_for_url(f"**/u/{friend_ids[50]}")
    anna.go_back()
    expect(row).to_be_in_viewport(timeout=8000)
    expect(row.locator(".row__link")).to_be_focused()


def test_newcomers_are_announced_above_the_list(site_app, logged_in_page):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    known = logged_in_page("Known")
    send(site_app, known.user, anna.user)
    with anna.expect_response("**/events?*"):
        anna.goto("/friends/incoming")
    row = anna.locator(f"[data-user='{known.id}']")
    row.locator("text=Accept").focus()
    boris.goto(f"/u/{anna.id}")
    boris.click("#profile >> text=Add")
    link = anna.locator("#newcomers a")
    expect(link).to_have_text("1 new request, show", timeout=5000)
    assert anna.locator("[data-user]").count() == 1
    assert anna.evaluate("document.activeElement.textContent").startswith("Accept")
    expect(counter(anna, "incoming")).to_have_text("2")
    link.click()
    expect(anna.locator("[data-user]").first).to_have_attribute("data-user", boris.id)
    expect(anna.locator("#newcomers a")).to_have_count(0)
    assert anna.problems == []


def test_who_asked_is_told_live_of_being_accepted(logged_in_page):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    with anna.expect_response("**/events?*"):
        anna.goto(f"/u/{boris.id}")
    anna.click("#profile >> text=Add")
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
    boris.goto("/friends/incoming")
    boris.click("text=Accept")
    expect(anna.locator("#toasts .notice[data-kind=ok]").last).to_contain_text("accepted your request", timeout=5000)
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "friends")
    assert anna.problems == []


def test_home_is_true_after_accepting(site_app, logged_in_page):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    send(site_app, boris.user, anna.user)
    anna.clock.install()
    anna.goto("/")
    anna.click(f"[data-user='{boris.id}'] >> text=Accept")
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "friends")
    anna.mouse.move(5, 5)
    anna.locator("#main").focus()
    anna.clock.run_for(21_000)
    expect(anna.locator("section:has(#h-friends)").locator(f"[data-user='{boris.id}']")).to_be_visible()
    expect(anna.locator(f"[data-user='{boris.id}']")).to_have_count(1)
    expect(anna.locator("#first-steps")).to_have_count(0)
    assert anna.problems == []


def test_blocker_disappears_from_open_list_of_blocked_person(site_app, logged_in_page):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    befriend(site_app, anna.user, boris.user)
    with boris.expect_response("**/events?*"):
        boris.goto("/friends")
    expect(boris.locator(f"[data-user='{anna.id}']")).to_be_visible()
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile [popovertarget]")
    anna.click("#profile >> text=Block")
    # Whoever is hidden now can no longer be pressed, and leaves the list like all others.
    expect(boris.locator(f"[data-user='{anna.id}']")).to_have_attribute("inert", "", timeout=5000)
    expect(boris.locator(f"[data-user='{anna.id}']")).to_have_count(0, timeout=25_000)
    expect(counter(boris, "friends")).to_have_text("0")
    assert boris.locator("#toasts .notice").count() == 0


def test_page_polls_without_event_stream(logged_in_page):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    boris.route("**/events*", lambda route: route.fulfill(status=503, body=""))
    boris.clock.install()
    boris.goto("/friends/incoming")
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile >> text=Add")
    expect(friend_button(anna, boris.id)).to_have_attribute("data-friendship", "outgoing")
    boris.clock.fast_forward(31_000)
    expect(boris.locator(f"[data-user='{anna.id}']")).to_be_visible()
    expect(boris.locator("#nav-friends [data-counter=incoming]")).to_have_text("1")
    assert boris.locator("#toasts .notice").count() == 0


def test_revoking_a_session_redirects_its_open_page_to_login(site, new_page):
    page = new_page()
    name = f"Leaver{next(numbers)}"
    register(page, name)
    with page.expect_response("**/events?*"):
        page.goto("/friends")
    other = new_page()
    log_in(other, f"{name.lower()}@nox.example")
    other.goto("/settings/sessions")
    other.click("text=Log out everywhere else")
    page.wait_for_url("**/auth/login**", timeout=40_000)


def test_menu_opens_with_enter_and_closes_with_escape(site_app, logged_in_page):
    anna = logged_in_page("Anna")
    (friend_id,) = add_friends(site_app, anna.user, 1)
    anna.goto(f"/u/{friend_id}")
    menu_button = anna.locator("#profile [popovertarget]")
    menu_button.press("Enter")
    expect(anna.locator(f"#menu-profile-{friend_id}")).to_be_visible()
    anna.keyboard.press("Escape")
    expect(anna.locator(f"#menu-profile-{friend_id}")).to_be_hidden()
    expect(menu_button).to_be_focused()


def test_control_click_opens_profile_in_new_tab(site_app, logged_in_page):
    anna = logged_in_page("Anna")
    add_friends(site_app, anna.user, 25)
    anna.goto("/friends")
    anna.route("**/friends?after=*", lambda route: route.abort())
    with anna.context.expect_page() as opened:
        anna.locator(".row__link").first.click(modifiers=["Control"])
    opened.value.wait_for_url("**/u/**")
    assert anna.url.endswith("/friends")


def test_site_app_uses_the_database_of_the_server(site_app):
    with site_app.test_request_context():
        begin_write(db.session)
        assert profiles.find_by_public_id("mila")
        db.session.rollback()


def test_hidden_tab_opens_no_event_stream_until_visible(logged_in_page):
    """A browser opens six connections to a host: background tabs must not use them all."""
    anna = logged_in_page("Anna")
    anna.add_init_script("Object.defineProperty(document, 'hidden', {get: () => !window.visible})")
    anna.goto("about:blank")  # the first page was visible, and may open its stream only now
    requests = []
    anna.on("request", lambda request: requests.append(request.url) if "/events" in request.url else None)
    anna.goto("/friends")
    anna.wait_for_timeout(500)
    assert requests == []
    with anna.expect_response("**/events?*"):
        anna.evaluate("window.visible = true; document.dispatchEvent(new Event('visibilitychange'))")


def test_live_change_of_focused_row_keeps_the_focus_there(site_app, logged_in_page):
    anna, boris, clara = logged_in_page("Anna"), logged_in_page("Boris"), logged_in_page("Clara")
    for sender in (clara, boris):
        sender.goto(f"/u/{anna.id}")
        sender.click("#profile >> text=Add")
        expect(friend_button(sender, anna.id)).to_have_attribute("data-friendship", "outgoing")
    with anna.expect_response("**/events?*"):
        anna.goto("/friends/incoming")
    anna.locator(f"[data-user='{boris.id}'] >> text=Accept").focus()
    boris.click("#profile >> text=Cancel request")
    label = anna.locator(f"[data-user='{boris.id}'] [data-done] .friend__state")
    expect(label).to_have_text("No longer open", timeout=5000)
    expect(label).to_be_focused()


def test_rapid_events_insert_a_person_only_once(site_app, logged_in_page):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    with anna.expect_response("**/events?*"):
        anna.goto("/friends/incoming")
    boris.goto(f"/u/{anna.id}")
    for button in ("Add", "Cancel request", "Undo"):
        boris.click(f"#profile >> text={button}")
        boris.wait_for_timeout(60)
    expect(anna.locator(f"[data-user='{boris.id}']")).to_have_count(1, timeout=5000)
    anna.wait_for_timeout(700)
    expect(anna.locator(f"[data-user='{boris.id}']")).to_have_count(1)
    expect(counter(anna, "incoming")).to_have_text("1")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_own_row_in_the_search_says_that_it_is_oneself(logged_in_page, width):
    anna = logged_in_page("Anna", viewport={"width": width, "height": 700})
    anna.goto(f"/search?q={anna.id}")
    mark = anna.locator("[data-friendship=self] .friend__state")
    expect(mark).to_have_text("You")
    assert mark.bounding_box()["width"] > 20  # not for screen readers only
    assert anna.evaluate("document.documentElement.scrollWidth") <= width
