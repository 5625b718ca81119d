"""The page of a conversation: beside the list, its menus, keyboard and touch, sound and icon, long absence, a restart."""

import os
import re
import signal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from sqlalchemy import func, select, update

from config import Config
from noxchat import create_app, groups, messages
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import Message, User
from tests.browser.chats import fill, menu, message, open_conversation, unread, write
from tests.conftest import Server, befriend, browser_cookie, free_port, make_person, settings, wait_until

axe = Axe()
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
TOUCH = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
MAX_SHIFT = 0.02
WATCH_SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => list.getEntries().filter((entry) => !entry.hadRecentInput)
  .forEach((entry) => window.shifts.push(entry.value))).observe({ type: "layout-shift", buffered: true });
"""
COUNT_SOUNDS = """
window.sounds = 0;
const start = OscillatorNode.prototype.start;
OscillatorNode.prototype.start = function (...when) { window.sounds += 1; return start.apply(this, when); };
"""
IS_LARGE = """([text, isLarge]) => {
  const last = [...document.querySelectorAll("[data-body]")].at(-1);
  return last?.textContent === text && isLarge === parseFloat(getComputedStyle(last).fontSize) > 30;
}"""
HIDE = """(isHidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def conversation_id(path):
    return int(path.split("/")[-1])


def chat_row(page, path):
    return page.locator(f"[data-chat='{conversation_id(path)}']")


@pytest.fixture
def three_friends(two_friends, logged_in_page, site_app):
    """Anna's page, Boris and Clara's pages, and the paths of Anna's conversations with them."""
    anna, boris, with_boris = two_friends(viewport=WIDE)
    clara = logged_in_page("Clara", viewport=WIDE)
    befriend(site_app, anna.user, clara.user)
    return anna, boris, clara, with_boris, f"/chats/{open_conversation(site_app, anna.user, clara.user)}"


def test_conversations_open_beside_the_list(three_friends):
    anna, _boris, _clara, with_boris, with_clara = three_friends
    anna.goto("/chats")
    expect(anna.locator("#detail")).to_contain_text("No chat open")
    anna.evaluate("window.isSamePage = true")
    for path, name in ((with_boris, "Boris"), (with_clara, "Clara")):
        chat_row(anna, path).locator("a").click()
        anna.wait_for_url(f"**{path}")
        expect(anna.locator("#thread h1")).to_contain_text(name)
        expect(chat_row(anna, path).locator("a")).to_have_attribute("aria-current", "true")
        expect(anna.locator(".split__list [aria-current]")).to_have_count(1)
        assert name in anna.title()
    anna.go_back()
    expect(anna.locator("#thread h1")).to_contain_text("Boris")
    anna.go_back()
    expect(anna.locator("#detail")).to_contain_text("No chat open")
    assert anna.url.endswith("/chats") and "Boris" not in anna.title()
    anna.go_forward()
    expect(anna.locator("#thread h1")).to_contain_text("Boris")
    assert anna.evaluate("window.isSamePage")
    anna.reload()
    expect(anna.locator("#thread h1")).to_contain_text("Boris")
    expect(chat_row(anna, with_boris).locator("a")).to_have_attribute("aria-current", "true")


def test_rapid_back_and_forward_show_the_conversation_of_the_address(three_friends):
    anna, _boris, _clara, with_boris, with_clara = three_friends
    anna.goto(with_boris)
    chat_row(anna, with_clara).locator("a").click()
    expect(anna.locator("#thread h1")).to_contain_text("Clara")
    for milliseconds in (0, 30, 100, 200):
        anna.evaluate("(wait) => { history.back(); setTimeout(() => history.forward(), wait); }", milliseconds)
        anna.wait_for_timeout(1000)
        name = "Clara" if anna.url.endswith(with_clara) else "Boris"
        expect(anna.locator("#thread h1")).to_contain_text(name)
        assert anna.get_attribute("#composer", "action") == f"{anna.url[anna.url.index('/chats') :]}/messages"
        anna.goto(with_boris)
        chat_row(anna, with_clara).locator("a").click()
        expect(anna.locator("#thread h1")).to_contain_text("Clara")


def test_skip_link_leaves_the_page_as_it_is(two_friends):
    anna, _boris, path = two_friends(viewport=WIDE)
    for page in ("/friends", "/chats", path):
        anna.goto(page)
        anna.evaluate("document.querySelector('#detail > *').dataset.same = ''")
        anna.locator(".skip").focus()
        anna.keyboard.press("Enter")
        anna.wait_for_timeout(500)
        assert anna.evaluate("document.activeElement.id") == "main", page
        assert anna.locator("#detail > [data-same]").count() == 1, page


def test_search_in_the_list_leaves_the_chat_open(three_friends):
    anna, _boris, _clara, with_boris, with_clara = three_friends
    anna.goto(with_boris)
    anna.fill("#q", "clara")
    expect(chat_row(anna, with_boris)).to_have_count(0)
    assert anna.url.endswith(with_boris) and "Boris" in anna.title()
    chat_row(anna, with_clara).locator("a").click()
    expect(anna.locator("#thread h1")).to_contain_text("Clara")
    anna.go_back()
    expect(anna.locator("#thread h1")).to_contain_text("Boris")


def test_draft_that_was_sent_from_another_tab_is_gone(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    with anna.expect_response("**/draft"):
        anna.locator("#body").press_sequentially("only once")
    other = anna.context.new_page()
    other.goto(path)
    expect(other.locator("#body")).to_have_value("only once")
    other.press("#body", "Enter")
    expect(message(anna, "only once")).to_be_visible()
    expect(anna.locator("#body")).to_have_value("")


def test_draft_that_is_saved_during_a_reload_is_restored(two_friends):
    """The new page may have been rendered before."""
    anna, _boris, path = two_friends()
    anna.goto(path)
    rendered = []
    anna.route(f"**{path}", lambda route: rendered.append((route, route.fetch())))
    with anna.expect_response("**/draft"):
        anna.fill("#body", "still typing")
        anna.evaluate("() => { setTimeout(() => location.reload()); }")
        wait_until(lambda: anna.wait_for_timeout(10) or rendered)
    (route, response), *_ = rendered
    assert "still typing" not in response.text()
    with anna.expect_navigation():
        route.fulfill(response=response)
    expect(anna.locator("#body")).to_have_value("still typing")


def test_unsent_message_is_restored_for_its_author_only(two_friends, site_app, site):
    """Also in a tab in which the session of its author has ended, and somebody else has logged in."""
    anna, boris, path = two_friends()
    anna.goto(path)
    anna.route("**/messages", lambda route: route.abort())
    write(anna, "unsent")
    expect(anna.locator(".msg__failed")).to_be_visible()
    for user, is_shown in ((boris.user, False), (anna.user, True)):
        anna.once("dialog", lambda dialog: dialog.accept())
        anna.context.add_cookies([browser_cookie(site_app, user, site.base)])
        anna.goto(path)
        expect(anna.locator(".msg__failed")).to_have_count(int(is_shown))


def test_logging_out_clears_the_storage_of_all_tabs(two_friends):
    anna, _boris, path = two_friends()
    other = anna.context.new_page()
    for page in (anna, other):
        page.goto(path)
        page.fill("#body", "unsent")
    anna.evaluate("() => { document.querySelector(`[action$='/auth/logout']`).requestSubmit(); }")
    expect(anna.get_by_text("You are logged out.")).to_be_visible()
    expect(other.locator("#login")).to_be_visible()
    for page in (anna, other):
        assert page.evaluate("() => sessionStorage.length") == 0


def test_reply_and_edit_survive_switching_conversations(three_friends):
    anna, _boris, _clara, with_boris, with_clara = three_friends
    anna.goto(with_boris)
    write(anna, "a question")
    menu(anna, "a question", "Reply")
    anna.locator("#body").press_sequentially("a reply")
    chat_row(anna, with_clara).locator("a").click()
    expect(anna.locator("#thread h1")).to_contain_text("Clara")
    chat_row(anna, with_boris).locator("a").click()
    expect(anna.locator("#quoted")).to_contain_text("a question")
    menu(anna, "a question", "Edit")
    anna.fill("[data-editor] textarea", "a better question")
    anna.once("dialog", lambda dialog: dialog.dismiss())
    chat_row(anna, with_clara).locator("a").click()
    expect(anna.locator("[data-editor] textarea")).to_have_value("a better question")
    anna.press("[data-editor] textarea", "Enter")
    expect(message(anna, "a better question").locator("[popovertarget]")).to_be_focused()


def test_sending_by_the_button_keeps_the_focus_in_the_box(two_friends):
    anna, _boris, path = two_friends(**TOUCH)
    anna.goto(path)
    anna.locator("#body").tap()
    anna.keyboard.type("hello")
    anna.locator("#composer .btn--primary").tap()
    expect(message(anna, "hello")).to_be_visible()
    expect(anna.locator("#body")).to_be_focused()


def test_messages_that_failed_offline_are_sent_in_order_when_the_network_is_back(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    boris.goto(path)
    anna.context.set_offline(True)
    for number in range(3):
        write(anna, f"offline {number}")
    expect(anna.locator("[data-pending=failed]")).to_have_count(3)
    anna.context.set_offline(False)
    expect(boris.locator("[data-body]")).to_have_text([f"offline {number}" for number in range(3)], timeout=20_000)
    expect(anna.locator("[data-pending]")).to_have_count(0)


def test_drafts_and_messages_stay_in_their_conversation(three_friends):
    """What is typed, sent and received belongs to the conversation that it was typed in."""
    anna, boris, clara, with_boris, with_clara = three_friends
    boris.goto(with_boris)
    clara.goto(with_clara)
    anna.goto(with_boris)
    anna.fill("#body", "half a sentence")
    chat_row(anna, with_clara).locator("a").click()
    expect(anna.locator("#thread h1")).to_contain_text("Clara")
    expect(anna.locator("#body")).to_have_value("")
    write(anna, "for Clara")
    expect(message(clara, "for Clara")).to_be_visible()
    write(boris, "from Boris")
    expect(chat_row(anna, with_boris)).to_contain_text("from Boris")
    expect(chat_row(anna, with_boris)).to_have_attribute("data-unread", "1")
    expect(message(anna, "from Boris")).to_have_count(0)
    write(clara, "from Clara")
    expect(message(anna, "from Clara")).to_be_visible()
    expect(anna.locator("[data-body]")).to_have_text(["for Clara", "from Clara"])
    chat_row(anna, with_boris).locator("a").click()
    expect(anna.locator("#thread h1")).to_contain_text("Boris")
    expect(anna.locator("#body")).to_have_value("half a sentence")
    expect(anna.locator("[data-body]")).to_have_text(["from Boris"])
    expect(chat_row(anna, with_boris)).not_to_have_attribute("data-unread", "1")
    anna.press("#body", "Enter")
    expect(message(boris, "half a sentence")).to_be_visible()
    expect(message(boris, "for Clara")).to_have_count(0)


def test_failed_message_is_kept_when_switching_conversations(three_friends):
    anna, _boris, _clara, with_boris, with_clara = three_friends
    anna.goto(with_boris)
    anna.route("**/messages", lambda route: route.abort())
    write(anna, "on a train")
    expect(anna.locator(".msg__failed")).to_be_visible()
    chat_row(anna, with_clara).locator("a").click()
    expect(anna.locator("#thread h1")).to_contain_text("Clara")
    expect(anna.locator("[data-pending]")).to_have_count(0)
    anna.unroute("**/messages")
    chat_row(anna, with_boris).locator("a").click()
    expect(anna.locator("[data-pending=failed]")).to_contain_text("on a train")
    anna.click("[data-again]")
    expect(message(anna, "on a train")).to_have_count(1)
    expect(anna.locator("[data-pending]")).to_have_count(0)


def test_pending_draft_save_ends_when_switching_conversations(three_friends):
    """And is not saved again and again over what is typed on another device."""
    anna, _boris, _clara, with_boris, with_clara = three_friends
    anna.goto(with_boris)
    saved = []

    def delay(route):
        saved.append(route.request.post_data)
        anna.wait_for_timeout(400)
        route.continue_()

    anna.route("**/draft", delay)
    anna.locator("#body").press_sequentially("early")
    anna.wait_for_timeout(1100)
    chat_row(anna, with_clara).locator("a").click()
    expect(anna.locator("#thread h1")).to_contain_text("Clara")
    anna.wait_for_timeout(4000)
    assert 1 <= len(saved) <= 2
    chat_row(anna, with_boris).locator("a").click()
    expect(anna.locator("#body")).to_have_value("early")


def test_older_message_that_is_sent_again_keeps_the_newer_draft(two_friends):
    anna, _boris, path = two_friends()
    anna.goto(path)
    anna.route("**/messages", lambda route: route.abort())
    write(anna, "older")
    expect(anna.locator(".msg__failed")).to_be_visible()
    with anna.expect_response("**/draft"):
        anna.locator("#body").press_sequentially("newer")
    anna.unroute("**/messages")
    anna.click("[data-again]")
    expect(message(anna, "older")).to_be_visible()
    other = anna.context.new_page()
    other.goto(path)
    expect(other.locator("#body")).to_have_value("newer")


def test_external_links_are_not_opened_beside_the_list(three_friends):
    anna, boris, _clara, with_boris, _with_clara = three_friends
    boris.goto(with_boris)
    write(boris, "see http://other.example/u/anna")
    anna.goto(with_boris)
    anna.context.route("http://other.example/**", lambda route: route.fulfill(body="elsewhere"))
    with anna.context.expect_page() as opened:
        message(anna, "see").locator("a[target=_blank]").click()
    assert opened.value.url == "http://other.example/u/anna"
    assert anna.url.endswith(with_boris)


def test_last_row_that_is_loaded_stays_when_it_changes(logged_in_page, site_app):
    anna = logged_in_page("Anna", viewport=WIDE)
    for number in range(22):
        friend = make_person(site_app, f"Row {number}", public_id=f"row-{anna.id}-{number}")
        befriend(site_app, anna.user, friend)
        chat = open_conversation(site_app, anna.user, friend)
        fill(site_app, friend, chat, 1, f"row{number}")
    anna.goto("/chats")
    last = anna.locator("#chats [data-chat]").last
    chat = last.get_attribute("data-chat")
    assert anna.locator("#chats .more").count() == 1
    anna.request.post(
        f"/chats/{chat}/read",
        form={"message_id": 10**9, "csrf_token": anna.get_attribute("meta[name=csrf-token]", "content")},
    )
    row = anna.locator(f"#chats [data-chat='{chat}']")
    expect(row).not_to_have_attribute("data-unread", "1")
    expect(row).to_have_count(1)


def test_failed_read_receipt_request_is_retried(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    boris.goto(path)
    fails = {"now": True}
    anna.route("**/read", lambda route: route.abort() if fails["now"] else route.continue_())
    write(boris, "hello")
    expect(message(anna, "hello")).to_be_visible()
    anna.wait_for_timeout(800)
    fails["now"] = False
    anna.mouse.move(400, 400)
    anna.mouse.move(410, 410)
    expect(unread(anna)).to_be_hidden()


def test_list_and_conversation_without_javascript(three_friends, logged_in_page):
    _anna, boris, _clara, with_boris, _with_clara = three_friends
    boris = logged_in_page(boris.user, viewport=WIDE, java_script_enabled=False)
    boris.goto("/chats")
    chat_row(boris, with_boris).locator("a").click()
    expect(boris.locator("#composer")).to_be_visible()
    expect(chat_row(boris, with_boris)).to_be_visible()
    assert boris.locator("#detail").bounding_box()["x"] > chat_row(boris, with_boris).bounding_box()["x"]


def test_phone_shows_either_the_list_or_the_conversation(two_friends):
    anna, _boris, path = two_friends(**TOUCH)
    anna.goto("/chats")
    expect(anna.locator("#detail")).to_be_hidden()
    chat_row(anna, path).locator("a").tap()
    expect(anna.locator("#composer")).to_be_visible()
    expect(chat_row(anna, path)).to_be_hidden()
    anna.locator(".head__back").tap()
    expect(chat_row(anna, path)).to_be_visible()
    expect(anna.locator("#composer")).to_have_count(0)


def test_menu_opens_by_right_click_and_keyboard(two_friends):
    anna, _boris, path = two_friends()
    anna.context.grant_permissions(["clipboard-read", "clipboard-write"])
    anna.goto(path)
    write(anna, "first line")
    shown = message(anna, "first line")
    expect(shown).to_be_visible()
    shown.click(button="right")
    expect(shown.locator(".menu")).to_be_visible()
    shown.locator(".menu").get_by_text("Copy text").click()
    expect(shown.locator(".menu")).to_be_hidden()
    assert anna.evaluate("navigator.clipboard.readText()") == "first line"
    shown.locator("[popovertarget]").focus()
    anna.keyboard.press("Enter")
    expect(shown.locator(".menu")).to_be_visible()
    anna.keyboard.press("Tab")
    expect(shown.locator(".menu [data-reply]")).to_be_focused()
    anna.keyboard.press("Escape")
    expect(shown.locator(".menu")).to_be_hidden()
    shown.locator("[popovertarget]").dispatch_event("contextmenu", {"bubbles": True, "clientX": 100, "clientY": 100})
    expect(shown.locator(".menu")).to_be_visible()  # as the menu key does it


def test_text_is_copied_without_a_clipboard(two_friends):
    """As on a page without TLS."""
    anna, _boris, path = two_friends()
    anna.context.grant_permissions(["clipboard-read"])
    anna.goto(path)
    write(anna, "to copy")
    anna.evaluate("() => { window.read = () => clipboard.readText(); window.clipboard = navigator.clipboard; }")
    anna.evaluate("() => Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    menu(anna, "to copy", "Copy text")
    assert anna.evaluate("window.read()") == "to copy"


def test_menu_opens_by_a_long_press(two_friends, site_app):
    anna, boris, path = two_friends(**TOUCH)
    fill(site_app, boris.user, conversation_id(path), 1, "pressed")
    anna.goto(path)
    shown = message(anna, "pressed 0")
    expect(shown).to_be_visible()
    box = shown.bounding_box()
    touch = {"x": box["x"] + 20, "y": box["y"] + 15}
    devtools = anna.context.new_cdp_session(anna)

    def press(milliseconds, moved=0):
        devtools.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [touch]})
        anna.wait_for_timeout(milliseconds)
        if moved:
            point = {"x": touch["x"], "y": touch["y"] + moved}
            devtools.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        anna.wait_for_timeout(200)

    press(100)
    expect(shown.locator(".menu")).to_be_hidden()
    press(700)
    expect(shown.locator(".menu")).to_be_visible()
    shown.locator(".menu").get_by_text("Reply").tap()
    expect(anna.locator("#quoted")).to_contain_text("pressed 0")
    expect(shown.locator(".menu")).to_be_hidden()


def test_enter_sends_neither_on_a_phone_nor_while_composing(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    anna.fill("#body", "にほん")
    for event in ({"keyCode": 229}, {"isComposing": True, "keyCode": 13}):  # of Safari, and of the others
        enter = {"key": "Enter", "bubbles": True, "cancelable": True, **event}
        assert anna.evaluate(
            "(enter) => document.getElementById('body').dispatchEvent(new KeyboardEvent('keydown', enter))", enter
        )
    expect(anna.locator("#body")).to_have_value("にほん")
    expect(anna.locator(".msg")).to_have_count(0)
    anna.press("#body", "Enter")
    expect(message(anna, "にほん")).to_be_visible()
    phone = boris.context.browser.new_context(base_url=anna.url.split("/chats")[0], **TOUCH)
    phone.add_cookies(boris.context.cookies())
    page = phone.new_page()
    page.goto(path)
    page.locator("#body").tap()
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    page.keyboard.type("lines")
    expect(page.locator("#body")).to_have_value("two\nlines")
    phone.close()


def test_composer_stays_visible_above_an_on_screen_keyboard(two_friends):
    """As on iOS, which this imitates: only the visual viewport becomes smaller."""
    anna, _boris, path = two_friends(**TOUCH)
    anna.goto(path)
    for height, end in ((450, 450), (PHONE["height"], PHONE["height"])):
        anna.evaluate(
            "(height) => Object.defineProperty(visualViewport, 'height', { configurable: true, value: height })", height
        )
        anna.evaluate("visualViewport.dispatchEvent(new Event('resize'))")
        box = anna.locator("#composer").bounding_box()
        assert abs(box["y"] + box["height"] - end) <= 1


def test_quoted_message_far_above_and_back(two_friends, site_app):
    anna, boris, path = two_friends()
    chat = conversation_id(path)
    fill(site_app, boris.user, chat, 160)
    with site_app.test_request_context():
        begin_write(db.session)
        first = db.session.scalar(select(func.min(Message.id)).filter_by(conversation_id=chat))
        reply = messages.send(boris.user, chat, body="about that", client_id="q", reply_to=first)[1].id
        db.session.commit()
    anna.goto(f"{path}?before={reply + 1}")
    expect(anna.locator(f"#m-{first}")).to_have_count(0)
    anna.locator(f"#m-{reply} [data-quote]").click()
    expect(anna.locator(f"#m-{first}")).to_be_in_viewport()
    expect(anna.locator("#jump")).to_contain_text("Back to the reply")
    # What is written meanwhile is not lost, and not put where it does not belong.
    boris.goto(path)
    write(boris, "meanwhile")
    expect(message(boris, "meanwhile")).to_be_visible()
    expect(message(anna, "meanwhile")).to_have_count(0)
    anna.click("#jump")
    expect(anna.locator(f"#m-{reply}")).to_be_in_viewport()
    expect(anna.locator("#jump")).not_to_have_attribute("data-shows", "reply")
    anna.evaluate("() => { document.getElementById('log').scrollTop = 0; }")
    expect(message(anna, "meanwhile")).to_be_in_viewport()
    ids = anna.locator("[data-message]").evaluate_all("(rows) => rows.map((row) => Number(row.dataset.message))")
    assert ids == sorted(set(ids))


def test_earlier_messages_of_a_group_have_dividers_and_authors(logged_in_page, site_app):
    anna = logged_in_page("Anna")
    boris = make_person(site_app, "Boris Writer", public_id=f"writer-{anna.id}")
    befriend(site_app, anna.user, boris)
    with site_app.test_request_context():
        begin_write(db.session)
        chat = groups.create(anna.user, "Owls", [boris.public_id])
        db.session.commit()
    fill(site_app, boris, chat, 120)
    anna.goto(f"/chats/{chat}?before={10**12}")
    anna.evaluate("() => { document.getElementById('log').scrollTop = -100000; }")
    expect(message(anna, "old 65").first).to_be_attached()
    anna.wait_for_timeout(300)
    assert anna.locator("[data-divider=day]").count() == 1
    first = anna.locator("#messages > .divider + [data-message]")
    expect(first).to_have_attribute("data-first", "")
    expect(first.locator(".msg__author")).to_be_visible()


def test_failed_message_can_be_discarded(two_friends):
    anna, _boris, path = two_friends()
    anna.goto(path)
    anna.route("**/messages", lambda route: route.abort())
    write(anna, "never mind")
    anna.click("[data-discard]")
    expect(anna.locator("[data-pending]")).to_have_count(0)
    anna.reload()
    expect(anna.locator(".msg")).to_have_count(0)


def test_message_of_emoji_alone_is_large(two_friends):
    anna, _boris, path = two_friends()
    anna.goto(path)
    for text, is_large in (("👍🏽 🎉", True), ("👍 yes", False), ("7", False), ("👍👍👍👍", False)):
        write(anna, text)
        anna.wait_for_function(IS_LARGE, arg=[text, is_large])


def test_title_and_icon_count_what_waits(two_friends):
    anna, boris, path = two_friends()
    boris.goto("/friends")
    plain = boris.get_attribute("#favicon", "href")
    anna.goto(path)
    write(anna, "hello")
    expect(boris).to_have_title(re.compile(r"^\(1\) "))
    icon = boris.get_attribute("#favicon", "href")
    answer = boris.request.get(icon)
    assert answer.ok and answer.headers["content-type"].startswith("image/svg+xml") and ">1<" in answer.text()
    boris.goto(path)
    expect(unread(boris)).to_be_hidden()
    assert not boris.title().startswith("(") and boris.get_attribute("#favicon", "href") == plain


def test_sound_is_off_until_it_is_switched_on_and_one_tab_plays_it(two_friends):
    anna, boris, path = two_friends()
    boris.context.add_init_script(COUNT_SOUNDS)
    other = boris.context.new_page()
    anna.goto(path)
    for tab in (boris, other):
        tab.goto("/friends")

    def sounds():
        return boris.evaluate("window.sounds") + other.evaluate("window.sounds")

    write(anna, "silent")
    expect(unread(boris)).to_have_text("1")
    expect(unread(other)).to_have_text("1")
    assert sounds() == 0
    boris.goto("/settings")
    with boris.expect_response("**/settings/look"):
        boris.get_by_label("On", exact=True).check()
    assert sounds() == 1  # how it sounds
    boris.goto(path)
    expect(unread(boris)).to_be_hidden()
    for tab in (boris, other):
        tab.goto("/friends")
    write(anna, "loud")
    expect(unread(boris)).to_have_text("1")
    expect(unread(other)).to_have_text("1")
    boris.wait_for_timeout(300)
    assert sounds() == 1


def test_edit_form_stays_when_the_message_is_deleted_meanwhile(two_friends):
    anna, _boris, path = two_friends()
    other = anna.context.new_page()
    for tab in (anna, other):
        tab.goto(path)
    write(anna, "typo")
    expect(message(other, "typo")).to_be_visible()
    menu(anna, "typo", "Edit")
    form = anna.locator("[data-editor]")
    form.locator("textarea").fill("no typo, but long")
    other.once("dialog", lambda dialog: dialog.accept())
    menu(other, "typo", "Delete")
    expect(other.locator("[data-deleted]")).to_be_visible()
    anna.wait_for_timeout(500)
    expect(form.locator("textarea")).to_have_value("no typo, but long")
    form.get_by_text("Save").click()
    expect(anna.locator("[data-editor] [role=alert]")).to_contain_text("deleted")
    expect(anna.locator("[data-editor] textarea")).to_have_value("no typo, but long")


def test_hidden_tab_marks_nothing_as_read_and_catches_up(two_friends):
    anna, boris, path = two_friends()
    anna.goto(path)
    boris.goto(path)
    anna.evaluate(HIDE, True)
    write(boris, "while away")
    expect(message(boris, "while away")).to_be_visible()
    anna.wait_for_timeout(1000)
    other = anna.context.new_page()
    other.goto("/friends")
    expect(unread(other)).to_have_text("1")
    anna.evaluate(HIDE, False)
    anna.bring_to_front()
    expect(message(anna, "while away")).to_be_visible()
    expect(unread(other)).to_be_hidden()


def test_messages_are_not_marked_as_read_while_the_user_is_idle(two_friends):
    anna, boris, path = two_friends()
    anna.clock.install()
    anna.goto(path)
    boris.goto(path)
    expect(anna.locator("#composer")).to_be_visible()
    anna.clock.fast_forward(120_000)
    write(boris, "are you there?")
    expect(message(anna, "are you there?")).to_be_visible()
    anna.clock.fast_forward(5_000)
    other = anna.context.new_page()
    other.goto("/friends")
    expect(unread(other)).to_have_text("1")
    anna.bring_to_front()
    anna.mouse.move(300, 300)
    anna.mouse.move(310, 310)
    anna.clock.fast_forward(1_000)
    expect(unread(other)).to_be_hidden()


def test_head_shows_that_the_other_has_come_online(two_friends, site_app):
    anna, boris, path = two_friends()
    anna.clock.install()
    anna.goto(path)
    expect(anna.locator("#thread-head [data-online]")).to_have_count(0)
    with site_app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.id == boris.user.id).values(last_seen_at=now()))
        db.session.commit()
    anna.clock.fast_forward(61_000)
    expect(anna.locator("#thread-head p[data-online]")).to_be_visible()


def test_only_new_messages_of_others_are_announced(two_friends, site_app):
    anna, boris, path = two_friends()
    fill(site_app, boris.user, conversation_id(path), 5)
    anna.goto(path)
    boris.goto(path)
    expect(anna.locator("#announce")).to_be_empty()
    assert anna.locator("#log[aria-live], #log [aria-live], #log [role=status], #log [role=log]").count() == 0
    write(anna, "mine")
    expect(message(anna, "mine")).to_be_visible()
    expect(anna.locator("#announce")).to_be_empty()
    write(boris, "for your ears")
    expect(anna.locator("#announce")).to_have_text(re.compile("^Boris .*for your ears$"))


def test_more_than_a_hundred_missed_messages_are_there_once_and_in_order(two_friends, site_app):
    anna, boris, path = two_friends()
    anna.goto(path)
    boris.goto(path)
    anna.fill("#body", "still typing")
    anna.context.set_offline(True)
    fill(site_app, boris.user, conversation_id(path), 150, "missed")
    anna.context.set_offline(False)
    expected = [f"missed {number}" for number in range(150)]
    expect(anna.locator("[data-body]")).to_have_text(expected, timeout=40_000)
    expect(anna.locator("#new")).to_be_in_viewport()
    expect(anna.locator("#body")).to_have_value("still typing")


@pytest.mark.parametrize("viewport", [PHONE, WIDE], ids=["phone", "desktop"])
def test_layout_shift_stays_below_the_limit(two_friends, site_app, viewport):
    anna, boris, path = two_friends(viewport=viewport)
    fill(site_app, anna.user, conversation_id(path), 45)
    boris.context.add_init_script(WATCH_SHIFTS)
    anna.goto(path)
    boris.goto(path)
    boris.wait_for_timeout(800)
    anna.fill("#body", "typing")
    expect(boris.locator("#typing[data-shown]")).to_be_visible()
    anna.press("#body", "Enter")
    expect(message(boris, "typing")).to_be_visible()
    write(boris, "an answer")
    expect(boris.locator("[data-pending]")).to_have_count(0)
    message(boris, "typing").hover()
    menu(anna, "typing", "Edit")
    anna.fill("[data-editor] textarea", "edited, and now so long that it is on more than one line " * 3)
    anna.locator("[data-editor] .btn--primary").click()
    expect(message(boris, "edited")).to_be_visible()
    boris.wait_for_timeout(600)
    assert sum(boris.evaluate("window.shifts")) <= MAX_SHIFT


@pytest.mark.parametrize("viewport", [{"width": 320, "height": 640}, PHONE, WIDE], ids=["320", "390", "1280"])
@pytest.mark.parametrize("theme", ["night", "day"])
@pytest.mark.parametrize("language", ["en", "ru"])
def test_conversation_in_all_its_states_is_accessible(two_friends, site_app, language, theme, viewport):
    anna, boris, path = two_friends(viewport=viewport)
    fill(site_app, boris.user, conversation_id(path), 3)
    anna.goto("/settings/look")
    fields = {
        "theme": theme,
        "language": language,
        "csrf_token": anna.get_attribute("meta[name=csrf-token]", "content"),
    }
    anna.request.post("/settings/look", form=fields)
    anna.goto(path)
    write(anna, "W" * 200)
    expect(anna.locator(".msg[data-own]")).to_be_visible()
    anna.route("**/messages", lambda route: route.abort())
    write(anna, "fails")
    expect(anna.locator(".msg__failed")).to_be_visible()
    boris.goto(path)
    boris.fill("#body", "x")
    expect(anna.locator("#typing[data-shown]")).to_be_visible()
    assert axe.run(anna).response["violations"] == []
    anna.locator(".msg[data-own] [popovertarget]").focus()
    anna.keyboard.press("Enter")
    expect(anna.locator(".menu:popover-open")).to_be_visible()
    assert axe.run(anna).response["violations"] == []
    anna.keyboard.press("Escape")
    assert anna.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_open_pages_recover_after_a_server_restart(chromium, tmp_path, new_database):
    """An open page goes on by itself."""
    uri, port = new_database("sqlite"), free_port()
    server = Server(tmp_path, uri, port=port)
    app = create_app(Config(settings(tmp_path, uri), debug=False))
    people = [make_person(app, name, public_id=name.lower()) for name in ("Anna", "Boris")]
    befriend(app, *people)
    path = f"/chats/{open_conversation(app, *people)}"
    pages = []
    for person in people:
        context = chromium.new_context(base_url=server.base, locale="en-US")
        context.add_cookies([browser_cookie(app, person, server.base)])
        pages.append(context.new_page())
        pages[-1].goto(path)
    anna, boris = pages
    write(anna, "before")
    expect(message(boris, "before")).to_be_visible()
    os.killpg(server.process.pid, signal.SIGKILL)
    server.stop()
    anna.fill("#body", "meanwhile")
    anna.press("#body", "Enter")
    expect(anna.locator("[data-pending=failed]")).to_be_visible()
    anna.fill("#body", "half")
    server = Server(tmp_path, uri, port=port)
    try:
        # It is sent by itself when the stream is open again.
        expect(message(anna, "meanwhile")).to_be_visible(timeout=20_000)
        expect(message(boris, "meanwhile")).to_be_visible(timeout=20_000)
        expect(anna.locator("#body")).to_have_value("half")
        write(boris, "after")
        expect(message(anna, "after")).to_be_visible(timeout=20_000)
        expect(anna.locator("[data-body]")).to_have_text(["before", "meanwhile", "after"])
    finally:
        for page in pages:
            page.context.close()
        server.stop()
        with app.app_context():
            db.engine.dispose()
