"""How refused actions, too large bodies and unknown paths are answered."""

import io

import pytest

from noxchat import accounts
from noxchat.errors import handlers
from noxchat.exceptions import Conflict


@pytest.fixture
def conflict(monkeypatch):
    def raise_conflict(_user):
        raise Conflict("Somebody was faster.")

    monkeypatch.setattr(accounts, "lock_account", raise_conflict)


def test_conflict_redirects_back_with_error_notice(alice_browser, conflict):
    response = alice_browser.post("/settings/look", {"theme": "day"})
    assert (response.status_code, response.location) == (303, "/settings/look")
    page = alice_browser.get("/settings").text
    assert 'data-kind="error"' in page and "Somebody was faster." in page and 'data-kind="ok"' not in page


def test_conflict_with_htmx_is_409_retargeted_to_toasts(alice_browser, conflict):
    response = alice_browser.post("/settings/look", {"theme": "day"}, htmx=True)
    assert (response.status_code, response.headers["HX-Retarget"]) == (409, "#toasts")
    assert "Somebody was faster." in response.text


def test_discard_body_reads_rest_of_body(app):
    body = io.BytesIO(bytes(3_000_000))
    with app.test_request_context("/", input_stream=body, method="POST"):
        handlers.discard_body()
    assert body.tell() == 3_000_000


def test_path_with_trailing_slash_is_404(app, anonymous):
    assert anonymous.get("/auth/login/").status_code == 404
