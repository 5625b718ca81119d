"""Password strength, hashing and verification."""

import random
import string
import time

import pytest

from noxchat import passwords
from noxchat.exceptions import InvalidInput
from tests.conftest import PASSWORD


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


# zxcvbn alone accepts each of these.
COMMON = {
    "in the list of Django": ["target123", "zag12wsx", "gwerty123", "homelesspa"],
    "further down": ["ilovedave", "jump4joy", "bloodyhell", "daisyduke", "queteimporta", "heavensent", "zigaretten"],
    "capitals": ["ZAG12WSX", "HomelessPa", "Zerberus7"],
    "digits and signs around it": [
        "zag12wsx12345678",
        "target123 ",
        " homelesspa1",
        "target\u00a0123",
        "homelesspa♥",
        "zag12wsx٣",
        "homelesspahomelesspa",
        "Heavensent2024!",
        "!Daisyduke7",
        "rosangela1990",
        "4zebedees",
    ],
    "typed in the Russian layout": ["пароль123", "ЙЦУКЕН123", "зфыыцщкв", "йфяцыч12", "привет1990", "ТАТЬЯНА1985"],
    "decomposed or wide letters": ["и\u0306цукен123", "ｔａｒｇｅｔ１２３"],
}


@pytest.mark.parametrize("password", [password for kind in COMMON.values() for password in kind])
def test_common_password_is_refused(password):
    with pytest.raises(InvalidInput, match="among the first that get guessed") as error:
        passwords.check_strength(password)
    assert error.value.field == "password"


@pytest.mark.parametrize(
    "password",
    [
        PASSWORD,
        "moon-owl-star-4821",
        "target practice at noon",
        "mj7#kx2v",
        "heavensent39485710263",
        "target123 zag12wsx",
        "лампа в ночи",
        "k4Vw9zQpTy",
    ],
)
def test_password_that_only_resembles_common_ones_is_accepted(password):
    assert passwords.check_strength(password).startswith("Your password is")


def test_random_passwords_are_not_on_the_list():
    rng = random.Random(1)
    chosen = ["".join(rng.choices(string.ascii_letters + string.digits, k=10)) for _number in range(5000)]
    assert [password for password in chosen if passwords.is_common(password)] == []


def test_list_is_sorted_and_every_line_is_found(app):
    lines = app.config["PASSWORD_LIST"].read_bytes().split(b"\n")
    assert lines.pop() == b"" and len(lines) > 100_000
    assert lines == sorted(lines)
    for line in [lines[0], *lines[:: len(lines) // 500], lines[-1]]:
        assert passwords.is_common(line.decode()) and passwords.is_common(line.decode().upper()), line


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_without_the_list_zxcvbn_alone_decides(app, tmp_path, content):
    app.config["PASSWORD_LIST"] = tmp_path / "passwords.txt"
    if content is not None:
        app.config["PASSWORD_LIST"].write_bytes(content)
    assert passwords.check_strength("zag12wsx")
    with pytest.raises(InvalidInput):
        passwords.check_strength("password1")


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


def test_strength_of_any_password_is_computed_quickly(app):
    """Of signs that stand for letters, zxcvbn tries all meanings. Whoever registers is not known yet."""
    for password in ("4@8({[<3369!1|0$5+7%2" * 40, "p4$$w0rd" * 100, "1a2b3c4d" * 100, "Ж" * 1000, "a1" * 500):
        with app.test_request_context():
            began = time.process_time()
            passwords.check_strength(password[:1024])
            assert time.process_time() - began < 1.5, password[:20]
