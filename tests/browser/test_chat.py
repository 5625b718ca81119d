"""Conversations in two browsers: writing, editing, deleting, replies, groups, tabs of one person, a bad network."""

import pytest
from playwright.sync_api import expect

from noxchat import conversations, messages
from noxchat.database import begin_write
from noxchat.extensions import db
from tests.browser.chats import fill, menu, message, send, unread, write
from tests.conftest import befriend

SCRIPTED = pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])


@SCRIPTED
def test_two_friends_write_to_each_other(two_friends, javascript):
    anna, boris, path = two_friends(java_script_enabled=javascript)
    boris.goto("/chats")
    anna.goto(f"/u/{boris.id}")
    anna.click("#profile >> text=Message")
    anna.wait_for_url(f"**{path}")
    send(anna, "Hello <b>Boris</b>\nhttps://nox.example/x?a=1&b=2.")
    expect(anna.locator("[data-own] [data-body]")).to_have_text("Hello <b>Boris</b>\nhttps://nox.example/x?a=1&b=2.")
    expect(anna.locator("#body")).to_have_value("")
    expect(message(anna, "Hello").locator("a[rel]")).to_have_attribute("href", "https://nox.example/x?a=1&b=2")
    if not javascript:
        boris.reload()
    expect(unread(boris)).to_have_text("1")
    row = boris.locator(f"[data-chat='{path.split('/')[-1]}']")
    expect(row).to_have_attribute("data-unread", "1")
    row.locator("a").click()
    expect(message(boris, "Hello")).to_be_visible()
    expect(boris.locator("[data-divider=unread]")).to_be_visible()
    if not javascript:
        expect(unread(boris)).to_have_text("1")
        boris.click("text=Mark as read")
    expect(unread(boris)).to_have_text("0")
    send(boris, "Hi Anna")
    if not javascript:
        anna.reload()
    expect(message(anna, "Hi Anna")).to_be_visible()
    assert anna.problems + boris.problems == []


@SCRIPTED
def test_messages_are_edited_deleted_and_answered(two_friends, javascript):
    anna, boris, path = two_friends(java_script_enabled=javascript)
    for page in (anna, boris):
        page.goto(path)
    for text in ("first", "second"):
        send(anna, text)
        expect(message(anna, text)).to_be_visible()
    if not javascript:
        boris.reload()
    menu(boris, "first", "Reply")
    expect(boris.locator("[data-quoted]")).to_contain_text("first")
    send(boris, "an answer")
    expect(message(boris, "an answer").locator("[data-quote]")).to_contain_text("first")
    menu(anna, "first", "Edit")
    anna.locator("textarea:not(#body)").fill("first, edited")
    anna.locator("text=Save").click()
    expect(message(anna, "first, edited")).to_have_attribute("data-edited", "")
    if not javascript:
        boris.reload()
    expect(message(boris, "an answer").locator("[data-quote]")).to_contain_text("first, edited")
    expect(message(boris, "first, edited")).to_contain_text("edited")
    anna.on("dialog", lambda dialog: dialog.accept())
    menu(anna, "first", "Delete for everyone")
    if not javascript:
        boris.reload()
    expect(boris.locator("[data-deleted]")).to_have_count(1)
    expect(boris.locator("[data-quote]")).to_contain_text("Deleted message")
    assert "first" not in boris.locator("#messages").inner_text()
    assert anna.problems + boris.problems == []


