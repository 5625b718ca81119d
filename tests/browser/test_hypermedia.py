"""One test for each thing that htmx and app.js do: htmx 4 is young, and plain forms must go on working beside it."""

import pytest

from tests.browser.conftest import demo_password, photo, register, sign_in


@pytest.fixture
def page(site, visit):
    page = visit()
    sign_in(page, "mila@demo.example", demo_password(site))
    return page


def test_a_refused_form_is_swapped_in_place_and_its_errors_get_the_focus(page):
    page.goto("/settings/profile")
    page.evaluate("window.stays = true")
    page.fill("#public_id", "nika")
    page.click(".btn--primary")
    page.wait_for_selector("#errors")
    assert page.evaluate("window.stays && document.activeElement.id") == "errors"
    assert page.url.endswith("/settings/profile")
    page.click("#errors a")
    assert page.evaluate("document.activeElement.id") == "public_id"


def test_busy_buttons_say_so_and_a_double_click_is_one_request(page):
    page.goto("/settings/sessions")
    page.goto("/settings/password")
    posts = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.route("**/settings/password", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.fill("#current_password", "not my password 1")
    page.fill("#password", "a new lamp at night")
    page.fill("#password2", "a new lamp at night")
    page.dblclick(".btn--primary")
    assert page.is_disabled(".btn--primary")
    page.wait_for_selector("#current_password-error")
    assert len(posts) == 1 and not page.is_disabled(".btn--primary")


def test_a_network_that_fails_is_told_and_loses_nothing(page):
    page.goto("/settings/profile")
    page.fill("#bio", "typed on a train")
    page.route("**/settings/profile", lambda route: route.abort())
    page.click(".btn--primary")
    page.wait_for_selector("#toasts .notice[data-kind=error]")
    assert "network does not answer" in page.inner_text("#toasts")
    assert page.input_value("#bio") == "typed on a train"
    page.click("#toasts [data-dismiss]")
    assert page.locator("#toasts .notice").count() == 0


@pytest.mark.parametrize("status", [500, 502, 403, 404])
def test_a_server_that_fails_is_told_and_loses_nothing(page, status):
    page.goto("/settings/profile")
    page.fill("#bio", "typed with care")
    page.route("**/settings/profile", lambda route: route.fulfill(status=status, body="<h1>Bad gateway</h1>"))
    page.click(".btn--primary")
    page.wait_for_selector("#toasts .notice[data-kind=error]")
    assert "Something went wrong" in page.inner_text("#toasts")
    assert page.input_value("#bio") == "typed with care"


def test_the_servers_own_words_are_shown_where_it_has_any(page):
    page.goto("/settings/profile")
    page.fill("#bio", "typed with care")
    file = photo()
    file["buffer"] += bytes(5_000_001)
    page.set_input_files("#avatar", file)
    page.click(".btn--primary")
    page.wait_for_selector("#toasts .notice[data-code='413']")
    assert "Too big to carry" in page.inner_text("#toasts")
    assert page.input_value("#bio") == "typed with care"


def test_a_stale_token_offers_to_load_again_and_loses_nothing(page):
    page.goto("/settings/profile")
    page.fill("#bio", "typed long ago")
    page.eval_on_selector_all("input[name=csrf_token]", "fields => fields.forEach(field => { field.value = 'stale'; })")
    page.click("#profile-form .btn--primary")
    page.wait_for_selector("#toasts .notice[data-code='400']")
    assert page.get_attribute("#toasts .notice a", "href") == "/settings/profile"
    assert page.input_value("#bio") == "typed long ago"


def test_a_session_that_ended_leads_to_signing_in_and_back(page):
    with page.expect_response("**/events?*"):
        page.goto("/settings/sessions")
    page.context.clear_cookies()
    page.click(".session button >> nth=0")
    page.wait_for_url("**/auth/login?next=/settings/sessions")


def test_the_picture_is_changed_in_place_in_both_places(site, visit):
    page = visit()
    register(page, "Painter")
    sign_in(page, "painter@nox.example")
    page.goto("/settings/profile")
    page.set_input_files("#avatar", photo())
    page.click(".btn--primary")
    page.wait_for_url("**/u/**")
    page.goto("/settings/profile")
    page.evaluate("window.stays = true")
    page.fill("#bio", "typed before")
    assert page.locator("#picture img").count() == page.locator("#nav-picture img").count() == 1
    page.click("text=Use my initials instead")
    page.wait_for_selector("#picture .avatar[data-hue]")
    assert page.locator("#nav-picture .avatar[data-hue]").count() == 1
    assert page.evaluate("window.stays") and page.input_value("#bio") == "typed before"
    assert "initials are back" in page.inner_text("#toasts")
    assert page.trouble == []


def test_the_theme_shows_at_once_and_the_language_loads_the_page(site, visit):
    page = visit()
    register(page, "Looker")
    sign_in(page, "looker@nox.example")
    page.goto("/settings")
    with page.expect_response("**/settings/look"):
        page.check("input[value=day]", force=True)
    assert page.get_attribute("html", "data-theme") == "day"
    page.select_option("#language", "ru")
    page.wait_for_selector("html[lang=ru]")
    assert page.get_attribute("html", "data-theme") == "day"
    assert page.is_checked("input[value=day]")
    other = visit()
    sign_in_russian = other.goto("/auth/login")
    assert sign_in_russian.status == 200
    assert page.trouble == []


def test_the_bio_is_counted_while_typing_as_the_server_counts(page):
    page.goto("/settings/profile")
    page.fill("#bio", "🌙" * 10)
    assert page.inner_text("#bio-hint") == "130 of 140 characters left"


def test_times_are_utc_without_script_and_the_readers_own_with_it(site, visit):
    plain = visit(java_script_enabled=False)
    sign_in(plain, "mila@demo.example", demo_password(site))
    plain.goto("/settings/sessions")
    assert "UTC" in plain.inner_text("#sessions time >> nth=0")
    page = visit(timezone_id="Asia/Tokyo", locale="ru-RU")
    page.goto("/auth/login")
    page.fill("#identifier", "mila@demo.example")
    page.fill("#password", demo_password(site))
    page.click(".btn--primary")
    page.wait_for_url(f"{site.base}/")
    page.goto("/settings/sessions")
    page.wait_for_selector("#sessions time:not(.flask-moment)")
    text = page.inner_text("#sessions time >> nth=0")
    assert "Сегодня" in text
    hour = page.evaluate("new Date().toLocaleString('ru-RU', {hour: 'numeric', timeZone: 'Asia/Tokyo'})")
    assert f"{int(hour)}:" in text


def test_times_are_shown_anew_after_a_swap(page):
    page.goto("/settings/sessions")
    page.click(".session:not(:has(.count)) button >> nth=0")
    page.wait_for_selector("#toasts .notice[data-kind=ok]")
    page.wait_for_selector("#sessions time:not(.flask-moment)")
    assert page.locator("#sessions time.flask-moment").count() == 0


def test_notices_of_what_went_well_leave_and_errors_stay(page):
    page.goto("/settings/profile")
    page.clock.install()
    page.goto("/settings/profile")
    page.click(".btn--primary")
    page.wait_for_selector("#toasts .notice[data-kind=ok]")
    page.clock.fast_forward(9000)
    page.wait_for_selector("#toasts .notice", state="detached")
