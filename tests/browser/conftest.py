"""Fixtures for tests with Chromium against a real server, with and without JavaScript."""

import io
import re
from email import policy
from email.parser import BytesParser

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from config import Config
from noxchat import create_app, friendships
from noxchat.database import begin_write
from noxchat.extensions import db
from tests.browser.chats import open_conversation
from tests.chromium import find_chromium
from tests.conftest import (
    PASSWORD,
    Server,
    act,
    befriend,
    browser_cookie,
    make_person,
    settings,
    skip,
    wait_until,
)

numbers = iter(range(1000))

BUSY = "Transition was aborted"  # what Chromium says when it is too slow to animate the change of pages


@pytest.fixture(scope="session")
def chromium():
    executable = find_chromium()
    if not executable:
        skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A server with the demo data, shared by all browser tests."""
    folder = tmp_path_factory.mktemp("site")
    server = Server(folder, f"sqlite:///{folder}/nox.db", DEMO=1, SIGN_INS_PER_ADDRESS=1000, SIGN_UPS_PER_HOUR=1000)
    server.folder = folder
    yield server
    server.stop()


@pytest.fixture
def new_page(chromium, site):
    """Return a function that opens a page in a new browser context: new_page(java_script_enabled=False, …).

    Exceptions, console errors and warnings (such as blocked by the Content-Security-Policy), and the URLs of requests to
    other hosts are collected in page.problems.
    """
    contexts = []

    def open_page(**options):
        context = chromium.new_context(base_url=site.base, **{"locale": "en-US", "color_scheme": "dark", **options})
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: None if BUSY in str(error) else page.problems.append(str(error)))
        page.on(
            "console",
            lambda message: (
                page.problems.append(message.text)
                if message.type in {"error", "warning"}
                and "status of 4" not in message.text
                and "ERR_" not in message.text
                and BUSY not in message.text
                else None
            ),
        )
        page.on(
            "request",
            lambda request: None if request.url.startswith((site.base, "blob:")) else page.problems.append(request.url),
        )
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def mila_cookie(site, chromium):
    """The cookie of a session of Mila, who is in the demo data."""
    context = chromium.new_context(base_url=site.base)
    page = context.new_page()
    log_in(page, "mila@demo.example", demo_password(site))
    (cookie,) = [cookie for cookie in context.cookies() if cookie["name"].endswith("_session")]
    context.close()
    return {"name": cookie["name"], "value": cookie["value"], "url": site.base}


@pytest.fixture(scope="session")
def site_app(site):
    """An application on the server's database, to create people without the forms."""
    app = create_app(Config(settings(site.folder, f"sqlite:///{site.folder}/nox.db"), debug=False))
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def logged_in_page(site_app, site, new_page):
    """Return a function that opens a page in which somebody is logged in: a person, or a new one with a name.

    page.user is the account, page.id its Public ID.
    """

    def open_page(person, **options):
        if isinstance(person, str):
            public_id = f"{person.lower()}{next(numbers)}"
            email = f"{public_id}@nox.example"
            person = make_person(site_app, f"{person} {public_id}", email, public_id=public_id)
        page = new_page(**options)
        page.context.add_cookies([browser_cookie(site_app, person, site.base)])
        page.user, page.id = person, person.public_id
        return page

    return open_page


def send(site_app, sender, receiver):
    """Send a friend request without the pages."""
    with site_app.test_request_context():
        begin_write(db.session)
        act(friendships.send, sender, receiver)
        db.session.commit()


def demo_password(site):
    return re.search(r"Demo login: \S+  password: (\S+)", site.output_text())[1]


def log_in(page, identifier, password=PASSWORD):
    page.goto("/auth/login")
    page.fill("#identifier", identifier)
    page.fill("#password", password)
    page.click("#login .btn--primary")
    page.wait_for_selector("#nav-picture")


def fill_new_password(page, password):
    """Fill in a new password: once where it can be shown, as with JavaScript, otherwise twice."""
    page.fill("#password", password)
    if page.is_visible("#password2"):
        page.fill("#password2", password)


def register(page, name):
    """Create an account, which logs in."""
    page.goto("/auth/register")
    page.fill("#username", name)
    page.fill("#email", f"{name.lower()}@nox.example")
    fill_new_password(page, PASSWORD)
    page.click("#register .btn--primary")
    page.wait_for_selector("#nav-picture")


def latest_email(site, address):
    """Wait for an e-mail to an address, and return the newest."""

    def received():
        emails = [
            BytesParser(policy=policy.default).parsebytes(path.read_bytes())
            for path in sorted((site.folder / "data/mail").glob("*.eml"))
        ]
        return [email for email in emails if email["To"] == address]

    return wait_until(received)[-1]


def photo(side=900, *, is_noise=False):
    """Return a JPEG of side × side pixels, for set_input_files: a gradient of few bytes, or noise of many."""
    file = io.BytesIO()
    image = Image.effect_noise((side, side), 100) if is_noise else Image.linear_gradient("L").resize((side, side))
    image.convert("RGB").save(file, "JPEG")
    return {"name": "IMG_0001.JPG", "mimeType": "image/jpeg", "buffer": file.getvalue()}


@pytest.fixture
def two_friends(logged_in_page, site_app):
    """Return a function that opens pages of two friends, and returns them with the path of their conversation."""

    opened = []

    def open_pages(**options):
        anna, boris = logged_in_page("Anna", **options), logged_in_page("Boris", **options)
        opened.extend([anna, boris])
        befriend(site_app, anna.user, boris.user)
        return anna, boris, f"/chats/{open_conversation(site_app, anna.user, boris.user)}"

    yield open_pages
    # htmx itself writes to the console when the network fails.
    assert [problem for page in opened for problem in page.problems if "htmx:error" not in problem] == []
