"""The first minutes: from a friend's link to being friends, confirming and changing an address, inviting others."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PASSWORD, demo_password, fill_new_password, latest_email, log_in, register
from tests.browser.test_pages import check_accessibility_and_width

PHONE = {"width": 390, "height": 844}


def make_invitation(page):
    """Make an invitation; return its link."""
    page.goto("/settings/invitations")
    page.fill("#uses", "50")
    page.click("#invitation-form .btn--primary")
    return page.locator(".invitation__link input").first.input_value()


def latest_link(site, address):
    """Return the link in the newest e-mail to an address."""
    return re.search(r"http://\S+", latest_email(site, address).get_body(("plain",)).get_content())[0]


@pytest.fixture(scope="module")
def invitation(site, chromium):
    """A link of Mila's."""
    context = chromium.new_context(base_url=site.base)
    page = context.new_page()
    log_in(page, "mila@demo.example", demo_password(site))
    link = make_invitation(page)
    context.close()
    return link


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_from_a_link_to_friends_takes_four_pages_and_six_fields(site, new_page, invitation, javascript):
    name = f"Newcomer {'with' if javascript else 'without'}"
    page = new_page(viewport=PHONE, java_script_enabled=javascript)
    pages, fields = [], 0
    page.on("framenavigated", lambda frame: pages.append(frame.url))
    page.goto(invitation)
    assert "Mila" in page.inner_text("h1")
    page.click("text=Create account")
    for field in page.locator("#register input:visible").all():
        value = {"username": name, "email": f"{name.replace(' ', '').lower()}@nox.example"}
        field.fill(value.get(field.get_attribute("id"), PASSWORD))
        fields += 1
    page.click("#register .btn--primary")
    page.wait_for_selector("[data-user=mila]")
    assert "You and Mila are friends now." in page.inner_text(".notice[data-kind=ok]")
    print(f"{name}: {len(pages)} pages, {fields} fields")
    assert len(pages) <= 4 and fields <= 6, (pages, fields)
    page.goto("/u/mila")
    assert page.locator("[data-friendship=friends]").count() == 1
    assert page.problems == []


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_somebody_who_is_here_logs_in_and_becomes_a_friend(site, new_page, invitation, javascript):
    name = f"Member{'with' if javascript else 'without'}"
    register(new_page(java_script_enabled=javascript), name)
    page = new_page(viewport=PHONE, java_script_enabled=javascript)
    page.goto(invitation)
    page.click("text=Log in")
    page.fill("#identifier", f"{name.lower()}@nox.example")
    page.fill("#password", PASSWORD)
    page.click("#login .btn--primary")
    page.wait_for_url(invitation)
    page.click("text=Be friends")
    page.wait_for_url("**/u/mila")
    assert page.locator("[data-friendship=friends]").count() == 1
    page.goto(invitation)
    expect(page.locator("text=You are friends already")).to_be_visible()
    assert page.problems == []


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_address_is_confirmed_changed_and_given_back(site, new_page, javascript):
    name = f"Changer{'js' if javascript else 'plain'}"
    old, new = f"{name.lower()}@nox.example", f"other{javascript}@nox.example".lower()
    page = new_page(viewport=PHONE, java_script_enabled=javascript)
    register(page, name)
    page.click("text=See your address")
    page.wait_for_url("**/settings/email")
    page.click("text=Send the link again")
    expect(page.locator(".notice")).to_contain_text(f"{old} is your address once it is confirmed")
    guest = new_page(viewport=PHONE, java_script_enabled=javascript)
    page.wait_for_timeout(300)  # until the second e-mail is written
    guest.goto(latest_link(site, old))
    if javascript:
        check_accessibility_and_width(guest, "confirm")
    guest.click("#confirm-email .btn--primary")
    guest.wait_for_url("**/auth/login")
    expect(guest.locator(".notice")).to_contain_text(f"{old} is confirmed")

    page.goto("/settings/email")
    assert "not confirmed yet" not in page.inner_text("#main")
    page.fill("#email", new)
    page.fill("#password", "not this one 1")
    page.click("#email-form .btn--primary")
    page.wait_for_selector("#password-error")
    assert page.input_value("#email") == new
    if javascript:
        assert page.evaluate("document.activeElement.id") == "errors"
    page.fill("#password", PASSWORD)
    page.click("#email-form .btn--primary")
    expect(page.locator("#unconfirmed-email")).to_contain_text(f"{new} is not confirmed yet")
    page.goto(latest_link(site, new))
    page.click("#confirm-email .btn--primary")
    page.wait_for_url("**/settings/email")
    assert new in page.inner_text("#email-settings") and old not in page.inner_text("#email-settings")

    page.wait_for_timeout(300)
    page.goto("about:blank")  # or its event stream would report that the session has ended
    guest.goto(latest_link(site, old))
    if javascript:
        check_accessibility_and_width(guest, "undo")
    fill_new_password(guest, "another lamp in the night 8")
    guest.click("#undo-email-change .btn--primary")
    guest.wait_for_url("**/auth/login")
    page.goto("/settings")
    assert "/auth/login" in page.url
    log_in(page, old, "another lamp in the night 8")
    assert page.problems == [] and guest.problems == []


