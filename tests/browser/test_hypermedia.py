"""What htmx and app.js add to plain forms: one test for each, since htmx 4 is young and may change."""

import io
import re
import urllib.request
from datetime import datetime, timedelta, timezone

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect
from sqlalchemy import select

from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import User
from tests.browser.conftest import demo_password, log_in, photo, register
from tests.conftest import befriend, make_person, wait_until


@pytest.fixture
def page(new_page, mila_cookie):
    page = new_page()
    page.context.add_cookies([mila_cookie])
    return page


def unreadable(size):
    """Return a file that a browser cannot read as a picture, for set_input_files."""
    return {"name": "IMG_0002.HEIC", "mimeType": "image/heic", "buffer": bytes(size)}


def test_invalid_form_is_swapped_in_place_and_focuses_errors(page):
    page.goto("/settings/profile")
    page.evaluate("window.notReloaded = true")
    page.fill("#public_id", "nika")
    page.click(".btn--primary")
    page.wait_for_selector("#errors")
    assert page.evaluate("window.notReloaded && document.activeElement.id") == "errors"
    assert page.url.endswith("/settings/profile")
    page.click("#errors a")
    assert page.evaluate("document.activeElement.id") == "public_id"


def test_submit_button_is_disabled_while_busy_and_double_click_posts_once(page):
    page.goto("/settings/sessions")
    page.goto("/settings/password")
    posts = []
    page.on("request", lambda request: posts.append(request.url) if request.url.endswith("/password") else None)
    page.route("**/settings/password", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.fill("#current_password", "not my password 1")
    page.fill("#password", "a new lamp at night")
    page.dblclick(".btn--primary")
    assert page.is_disabled(".btn--primary")
    page.wait_for_selector("#current_password-error")
    assert len(posts) == 1 and not page.is_disabled(".btn--primary")


def test_network_failure_shows_error_and_keeps_input(page):
    page.goto("/settings/profile")
    page.fill("#bio", "typed on a train")
    page.route("**/settings/profile", lambda route: route.abort())
    page.click(".btn--primary")
    page.wait_for_selector("#toasts .notice[data-kind=error]")
    assert "network does not answer" in page.inner_text("#toasts")
    assert page.input_value("#bio") == "typed on a train"
    page.click("#toasts [data-dismiss]")
    assert page.locator("#toasts .notice").count() == 0


def test_error_status_shows_error_and_keeps_input(page):
    page.goto("/settings/profile")
    page.fill("#bio", "typed with care")
    answered = []

    def answer(route):
        answered.append((500, 502, 403, 404)[len(answered)])
        route.fulfill(status=answered[-1], body="<h1>Bad gateway</h1>")

    page.route("**/settings/profile", answer)
    for number in range(1, 5):
        page.click(".btn--primary")
        page.wait_for_timeout(500)
        assert len(answered) == number
        # The same again takes the place of the earlier one.
        expect(page.locator("#toasts .notice[data-kind=error]")).to_have_count(1)
        assert page.inner_text("#toasts").count("Something went wrong") == 1, answered
        assert page.input_value("#bio") == "typed with care", answered


def test_too_large_picture_is_told_beside_its_field_and_input_kept(page):
    """Where the browser did not notice, as with another setting of the server."""

    def choose_too_large(size):
        page.set_input_files("#avatar", unreadable(size))
        page.wait_for_function("() => document.getElementById('avatar').validationMessage")
        page.eval_on_selector("#avatar", "input => input.setCustomValidity('')")

    page.goto("/settings/profile")
    page.fill("#bio", "typed with care")
    choose_too_large(5_000_001)
    page.click(".btn--primary")
    page.wait_for_selector("#avatar-error")
    assert "up to 5 MB" in page.inner_text("#avatar-error") and page.input_value("#bio") == "typed with care"
    choose_too_large(6_500_000)  # more than any request may have
    page.click(".btn--primary")
    page.wait_for_selector("#toasts .notice[data-code='413']")
    assert "This is too large" in page.inner_text("#toasts") and page.input_value("#bio") == "typed with care"


def test_errors_leave_once_their_cause_is_gone(logged_in_page):
    page = logged_in_page("Retry")
    page.goto("/settings")
    path = "**/settings/privacy"
    page.route(path, lambda route: route.abort())
    page.locator("#privacy-form").get_by_label("Nobody").click()
    error = page.locator("#toasts .notice[data-kind=error]")
    expect(error).to_contain_text("network does not answer")
    expect(error.locator("svg")).to_have_count(2)  # as the notices of the server, with an icon and a cross
    page.unroute(path)
    page.locator("#privacy-form").get_by_label("Nobody").click()
    expect(page.locator("#toasts .notice[data-kind=ok]")).to_be_visible()
    expect(error).to_have_count(0)
    page.route(path, lambda route: route.fulfill(status=502, body="Bad gateway"))
    page.locator("#privacy-form").get_by_label("Your friends").click()
    expect(error).to_contain_text("Something went wrong")
    page.locator("#preferences-form").get_by_label("Night").click()  # another request, whose success tells nothing
    expect(page.locator("#toasts .notice[data-kind=ok]").last).to_be_visible()
    expect(error).to_have_count(1)
    page.unroute(path)
    page.locator("#privacy-form").get_by_label("Your friends").click()
    expect(error).to_have_count(0)


def test_search_that_failed_says_so(page):
    page.goto("/search")
    page.route("**/search?**", lambda route: route.abort())
    page.fill("#q", "ni")
    expect(page.locator("#toasts .notice[data-kind=error]")).to_contain_text("could not be loaded")
    page.unroute("**/search?**")
    page.fill("#q", "nik")
    expect(page.locator("#results [data-user]").first).to_be_visible()
    expect(page.locator("#toasts .notice[data-kind=error]")).to_have_count(0)


def test_invalid_csrf_token_offers_reload_and_keeps_input(page):
    page.goto("/settings/profile")
    page.fill("#bio", "typed long ago")
    page.eval_on_selector_all("input[name=csrf_token]", "fields => fields.forEach(field => { field.value = 'stale'; })")
    page.click("#profile-form .btn--primary")
    page.wait_for_selector("#toasts .notice[data-code='400']")
    assert page.get_attribute("#toasts .notice a", "href") == "/settings/profile"
    assert page.input_value("#bio") == "typed long ago"


def test_ended_session_redirects_to_login_with_next(page):
    with page.expect_response("**/events?*"):
        page.goto("/settings/sessions")
    page.context.clear_cookies()
    page.click(".session button >> nth=0")
    page.wait_for_url("**/auth/login?next=/settings/sessions")


def test_removing_avatar_updates_form_and_navigation_without_reload(site, new_page):
    page = new_page()
    register(page, "Painter")
    page.goto("/settings/profile")
    page.set_input_files("#avatar", photo())
    page.click(".btn--primary")
    page.wait_for_url("**/u/**")
    page.goto("/settings/profile")
    page.evaluate("window.notReloaded = true")
    page.fill("#bio", "typed before")
    assert page.locator("#picture img").count() == page.locator("#nav-picture img").count() == 1
    page.click("text=Use my initials instead")
    page.wait_for_selector("#picture .avatar[data-hue]")
    assert page.locator("#nav-picture .avatar[data-hue]").count() == 1
    assert page.evaluate("window.notReloaded") and page.input_value("#bio") == "typed before"
    assert "initials are back" in page.inner_text("#toasts")
    assert page.problems == []


def test_theme_applies_at_once_and_language_reloads_page(site, new_page):
    page = new_page()
    register(page, "Looker")
    page.goto("/settings")
    with page.expect_response("**/settings/look"):
        page.check("input[value=day]", force=True)
    assert page.get_attribute("html", "data-theme") == "day"
    page.select_option("#language", "ru")
    page.wait_for_selector("html[lang=ru]")
    assert page.get_attribute("html", "data-theme") == "day"
    assert page.is_checked("input[value=day]")
    other = new_page()
    response = other.goto("/auth/login")
    assert response.status == 200
    assert page.problems == []


def test_bio_counter_counts_characters_like_server(page):
    page.goto("/settings/profile")
    page.fill("#bio", "🌙" * 10)
    assert page.inner_text("#bio-hint") == "130 of 140 characters left"


def test_times_are_utc_without_javascript_and_local_with_it(site, new_page):
    plain = new_page(java_script_enabled=False)
    log_in(plain, "mila@demo.example", demo_password(site))
    plain.goto("/settings/sessions")
    assert "UTC" in plain.inner_text("#sessions time >> nth=0")
    page = new_page(timezone_id="Asia/Tokyo", locale="ru-RU")
    page.goto("/auth/login")
    page.fill("#identifier", "mila@demo.example")
    page.fill("#password", demo_password(site))
    page.click(".btn--primary")
    page.wait_for_url(f"{site.base}/")
    page.goto("/settings/sessions")
    page.wait_for_selector("#sessions time:not(.flask-moment)")
    text = page.inner_text("#sessions time >> nth=0")
    assert "сегодня" in text
    time = page.get_attribute("#sessions time >> nth=0", "datetime")
    in_tokyo = datetime.fromisoformat(time).astimezone(timezone(timedelta(hours=9)))
    assert re.search(rf"\b0?{in_tokyo.hour}:{in_tokyo.minute:02}\b", text), (time, text)


def test_times_are_localized_again_after_swap(page):
    page.goto("/settings/sessions")
    page.click(".session:not(:has(.count)) button >> nth=0")
    page.wait_for_selector("#toasts .notice[data-kind=ok]")
    page.wait_for_selector("#sessions time:not(.flask-moment)")
    assert page.locator("#sessions time.flask-moment").count() == 0


def test_success_notice_disappears_by_itself(page):
    page.goto("/settings/profile")
    page.clock.install()
    page.goto("/settings/profile")
    page.click(".btn--primary")
    page.wait_for_selector("#toasts .notice[data-kind=ok]")
    page.clock.fast_forward(9000)
    page.wait_for_selector("#toasts .notice", state="detached")


def test_logging_out_ends_the_other_tabs_at_once(site, new_page):
    page = new_page(viewport={"width": 1280, "height": 800})
    register(page, "Tabs")
    other = page.context.new_page()
    other.goto("/settings")
    page.click(".nav__foot button")
    page.wait_for_url(f"{site.base}/")
    other.wait_for_url("**/auth/login?next=/settings", timeout=2000)


def test_title_counts_the_requests_and_the_unread_chats(page):
    page.goto("/friends/incoming")
    unread = int(page.locator("#nav-chats [data-counter=unread]").inner_text() or 0)
    assert page.title().startswith(f"({3 + unread}) Incoming requests")
    page.click("text=Decline >> nth=0")
    page.wait_for_selector("[data-done]")
    assert page.title().startswith(f"({2 + unread}) Incoming requests")
    page.click("[data-done] >> text=Undo")
    page.wait_for_selector("[data-done]", state="detached")
    assert page.title().startswith(f"({3 + unread}) Incoming requests")


def test_shortcut_searches(site, page):
    page.goto("/settings")
    page.keyboard.press("Control+k")
    page.wait_for_url(f"{site.base}/search")
    page.goto("/friends")
    page.keyboard.press("Control+k")
    assert page.evaluate("document.activeElement.id") == "q"


def test_back_from_a_profile_leads_to_the_list_that_was_shown(site, page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/search?q=nika")
    page.click(".row__link")
    page.wait_for_url("**/u/nika")
    page.click("[data-back]")
    page.wait_for_url("**/search?q=nika")
    page.goto("/u/nika")
    page.evaluate("history.length")
    assert page.get_attribute("[data-back]", "href") == "/friends"


def test_picture_that_is_too_large_is_refused_before_it_is_sent(page):
    """One that the browser cannot read; of others it sends a part."""
    page.goto("/settings/profile")
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.set_input_files("#avatar", unreadable(5_000_001))
    page.wait_for_function("() => document.getElementById('avatar').validationMessage")
    assert "too large" in page.eval_on_selector("#avatar", "input => input.validationMessage")
    page.click("#profile-form .btn--primary")
    page.wait_for_timeout(500)
    assert sent == []
    page.set_input_files("#avatar", photo())
    page.wait_for_selector("#crop:not([hidden])")
    assert page.eval_on_selector("#avatar", "input => input.validationMessage") == ""


def stripes():
    """Return a picture of three stripes, green, red and blue from left to right, that is larger than what may be sent."""
    picture = Image.new("RGB", (3000, 2000), (255, 0, 0))
    picture.paste((0, 255, 0), (0, 0, 1000, 2000))
    picture.paste((0, 0, 255), (2000, 0, 3000, 2000))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=100)
    return {"name": "stripes.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue() + bytes(5_000_000)}


def stored_colours(page, site):
    """Return the colours in the middle of the left and the right edge of the picture on the profile that is open."""
    (cookie,) = [cookie for cookie in page.context.cookies() if cookie["name"].endswith("_session")]
    path = page.get_attribute(".profile__top img", "src")
    request = urllib.request.Request(site.base + path, headers={"Cookie": f"{cookie['name']}={cookie['value']}"})
    with urllib.request.urlopen(request) as response:
        picture = Image.open(io.BytesIO(response.read())).convert("RGB")
    names = {(True, False, False): "red", (False, True, False): "green", (False, False, True): "blue"}
    return [names[tuple(value > 128 for value in picture.getpixel((x, 128)))] for x in (8, 247)]


@pytest.mark.parametrize("way", ["mouse", "keyboard", "centre", "zoom"])
def test_square_of_the_picture_is_chosen(site, new_page, way):
    page = new_page()
    register(page, f"Painter-{way}")
    page.goto("/settings/profile")
    page.set_input_files("#avatar", stripes())
    view = page.locator(".crop__view")
    expect(view).to_be_visible()
    assert Axe().run(page).response["violations"] == []
    if way == "mouse":
        box = view.bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 900, box["y"] + 100, steps=4)
        page.mouse.up()
    elif way == "keyboard":
        view.focus()
        for _press in range(10):
            page.keyboard.press("ArrowLeft")
    elif way == "zoom":
        page.locator(".crop__zoom input").fill("2.5")
    page.wait_for_function("() => document.getElementById('avatar').files[0].size < 500000")
    page.wait_for_timeout(300)
    # A form that comes back with errors still has the picture.
    page.fill("#public_id", "nika")
    page.click("#profile-form .btn--primary")
    page.wait_for_selector("#public_id-error")
    page.wait_for_function("() => document.getElementById('avatar').files.length")
    page.fill("#public_id", f"by-{way}")
    page.click("#profile-form .btn--primary")
    page.wait_for_url(f"**/u/by-{way}")
    assert stored_colours(page, site) == {"centre": ["green", "blue"], "zoom": ["red", "red"]}.get(
        way, ["green", "red"]
    )
    assert page.problems == []


def plain(colour, side):
    """Return a picture of one colour, for set_input_files."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "JPEG")
    return {"name": f"{colour}.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()}


def test_last_chosen_picture_is_sent_whole_or_not_at_all(site, logged_in_page):
    page = logged_in_page("Chooser")
    page.goto("/settings/profile")
    page.set_input_files("#avatar", stripes())
    page.set_input_files("#avatar", plain("blue", 300))  # before the other was read
    page.click("#profile-form .btn--primary")  # which waits until it is known what is sent
    page.wait_for_url(f"**/u/{page.id}")
    assert stored_colours(page, site) == ["blue", "blue"]
    page.goto("/settings/profile")
    page.set_input_files("#avatar", stripes())
    page.click("#profile-form .btn--primary")  # as large as it is, only its square is sent
    page.wait_for_url(f"**/u/{page.id}")
    assert stored_colours(page, site) == ["green", "blue"]
    page.goto("/settings/profile")
    page.set_input_files("#avatar", plain("red", 300))
    page.wait_for_selector("#crop:not([hidden])")
    page.click("text=Use my initials instead")
    page.wait_for_selector("#picture .avatar[data-hue]")
    page.wait_for_timeout(300)
    assert page.eval_on_selector("#avatar", "input => input.files.length") == 0 and not page.is_visible("#crop")


def test_zoom_stays_when_a_form_comes_back_with_errors(logged_in_page):
    page = logged_in_page("Zoomer")
    page.goto("/settings/profile")
    page.set_input_files("#avatar", photo())
    page.locator(".crop__zoom input").fill("3")
    page.fill("#public_id", "nika")
    page.click("#profile-form .btn--primary")
    page.wait_for_selector("#public_id-error")
    assert page.input_value(".crop__zoom input") == "3"


def stored_presence(site_app, page):
    with site_app.app_context():
        return db.session.scalar(select(User.show_presence).where(User.id == page.user.id))


def test_save_button_of_choices_is_shown_only_without_htmx(logged_in_page):
    page = logged_in_page("Saver")
    buttons = "[data-saves] button:visible"
    page.goto("/settings")
    forms = page.locator("[data-saves]").count()
    assert forms > 3 and page.locator(buttons).count() == 0
    page.route("**/htmx.min.js*", lambda route: route.abort())
    page.reload()
    assert page.locator(buttons).count() == forms
    plain = logged_in_page(page.user, java_script_enabled=False)
    plain.goto("/settings")
    assert plain.locator(buttons).count() == forms


def test_choices_are_stored_as_they_are_shown(site_app, logged_in_page):
    page, other_tab = logged_in_page("Chooses"), logged_in_page("Chooses")
    other_tab.context.clear_cookies()
    other_tab.context.add_cookies(page.context.cookies())
    for tab in (page, other_tab):
        tab.goto("/settings")
    form = page.locator("#privacy-form")

    def answer_slowly(route):
        page.wait_for_timeout(300)
        route.continue_()

    page.route("**/settings/privacy", answer_slowly)
    for label in ("Nobody", "Your friends", "Nobody"):
        form.get_by_label(label).check()
    expect(page.locator("#toasts .notice[data-kind=ok]").last).to_be_visible()
    wait_until(lambda: stored_presence(site_app, page) == "nobody")
    page.wait_for_timeout(1000)
    assert stored_presence(site_app, page) == "nobody"
    # A tab that was opened before changes only what is chosen there.
    other_tab.locator("#privacy-form").get_by_label("Friends and their friends").check()
    expect(other_tab.locator("#toasts .notice[data-kind=ok]").last).to_be_visible()
    assert stored_presence(site_app, page) == "nobody"
    page.unroute_all()
    page.route("**/settings/privacy", lambda route: route.abort())
    form.get_by_label("Your friends").check(force=True)
    expect(form.get_by_label("Nobody")).to_be_checked()


def test_progress_is_shown_while_a_picture_is_sent_and_read(logged_in_page):
    page = logged_in_page("Sender")
    page.goto("/settings/profile")
    page.set_input_files("#avatar", photo(is_noise=True))
    page.wait_for_selector("#crop:not([hidden])")
    texts = []
    page.expose_function("record", lambda text: texts.append(text))
    page.evaluate(
        """() => {
          const progress = () => document.getElementById("avatar-progress");
          const recordShown = () => { if (progress()?.checkVisibility()) record(progress().textContent.trim()); };
          const changes = { subtree: true, childList: true, characterData: true, attributes: true };
          new MutationObserver(recordShown).observe(document.getElementById("profile-form"), changes);
        }"""
    )
    page.route("**/settings/profile", lambda route: route.abort())
    page.click("#profile-form .btn--primary")
    expect(page.locator("#toasts .notice[data-kind=error]")).to_be_visible()
    expect(page.locator("#avatar-progress")).to_be_hidden()
    page.unroute("**/settings/profile")
    texts.clear()
    session = page.context.new_cdp_session(page)
    session.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 50, "downloadThroughput": -1, "uploadThroughput": 200_000},
    )
    page.click("#profile-form .btn--primary")
    page.wait_for_url(f"**/u/{page.id}")
    assert any(re.fullmatch(r"Sending: \d+ %", text) for text in texts) and texts[-1] == "Reading the picture…", texts


def test_page_can_be_installed_as_an_app(page):
    page.goto("/")
    session = page.context.new_cdp_session(page)
    found = session.send("Page.getAppManifest")
    assert found["errors"] == [] and found["url"].split("?")[0].endswith("/static/manifest.webmanifest")
    problems = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
    # Headless browsers and private windows install nothing, whatever the manifest says.
    assert {problem["errorId"] for problem in problems} <= {"in-incognito", "pipeline-restarted"}, problems
    for path in ("/favicon.ico", page.get_attribute("link[rel=apple-touch-icon]", "href")):
        assert page.request.get(path).status == 200


def test_requests_of_the_page_itself_say_so(logged_in_page):
    page, sent = logged_in_page("Idle"), {}

    def record(request):
        sent[request.url.split("?")[0].removeprefix(page.url.split("/friends")[0])] = "x-background" in request.headers

    page.on("request", record)
    page.clock.install()
    with page.expect_response("**/events?*"):
        page.goto("/friends")
    page.dispatch_event("body", "friendship", {"detail": {"data": "nobody"}})
    page.evaluate("() => document.dispatchEvent(new CustomEvent('friendship', { detail: { data: 'nobody-1' } }))")
    page.clock.run_for(1000)
    page.fill("#q", "ni")
    page.clock.run_for(1000)
    page.wait_for_url("**/friends?q=ni")
    assert sent["/events"] and sent["/u/nobody-1/row"] and not sent["/friends"]


def test_answer_of_a_proxy_replaces_nothing(page):
    page.goto("/settings/profile")
    page.fill("#bio", "typed with care")
    statuses = [413, 429, 400]
    page.route("**/settings/profile", lambda route: route.fulfill(status=statuses[0], body="<h1>nginx</h1>"))
    while statuses:
        page.click("#profile-form .btn--primary")
        expect(page.locator("#toasts .notice[data-kind=error]")).to_contain_text("Something went wrong")
        assert page.input_value("#bio") == "typed with care" and "nginx" not in page.content()
        page.click("#toasts [data-dismiss]")
        statuses.pop(0)


def test_who_is_online_appears_without_reloading(site_app, logged_in_page):
    anna, boris = logged_in_page("Anna"), make_person(site_app, "Boris Online", public_id="boris-online")
    befriend(site_app, anna.user, boris)
    anna.clock.install()
    anna.goto("/")
    expect(anna.locator("#online")).to_contain_text("No friends are online")
    with site_app.app_context():
        begin_write(db.session)
        db.session.get(User, boris.id).last_seen_at = now()
        db.session.commit()
    anna.clock.run_for(61_000)
    expect(anna.locator("#online .faces")).to_contain_text("Boris Online")
    row = anna.locator("section:has(#h-friends) [data-user=boris-online]")
    expect(row.locator("[data-online]")).to_be_visible()
    expect(row.locator("[data-when-online]")).not_to_have_attribute("hidden", "")
    with site_app.app_context():
        begin_write(db.session)
        db.session.get(User, boris.id).last_seen_at = now() - timedelta(hours=1)
        db.session.commit()
    anna.clock.run_for(61_000)
    expect(anna.locator("#online")).to_contain_text("No friends are online")
    expect(row.locator("[data-online]")).to_have_count(0)
    expect(row.locator("[data-when-online]")).to_have_attribute("hidden", "")


@pytest.mark.parametrize(
    ("locale", "shown"), [("en-US", r" [1-5]:\d\d PM$"), ("en-GB", r" 1[3-7]:\d\d$"), ("ru-RU", r" 1[3-7]:\d\d$")]
)
def test_times_have_24_hours_where_the_reader_has(new_page, mila_cookie, locale, shown):
    # In the morning, 24-hour times look like those of 12 hours: the browser is where it is three in the afternoon.
    hours = (now().hour - 15 + 12) % 24 - 12
    page = new_page(locale=locale, timezone_id=f"Etc/GMT{hours:+}")
    page.context.add_cookies([mila_cookie])
    page.goto("/settings/sessions")
    assert re.search(shown, page.locator(".session time").first.inner_text())


def test_russian_hours_have_no_leading_zero(site_app, logged_in_page):
    page = logged_in_page("Hours", locale="ru-RU", timezone_id="UTC")
    with site_app.app_context():
        begin_write(db.session)
        db.session.get(User, page.user.id).language = "ru"
        db.session.commit()
    page.goto("/")
    assert page.evaluate("moment('2026-11-27T00:41:00').format('LT')") == "0:41"


def test_same_notice_is_shown_once(logged_in_page):
    page = logged_in_page("Repeated")
    page.goto("/settings")
    notices = page.locator("#toasts .notice")
    for choice in ("Nobody", "Your friends", "Nobody"):
        with page.expect_response("**/settings/privacy"):
            page.locator("#privacy-form").get_by_label(choice).check()
    expect(notices).to_have_count(1)
    page.evaluate("document.querySelectorAll('[name=csrf_token]').forEach(field => { field.value = 'outdated'; })")
    page.evaluate("document.querySelector('meta[name=csrf-token]').content = 'outdated'")
    for choice in ("Night", "Day", "Night"):
        with page.expect_response("**/settings/look"):
            page.locator("#preferences-form").get_by_label(choice).click()
    expect(page.locator("#toasts .notice[data-code='400']")).to_have_count(1)


@pytest.mark.parametrize("answer", ["abort", "fail"])
def test_what_could_not_be_loaded_can_be_asked_for_again(site_app, logged_in_page, answer):
    page = logged_in_page("Again")
    friend = make_person(site_app, f"Loaded {page.id}")
    befriend(site_app, page.user, friend)

    def refuse(route):
        route.abort() if answer == "abort" else route.fulfill(status=503, body="")

    page.goto("/friends")
    again = page.locator("#toasts").get_by_role("button", name="Try again")
    page.route(re.compile(r"/friends\?q="), refuse)
    page.fill("#q", "nobody at all")
    expect(again).to_have_count(1)
    page.unroute_all()
    again.click()
    expect(page.locator("#results h2")).to_contain_text("No results")
    expect(page.locator("#toasts .notice")).to_have_count(0)
    assert page.url.endswith("/friends?q=nobody+at+all")
    page.fill("#q", "")
    page.route(f"**/u/{friend.public_id}", refuse)
    page.click(".row__link")
    expect(again).to_be_visible()
    page.unroute_all()
    again.click()
    expect(page.locator("#detail h1")).to_have_text(friend.username)
    assert page.url.endswith(f"/u/{friend.public_id}")


def test_theme_color_follows_the_chosen_theme(logged_in_page):
    page = logged_in_page("Themed", color_scheme="light")
    page.goto("/settings")
    current = """() => [...document.querySelectorAll("meta[name=theme-color]")]
      .filter(({ media }) => matchMedia(media || "all").matches).map(({ content }) => content)"""
    dark, light = ["#090c15"], ["#e9ecf5"]
    assert page.evaluate(current) == light
    for theme, color in (("Night", dark), ("Day", light), ("Night", dark), ("Same as device", light)):
        with page.expect_response("**/settings/look"):
            page.locator("#preferences-form").get_by_label(theme).check(force=True)
        assert page.evaluate(current) == color, theme
    with page.expect_response("**/settings/look"):
        page.locator("#preferences-form").get_by_label("Night").check(force=True)
    page.reload()
    assert page.evaluate(current) == dark


@pytest.mark.parametrize("width", [1000, 1280])
def test_search_key_goes_to_the_search_where_no_box_is_shown(two_friends, width):
    anna, _boris, path = two_friends(viewport={"width": width, "height": 800})
    anna.goto(path)
    anna.keyboard.press("Control+k")
    if width < 1100:
        anna.wait_for_url("**/search")
    else:
        expect(anna.locator("#q")).to_be_focused()
