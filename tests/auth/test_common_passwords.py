"""Common passwords are refused wherever a password is chosen."""

import pytest

from tests.auth.test_reset import create_reset_link
from tests.conftest import PASSWORD, Browser

COMMON = ["target123", "zag12wsx", "Gwerty123", "homelesspa", "bloodyhell2024", "йцукен123"]


def register_form(app, alice):
    return Browser(app), "/auth/register", {"username": "Mila", "email": "mila@nox.example"}


def reset_form(app, alice):
    return Browser(app), create_reset_link(app, alice), {}


def change_form(app, alice):
    return Browser(app, alice), "/settings/password", {"current_password": PASSWORD}


@pytest.mark.parametrize("make_form", [register_form, reset_form, change_form])
@pytest.mark.parametrize("htmx", [False, True])
def test_common_password_is_refused_by_every_form(app, alice, make_form, htmx):
    browser, path, fields = make_form(app, alice)
    for password in COMMON:
        answer = browser.post(path, {**fields, "password": password, "password2": password}, htmx=htmx)
        assert answer.status_code == 422 and "too easy to guess" in answer.text, password
        assert 'id="password-error"' in answer.text
    good = "a lantern on the hill 9"
    answer = browser.post(path, {**fields, "password": good, "password2": good}, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)


def test_common_password_is_refused_on_the_command_line(app):
    result = app.test_cli_runner().invoke(
        args=["users", "create", "Mila", "mila@nox.example", "--password", "homelesspa"]
    )
    assert result.exit_code == 1 and "too easy to guess" in result.output