def test_invitation_is_copied_drawn_and_revoked(site, new_page):
    page = new_page(viewport=PHONE)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    register(page, "Inviter")
    page.goto("/friends")
    page.click("text=Make an invitation link")
    page.wait_for_url("**/settings/invitations")
    link = page.locator(".invitation__link input").first.input_value()
    page.click("[data-copy]")
    expect(page.locator("[data-copy]").first).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == link
    expect(page.locator("[data-copy]").first).to_contain_text("Copy ", timeout=6000)
    page.click("summary")
    drawn = page.locator("img.code")
    assert drawn.evaluate("image => image.decode().then(() => image.naturalWidth)") > 20
    check_accessibility_and_width(page, "invitations")
    page.fill("#uses", "500")
    page.click("#invitation-form .btn--primary")
    page.wait_for_selector("#uses-error")
    assert page.evaluate("document.activeElement.id") == "errors"
    page.click("text=Revoke")
    expect(page.locator("[data-invitation]")).to_have_count(0)
    guest = new_page(viewport=PHONE)
    guest.goto(link)
    assert "404" in guest.inner_text("main")
    assert page.problems == [] and guest.problems == []


def test_public_id_and_profile_link_are_copied(site, new_page):
    page = new_page(viewport=PHONE)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    register(page, "Copier")
    page.click(".nav >> text=Profile")
    public_id = page.inner_text("#profile .handle").split()[0].removeprefix("@")
    page.click("[data-copy] >> nth=0")
    assert page.evaluate("navigator.clipboard.readText()") == public_id
    page.click("text=Copy link")
    assert page.evaluate("navigator.clipboard.readText()") == f"{site.base}/u/{public_id}"
    plain = new_page(java_script_enabled=False)
    log_in(plain, "copier@nox.example")
    plain.goto(f"/u/{public_id}")
    assert plain.locator("[data-copy]:visible").count() == 0


def test_strength_is_told_while_typing(site, new_page):
    page = new_page(viewport=PHONE)
    page.goto("/auth/register")
    page.locator("#password").press_sequentially("sunshine")
    expect(page.locator("#password-strength")).to_contain_text("too easy")
    assert page.evaluate("document.activeElement.id") == "password"
    page.locator("#password").press_sequentially(" over the hills")
    expect(page.locator("#password-strength")).to_contain_text("strong")
    assert page.input_value("#password") == "sunshine over the hills" and page.problems == []


@pytest.mark.parametrize(("theme", "language"), [("dark", "ru"), ("light", "en")])
def test_pages_of_an_invitation_are_accessible(new_page, invitation, theme, language):
    guest = new_page(viewport=PHONE, color_scheme=theme, locale=language)
    guest.goto(invitation)
    check_accessibility_and_width(guest, "invitation for a visitor")
    guest.click(".btn--primary")
    guest.wait_for_selector("#register")
    check_accessibility_and_width(guest, "registering with an invitation")
    name = "Невеста" if language == "ru" else "Bride"
    guest.fill("#username", name)
    guest.fill("#email", f"bride{language}@nox.example")
    guest.fill("#password", PASSWORD)
    guest.click("#register .btn--primary")
    guest.wait_for_selector("#nav-picture")
    check_accessibility_and_width(guest, "home of a newcomer")
    guest.goto(invitation)
    check_accessibility_and_width(guest, "invitation of a friend")
    guest.goto("/settings/email")
    check_accessibility_and_width(guest, "address that is not confirmed")


def test_home_of_somebody_without_friends_is_accessible(new_page):
    page = new_page(viewport=PHONE)
    register(page, "Lonely")
    page.wait_for_selector("#first-steps")
    check_accessibility_and_width(page, "first steps")
    page.goto("/friends")
    check_accessibility_and_width(page, "no friends")
