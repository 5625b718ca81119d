"""A rule that says no, the same everywhere; and what is read on before a 413."""

import io

import pytest

from noxchat import accounts, errors
from noxchat.exceptions import Conflict


@pytest.fixture
def refusing(monkeypatch):
    def refuse(_user):
        raise Conflict("Somebody was faster.")

    monkeypatch.setattr(accounts, "lock_account", refuse)


def test_a_refusal_is_a_notice_and_a_way_back(at_alice, refusing):
    answer = at_alice.post("/settings/look", {"theme": "day"})
    assert (answer.status_code, answer.location) == (303, "/settings/look")
    page = at_alice.get("/settings").text
    assert 'data-kind="error"' in page and "Somebody was faster." in page and 'data-kind="ok"' not in page


def test_a_refusal_by_htmx_is_409_beside_what_was_there(at_alice, refusing):
    answer = at_alice.post("/settings/look", {"theme": "day"}, htmx=True)
    assert (answer.status_code, answer.headers["HX-Retarget"]) == (409, "#toasts")
    assert "Somebody was faster." in answer.text


def test_a_body_that_is_too_large_is_read_on_for_a_while(app):
    body = io.BytesIO(bytes(3_000_000))
    with app.test_request_context("/", input_stream=body, method="POST"):
        errors.discard_body()
    assert body.tell() == 3_000_000


def test_a_redirect_of_the_routers_is_none_of_our_errors(app, guest):
    assert guest.get("/auth/login/").status_code == 404
