"""The whole visit, with JavaScript and without: register, sign in, dress up, forget, get back in, sign out elsewhere."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PASSWORD, letter_to, photo, register, sign_in

NEW = "another lamp in the night 8"


@pytest.mark.parametrize("script", [True, False], ids=["with JavaScript", "without JavaScript"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_whole_visit(site, visit, script, width):
    name = f"Visitor {'js' if script else 'plain'} {'phone' if width == 390 else 'desk'}"
    email = f"{name.lower().replace(' ', '')}@nox.example"
    page = visit(java_script_enabled=script, viewport={"width": width, "height": 844})

    # A newcomer finds the way from the landing page, and errors keep what was typed.
    page.goto("/")
    page.click("text=Create account")
    page.fill("#username", name)
    page.fill("#email", email)
    page.fill("#password", "password")
    page.fill("#password2", "password")
    page.click(".btn--primary")
    page.wait_for_selector("#password-error")
    assert page.input_value("#email") == email and page.input_value("#username") == name
    page.fill("#password", PASSWORD)
    page.fill("#password2", PASSWORD)
    page.click(".btn--primary")
    page.wait_for_url("**/auth/login")
    assert "Thank you" in page.inner_text(".notice[data-kind=info]")
    page.fill("#identifier", email)
    page.fill("#password", "not this one 1")
    page.click(".btn--primary")
    page.wait_for_selector("#errors")
    assert page.input_value("#identifier") == email
    page.fill("#password", PASSWORD)
    page.click(".btn--primary")
    page.wait_for_url(f"{site.base}/")

    # A phone photo, and an edit with an error first.
    page.click("text=Edit profile")
    page.fill("#public_id", "mila")
    page.fill("#bio", "Hello from the browser.")
    page.click(".btn--primary")
    page.wait_for_selector("#public_id-error")
    assert page.input_value("#bio") == "Hello from the browser."
    page.set_input_files("#avatar", photo())
    own_id = f"visitor{'js' if script else 'plain'}{width}"
    page.fill("#public_id", own_id)
    page.click(".btn--primary")
    page.wait_for_url(f"**/u/{own_id}")
    page.wait_for_selector(".notice[data-kind=ok]")
    picture = page.locator(".profile__top .avatar img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
    assert "Hello from the browser." in page.inner_text(".bio")

    # Another device; then the password is forgotten, and the letter lets one back in.
    other = visit(java_script_enabled=script)
    sign_in(other, email)
    page.goto(f"/u/{own_id}")
    page.click("#profile >> text=Log out")
    page.wait_for_url(f"{site.base}/")
    page.goto("/auth/login")
    page.click("text=Forgot password?")
    page.fill("#email", email)
    page.click(".btn--primary")
    page.wait_for_url("**/auth/reset/sent")
    assert email in page.inner_text(".notice")
    text = letter_to(site, email).get_body(("plain",)).get_content()
    page.goto(re.search(r"http://\S+", text)[0])
    page.fill("#password", NEW)
    page.fill("#password2", NEW)
    page.click(".btn--primary")
    page.wait_for_url("**/auth/login")
    other.goto("/settings")
    assert "/auth/login?next=/settings" in other.url
    sign_in(page, email, NEW)

    # Signing out elsewhere, from the settings.
    sign_in(other, email, NEW)
    page.goto("/settings")
    page.click("text=See devices")
    page.click("text=Log out everywhere else")
    expect(page.locator("[data-session]")).to_have_count(1)
    other.goto("/settings")
    assert "/auth/login" in other.url

    # And leaving for good.
    page.goto("/settings")
    page.click("text=Delete account…")
    page.fill("#password", NEW)
    page.click("text=Delete my account")
    page.wait_for_url(f"{site.base}/")
    assert "Your account is deleted" in page.inner_text("#main")
    assert page.trouble == [] and other.trouble == []


def test_the_back_button_shows_nothing_after_signing_out(site, visit):
    page = visit()
    register(page, "Backer")
    sign_in(page, "backer@nox.example")
    page.goto("/settings")
    page.goto("/settings/profile")
    page.click(".nav__foot button")
    page.wait_for_url(f"{site.base}/")
    page.go_back()
    page.wait_for_url("**/auth/login**")
