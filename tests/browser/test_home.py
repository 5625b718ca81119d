"""The home page while it is open: what happens elsewhere moves nothing that somebody may be about to press."""

import pytest
from playwright.sync_api import expect

from tests.browser.chats import write
from tests.browser.conftest import send
from tests.browser.test_layout import OBSERVE_SHIFTS, check_shift
from tests.conftest import befriend


@pytest.fixture
def new_friend(site_app, logged_in_page):
    """Return a function that opens a page of a new friend of somebody."""

    def open_page(page):
        friend = logged_in_page("Friend")
        befriend(site_app, page.user, friend.user)
        return friend

    return open_page


def say_hello(page, public_id):
    """Write to a friend."""
    page.goto(f"/u/{public_id}")
    page.click("#profile >> text=Message")
    page.wait_for_url("**/chats/*")
    write(page, "Hello")
    expect(page.locator(".msg [data-body]")).to_have_text("Hello")


def ask(page, public_id):
    """Send a friend request from somebody's page."""
    page.goto(f"/u/{public_id}")
    page.click("#profile >> text=Add")
    expect(page.locator("[data-friendship=outgoing]")).to_be_visible()


def test_message_keeps_what_was_done_under_the_pointer(site_app, logged_in_page, new_friend):
    anna, first, second, third = (logged_in_page(name) for name in ("Anna", "First", "Second", "Third"))
    friend = new_friend(anna)
    for sender in (second, first):
        send(site_app, sender.user, anna.user)
    anna.clock.install()
    with anna.expect_response("**/events?*"):
        anna.goto("/")
    rows = [anna.locator(f"[data-user='{sender.id}']") for sender in (first, second)]
    accept = rows[0].get_by_role("button", name="Accept").bounding_box()
    spot = accept["x"] + accept["width"] / 2, accept["y"] + accept["height"] / 2
    top = rows[1].bounding_box()["y"]
    anna.mouse.click(*spot)
    expect(rows[0].locator("[data-done]")).to_have_text("Friends")
    say_hello(friend, anna.id)
    anna.clock.run_for(1000)
    expect(anna.locator("#home-chats .badge")).to_have_text("1 unread message")
    ask(third, anna.id)
    expect(anna.locator("#newcomers a")).to_have_text("1 new request, show")
    anna.clock.run_for(30_000)  # while it is pointed at
    expect(rows[0].locator("[data-done]")).to_have_text("Friends")
    assert rows[1].bounding_box()["y"] == top
    anna.mouse.move(*spot)
    anna.mouse.move(5, 5)
    anna.clock.run_for(21_000)
    expect(anna.locator("[data-list=incoming] [data-user]").first).to_have_attribute("data-user", third.id)
    expect(anna.locator("section:has(#h-friends)").locator(f"[data-user='{first.id}']")).to_be_visible()
    expect(anna.locator("#newcomers a")).to_have_count(0)
    assert anna.problems == []


def test_row_stays_while_somebody_points_at_another_list_of_home(site_app, logged_in_page, new_friend):
    anna, asker = logged_in_page("Anna"), logged_in_page("Asker")
    friend = new_friend(anna)
    send(site_app, asker.user, anna.user)
    anna.clock.install()
    anna.goto("/")
    row = anna.locator(f"[data-user='{asker.id}']")
    row.get_by_role("button", name="Decline").click()
    expect(row.locator("[data-done]")).to_contain_text("Declined")
    message = anna.locator(f"[data-user='{friend.id}']").get_by_role("button", name="Message")
    message.hover()
    top = message.bounding_box()["y"]
    anna.clock.run_for(30_000)
    anna.wait_for_timeout(300)
    assert message.bounding_box()["y"] == top
    expect(row.locator("[data-done]")).to_be_visible()
    anna.mouse.move(5, 5)
    anna.clock.run_for(21_000)
    expect(row).to_have_count(0)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_first_chat_and_first_request_move_nothing(logged_in_page, new_friend, width):
    figures = {}
    anna, asker = logged_in_page("Anna", viewport={"width": width, "height": 800}), logged_in_page("Asker")
    friend = new_friend(anna)
    anna.add_init_script(OBSERVE_SHIFTS)
    with anna.expect_response("**/events?*"):
        anna.goto("/")
    expect(anna.locator("#home-chats")).to_contain_text("No chats yet")
    check_shift(anna, "home", figures)
    say_hello(friend, anna.id)
    expect(anna.locator("#home-chats .badge")).to_have_text("1 unread message")
    check_shift(anna, "first chat", figures)
    ask(asker, anna.id)
    expect(anna.locator("#newcomers a")).to_be_visible()
    check_shift(anna, "first request", figures)
    other = new_friend(anna)
    say_hello(other, anna.id)
    expect(anna.locator("#home-chats .row__link")).to_have_text(other.user.username)
    expect(anna.locator("#home-chats .row")).to_have_count(1)
    check_shift(anna, "another chat", figures)
    print(f"layout shifts of home at {width} px:", figures)
    assert anna.problems == []


def test_first_chat_appears_on_the_home_of_a_newcomer(logged_in_page, new_friend):
    anna = logged_in_page("Anna")
    with anna.expect_response("**/events?*"):
        anna.goto("/")
    expect(anna.locator("#home-chats")).to_be_hidden()
    say_hello(new_friend(anna), anna.id)
    expect(anna.locator("#home-chats .badge")).to_have_text("1 unread message")


def test_home_polls_without_event_stream(site_app, logged_in_page, new_friend):
    anna, known, asker = (logged_in_page(name) for name in ("Anna", "Known", "Asker"))
    friend = new_friend(anna)
    send(site_app, known.user, anna.user)
    anna.route("**/events*", lambda route: route.fulfill(status=503, body=""))
    anna.clock.install()
    anna.goto("/")
    ask(asker, anna.id)
    say_hello(friend, anna.id)
    anna.clock.fast_forward(31_000)
    expect(anna.locator("#newcomers a")).to_have_text("1 new request, show")
    anna.clock.run_for(1000)
    expect(anna.locator("#home-chats .badge")).to_have_text("1 unread message")
    expect(anna.locator("[data-list=incoming] [data-user]")).to_have_count(1)


def test_polling_inserts_nobody_above_a_row(site_app, logged_in_page):
    anna, known, asker = (logged_in_page(name) for name in ("Anna", "Known", "Asker"))
    send(site_app, known.user, anna.user)
    anna.route("**/events*", lambda route: route.fulfill(status=503, body=""))
    anna.clock.install()
    anna.goto("/friends/incoming")
    accept = anna.locator(f"[data-user='{known.id}']").get_by_role("button", name="Accept")
    accept.hover()
    top = accept.bounding_box()["y"]
    ask(asker, anna.id)
    anna.clock.fast_forward(31_000)
    expect(anna.locator("#newcomers a")).to_have_text("1 new request, show")
    assert accept.bounding_box()["y"] == top
    expect(anna.locator("#people [data-user]")).to_have_count(1)
    known.goto(f"/u/{anna.id}")
    known.click("#profile >> text=Cancel request")
    expect(known.locator("[data-done]")).to_be_visible()
    anna.clock.fast_forward(31_000)
    anna.clock.run_for(1000)
    expect(anna.locator(f"[data-user='{known.id}'] [data-done]")).to_have_text("No longer open")
    anna.click("#newcomers a")
    expect(anna.locator("#people [data-user]")).to_have_attribute("data-user", asker.id)
