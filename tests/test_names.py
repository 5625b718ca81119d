"""What names, Public IDs, addresses and texts may be."""

import pytest

from noxchat import names
from noxchat.exceptions import InvalidInput


@pytest.fixture(autouse=True)
def words(app):
    with app.test_request_context():
        yield


@pytest.mark.parametrize(
    "name",
    [
        "Al",
        "Алёна",
        "O'Neil",
        "Anne-Marie",
        "J. R. Smith",
        "timur_dev",
        "李小龍",
        "Ngô Đình",
        "ñandú",
        "x" * 32,
        "مريم",
        "हिन्दी",
    ],
)
def test_good_names_are_kept(name):
    assert names.clean_username(name) == name


def test_spaces_at_the_ends_go_and_the_form_is_nfc():
    assert names.clean_username("  Ame\u0301lie ") == "Am\u00e9lie"


HOSTILE = {
    "empty": "",
    "one letter": "a",
    "too long": "x" * 33,
    "only signs": "--",
    "two spaces": "a  b",
    "trailing newline": "mila\n",
    "inner newline": "mi\nla",
    "carriage return": "mila\r",
    "tab": "mi\tla",
    "nul": "mi\0la",
    "escape": "mi\x1b[31mla",
    "line separator": "mi\u2028la",
    "zero-width space": "mi\u200bla",
    "zero-width joiner": "mi\u200dla",
    "word joiner": "mi\u2060la",
    "soft hyphen": "mi\u00adla",
    "right-to-left override": "mi\u202ela",
    "isolate": "mi\u2066la",
    "left-to-right mark": "mila\u200e",
    "byte order mark": "\ufeffmila",
    "hangul filler": "\u3164\u3164",
    "halfwidth filler": "mi\uffa0la",
    "braille blank": "\u2800\u2800",
    "variation selector": "mila\ufe0f",
    "grapheme joiner": "mi\u034fla",
    "no-break space": "mi\u00a0la",
    "ideographic space": "mi\u3000la",
    "private use": "mi\ue000la",
    "unassigned": "mi\u0378la",
    "tag": "mila\U000e0041",
    "zalgo": "Z\u0335\u0336\u0337\u0338algo",
    "mark first": "\u0301ab",
    "html": "<b>Mila</b>",
    "reserved": "admin",
    "reserved in Cyrillic letters": "аdmin",
    "reserved by look": "Adm1n",
    "emoji": "Mila 🌙",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_names_are_refused(name):
    with pytest.raises(InvalidInput):
        names.clean_username(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mila", "mila"),
        ("Mila", "МILA".replace("М", "M")),
        ("José", "jose"),
        ("Алёна", "алена"),
        ("Mila", "Mi1a"),
        ("Mila", "MiIa"),
        ("Orson", "0rson"),
        ("copa", "сора"),
        ("nika", "nіka"),
        ("TOM", "ТОМ"),
        ("Tom", "том"),
        ("Ann", "Ａｎｎ"),
        ("Max", "𝐌𝐚𝐱"),
        ("pat", "ρat"),
        ("modern", "modem"),
        ("Wanda", "VVanda"),
        ("ﬁona", "fiona"),
        ("user3", "user٣"),
        ("straße", "strasse"),
    ],
)
def test_names_that_look_alike_are_one(one, other):
    assert names.skeleton(one) == names.skeleton(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Mila", "Mira"), ("Anna", "Hanna"), ("Anna B", "Anna C"), ("李", "王"), ("Яна", "Инна"), ("user1", "user2")],
)
def test_names_that_differ_stay_different(one, other):
    assert names.skeleton(one) != names.skeleton(other)


@pytest.mark.parametrize("public_id", ["abc", "A-b_c", "0lga", "x" * 32, "12345"])
def test_good_public_ids_are_kept_in_their_case(public_id):
    assert names.clean_public_id(f" {public_id} ") == public_id


@pytest.mark.parametrize(
    "public_id",
    [
        "",
        "ab",
        "x" * 33,
        "_ab",
        "-ab",
        "a b",
        "abc\n",
        "abc\r\n",
        "mіla",
        "abc\u200b",
        "a/../b",
        "a.b",
        "a%b",
        "settings",
        "ADMIN",
        "ａｂｃ",
        "a\0bc",
    ],
)
def test_bad_public_ids_are_refused(public_id):
    with pytest.raises(InvalidInput):
        names.clean_public_id(public_id)


def test_a_newcomers_id_cannot_be_predicted():
    made = {names.random_public_id() for _time in range(1000)}
    assert len(made) == 1000
    assert all(names.clean_public_id(public_id) for public_id in made)


@pytest.mark.parametrize(
    "email",
    ["a@x", "mila@nox.example", "mila+nox@mail.local", "o'neil@example.org", "дарья@пример.рф"],
)
def test_addresses_of_any_network_are_taken(email):
    assert "@" in names.clean_email(email)


@pytest.mark.parametrize(
    "email",
    [
        "",
        "mila",
        "@x",
        "a@",
        "a b@x",
        "a@x\n",
        "a@x\r\nBcc: b@y",
        "a\0@x",
        "a@@x",
        '"a b"@x',
        "x" * 250 + "@example.org",
        "a@x,b@y",
        "Mila <a@x>",
    ],
)
def test_bad_addresses_are_refused(email):
    with pytest.raises(InvalidInput):
        names.clean_email(email)


def test_one_address_whatever_its_case():
    assert names.email_key("A@X.example") == names.email_key("a@x.EXAMPLE")


def test_a_bio_counts_characters_after_its_line_ends_are_one_sign():
    assert names.clean_bio(" a\r\nb ") == "a\nb"
    assert len(names.clean_bio("🌙" * 140)) == 140
    with pytest.raises(InvalidInput, match="One character too many"):
        names.clean_bio("x" * 141)


@pytest.mark.parametrize("bio", ["a\0", "a\x1b", "a\u202eb", "a\u2028b", "a\x07", "a\u2066b", "a\ue000"])
def test_signs_that_cannot_be_shown_are_refused_in_a_bio(bio):
    with pytest.raises(InvalidInput):
        names.clean_bio(bio)


def test_an_invisible_sign_is_named_by_its_number():
    assert names.describe_char("\u200b") == "U+200B"
    assert names.describe_char("<") == "“<”" or names.show("<") == "U+003C"
