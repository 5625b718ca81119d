"""How pages are laid out: the longest names on every width, and nothing that moves by itself."""

import re
from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from noxchat import conversations, groups, invitations, messages, profiles, relationships, tokens
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import User, blocks
from tests.architecture.routes import ROUTES
from tests.browser.conftest import numbers, send
from tests.conftest import befriend, make_person

axe = Axe()
UNUSUAL = {"/nowhere", *(route.path for route in ROUTES.values() if route.status != 200)}
WIDTHS = (320, 390, 768, 1280, 1920)

# What is cut off although it has to be read as a whole: buttons, counters, tabs, placeholders, headings; and what is
# beyond the right edge of the window.
FIND_CUT_OFF = """() => {
  const isShown = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest(".sr, [popover]:not(:popover-open)");
  const name = (e) => `${e.tagName}.${e.className} ${(e.textContent || e.placeholder || "").trim().slice(0, 40)}`;
  const found = [];
  for (const e of document.querySelectorAll(".btn, .badge, .count, .tabs a, h1, h2, .hint, p")) {
    if (isShown(e) && !e.closest(".sr, .row__cut") && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline")
      found.push("cut off: " + name(e));
  }
  for (const e of document.querySelectorAll("body *")) {
    if (isShown(e) && e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".sky, .row__cut")) found.push("outside: " + name(e));
  }
  const pen = document.createElement("canvas").getContext("2d");
  for (const e of document.querySelectorAll("input[placeholder]")) {
    const style = getComputedStyle(e);
    pen.font = style.font;
    const room = e.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (isShown(e) && pen.measureText(e.placeholder).width > room) found.push("placeholder: " + e.placeholder);
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push(`scrolls sideways: ${document.documentElement.scrollWidth}`);
  return [...new Set(found)];
}"""


def longest(number, letter="W"):
    """Return the longest name and Public ID with this number, without a place to break."""
    return f"{letter * 30}{number:02}", f"{'w' * 30}{number:02}"


@pytest.fixture(scope="module")
def crowd(site_app):
    """Return a person with the longest texts in every list, who is related to others with the longest texts."""
    people = []
    for number, letter in enumerate("WЩWWЩ"):
        name, public_id = longest(number, letter)
        people.append(
            make_person(site_app, name, f"{'m' * 60}{number}@nox.example", public_id=public_id, bio="W" * 140)
        )
    person, friend, asker, asked, blocked = people
    for one, other in ((person, friend), (friend, asked), (friend, asker)):
        befriend(site_app, one, other)
    send(site_app, asker, person)
    send(site_app, person, asked)
    with site_app.app_context():
        begin_write(db.session)
        for each in people:
            db.session.get(User, each.id).last_seen_at = now()
        db.session.execute(blocks.insert(), [{"blocker_id": person.id, "blocked_id": blocked.id, "since": now()}])
        invitations.create(db.session.get(User, person.id), 100, 30)
        db.session.get(User, person.id).created_at = now() - timedelta(days=400)
        db.session.commit()
    talk(site_app, person, friend)
    return people


def talk(site_app, person, friend):
    """Give two people a conversation and a group with the longest texts. Their ids are in person.conversations."""
    with site_app.test_request_context():
        begin_write(db.session)
        viewer, other = (profiles.find_by_public_id(one.public_id) for one in (person, friend))
        direct = conversations.open_direct(viewer, other, relationships.FRIENDS)
        group = groups.create(viewer, "W" * 60, [friend.public_id])
        for conversation_id in (direct, group):
            for author in (other, viewer):
                text = f"{'W' * 500} https://nox.example/{'w' * 500}"
                _view, first = messages.send(author, conversation_id, body=text, client_id="first")
                messages.send(author, conversation_id, body=text, client_id="reply", reply_to=first.id)
        db.session.commit()
        person.conversations = (direct, group)


def find_cut_off(page, path):
    """Return what is cut off on a page, by its path and width."""
    found = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function(f"() => innerWidth === {width}")
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        if cut_off := page.evaluate(FIND_CUT_OFF):
            found[f"{path} {width}"] = cut_off
    return found


