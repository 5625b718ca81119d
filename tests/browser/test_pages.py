"""Every page: accessibility, narrow screens, use without JavaScript, navigation, size of the first visit."""

import re
import urllib.request

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.architecture.routes import ROUTES
from tests.browser.conftest import demo_password, log_in

axe = Axe()
PAGES = {endpoint: route.path.replace("alice", "mila") for endpoint, route in ROUTES.items() if route.page}
MORE_PAGES = {"profile of a friend": "/u/nika", "404": "/nowhere", "405": "/settings/sessions/1/revoke"}


# What may differ between themes and widths: what a page says is the same in all of them.
RULES_OF_LOOKS = ["color-contrast", "target-size", "button-name", "link-name"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


def check_accessibility(page, name, rules=None):
    """Fail if the page has an accessibility violation. rules: ids of those to check, by default all."""
    response = axe.run(page, options={"runOnly": rules} if rules else None).response
    violations = [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in response["violations"]]
    assert not violations, (name, violations)


def resize(page, size):
    page.set_viewport_size(size)
    page.wait_for_function("width => innerWidth === width", arg=size["width"])


def show_theme(page, theme):
    """Show a page in another theme, None for that of the device, and wait until its colours have changed."""
    page.evaluate(
        """theme => {
          if (theme) document.documentElement.dataset.theme = theme;
          else delete document.documentElement.dataset.theme;
          const isFinite = ({ effect }) => effect.getComputedTiming().endTime !== Infinity;
          return new Promise((done) => requestAnimationFrame(done)).then(() =>
            Promise.allSettled(document.getAnimations().filter(isFinite).map(({ finished }) => finished)));
        }""",
        theme,
    )


def check_accessibility_and_width(page, name):
    """Fail if the page has an accessibility violation, also in the other theme and size, or scrolls sideways at 320 px."""
    size, theme = page.viewport_size, page.get_attribute("html", "data-theme")
    check_accessibility(page, name)
    resize(page, PHONE if size == DESK else DESK)
    is_night = theme == "night" if theme else page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    show_theme(page, "day" if is_night else "night")
    check_accessibility(page, f"{name} {page.viewport_size} not {theme}", RULES_OF_LOOKS)
    show_theme(page, theme)
    resize(page, {"width": 320, "height": 700})
    width = page.evaluate(
        "new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(() => resolve(document.documentElement.scrollWidth))))"
    )
    assert width <= 320, (name, width)
    page.set_viewport_size(size)


def set_preferences(page, theme, language):
    """Set the theme and the language of the account."""
    page.evaluate(
        """([theme, language]) => fetch("/settings/look", {method: "POST", headers: {
          "X-CSRFToken": document.querySelector("meta[name=csrf-token]").content}, body: new URLSearchParams({theme, language})})""",
        [theme, language],
    )


# Each language is seen in both themes, each theme in both sizes.
@pytest.mark.parametrize(("theme", "language"), [("night", "en"), ("day", "ru")])
def test_pages_are_accessible_and_fit_narrow_screens(site, new_page, theme, language):
    anonymous = new_page(viewport=PHONE, reduced_motion="reduce")
    anonymous.goto("/auth/login")
    session = next(each["name"] for each in anonymous.context.cookies() if each["name"].endswith("_session"))
    for name, value in (("theme", theme), ("language", language)):
        cookie = {"name": session.replace("_session", f"_{name}"), "value": value, "url": site.base}
        anonymous.context.add_cookies([cookie])
    for endpoint, path in PAGES.items():
        if ROUTES[endpoint].public:
            anonymous.goto(path)
            assert anonymous.get_attribute("html", "lang") == language
            check_accessibility_and_width(anonymous, f"guest {path}")
    page = new_page(viewport=DESK, reduced_motion="reduce")
    log_in(page, "mila@demo.example", demo_password(site))
    set_preferences(page, theme, language)
    for name, path in {**PAGES, **MORE_PAGES}.items():
        page.goto(path)
        assert page.get_attribute("html", "lang") == language, path
        assert page.get_attribute("html", "data-theme") == theme, path
        check_accessibility_and_width(page, name)
    page.goto("/settings/profile")
    page.fill("#public_id", "nika")
    page.fill("#username", "a  b")
    page.click(".btn--primary")
    page.wait_for_selector("#errors")
    check_accessibility_and_width(page, "profile form with errors")
    anonymous.context.clear_cookies()
    anonymous.goto("/auth/register")
    anonymous.fill("#username", "nika")
    anonymous.fill("#email", "nika@nox.example")
    anonymous.fill("#password", "target123")
    anonymous.click(".btn--primary")
    anonymous.wait_for_selector("[data-fill]")
    check_accessibility_and_width(anonymous, "registering with errors")
    set_preferences(page, "auto", "en")
    assert anonymous.problems == [] and [text for text in page.problems if "405" not in text] == []


def test_forms_are_usable_without_javascript(site, new_page):
    page = new_page(java_script_enabled=False)
    log_in(page, "mila@demo.example", demo_password(site))
    for endpoint, path in PAGES.items():
        page.goto(path)
        assert page.locator("main h1").first.is_visible(), endpoint
        buttons = page.eval_on_selector_all(
            "form button:not([type=button])",
            "buttons => buttons.map(b => [b.form.method, b.getAttribute('formaction') ?? b.form.getAttribute('action')])",
        )
        assert buttons or ROUTES[endpoint].status == 404, endpoint
        for method, action in buttons:
            is_search = action in {"/search", "/chats"} and method == "get" or "/friends" in action
            assert method == ("get" if is_search else "post"), (endpoint, action)
            assert action.startswith("/"), endpoint
    assert page.problems == []


def test_every_page_can_be_reached_by_links_from_home(site, new_page):
    page = new_page()
    log_in(page, "mila@demo.example", demo_password(site))
    seen, queue = set(), ["/"]
    while queue:
        path = queue.pop()
        if path in seen or path.startswith(("/u/", "/static", "/avatars")) and path != "/u/mila":
            continue
        if re.match(r"/chats/(?!1(/|$)|new)", path):  # one conversation is enough
            continue
        seen.add(path)
        page.goto(path)
        queue += [
            href.split("#")[0] or path
            for href in page.eval_on_selector_all("a[href^='/']", "links => links.map(a => a.getAttribute('href'))")
        ]
    private = {path for endpoint, path in PAGES.items() if not ROUTES[endpoint].public}
    linked_by_form = {"/settings/password", "/settings/privacy"}  # their forms are on the settings page itself
    edits_another = {"/chats/1/messages/1/edit"}  # of a friend of Mila
    assert private - seen <= linked_by_form | edits_another


def test_skip_link_is_first_tab_stop(site, new_page):
    page = new_page()
    page.goto("/auth/login")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


def test_first_visit_to_login_page_transfers_at_most_60_kb(site):
    """All files of the page together, compressed, with their headers."""

    def transferred_bytes(path):
        request = urllib.request.Request(site.base + path, headers={"Accept-Encoding": "br, gzip"})
        with urllib.request.urlopen(request) as response:
            assert (
                response.headers["Content-Encoding"] in {"br", "gzip"} or int(response.headers["Content-Length"]) < 1500
            )
            return len(response.read()) + len(str(response.headers))

    page = urllib.request.urlopen(site.base + "/auth/login").read().decode()
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    sizes = {path: transferred_bytes(path) for path in ["/auth/login", *files]}
    print(f"first visit to /auth/login: {sum(sizes.values())} bytes in {len(sizes)} files")
    assert len(files) >= 8 and sum(sizes.values()) <= 60_000, sizes
