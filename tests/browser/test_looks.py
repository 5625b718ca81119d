"""Every page, in both themes and both languages: no violation of accessibility, no sideways scrolling, nothing foreign."""

import re
import urllib.request

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.architecture.routes import ROUTES
from tests.browser.conftest import demo_password, sign_in

axe = Axe()
PAGES = {endpoint: route.path.replace("alice", "mila") for endpoint, route in ROUTES.items() if route.page}
OTHERS = {"a friend": "/u/nika", "nowhere": "/nowhere", "a large number": "/settings/sessions/1/revoke"}


def look_at(page, where):
    """Fail if the page has an accessibility violation or scrolls sideways at 320 px."""
    found = axe.run(page).response["violations"]
    told = [(violation["id"], [node["html"][:120] for node in violation["nodes"]]) for violation in found]
    assert not told, (where, told)
    size = page.viewport_size
    page.set_viewport_size({"width": 320, "height": 700})
    page.wait_for_function("innerWidth === 320")
    wide = page.evaluate(
        "new Promise(seen => requestAnimationFrame(() => requestAnimationFrame(() => seen(document.documentElement.scrollWidth))))"
    )
    assert wide <= 320, (where, wide)
    page.set_viewport_size(size)


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("theme", ["night", "day"])
def test_every_page(site, visit, theme, language):
    guest = visit(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    cookies = [
        {"name": name, "value": value, "url": site.base} for name, value in (("theme", theme), ("language", language))
    ]
    guest.context.add_cookies(cookies)
    for endpoint, path in PAGES.items():
        if ROUTES[endpoint].public:
            guest.goto(path)
            assert guest.get_attribute("html", "lang") == language
            look_at(guest, f"guest {path}")
    page = visit(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    sign_in(page, "mila@demo.example", demo_password(site))
    page.evaluate(
        """([theme, language]) => fetch("/settings/look", {method: "POST", headers: {
          "X-CSRFToken": document.querySelector("meta[name=csrf-token]").content}, body: new URLSearchParams({theme, language})})""",
        [theme, language],
    )
    for where, path in {**PAGES, **OTHERS}.items():
        page.goto(path)
        assert page.get_attribute("html", "lang") == language, path
        assert page.get_attribute("html", "data-theme") == theme, path
        look_at(page, where)
    page.goto("/settings/profile")
    page.fill("#public_id", "nika")
    page.fill("#username", "a  b")
    page.click(".btn--primary")
    page.wait_for_selector("#errors")
    look_at(page, "an edit with errors")
    assert guest.trouble == [] and [text for text in page.trouble if "405" not in text] == []


def test_without_script_every_page_is_all_there(site, visit):
    page = visit(java_script_enabled=False)
    sign_in(page, "mila@demo.example", demo_password(site))
    for endpoint, path in PAGES.items():
        page.goto(path)
        assert page.locator("main h1").first.is_visible(), endpoint
        for button in page.locator("form button:not([type=button])").all():
            method, action = button.evaluate(
                "button => [button.form.method, button.getAttribute('formaction') ?? button.form.getAttribute('action')]"
            )
            assert method == ("get" if "/search" in action or "/friends" in action else "post"), endpoint
            assert action.startswith("/"), endpoint
    assert page.trouble == []


def test_every_page_is_reached_from_the_navigation(site, visit):
    """Starting at home and following links, as a person would, one comes by every page there is."""
    page = visit()
    sign_in(page, "mila@demo.example", demo_password(site))
    seen, ahead = set(), ["/"]
    while ahead:
        path = ahead.pop()
        if path in seen or path.startswith(("/u/", "/static", "/avatars")) and path != "/u/mila":
            continue
        seen.add(path)
        page.goto(path)
        ahead += [
            href.split("#")[0] or path
            for href in page.eval_on_selector_all("a[href^='/']", "links => links.map(a => a.getAttribute('href'))")
        ]
    private = {path for endpoint, path in PAGES.items() if not ROUTES[endpoint].public}
    linked_by_form = {"/settings/password"}  # its form is on the settings page itself
    assert private - seen <= linked_by_form


def test_keyboard_first_stop_skips_to_the_content(site, visit):
    page = visit()
    page.goto("/auth/login")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


def test_the_first_visit_to_the_sign_in_page_is_light(site):
    """All files of the page together, as they go over the line, are at most 60 kB."""

    def load(path):
        request = urllib.request.Request(site.base + path, headers={"Accept-Encoding": "br, gzip"})
        with urllib.request.urlopen(request) as response:
            assert (
                response.headers["Content-Encoding"] in {"br", "gzip"} or int(response.headers["Content-Length"]) < 1500
            )
            return len(response.read()) + len(str(response.headers))

    page = urllib.request.urlopen(site.base + "/auth/login").read().decode()
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    sizes = {path: load(path) for path in ["/auth/login", *files]}
    print(f"first visit to /auth/login: {sum(sizes.values())} bytes in {len(sizes)} files")
    assert len(files) >= 8 and sum(sizes.values()) <= 60_000, sizes
