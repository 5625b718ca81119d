"""Which passwords are taken, and how they are compared."""

import pytest

from noxchat import passwords
from noxchat.exceptions import InvalidInput


@pytest.fixture(autouse=True)
def words(app):
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
def test_first_guesses_are_refused(password):
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
def test_own_sentences_are_taken(password):
    assert passwords.check_strength(password).startswith("Your password is")


def test_ones_own_name_is_no_password():
    with pytest.raises(InvalidInput):
        passwords.check_strength("zaphodbeeblebrox", "zaphodbeeblebrox", "z@example.org")


def test_every_character_counts():
    kept = passwords.hash_password("x" * 79 + "a 🌙")
    assert passwords.verify_password(kept, "x" * 79 + "a 🌙")
    assert not passwords.verify_password(kept, "x" * 79 + "a ⭐")
    assert not passwords.verify_password(kept, "x" * 79 + "a 🌙 ")


def test_nobody_has_no_password():
    assert not passwords.verify_password(None, "nobody has this password")


def test_a_huge_password_is_not_hashed(monkeypatch):
    monkeypatch.setattr(passwords, "check_password_hash", lambda *_: pytest.fail("hashed"))
    assert not passwords.verify_password("scrypt:x", "x" * 1025)