@SCRIPTED
def test_group_from_creation_to_leaving(logged_in_page, site_app, javascript):
    pages = anna, boris, clara = [
        logged_in_page(name, java_script_enabled=javascript) for name in ("Anna", "Boris", "Clara")
    ]
    for friend in (boris, clara):
        befriend(site_app, anna.user, friend.user)
    anna.goto("/chats")
    anna.click("text=New group")
    anna.fill("#title", "Stargazers")
    anna.check(f"[name=members][value='{boris.id}']")
    anna.fill("#q", clara.id)
    if not javascript:
        anna.locator(".search button").click()
    expect(anna.locator("#choices li")).to_have_count(2)
    anna.check(f"[name=members][value='{clara.id}']")
    anna.click("text=Create group")
    expect(anna.locator("[data-system]")).to_contain_text("created the group")
    path = "/" + anna.url.split("/", 3)[3].split("#")[0]
    send(anna, "Clear sky tonight")
    for page in (boris, clara):
        page.goto("/chats")
        page.click("text=Stargazers")
        expect(message(page, "Clear sky")).to_be_visible()
        page.click(".head a[href$=details]")
        expect(page.locator(".row[data-user]")).to_have_count(3)
        assert page.locator("text=Rename").count() == page.locator("text=Remove").count() == 0
    anna.goto(f"{path}/details")
    anna.fill("#title", "Night owls")
    anna.click("text=Rename")
    expect(anna.locator("#title")).to_have_value("Night owls")
    anna.locator(f"[data-user='{boris.id}'] >> text=Make owner").click()
    expect(anna.locator("text=Rename")).to_have_count(0)
    boris.reload()
    boris.locator(f"[data-user='{clara.id}'] >> text=Remove").click()
    expect(boris.locator(".row[data-user]")).to_have_count(2)
    assert clara.goto(path).status == 404
    boris.click("text=Leave the group")
    boris.wait_for_url("**/chats")
    anna.reload()
    expect(anna.locator("text=Rename")).to_be_visible()
    assert [page.problems for page in pages] == [[], [], []]


def test_reading_in_one_tab_clears_the_counter_of_the_other(two_friends, site_app):
    anna, boris, path = two_friends()
    fill(site_app, anna.user, int(path.split("/")[-1]), 3)
    boris.goto("/friends")
    expect(unread(boris)).to_have_text("1")
    assert boris.title().startswith("(1)")
    tab = boris.context.new_page()
    tab.goto(path)
    tab.bring_to_front()
    expect(unread(tab)).to_have_text("0")
    boris.bring_to_front()
    expect(unread(boris)).to_have_text("0")
    expect(boris).to_have_title("Friends · NoxChat")


def test_enter_again_and_again_on_a_slow_line_sends_once(two_friends):
    anna, _boris, path = two_friends()
    anna.goto(path)

    def slow(route):
        anna.wait_for_timeout(800)
        route.continue_()

    anna.route("**/messages", slow)
    anna.fill("#body", "only once")
    for _time in range(10):
        anna.press("#body", "Enter")
    expect(anna.locator("#body")).to_have_value("")
    expect(anna.locator("[data-pending]")).to_have_count(1)
    expect(anna.locator("[data-own]")).to_have_count(1)
    expect(anna.locator("[data-pending]")).to_have_count(0)
    anna.reload()
    expect(anna.locator("[data-own]")).to_have_count(1)


def test_whoever_types_on_while_a_message_is_sent_loses_nothing(two_friends):
    anna, _boris, path = two_friends()
    anna.goto(path)

    def slow(route):
        anna.wait_for_timeout(600)
        route.continue_()

    anna.route("**/messages", slow)
    for text in ("first", "second"):
        anna.locator("#body").press_sequentially(text)
        anna.press("#body", "Enter")
    expect(anna.locator("[data-own] [data-body]")).to_have_text(["first", "second"])
    expect(anna.locator("#body")).to_have_value("")


def test_two_quick_messages_are_two_and_in_order(two_friends):
    anna, _boris, path = two_friends()
    anna.goto(path)
    for text in ("one", "two", "three"):
        write(anna, text)
    expect(anna.locator("[data-own] [data-body]")).to_have_text(["one", "two", "three"])
    anna.reload()
    expect(anna.locator("[data-own] [data-body]")).to_have_text(["one", "two", "three"])


