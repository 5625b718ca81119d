"""What htmx and app.js add to plain forms: one test for each, since htmx 4 is young and may change."""

import re
from datetime import datetime, timedelta, timezone

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import demo_password, log_in, photo, register


@pytest.fixture
def page(new_page, mila_cookie):
    page = new_page()
    page.context.add_cookies([mila_cookie])
    return page


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


def test_error_notice_of_server_is_shown_and_input_kept(page):
    page.goto("/settings/profile")
    page.fill("#bio", "typed with care")
    file = photo()
    file["buffer"] += bytes(5_000_001)
    page.set_input_files("#avatar", file)
    page.eval_on_selector("#avatar", "input => input.setCustomValidity('')")  # as another setting of the server would
    page.click(".btn--primary")
    page.wait_for_selector("#toasts .notice[data-code='413']")
    assert "Too big to carry" in page.inner_text("#toasts")
    assert page.input_value("#bio") == "typed with care"


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


def test_title_counts_the_requests(page):
    page.goto("/friends/incoming")
    assert re.match(r"\(3\) Incoming requests", page.title())
    page.click("text=Decline >> nth=0")
    page.wait_for_selector("[data-done]")
    assert re.match(r"\(2\) Incoming requests", page.title())
    page.click("[data-done] >> text=Undo")
    page.wait_for_selector("[data-done]", state="detached")
    assert re.match(r"\(3\) Incoming requests", page.title())


def test_shortcut_searches(site, page):
    page.goto("/settings")
    page.keyboard.press("Control+k")
    page.wait_for_url(f"{site.base}/search")
    page.goto("/friends")
    page.keyboard.press("Control+k")
    assert page.evaluate("document.activeElement.id") == "q"


def test_back_from_a_profile_leads_to_the_list_that_was_shown(site, page):
    page.goto("/search?q=nika")
    page.click(".row__link")
    page.wait_for_url("**/u/nika")
    page.click("[data-back]")
    page.wait_for_url("**/search?q=nika")
    page.goto("/u/nika")
    page.evaluate("history.length")
    assert page.get_attribute("[data-back]", "href") == "/friends"


def test_picture_that_is_too_large_is_refused_before_it_is_sent(page):
    page.goto("/settings/profile")
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    file = photo()
    file["buffer"] += bytes(5_000_001)
    page.set_input_files("#avatar", file)
    assert "too large" in page.eval_on_selector("#avatar", "input => input.validationMessage")
    page.click("#profile-form .btn--primary")
    page.wait_for_timeout(500)
    assert sent == []
    page.set_input_files("#avatar", photo())
    assert page.eval_on_selector("#avatar", "input => input.validationMessage") == ""
