"""Preferences (theme and language) and account deletion."""

import re

import pytest

from tests.conftest import PASSWORD, Browser, befriend, make_person


@pytest.mark.parametrize("htmx", [False, True])
def test_preferences_are_kept_for_anonymous_and_registered_users(any_app, htmx):
    anonymous = Browser(any_app)
    answer = anonymous.post("/settings/look", {"theme": "night", "language": "ru", "next": "/auth/register"}, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert answer.headers.get("HX-Refresh") == ("true" if htmx else None)
    if not htmx:
        assert answer.location == "/auth/register"
    page = anonymous.get("/auth/register").text
    assert '<html lang="ru" data-theme="night">' in page and "Создать аккаунт" in page
    alice = make_person(any_app, "Alice", public_id="alice")
    current, second = Browser(any_app, alice), Browser(any_app, alice)
    current.post("/settings/look", {"theme": "day"}, htmx=htmx)
    current.post("/settings/look", {"language": "ru"}, htmx=htmx)
    assert '<html lang="ru" data-theme="day">' in second.get("/").text
    for shown in (second.get("/settings/look", htmx=htmx).text, second.get("/settings").text):
        assert re.search(r'<input[^>]* checked[^>]* value="day"', shown)  # the account's, not the browser's
        assert '<option selected value="ru">' in shown


@pytest.mark.parametrize("fields", [{}, {"theme": "pink"}, {"language": "xx"}, {"theme": "night", "language": "../en"}])
@pytest.mark.parametrize("htmx", [False, True])
def test_invalid_preferences_are_refused(app, anonymous, alice_browser, fields, htmx):
    for browser in (anonymous, alice_browser):
        assert browser.post("/settings/look", fields, htmx=htmx).status_code == 422
        assert '<html lang="en">' in browser.get("/").text


def test_preferences_next_cannot_redirect_to_another_site(anonymous):
    for target in ("//evil.example", "https://evil.example", "/\\evil"):
        assert anonymous.post("/settings/look", {"theme": "day", "next": target}).location == "/"


def test_language_comes_from_accept_language(anonymous):
    page = anonymous.get("/auth/login", headers={"Accept-Language": "ru-RU,ru;q=0.9,en;q=0.5"}).text
    assert '<html lang="ru">' in page and "Войти" in page


@pytest.mark.parametrize("htmx", [False, True])
def test_account_deletion(any_app, htmx):
    alice, bob = make_person(any_app, "Alice", public_id="alice"), make_person(any_app, "Bob", public_id="bobby")
    befriend(any_app, alice, bob)
    current, second, at_bob = Browser(any_app, alice), Browser(any_app, alice), Browser(any_app, bob)
    assert current.post("/settings/delete", {"password": "not mine 1234"}, htmx=htmx).status_code == 422
    assert current.post("/settings/delete", {"password": ""}, htmx=htmx).status_code == 422
    assert second.get("/settings").status_code == 200
    answer = current.post("/settings/delete", {"password": PASSWORD}, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") or answer.location) == "/"
    assert "Your account is deleted" in current.get("/").text
    assert second.get("/settings").status_code == 302
    assert at_bob.get("/u/alice").status_code == 404
    assert Browser(any_app).log_in("alice").status_code == 422
    assert 'data-user="alice"' not in at_bob.get("/").text


@pytest.mark.parametrize("htmx", [False, True])
def test_sound_is_stored_in_the_browser_only(alice_browser, app, alice, htmx):
    assert "data-sound" not in alice_browser.get("/settings").text
    answer = alice_browser.post("/settings/look", {"sound": "on", "next": "/settings"}, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert "data-sound" in alice_browser.get("/settings").text
    assert "data-sound" not in Browser(app, alice).get("/settings").text
    assert alice_browser.post("/settings/look", {"sound": "loud"}, htmx=htmx).status_code == 422
    assert alice_browser.post("/settings/look", {"sound": "off"}, token="stale", htmx=htmx).status_code == 400
    assert "data-sound" in alice_browser.get("/settings").text