def test_failed_message_stays_and_is_tried_again(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    attempts = []

    def fail_first(route):
        attempts.append(route.request.post_data)
        route.abort() if len(attempts) == 1 else route.continue_()

    anna.route("**/messages", fail_first)
    write(anna, "first")
    expect(anna.locator("[data-pending=failed]")).to_contain_text("Not sent.")
    write(anna, "second")
    expect(message(anna, "second")).to_be_visible()
    expect(anna.locator("[data-pending=failed]")).to_contain_text("first")
    anna.click("text=Try again")
    expect(anna.locator("[data-pending]")).to_have_count(0)
    boris.goto(path)
    expect(boris.locator("[data-body]")).to_have_text(["second", "first"])
    client_ids = [dict(part.split("=") for part in data.split("&"))["client_id"] for data in attempts]
    assert client_ids[0] == client_ids[2] != client_ids[1]


def test_lost_answer_leaves_one_message(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    lost = []

    def lose_first(route):
        if lost:
            route.continue_()
            return
        lost.append(route.fetch())
        route.abort()

    anna.route("**/messages", lose_first)
    write(anna, "did it arrive?")
    # The changes bring it, and take the place of the bubble.
    expect(anna.locator("[data-own]")).to_have_count(1)
    expect(anna.locator("[data-pending]")).to_have_count(0)
    boris.goto(path)
    expect(boris.locator("[data-message]")).to_have_count(1)


def test_unsent_message_survives_loading_the_page_again(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    anna.route("**/messages", lambda route: route.abort())
    write(anna, "not yet")
    expect(anna.locator("[data-pending=failed]")).to_be_visible()
    anna.unroute("**/messages")
    anna.on("dialog", lambda dialog: dialog.accept())
    anna.reload()
    expect(anna.locator("[data-pending=failed]")).to_contain_text("not yet")
    anna.click("text=Try again")
    expect(anna.locator("[data-pending]")).to_have_count(0)
    boris.goto(path)
    expect(boris.locator("[data-body]")).to_have_text(["not yet"])


def test_changes_that_fail_are_asked_for_again(two_friends):
    anna, boris, path = two_friends()
    boris.goto(path)
    anna.goto(path)
    failures = []

    def fail_twice(route):
        failures.append(1)
        route.abort() if len(failures) <= 2 else route.continue_()

    anna.route("**/changes?**", fail_twice)
    write(boris, "is anybody there?")
    expect(message(anna, "is anybody there?")).to_be_visible()
    assert len(failures) >= 3


def test_newest_messages_are_shown_when_asked_for_and_followed(two_friends, site_app):
    anna, boris, path = two_friends()
    fill(site_app, boris.user, int(path.split("/")[-1]), 120)
    boris.goto(path)
    anna.goto(path)
    expect(anna.locator("#new")).to_be_in_viewport()
    write(boris, "far below")
    anna.locator("#jump").click()
    expect(message(anna, "far below")).to_be_in_viewport()
    write(boris, "and further")
    expect(message(anna, "and further")).to_be_in_viewport()
    assert anna.problems + boris.problems == []


def test_sending_is_activity_and_asking_for_changes_is_not(two_friends):
    anna, _boris, path = two_friends()
    background = {}
    anna.on("request", lambda request: background.update({request.url.split("?")[0].split("/")[-1]: request}))
    anna.goto(path)
    write(anna, "hello")
    expect(message(anna, "hello")).to_be_visible()
    anna.wait_for_timeout(300)
    assert "x-background" not in background["messages"].headers
    assert "x-background" in background["changes"].headers


def test_typed_text_survives_leaving_at_once(two_friends):
    anna, _boris, path = two_friends()
    anna.goto(path)
    anna.fill("#body", "in a hurry")
    anna.goto("/friends")
    anna.goto(path)
    expect(anna.locator("#body")).to_have_value("in a hurry")


def test_message_at_the_end_is_followed(two_friends):
    """Also one pixel above it."""
    anna, boris, path = two_friends()
    boris.goto(path)
    anna.goto(path)
    for number in range(12):
        write(boris, f"line {number}\nand more")
    expect(message(anna, "line 11")).to_be_visible()
    anna.evaluate("() => { document.getElementById('log').scrollTop = -1; }")
    write(boris, "the newest")
    expect(message(anna, "the newest")).to_be_in_viewport()
    assert anna.evaluate("() => document.getElementById('log').scrollTop") == 0


def test_message_that_arrives_while_later_ones_load_is_not_lost(two_friends, site_app):
    anna, boris, path = two_friends()
    fill(site_app, boris.user, int(path.split("/")[-1]), 70)
    boris.goto(path)
    anna.goto(path)

    def slow(route):
        anna.wait_for_timeout(1500)
        route.continue_()

    anna.route("**/*after=*", slow)
    anna.evaluate("() => { document.getElementById('log').scrollTop = 0; }")
    write(boris, "in between")
    expect(message(anna, "in between")).to_have_count(1, timeout=10_000)
    anna.wait_for_timeout(500)
    texts = anna.locator("[data-body]").all_inner_texts()
    assert texts[-2:] == ["old 69", "in between"] and len(texts) == len(set(texts))


def test_edit_form_stays_when_changes_arrive(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    boris.goto(path)
    write(boris, "a question")
    expect(message(anna, "a question")).to_be_visible()
    menu(anna, "a question", "Reply")
    write(anna, "an answer")
    expect(message(anna, "an answer")).to_be_visible()
    menu(anna, "an answer", "Edit")
    anna.locator("textarea:not(#body)").fill("half an edit")
    anna.locator("#h-thread").evaluate("(heading) => heading.focus()")
    menu(boris, "a question", "Edit")
    boris.locator("textarea:not(#body)").fill("a better question")
    boris.locator("text=Save").click()
    expect(message(anna, "a better question").first).to_be_visible()
    expect(anna.locator("textarea:not(#body)")).to_have_value("half an edit")
    # Refused, it stays in its place with what was typed.
    anna.locator("textarea:not(#body)").fill("x" * 4001)
    anna.locator("text=Save").click()
    expect(anna.locator("[data-editor]")).to_contain_text("One character too many.")
    anna.locator("[data-editor] >> text=Cancel").click()
    expect(message(anna, "an answer")).to_be_visible()


def test_refused_message_stays_in_the_box(two_friends):
    anna, _boris, path = two_friends()
    anna.goto(path)
    text = "x" * 4001
    anna.fill("#body", text)
    anna.press("#body", "Enter")
    expect(anna.locator("#composer-errors")).to_have_text("One character too many.")
    expect(anna.locator("#body")).to_have_value(text)
    anna.fill("#body", "shorter")
    anna.press("#body", "Enter")
    expect(anna.locator("#body")).to_have_value("")
    expect(anna.locator("#composer-errors")).to_be_hidden()


def test_messages_missed_while_offline_are_there_once_and_in_order(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    boris.goto(path)
    write(boris, "before")
    expect(message(anna, "before")).to_be_visible()
    anna.context.set_offline(True)
    for number in range(5):
        write(boris, f"missed {number}")
        expect(message(boris, f"missed {number}")).to_be_visible()
    anna.context.set_offline(False)
    expected = ["before", *(f"missed {number}" for number in range(5))]
    expect(anna.locator("[data-body]")).to_have_text(expected, timeout=40_000)


def test_draft_is_shown_on_another_device(two_friends):
    anna, _boris, path = two_friends()
    anna.goto(path)
    with anna.expect_response("**/draft"):
        anna.fill("#body", "not yet finished")
    device = anna.context.new_page()
    device.goto(path)
    expect(device.locator("#body")).to_have_value("not yet finished")
    device.press("#body", "Enter")
    expect(device.locator("[data-own]")).to_have_count(1)
    device.reload()
    expect(device.locator("#body")).to_have_value("")


def test_former_friends_can_only_read(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    boris.goto(f"/u/{anna.id}")
    boris.locator("[popovertarget^=menu-profile]").click()
    boris.click("text=Remove friend")
    expect(anna.locator("#chat-state")).to_contain_text("You can only read this chat")
    expect(anna.locator("#composer")).to_be_hidden()


def test_typing_is_shown(two_friends):
    anna, boris, path = two_friends()
    for page in (anna, boris):
        page.goto(path)
    boris.wait_for_function("() => document.querySelector('#stream').matches('[data-hx-sse\\\\:connect]')")
    boris.wait_for_timeout(500)
    anna.locator("#body").press_sequentially("hm")
    expect(boris.locator("#typing")).to_contain_text("is typing")


def test_removed_member_leaves_the_page(logged_in_page, site_app):
    anna, boris = logged_in_page("Anna"), logged_in_page("Boris")
    befriend(site_app, anna.user, boris.user)
    anna.goto("/chats/new")
    anna.fill("#title", "Short")
    anna.check(f"[name=members][value='{boris.id}']")
    anna.click("text=Create group")
    expect(anna.locator("[data-system]")).to_be_visible()
    path = "/" + anna.url.split("/", 3)[3]
    boris.goto(path)
    expect(boris.locator("[data-system]")).to_be_visible()
    anna.goto(f"{path}/details")
    anna.locator(f"[data-user='{boris.id}'] >> text=Remove").click()
    boris.wait_for_url("**/chats")


def test_earlier_messages_are_loaded_without_moving_what_is_read(two_friends, site_app):
    anna, _boris, path = two_friends()
    fill(site_app, anna.user, int(path.split("/")[-1]), 130)
    anna.goto(path)
    expect(anna.locator("[data-message]")).to_have_count(50)
    first = anna.locator("[data-message]").first
    name = first.get_attribute("id")
    anna.wait_for_timeout(500)
    # Almost to the top, from where the page before is loaded.
    anna.evaluate("() => { document.getElementById('log').scrollTop = -1e6; }")
    expect(anna.locator("[data-message]")).not_to_have_count(50)
    anna.wait_for_timeout(300)
    top = anna.evaluate("(name) => document.getElementById(name).getBoundingClientRect().top", name)
    log_top = anna.locator("#log").bounding_box()["y"]
    assert -2 <= top - log_top <= 200, top


def test_five_hundred_unread_messages_open_at_the_first(two_friends, site_app):
    anna, boris, path = two_friends()
    conversation_id = int(path.split("/")[-1])
    fill(site_app, boris.user, conversation_id, 20, "read")
    with site_app.test_request_context():
        begin_write(db.session)
        view = conversations.find_to_change(anna.user, conversation_id)
        conversations.read(view, view.last_message_id)
        db.session.commit()
    fill(site_app, boris.user, conversation_id, 500, "new")
    anna.goto(path)
    expect(anna.locator("#new")).to_be_in_viewport()
    expect(message(anna, "new 0").first).to_be_in_viewport()
    assert message(anna, "new 499").count() == 0


def test_new_message_while_reading_history_moves_nothing(two_friends, site_app):
    anna, boris, path = two_friends()
    fill(site_app, anna.user, int(path.split("/")[-1]), 45)
    anna.goto(path)
    boris.goto(path)
    anna.evaluate("() => { document.getElementById('log').scrollTop = -600; }")
    anna.wait_for_timeout(300)
    text = message(anna, "old 20")
    before = text.first.bounding_box()["y"]
    write(boris, "news")
    expect(message(anna, "news")).to_be_attached()
    expect(anna.locator("#jump")).to_be_visible()
    assert abs(text.first.bounding_box()["y"] - before) <= 2
    anna.click("#jump")
    expect(message(anna, "news")).to_be_in_viewport()


def test_quoted_message_is_shown_when_pressed(two_friends, site_app):
    anna, _boris, path = two_friends()
    conversation_id = int(path.split("/")[-1])
    fill(site_app, anna.user, conversation_id, 60)
    with site_app.test_request_context():
        begin_write(db.session)
        view = conversations.find(anna.user, conversation_id)
        first = messages.list_after(view, 0).rows[0].id
        messages.send(anna.user, conversation_id, body="about that", client_id="q", reply_to=first)
        db.session.commit()
    anna.goto(path)
    message(anna, "about that").locator("[data-quote]").click()
    expect(anna.locator(f"#m-{first}")).to_be_in_viewport()