@pytest.mark.parametrize("language", ["en", "ru"])
def test_longest_texts_fit_every_width_for_visitors(site_app, site, crowd, new_page, language):
    person = crowd[0]
    with site_app.test_request_context():
        begin_write(db.session)
        invitation = invitations.create(db.session.get(User, person.id), 100, 30)
        token = tokens.create_invitation_token(invitation)
        db.session.commit()
    page = new_page(locale=language, reduced_motion="reduce")
    paths = {route.path for route in ROUTES.values() if route.page and route.public}
    found = {}
    for path in sorted(paths | {f"/i/{token}", f"/auth/register?invitation={token}", "/nowhere"}):
        page.goto(path)
        assert page.get_attribute("html", "lang") == language
        found |= find_cut_off(page, path)
    assert not found, "\n".join(f"{what}: {texts}" for what, texts in found.items())


@pytest.mark.parametrize("language", ["en", "ru"])
def test_longest_texts_fit_every_width(site_app, crowd, logged_in_page, language):
    person, *others = crowd
    with site_app.app_context():
        begin_write(db.session)
        db.session.get(User, person.id).language = language
        db.session.commit()
    page = logged_in_page(person, reduced_motion="reduce")
    paths = {
        route.path.replace("alice", longest(0)[1]) for route in ROUTES.values() if route.page and not route.guests_only
    }
    paths = {path for path in paths if not path.startswith("/chats/1")}
    paths |= {f"/chats/{number}{suffix}" for number in person.conversations for suffix in ("", "/details")}
    paths |= {f"/u/{longest(number)[1]}" for number in range(1, 5)}
    paths |= {"/search?q=www", "/search?q=" + "w" * 32, "/friends?q=zzz", "/nowhere"}
    found = {}
    for path in sorted(paths):
        status = page.goto(path).status
        assert status in (200, *((400, 404) if path in UNUSUAL else ())), path
        found |= find_cut_off(page, path)
    for path in ("/friends", "/friends/incoming", "/friends/outgoing", "/search?q=www"):
        page.set_viewport_size({"width": 1920, "height": 800})
        page.goto(path)
        page.locator(".split__list .row__link").first.click()
        expect(page.locator("#detail h1")).to_be_visible()
        for width in (1100, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_function(f"() => innerWidth === {width}")
            if cut_off := page.evaluate(FIND_CUT_OFF):
                found[f"{path} {width} with a detail"] = cut_off
    assert not found, "\n".join(f"{what}: {texts}" for what, texts in found.items())


def test_nothing_has_a_transition_with_reduced_motion(site, new_page):
    page = new_page(reduced_motion="reduce")
    page.goto("/auth/login")
    find_transitions = """() => [...document.querySelectorAll("*")]
      .filter((e) => getComputedStyle(e).transitionProperty !== "none").map(({ outerHTML }) => outerHTML.slice(0, 80))"""
    assert page.evaluate(find_transitions) == []
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(find_transitions)


# Sums the layout shifts of a page (https://wicg.github.io/layout-instability/), those after an input too: what one presses
# moves nothing else.
OBSERVE_SHIFTS = """
  window.shifts = [];
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => window.shifts.push(
    { value: entry.value, what: entry.sources.map(({ node }) => node?.className || node?.nodeName).join(" ") }
  ))).observe({ type: "layout-shift", buffered: true });
"""
MAX_SHIFT = 0.02


def check_shift(page, what, figures):
    """Record how much the page has moved since the last check, and fail if that is too much."""
    page.wait_for_timeout(400)
    shifts = page.evaluate("window.shifts.splice(0)")
    figures[what] = round(sum(shift["value"] for shift in shifts), 4)
    assert figures[what] <= MAX_SHIFT, (what, shifts)


# What could be pressed where a notice is, if it were not there, whatever else is drawn above it; and what of a notice cannot
# be read.
COVERED = """() => {
  const toasts = document.getElementById("toasts");
  const notices = [...toasts.querySelectorAll(".notice")];
  const boxes = notices.map((notice) => notice.getBoundingClientRect());
  const found = new Set(notices.filter((notice) => notice.scrollHeight > notice.clientHeight).map(({ innerText }) => "cut off: " + innerText));
  boxes.filter((box) => box.top < -1 || box.bottom > innerHeight + 1 || box.left < 0 || box.right > innerWidth)
    .forEach((box) => found.add("outside: " + JSON.stringify(box)));
  toasts.style.display = "none";
  for (const box of boxes) for (let x = box.left; x < box.right; x += 6) for (let y = box.top; y < box.bottom; y += 6) {
    const pressable = document.elementFromPoint(x, y)?.closest("a, button, input, select, textarea, label");
    if (pressable) found.add(pressable.outerHTML.slice(0, 100));
  }
  toasts.style.display = "";
  return [...found];
}"""
SETTLED = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() =>
  Promise.allSettled(document.getElementById("toasts").getAnimations({ subtree: true }).map(({ finished }) => finished)))"""
NOTICED = [(320, 700), (390, 844), (768, 600), (768, 800), (1280, 600), (1280, 800), (1920, 1080)]


@pytest.mark.parametrize("language", ["en", "ru"])
def test_notices_cover_nothing_that_can_be_pressed(site_app, logged_in_page, language):
    """Three with the longest names, at the top of a page and at its end; one on phones."""
    page = logged_in_page("Noticed", viewport={"width": 1280, "height": 1000}, reduced_motion="reduce")
    with site_app.app_context():
        begin_write(db.session)
        db.session.get(User, page.user.id).language = language
        db.session.commit()
    friend = make_person(site_app, f"Friend {page.id}")
    befriend(site_app, page.user, friend)
    talk(site_app, page.user, friend)
    for number in range(15):
        key = f"{next(numbers):03}"
        name = f"{'WЩ'[number % 2] * 29}{key}" if number > 11 else f"Asker {key}"
        send(site_app, make_person(site_app, name), page.user)
    page.goto("/friends/incoming")
    notices = []
    for number in range(3):
        page.locator("[formaction$='/request/decline']").first.click()
        expect(page.locator("#toasts .notice")).to_have_count(number + 1)
        notices.append(page.locator("#toasts .notice").last.evaluate("notice => notice.outerHTML"))
    refused = page.evaluate(
        "fetch('/settings/look', {method: 'POST', headers: {'HX-Request': 'true'}}).then(answer => answer.text())"
    )
    found = {}
    paths = ("/friends/incoming", "/", f"/u/{page.id}", f"/u/{friend.public_id}", "/settings", "/chats")
    for path in (*paths, f"/chats/{page.user.conversations[0]}"):
        page.goto(path)
        for width, height in NOTICED:
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_function(f"() => innerWidth === {width}")
            for kind, html in {"three": "".join(notices), "an error": refused}.items():
                page.evaluate("html => { document.getElementById('toasts').innerHTML = html; }", html)
                page.evaluate(SETTLED)
                assert page.locator("#toasts .notice").count() <= (1 if width < 720 else 3)
                for end in ("0", "document.documentElement.scrollHeight"):
                    page.evaluate(f"() => scrollTo(0, {end})")
                    if covered := page.evaluate(COVERED):
                        found[f"{path} {width} {height} {kind} {end}"] = covered
    assert not found, "\n".join(f"{what}: {texts}" for what, texts in found.items())


def test_notices_of_visitors_cover_nothing_that_can_be_pressed(site, new_page):
    page = new_page(reduced_motion="reduce")
    found = {}
    for path in ("/auth/login", "/auth/register"):
        page.goto(path)
        page.route("**/auth/*", lambda route: route.abort())
        for width, height in NOTICED:
            page.set_viewport_size({"width": width, "height": height})
            for field in page.locator("main .input:visible").all():
                field.fill("x@nox.example")
            page.locator("main form .btn--primary").click()
            notice = page.locator("#toasts .notice")
            expect(notice).to_be_in_viewport(ratio=1)
            if covered := page.evaluate(COVERED):
                found[f"{path} {width} {height}"] = covered
            notice.locator("[data-dismiss]").click()
        page.unroute("**/auth/*")
    assert not found, found


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_moves_by_itself_or_by_an_action(site_app, crowd, logged_in_page, width):
    figures = {}
    page = logged_in_page("Steady", viewport={"width": width, "height": 800})
    page.add_init_script(OBSERVE_SHIFTS)
    friends = [
        make_person(site_app, f"Friend {letter} {width}", public_id=f"friend-{letter}-{width}") for letter in "abcdef"
    ]
    for friend in friends[:4]:
        befriend(site_app, page.user, friend)
    for friend in friends[4:]:
        send(site_app, friend, page.user)
    for endpoint, route in ROUTES.items():
        if route.page and not route.guests_only:
            page.goto(route.path.replace("alice", page.id))
            check_shift(page, endpoint, figures)
    page.goto("/friends/incoming")
    row = page.locator(f"[data-user='friend-f-{width}']")
    row.get_by_role("button", name="Accept").click()
    expect(row.locator("[data-done]")).to_be_visible()
    check_shift(page, "accept", figures)
    row = page.locator(f"[data-user='friend-e-{width}']")
    row.get_by_role("button", name="Decline").click()
    expect(row.locator("[data-done]")).to_be_visible()
    check_shift(page, "decline", figures)
    page.get_by_role("button", name="Undo").last.click()
    expect(row.locator("[data-friendship=incoming]")).to_be_visible()
    check_shift(page, "undo", figures)
    newcomer = logged_in_page(crowd[4])
    newcomer.goto(f"/u/{page.id}")
    newcomer.locator(".profile__top").get_by_role("button", name="Add").click()
    expect(page.locator("#newcomers a")).to_be_visible()
    check_shift(page, "newcomer", figures)
    page.goto("/friends")
    page.locator(f"[data-user='friend-b-{width}'] button[popovertarget]").click()
    page.get_by_role("button", name="Remove friend").locator("visible=true").click()
    expect(page.locator(f"[data-user='friend-b-{width}'] [data-done]")).to_be_visible()
    check_shift(page, "remove", figures)
    page.goto(f"/u/{crowd[0].public_id}")
    page.locator(".profile__top").get_by_role("button", name="Add").click()
    expect(page.locator("[data-friendship=outgoing]")).to_be_visible()
    check_shift(page, "add on a profile", figures)
    page.get_by_role("button", name="Cancel request").click()
    expect(page.locator(".profile__top [data-done]")).to_be_visible()
    check_shift(page, "cancel on a profile", figures)
    page.goto("/")
    page.locator("[data-list=incoming]").get_by_role("button", name="Accept").first.click()
    expect(page.locator("[data-list=incoming] [data-done]")).to_be_visible()
    check_shift(page, "accept on home", figures)
    page.goto("/settings")
    page.locator("#privacy-form").get_by_label("Nobody").check()
    expect(page.locator("#toasts .notice")).to_be_visible()
    check_shift(page, "privacy", figures)
    if width == 1280:
        page.goto("/friends")
        page.locator(".split__list .row__link").first.click()
        expect(page.locator("#detail h1")).to_be_visible()
        check_shift(page, "open a detail", figures)
    print(f"layout shifts at {width} px:", {what: shift for what, shift in figures.items() if shift})
    assert page.problems == []


@pytest.mark.parametrize("language", ["en", "ru"])
def test_profile_stays_where_it_is_when_a_request_is_accepted(site_app, logged_in_page, language):
    figures = {}
    page = logged_in_page("Asking", viewport={"width": 320, "height": 800})
    with site_app.app_context():
        begin_write(db.session)
        db.session.get(User, page.user.id).language = language
        db.session.commit()
    other = logged_in_page("Asked")
    page.add_init_script(OBSERVE_SHIFTS)
    with page.expect_response("**/events?*"):
        page.goto(f"/u/{other.id}")
    check_shift(page, "profile", figures)
    page.locator(".profile__top [formaction$='/request']").click()
    expect(page.locator("[data-friendship=outgoing]")).to_be_visible()
    check_shift(page, "ask", figures)
    other.goto(f"/u/{page.id}")
    other.get_by_role("button", name="Accept").click()
    expect(page.locator(".profile__top [data-friendship=friends]")).to_be_visible()
    check_shift(page, "accepted", figures)
    page.locator(".profile__top [popovertarget]").click()
    page.locator("[formaction$='/unfriend']").click()
    expect(page.locator(".profile__top [data-done]")).to_be_visible()
    check_shift(page, "remove", figures)
    other.goto(f"/u/{page.id}")
    other.locator(".profile__top").get_by_role("button", name="Add").click()
    expect(page.locator(".profile__top [data-friendship=incoming]")).to_be_visible()
    check_shift(page, "is asked", figures)


def test_detail_opens_beside_the_list_and_back_returns_to_it(site_app, logged_in_page):
    page = logged_in_page("Splitter")
    friends = [make_person(site_app, f"Beside {letter}", public_id=f"beside-{letter}") for letter in "abcdefghjkmn"]
    for friend in friends:
        befriend(site_app, page.user, friend)
    page.goto("/friends")
    page.evaluate("window.notReloaded = true")
    listed, detail = page.locator(".split__list"), page.locator("#detail")
    expect(detail).to_contain_text("Nobody chosen")
    listed.evaluate("list => { list.scrollTop = 120; }")
    scrolled_to = listed.evaluate("list => list.scrollTop")
    assert scrolled_to > 0
    for letter in "ef":
        page.locator(f"[data-user=beside-{letter}] .row__link").click()
        expect(detail.locator("h1")).to_have_text(f"Beside {letter}")
        expect(detail.locator("h1")).to_be_focused()
        assert page.url.endswith(f"/u/beside-{letter}") and page.title() == f"Beside {letter} · NoxChat"
        expect(listed.locator("[aria-current=true]")).to_have_text(f"Beside {letter}")
    assert axe.run(page).response["violations"] == []
    page.go_back()
    expect(detail.locator("h1")).to_have_text("Beside e")
    page.go_back()
    expect(detail).to_contain_text("Nobody chosen")
    assert page.url.endswith("/friends") and page.title() == "Friends · NoxChat"
    expect(page.locator("[data-user=beside-e] .row__link")).to_be_focused()
    page.go_forward()
    expect(detail.locator("h1")).to_have_text("Beside e")
    assert listed.evaluate("list => list.scrollTop") == scrolled_to and page.evaluate("window.notReloaded")
    page.reload()
    expect(page.locator("main h1")).to_have_text("Beside e")
    assert page.problems == []


def test_button_of_a_person_is_the_same_in_list_and_detail(site_app, logged_in_page):
    page = logged_in_page("Twofold")
    make_person(site_app, "Twice Shown", public_id="twice-shown")
    page.goto("/search?q=twice")
    page.locator("[data-user=twice-shown] .row__link").click()
    page.locator("#detail").get_by_role("button", name="Add").click()
    for pane in ("#detail", ".split__list"):
        expect(page.locator(f"{pane} [data-friend=twice-shown]")).to_have_attribute("data-friendship", "outgoing")
    page.locator(".split__list").get_by_role("button", name="Cancel request").click()
    for pane in ("#detail", ".split__list"):
        expect(page.locator(f"{pane} [data-friend=twice-shown]")).to_have_attribute("data-friendship", "none")
    ids = page.eval_on_selector_all("[id]", "elements => elements.map(element => element.id)")
    assert len(ids) == len(set(ids))
    # What is typed into the search changes the list only; going back restores what was searched for.
    page.fill("#q", "twice shown")
    page.wait_for_url("**/search?q=twice+shown")
    expect(page.locator("#detail h1")).to_have_text("Twice Shown")
    page.go_back()
    page.wait_for_url("**/search?q=twice")
    expect(page.locator("#q")).to_have_value("twice")
    assert page.problems == []


@pytest.fixture
def beside(site_app, logged_in_page):
    """A page with a list of friends Side a, Side b … that is answered slowly. page.open(letter) chooses one."""
    page = logged_in_page("Racer")
    for letter in "abcd":
        friend = make_person(site_app, f"Side {letter} {page.id}", public_id=f"side-{letter}-{page.id}")
        befriend(site_app, page.user, friend)
    page.goto("/friends")
    page.open = lambda letter: page.locator(f"[data-user=side-{letter}-{page.id}] .row__link").click()

    def answer_slowly(route):
        page.wait_for_timeout(400)
        route.continue_()

    page.route(re.compile(r"/u/side-\w-"), answer_slowly)
    return page


def check_detail(page, letter):
    """Fail unless address, title, row and detail are about the same person."""
    expect(page.locator("#detail h1")).to_have_text(f"Side {letter} {page.id}")
    page.wait_for_timeout(700)  # for what is still to come
    assert page.locator("#detail h1").inner_text() == f"Side {letter} {page.id}"
    assert page.url.endswith(f"/u/side-{letter}-{page.id}") and page.title() == f"Side {letter} {page.id} · NoxChat"
    assert page.locator("[aria-current=true]").inner_text() == f"Side {letter} {page.id}"


def test_last_choice_counts_however_slow_the_answers(beside):
    page = beside
    for letter in "abc":
        page.open(letter)
    check_detail(page, "c")
    length = page.evaluate("history.length")
    page.open("c")  # again: nothing happens
    page.wait_for_timeout(700)
    assert page.evaluate("history.length") == length
    for letter in "da":
        page.open(letter)
        check_detail(page, letter)
    page.go_back()
    page.go_back()
    check_detail(page, "c")
    page.open("b")
    page.go_back()  # before the answer
    expect(page.locator("#detail")).to_contain_text("Nobody chosen")
    page.wait_for_timeout(700)
    assert page.url.endswith("/friends") and page.locator("#detail h1").count() == 0


def test_detail_that_cannot_be_loaded_is_not_shown_as_another(beside):
    page = beside
    for letter in "ab":
        page.open(letter)
        check_detail(page, letter)
    page.unroute_all()
    page.route("**/u/side-a-*", lambda route: route.abort())
    page.open("a")
    expect(page.locator("#toasts .notice[data-kind=error]")).to_contain_text("could not be loaded")
    check_detail(page, "b")
    page.go_back()
    expect(page.locator("#detail")).to_contain_text("Nobody chosen")


def test_detail_takes_no_focus_from_typing(beside):
    page = beside
    page.open("a")
    page.click("#q")
    page.keyboard.type("side", delay=150)
    expect(page.locator("#detail h1")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "q" and page.input_value("#q") == "side"
    # The address is that of the search now, and the narrow page shows it.
    page.wait_for_url("**/friends?q=side")
    assert page.title() == "Friends · NoxChat"
    page.set_viewport_size({"width": 800, "height": 700})
    assert page.is_visible("#q") and not page.is_visible("#detail")


def test_detail_of_somebody_who_blocks_the_viewer_closes(site_app, logged_in_page):
    page, blocker = logged_in_page("Watcher"), logged_in_page("Leaver")
    befriend(site_app, page.user, blocker.user)
    with page.expect_response("**/events?*"):
        page.goto("/friends")
    page.click(".row__link")
    expect(page.locator("#detail h1")).to_be_visible()
    blocker.goto(f"/u/{page.id}")
    blocker.click("[popovertarget]")
    blocker.get_by_role("button", name="Block").locator("visible=true").click()
    expect(page.locator("#detail")).to_contain_text("Nobody chosen")
    assert page.url.endswith("/friends") and page.title() == "Friends · NoxChat"
    assert page.problems == []


def test_facts_of_a_profile_follow_what_was_done(site_app, logged_in_page):
    page, friend = logged_in_page("Factual"), logged_in_page("Fact")
    befriend(site_app, page.user, friend.user)
    with site_app.app_context():
        begin_write(db.session)
        db.session.get(User, friend.user.id).last_seen_at = now()
        db.session.commit()
    with page.expect_response("**/events?*"):
        page.goto(f"/u/{friend.id}")
    expect(page.locator(".presence")).to_be_visible()
    friend.goto(f"/u/{page.id}")
    friend.click("[popovertarget]")
    friend.get_by_role("button", name="Remove friend").locator("visible=true").click()
    expect(page.locator("[data-friendship=none]")).to_be_visible()
    expect(page.locator(".presence")).to_have_count(0)
    friend.goto(f"/u/{page.id}")
    friend.locator(".profile__top").get_by_role("button", name="Add").click()
    page.get_by_role("button", name="Accept").click()
    expect(page.locator(".presence")).to_be_visible()


@pytest.mark.parametrize("options", [{"viewport": {"width": 1000, "height": 800}}, {"java_script_enabled": False}])
def test_profile_is_a_page_of_its_own_without_room_or_script(site_app, logged_in_page, options):
    page = logged_in_page("Narrow", **options)
    friend = make_person(site_app, f"Alone {page.id}", public_id=f"alone-{page.id}")
    befriend(site_app, page.user, friend)
    page.goto("/friends")
    assert not page.is_visible("#detail")
    page.click(".row__link")
    page.wait_for_url(f"**/u/{friend.public_id}")
    assert page.locator(".split").count() == 0
