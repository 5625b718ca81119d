"""A real Chromium at a real server, with and without JavaScript."""

import io
import re
import shutil
from email import policy
from email.parser import BytesParser

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.conftest import PASSWORD, Server, skip, wait_until


@pytest.fixture(scope="session")
def chromium():
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A server with demo people, for tests that only look."""
    folder = tmp_path_factory.mktemp("site")
    server = Server(folder, f"sqlite:///{folder}/nox.db", DEMO=1, SIGN_INS_PER_ADDRESS=1000, SIGN_UPS_PER_HOUR=1000)
    server.folder = folder
    yield server
    server.stop()


@pytest.fixture
def visit(chromium, site):
    """Return a function that opens a new browser window: visit(java_script_enabled=False, …) gives its page.

    What the console complains about, what the policy blocks and what leaves the own host is collected in page.trouble.
    """
    contexts = []

    def open_window(**options):
        context = chromium.new_context(base_url=site.base, **{"locale": "en-US", "color_scheme": "dark", **options})
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.trouble = []
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.on(
            "console",
            lambda message: (
                page.trouble.append(message.text)
                if message.type in {"error", "warning"}
                and "status of 4" not in message.text
                and "ERR_" not in message.text
                else None
            ),
        )
        page.on(
            "request",
            lambda request: None if request.url.startswith((site.base, "blob:")) else page.trouble.append(request.url),
        )
        return page

    yield open_window
    for context in contexts:
        context.close()


def demo_password(site):
    return re.search(r"Demo login: \S+  password: (\S+)", site.said())[1]


def sign_in(page, who, password=PASSWORD):
    page.goto("/auth/login")
    page.fill("#identifier", who)
    page.fill("#password", password)
    page.click("#login .btn--primary")
    page.wait_for_selector("#nav-picture")


def register(page, name):
    page.goto("/auth/register")
    page.fill("#username", name)
    page.fill("#email", f"{name.lower()}@nox.example")
    page.fill("#password", PASSWORD)
    page.fill("#password2", PASSWORD)
    page.click(".btn--primary")
    page.wait_for_url("**/auth/login")


def letter_to(site, address):
    """Return the newest letter that was left for an address."""

    def newest():
        letters = [
            BytesParser(policy=policy.default).parsebytes(path.read_bytes())
            for path in sorted((site.folder / "data/mail").glob("*.eml"))
        ]
        return [letter for letter in letters if letter["To"] == address]

    return wait_until(newest)[-1]


def photo(side=900):
    out = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(out, "JPEG")
    return {"name": "IMG_0001.JPG", "mimeType": "image/jpeg", "buffer": out.getvalue()}
