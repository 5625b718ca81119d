"""Password strength, hashing and verification."""

import random
import string
import time
import unicodedata

import pytest
from werkzeug.security import generate_password_hash

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
    with pytest.raises(InvalidInput, match="too easy to guess") as error:
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


# One password, as different keyboards and systems send it.
ONE_PASSWORD = {
    "decomposed": ("Schl\u00f6sser im M\u00e4rz", "Schlo\u0308sser im Ma\u0308rz"),
    "decomposed Cyrillic": ("мой чай остыл", "мои\u0306 чаи\u0306 остыл"),
    "jamo": ("비밀번호입니다", unicodedata.normalize("NFD", "비밀번호입니다")),
    "marks in another order": ("\u1ea1\u0307bcdefgh", "a\u0307\u0323bcdefgh"),
    "no-break space": ("lune et etoile", "lune\u00a0et\u00a0etoile"),
    "ideographic space": ("月と星 が好き", "月と星\u3000が好き"),
    "spaces of other widths": ("a b c d e f", "a\u2000b\u2003c\u202fd\u205fe\u1680f"),
    "ångström sign": ("\u00c5ngstr\u00f6m 1", "\u212bngstro\u0308m\u00a01"),
}


@pytest.mark.parametrize("forms", ONE_PASSWORD.values(), ids=ONE_PASSWORD.keys())
def test_password_matches_in_any_normal_form(forms):
    for chosen in forms:
        password_hash = passwords.hash_password(chosen)
        assert all(passwords.verify_password(password_hash, typed) for typed in forms)


@pytest.mark.parametrize(
    ("chosen", "typed"),
    [
        ("Passphrase", "passphrase"),
        ("Schl\u00f6sser", "Schlosser"),
        ("\ufb01nally here", "finally here"),
        ("ｗｉｄｅ ｗｏｒｄｓ", "wide words"),
        ("x\u00b2 + y\u00b2 = 1", "x2 + y2 = 1"),
        ("trailing space ", "trailing space"),
        ("two  spaces", "two spaces"),
        ("tab\tbetween", "tab between"),
        ("zero\u200bwidth", "zero width"),
    ],
)
def test_password_is_compared_without_further_folding(chosen, typed):
    """OpaqueString changes neither case nor width, and maps no character to a compatible one."""
    assert not passwords.verify_password(passwords.hash_password(chosen), typed)


@pytest.mark.parametrize("forms", ONE_PASSWORD.values(), ids=ONE_PASSWORD.keys())
def test_hash_of_earlier_release_matches_what_was_typed_then(forms):
    composed, typed = forms
    assert passwords.verify_password(generate_password_hash(typed), typed)
    assert passwords.verify_password(generate_password_hash(composed), typed)
    assert not passwords.verify_password(generate_password_hash(typed), "x" + typed)


@pytest.mark.parametrize("has_account", [True, False])
@pytest.mark.parametrize(
    ("typed", "count"), [("wrong password", 1), ("неве\u0301рный", 1), ("falsche\u0308s", 2), ("faux\u00a0mot", 2)]
)
def test_wrong_password_is_hashed_once_unless_it_has_a_second_form(monkeypatch, typed, count, has_account):
    """The number says nothing about whether there is an account."""
    password_hash, hashed = passwords.hash_password("right password"), []
    monkeypatch.setattr(passwords, "check_password_hash", lambda _hash, text: hashed.append(text))
    assert not passwords.verify_password(password_hash if has_account else None, typed)
    assert len(hashed) == count


def test_length_limits_count_what_was_typed(monkeypatch):
    decomposed = "e\u0301" * 512
    assert passwords.check_strength(decomposed)
    assert passwords.verify_password(passwords.hash_password(decomposed), decomposed)
    with pytest.raises(InvalidInput, match="at most"):
        passwords.check_strength(decomposed + "x")
    monkeypatch.setattr(passwords, "check_password_hash", lambda *_: pytest.fail("hashed"))
    assert not passwords.verify_password("scrypt:x", decomposed + "x")


def test_strength_does_not_depend_on_the_normal_form():
    """Decomposed letters are twice as many code points, but nobody guesses them later."""
    for password in ("éàüö", "ééééééééé1", "ёж" * 4, "éàéàéà1"):
        for form in ("NFC", "NFD"):
            with pytest.raises(InvalidInput):
                passwords.check_strength(unicodedata.normalize(form, password))


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
