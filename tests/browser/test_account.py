"""The life of an account: register, log in, edit the profile, reset the password, revoke sessions, delete it."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PASSWORD, demo_password, fill_new_password, latest_email, log_in, photo, register

NEW_PASSWORD = "another lamp in the night 8"


@pytest.mark.parametrize(
    ("javascript", "width"), [(True, 390), (False, 1280)], ids=["with JavaScript", "without JavaScript"]
)
def test_account_lifecycle(site, new_page, javascript, width):
    name = f"Visitor {'js' if javascript else 'plain'} {'phone' if width == 390 else 'desk'}"
    email = f"{name.lower().replace(' ', '')}@nox.example"
    page = new_page(java_script_enabled=javascript, viewport={"width": width, "height": 844})

    # Register; forms with errors keep what was typed.
    page.goto("/")
    page.click("text=Create account")
    page.fill("#username", name)
    page.fill("#email", email)
    fill_new_password(page, "password")
    page.click(".btn--primary")
    page.wait_for_selector("#password-error")
    assert page.input_value("#email") == email and page.input_value("#username") == name
    fill_new_password(page, PASSWORD)
    page.click(".btn--primary")
    page.wait_for_url(f"{site.base}/")
    public_id = re.search(r"@(nox-\w+)", page.inner_text(".notice[data-kind=ok]"))[1]

    # Log out, and in again by the Public ID.
    page.goto(f"/u/{public_id}")
    page.click("#profile >> text=Log out")
    page.wait_for_url(f"{site.base}/")
    page.goto("/auth/login")
    page.fill("#identifier", public_id)
    page.fill("#password", "not this one 1")
    page.click(".btn--primary")
    page.wait_for_selector("#errors")
    assert page.input_value("#identifier") == public_id
    page.fill("#password", PASSWORD)
    page.click(".btn--primary")
    page.wait_for_url(f"{site.base}/")

    # Edit the profile: first with an error, then with a photo as a phone makes it.
    page.click("text=Edit profile")
    page.fill("#public_id", "mila")
    page.fill("#bio", "Hello from the browser.")
    page.click(".btn--primary")
    page.wait_for_selector("#public_id-error")
    assert page.input_value("#bio") == "Hello from the browser."
    page.set_input_files("#avatar", photo())
    own_id = f"visitor{'js' if javascript else 'plain'}{width}"
    page.fill("#public_id", own_id)
    page.click(".btn--primary")
    page.wait_for_url(f"**/u/{own_id}")
    page.wait_for_selector(".notice[data-kind=ok]")
    avatar = page.locator(".profile__top .avatar img")
    assert avatar.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
    assert "Hello from the browser." in page.inner_text(".bio")

    # Reset the password, which logs out the other device.
    other = new_page(java_script_enabled=javascript)
    log_in(other, email)
    page.goto(f"/u/{own_id}")
    page.click("#profile >> text=Log out")
    page.wait_for_url(f"{site.base}/")
    page.goto("/auth/login")
    page.click("text=Forgot password?")
    page.fill("#email", email)
    page.click(".btn--primary")
    page.wait_for_url("**/auth/reset/sent")
    assert email in page.inner_text(".notice")
    text = latest_email(site, email).get_body(("plain",)).get_content()
    page.goto(re.search(r"http://\S+", text)[0])
    fill_new_password(page, NEW_PASSWORD)
    page.click(".btn--primary")
    page.wait_for_url("**/auth/login")
    other.goto("/settings")
    assert "/auth/login?next=/settings" in other.url
    log_in(page, email, NEW_PASSWORD)

    # Log out everywhere else.
    log_in(other, email, NEW_PASSWORD)
    page.goto("/settings")
    page.click("text=See devices")
    page.click("text=Log out everywhere else")
    expect(page.locator("[data-session]")).to_have_count(1)
    other.goto("/settings")
    assert "/auth/login" in other.url

    # Delete the account.
    page.goto("/settings")
    page.click("text=Delete account…")
    page.fill("#password", NEW_PASSWORD)
    page.click("text=Delete my account")
    page.wait_for_url(f"{site.base}/")
    assert "Your account is deleted" in page.inner_text("#main")
    assert page.problems == [] and other.problems == []


def test_back_button_after_logout_leads_to_login(site, new_page):
    page = new_page()
    register(page, "Backer")
    page.goto("/settings")
    page.goto("/settings/profile")
    page.click(".nav__foot button")
    page.wait_for_url(f"{site.base}/")
    page.go_back()
    page.wait_for_url("**/auth/login**")


def test_tabs_restored_at_once_all_stay_logged_in_and_their_forms_work(new_page):
    """As when a browser starts again: without the session cookie, which ended with it."""
    page = new_page(viewport={"width": 1280, "height": 800})
    register(page, "Rita")
    page.goto("/settings")
    session = next(cookie["name"] for cookie in page.context.cookies() if cookie["name"].endswith("_session"))
    page.context.clear_cookies(name=session)
    page.evaluate("() => { for (let tab = 0; tab < 4; tab++) window.open('/settings') }")
    page.wait_for_timeout(500)
    tabs = page.context.pages[1:]
    assert len(tabs) == 4  # with the first as many event streams as leave a connection free
    for tab in tabs:
        tab.wait_for_selector("#nav-picture")
        assert tab.url.endswith("/settings")
    for theme, tab in zip(("night", "day") * 2, tabs, strict=True):
        with tab.expect_response("**/settings/look") as answer:
            tab.click(f"label:has(input[name=theme][value={theme}])")
        assert answer.value.ok


def test_browser_without_cookies_is_told_what_to_do(new_page):
    page = new_page(viewport={"width": 390, "height": 844}, java_script_enabled=False)
    page.route("**/auth/login", lambda route: route.continue_(headers={**route.request.headers, "cookie": ""}))
    page.goto("/auth/login")
    page.context.clear_cookies()
    page.fill("#identifier", "nobody")
    page.fill("#password", PASSWORD)
    page.click("#login .btn--primary")
    expect(page.locator("h1")).to_have_text("Cookies are needed")


@pytest.mark.parametrize("path", ["/auth/register", "/auth/reset"])
def test_browser_sends_the_domain_that_was_typed(new_page, path):
    """Chromium would change what is typed into a field of the type email."""
    page = new_page(viewport={"width": 390, "height": 844})
    page.goto(path)
    for field in page.locator("form input[required]:visible").all():
        field.fill("target123")
    page.fill("#email", "zoe@straße.example")
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.click(".btn--primary")
    assert "stra%C3%9Fe.example" in sent.value.post_data or "straße" in sent.value.post_data


def test_new_password_is_typed_once_and_can_be_shown(site, new_page):
    page = new_page(viewport={"width": 390, "height": 844})
    page.goto("/auth/register")
    assert not page.is_visible("#password2") and page.is_disabled("#password2")
    page.fill("#username", "Shown Once")
    page.fill("#email", "shown@nox.example")
    page.fill("#password", "password")
    page.click("text=Show")
    assert page.get_attribute("#password", "type") == "text"
    assert page.get_attribute("[data-show-password]", "aria-pressed") == "true"
    assert page.evaluate("document.activeElement.id") == "password"
    page.click(".btn--primary")
    page.wait_for_selector("#password-error")
    assert page.evaluate("document.activeElement.id") == "errors"
    assert not page.is_visible("#password2") and page.is_visible("[data-show-password]")
    page.fill("#password", PASSWORD)
    page.click(".btn--primary")
    page.wait_for_url(f"{site.base}/")


def test_free_name_is_filled_in(site, new_page):
    register(new_page(), "Takenname")
    page = new_page()
    page.goto("/auth/register")
    page.fill("#username", "takenname")
    page.fill("#email", "taken2@nox.example")
    page.fill("#password", PASSWORD)
    page.click(".btn--primary")
    free = page.wait_for_selector("[data-fill=username]")
    name = free.inner_text()
    free.click()
    assert page.input_value("#username") == name and page.input_value("#email") == "taken2@nox.example"
    page.fill("#password", PASSWORD)
    page.click(".btn--primary")
    page.wait_for_url(f"{site.base}/")


def test_language_and_theme_of_a_visitor_keep_what_was_typed(site, new_page):
    page = new_page()
    page.goto("/auth/register")
    page.fill("#username", "Typed Before")
    page.fill("#email", "typed@nox.example")
    page.fill("#password", PASSWORD)
    page.click("text=Show")
    page.click(".look >> text=Русский")
    page.wait_for_selector("html[lang=ru]")
    page.click(".look button[name=theme][value=night]")
    page.wait_for_selector("html[data-theme=night]")
    assert page.input_value("#username") == "Typed Before" and page.input_value("#email") == "typed@nox.example"
    assert page.input_value("#password") == ""
    page.reload()
    assert page.input_value("#username") == ""
    page.goto("/auth/login")
    page.fill("#identifier", "typed")
    page.uncheck("#remember_me")
    page.click(".look >> text=English")
    page.wait_for_selector("html[lang=en]")
    assert page.input_value("#identifier") == "typed" and not page.is_checked("#remember_me")
    assert page.problems == []


def test_theme_can_be_switched_on_the_page_of_a_reset_link(site_app, new_page):
    printed = site_app.test_cli_runner().invoke(args=["users", "reset-link", "mila@demo.example"]).output
    page = new_page()
    page.goto(re.search(r"/auth/reset/\S+", printed)[0])
    page.fill("#password", PASSWORD)
    page.click(".look button[name=theme][value=night]")
    page.wait_for_selector("html[data-theme=night]")
    assert page.input_value("#password") == "" and page.problems == []


@pytest.mark.parametrize(
    "path", ["/settings/password", "/settings/delete", "/settings/email", "/auth/login", "/auth/reset"]
)
def test_focus_goes_to_the_errors_of_a_form(site, new_page, path):
    page = new_page(viewport={"width": 390, "height": 844})
    if path.startswith("/settings"):
        log_in(page, "mila@demo.example", demo_password(site))
    page.goto(path)
    page.eval_on_selector_all("main form", "forms => forms.forEach((form) => { form.noValidate = true; })")
    page.click("main form:not(.look) :is(.btn--primary, .btn--danger)")
    page.wait_for_selector("#errors")
    assert page.evaluate("document.activeElement.id") == "errors" and page.problems == []
