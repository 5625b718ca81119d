"""Password strength, hashing and verification."""

import pytest

from noxchat import passwords
from noxchat.exceptions import InvalidInput


@pytest.fixture(autouse=True)
def request_context(app):
    with app.test_request_context():
        yield


@pytest.mark.parametrize(
    "password",
    [
        "",
        "short",
        "1234567",
        "12345678",
        "password",
        "password1",
        "qwerty123",
        "iloveyou",
        "aaaaaaaa",
        "letmein1",
        "sunshine1",
        "x" * 1025,
    ],
)
def test_weak_password_is_refused(password):
    with pytest.raises(InvalidInput):
        passwords.check_strength(password)


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "x" * 80,
        "пароль с пробелами 9",
        "🌙🌙⭐ ночью 12",
        "  spaces count too  ",
        "y" * 1024,
    ],
)
def test_passphrase_is_accepted(password):
    assert passwords.check_strength(password).startswith("Your password is")


def test_own_username_is_refused_as_password():
    with pytest.raises(InvalidInput):
        passwords.check_strength("zaphodbeeblebrox", "zaphodbeeblebrox", "z@example.org")


def test_every_character_of_a_long_password_counts():
    password_hash = passwords.hash_password("x" * 79 + "a 🌙")
    assert passwords.verify_password(password_hash, "x" * 79 + "a 🌙")
    assert not passwords.verify_password(password_hash, "x" * 79 + "a ⭐")
    assert not passwords.verify_password(password_hash, "x" * 79 + "a 🌙 ")


def test_missing_hash_never_matches():
    assert not passwords.verify_password(None, "nobody has this password")


def test_too_long_password_is_not_hashed(monkeypatch):
    monkeypatch.setattr(passwords, "check_password_hash", lambda *_: pytest.fail("hashed"))
    assert not passwords.verify_password("scrypt:x", "x" * 1025)
