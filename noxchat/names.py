"""Validation of names, Public IDs, e-mail addresses and bios; and which names are too much alike."""

import re
import secrets
from functools import cache

import idna
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from flask_babel import gettext as _
from flask_babel import ngettext
from python_usernames.reserved_words import get_reserved_words

from noxchat.characters import (
    VIRAMA,
    ZWJ,
    ZWNJ,
    casefold,
    category,
    combining,
    is_alnum,
    is_ignorable,
    is_mark,
    is_vowel_sign,
    joining_type,
    lower,
    normalize,
    script,
    to_ascii_digit,
)
from noxchat.exceptions import InvalidInput
from noxchat.models import BIO_LENGTH, EMAIL_LENGTH, PUBLIC_ID_LENGTH, USERNAME_LENGTH

# Private networks have hosts such as mail.local. The library's documented way to allow them is to empty this list.
SPECIAL_USE_DOMAIN_NAMES.clear()

# Besides letters, marks and digits of any script: O'Neil, Anne-Marie, J. R. Smith, timur_dev.
NAME_PUNCTUATION = set(" _-.'’‘\u2010\u2011")
NAME_CATEGORIES = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd"}
IDEOGRAPHIC_ZERO = "\u3007"  # written like a letter, and an exception in RFC 8264 as well
ROW_OF_SIGNS = re.compile(r" {2}|[_.'’‘\u2010\u2011·־֊・･゠་༌-]{3}")
# What is too many marks for one letter, of those that do not take space: UTS #39, 5.4. Accents, which belong to no
# script, are put on letters that mostly have none in the fonts that people use.
MAX_NONSPACING_MARKS = 4
MAX_ACCENTS = 2  # on a letter in NFC
MAX_MARKS = 8  # with those that take space: Burmese has 7 on one letter
# Marks that are called after one script and used by another as well.
SHARED_MARKS = {"ARABIC": {"SYRIAC"}}
EAST_ASIAN = {"HIRAGANA", "KATAKANA", "CJK", "IDEOGRAPHIC"}
# Embeddings, overrides and isolates change the direction of the text around them (Unicode's UAX #9).
DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
# Invisible characters that UTS #46 drops. An address that has one was probably copied together with something else.
DROPPED_FROM_DOMAINS = re.compile(
    "[\u00ad\u034f\u180b-\u180f\u200b\u2060\u2064\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]"
)

PUBLIC_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# No vowels, so that a random ID spells no word.
ID_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"

# Names of whoever runs the place, to which people would give their password: the mailboxes of RFC 2142 among them.
OPERATORS = set(
    """
    abuse admin administration administrator contact help helpdesk info mod moderator noxchat official owner postmaster
    root security staff support sysadmin system team webmaster
    администратор администраторы администрация админ админы модератор модераторы поддержка поддержки система
    """.split()
)
RESERVED = OPERATORS | set(
    """
    about account anonymous api auth avatar avatars block chat chats deleted events everyone friend friends guest
    healthz home host login logout mail me myself news nobody nox null privacy profile readyz register reset
    search self settings static undefined user users
    """.split()
)
# Parts of our own URLs, present and planned, that are good names for people but must not become Public IDs.
PATHS = set(
    "blocked confirm counters delete doctor email email-undo favicon favicon.ico i invitations look metrics moment.js "
    "password sessions strength u undo".split()
)

# Characters of one alphabet that are easily confused (Unicode's UTS #39), in lower case. Tatweel only makes a word
# longer.
LOOKALIKES = str.maketrans(
    {"0": "o", "1": "l", "i": "l", "|": "l", "\u0640": ""}
    | dict.fromkeys("’‘ʻʼʽʹʾʿˈ׳`´′", "'")
    | dict.fromkeys("\u2010\u2011֊־゠", "-")
    | dict.fromkeys("・‧", "·")
    | dict.fromkeys("یى", "ي")
    | {"ک": "ك", "״": '"', "͵": ",", "〇": "o"}
)

ASCII_ALNUM = re.compile("[A-Za-z0-9]+")


def skeleton(name: str) -> str:
    """Return the skeleton of a name (UTS #39): names that look alike have the same one, and only one can be taken.

    Case, accents and lookalikes from other scripts are folded. Names that differ only by characters that are not drawn,
    such as the joiners that Persian and Indic names may have, are the same.
    """
    folded = casefold(normalize("NFKC", name))
    bare = "".join(c for c in normalize("NFD", folded) if not _is_accent(c) and not is_ignorable(c))
    folded = "".join(_prototype(c) for c in bare).translate(LOOKALIKES)
    return folded.replace("rn", "m").replace("vv", "w")


def _is_accent(char: str) -> bool:
    """Tell whether a mark only changes how a letter sounds: readers overlook it, or leave it out.

    Vowels and tones of Thai, Lao and Tibetan, the voicing of kana and viramas have combining classes of their own: with
    other ones it is another name.
    """
    number = combining(char)
    return number != 0 and number not in (8, VIRAMA) and not 40 <= number < 200


def _prototype(char: str) -> str:
    """Return the ASCII letter or digit that a character looks like, or the character itself."""
    if char.isascii():
        return char
    if (digit := to_ascii_digit(char)) != char:
        return digit
    from confusable_homoglyphs.confusables import confusables_data  # takes 8 MB, so only when it is needed

    # Lower case first: р is p; but т looks like t only as the capital Т.
    for form in (char, char.upper()):
        for homoglyph in confusables_data.get(form, ()):
            if ASCII_ALNUM.fullmatch(homoglyph["c"]):
                return homoglyph["c"].lower()
    return char


@cache
def reserved_skeletons() -> set[str]:
    """Return the skeletons of reserved words."""
    return {skeleton(word) for word in RESERVED}


# Words that change nothing: The Admins, Nox Team, Служба поддержки.
FILLERS = "nox noxchat the customer service desk bot s служба тех".split()


@cache
def operator_names() -> re.Pattern:
    """Return the pattern of the skeletons of names that mean the operator."""
    operator, filler = ("|".join(sorted(map(skeleton, words), key=len, reverse=True)) for words in (OPERATORS, FILLERS))
    return re.compile(f"({filler})*({operator})({filler}|{operator})*")


def imitates_operator(name: str) -> bool:
    """Tell whether a name or Public ID pretends to be of whoever runs the place.

    Punctuation is ignored, and so are digits before and after it; such words may be joined: Adm1n, support-2, Nox Team.
    """
    edges = "".join(char for char in name if not is_alnum(char) or category(char) == "Nd")
    texts = ("".join(filter(is_alnum, text)) for text in (name, name.strip(edges)))
    return any(operator_names().fullmatch(skeleton(text)) for text in texts)


def _without_signs(public_id: str) -> str:
    return re.sub("[-_.]", "", public_id.lower())


# The package's words are refused as Public IDs only: among them are names of people, such as Ruby.
RESERVED_PUBLIC_IDS = {_without_signs(word) for word in RESERVED | PATHS | get_reserved_words()}


def is_reserved_public_id(public_id: str) -> bool:
    """Tell whether nobody can take a Public ID: in any case, and with or without - and _ between its words."""
    return _without_signs(public_id) in RESERVED_PUBLIC_IDS or imitates_operator(public_id)


def clean_username(text: str) -> str:
    """Return a username as it is stored: in NFC, trimmed. Raises InvalidInput."""
    name = normalize("NFC", text).strip(" ")
    _check_length(name, *USERNAME_LENGTH)
    for index, char in enumerate(name):
        if char in CONTEXT_RULES:
            if not CONTEXT_RULES[char](name[:index], name[index + 1 :]):
                text = _("In a name, %(sign)s is allowed only where the spelling needs it.", sign=describe_char(char))
                raise InvalidInput(text)
        elif not _is_name_char(char):
            raise InvalidInput(
                _(
                    "A name can have letters, digits, spaces and _ - . ' but not %(sign)s.",
                    sign=describe_char(char),
                )
            )
    if ROW_OF_SIGNS.search(name):
        raise InvalidInput(_("Use single spaces, and no two signs in a row."))
    _check_marks(name)
    key = skeleton(name)
    if not any(map(is_alnum, key)):  # in the name itself, tatweel and apostrophes are letters
        raise InvalidInput(_("A name needs at least one letter or digit."))
    if key in reserved_skeletons() or imitates_operator(name):
        raise InvalidInput(_("This name is reserved. Choose another."))
    if len(key) > 255:
        raise InvalidInput(_("This name is too long. Choose another."))
    return name


def _is_name_char(char: str) -> bool:
    """Tell whether a character may stand anywhere in a name."""
    is_letter = category(char) in NAME_CATEGORIES and not is_ignorable(char)
    return is_letter or char in NAME_PUNCTUATION or char == IDEOGRAPHIC_ZERO


def _check_marks(name: str):
    """Raise InvalidInput if a mark has no letter of its script before it, or a letter has too many."""
    base, marks = "", list[str]()
    for char in normalize("NFD", name):
        if is_mark(char):
            marks.append(char)
            if not base or script(char) != "COMBINING" and not _belongs_to(char, base):
                text = _("Before %(sign)s there must be a letter of the same script.", sign=describe_char(char))
                raise InvalidInput(text)
            nonspacing = sum(category(mark) == "Mn" for mark in marks)
            if len(set(marks)) < len(marks) or nonspacing > MAX_NONSPACING_MARKS or len(marks) > MAX_MARKS:
                raise InvalidInput(_("This name has too many marks over its letters."))
        elif char not in (ZWNJ, ZWJ):
            base, marks = char if is_alnum(char) else "", []
    accents = "".join("a" if is_mark(char) and script(char) == "COMBINING" else "-" for char in name)
    if "a" * (MAX_ACCENTS + 1) in accents:
        raise InvalidInput(_("This name has too many marks over its letters."))


def _belongs_to(mark: str, letter: str) -> bool:
    """Tell whether a mark is used in the script of a letter."""
    scripts = script(mark), script(letter)
    return scripts[0] == scripts[1] or scripts[0] == "VEDIC" or scripts[1] in SHARED_MARKS.get(scripts[0], ())


# The rules by which a character may only stand in some contexts: those of RFC 5892, appendix A, which RFC 8264 applies
# to names, and for the joiners those of UAX #31, 2.3.1, which are stricter. Each gets the name before the character and
# after it.


def _after(wanted: str):
    return lambda before, _rest: script(before[-1:]) == wanted


def _before(wanted: str):
    return lambda _rest, after: script(after[:1]) == wanted


def _between(wanted: str):
    return lambda before, after: script(before[-1:]) == script(after[:1]) == wanted


def _with_any(scripts: set[str]):
    return lambda before, after: any(is_alnum(char) and script(char) in scripts for char in before + after)


def _without(characters: str):
    return lambda before, after: not set(characters) & set(before + after)


def _between_l(before: str, after: str) -> bool:
    return before[-1:] in ("l", "L") and after[:1] in ("l", "L")


def _is_visible_joiner(before: str, after: str) -> bool:
    """ZWJ has an effect after a virama; not before a vowel sign."""
    return bool(before) and combining(before[-1]) == VIRAMA and not is_vowel_sign(after[:1])


def _is_visible_non_joiner(before: str, after: str) -> bool:
    """ZWNJ has an effect between letters that would join (Persian), and between a virama and a letter (Indic)."""
    left = next((kind for kind in map(joining_type, reversed(before)) if kind != "T"), "U")
    right = next((kind for kind in map(joining_type, after) if kind != "T"), "U")
    joins = left in "DL" and right in "DR" or _is_visible_joiner(before, after) and category(after[:1] or " ") == "Lo"
    return joins and script(before[-1]) == script(after[0])


ARABIC_INDIC, PERSIAN = "٠١٢٣٤٥٦٧٨٩", "۰۱۲۳۴۵۶۷۸۹"
CONTEXT_RULES = {
    "·": _between_l,  # Catalan: Gal·la
    "͵": _before("GREEK"),
    **dict.fromkeys("׳״", _after("HEBREW")),
    "־": _between("HEBREW"),
    "֊": _between("ARMENIAN"),
    **dict.fromkeys("་༌", _after("TIBETAN")),
    **dict.fromkeys("・･゠", _with_any(EAST_ASIAN)),
    **dict.fromkeys(ARABIC_INDIC, _without(PERSIAN)),  # several digits of both kinds look the same
    **dict.fromkeys(PERSIAN, _without(ARABIC_INDIC)),
    ZWJ: _is_visible_joiner,
    ZWNJ: _is_visible_non_joiner,
}


def clean_public_id(text: str) -> str:
    """Return a Public ID as it is stored: trimmed, in the case in which it was typed. Raises InvalidInput."""
    public_id = text.strip(" ")
    _check_length(public_id, *PUBLIC_ID_LENGTH)
    if not PUBLIC_ID.fullmatch(public_id):
        raise InvalidInput(_("A Public ID is made of a–z, 0–9, _ and -, and begins with a letter or digit."))
    if is_reserved_public_id(public_id):
        raise InvalidInput(_("This Public ID is reserved. Choose another."))
    return public_id


def random_public_id() -> str:
    """Return a Public ID for a new account: unpredictable, so that nobody can take it first or count accounts."""
    return "nox-" + "".join(secrets.choice(ID_ALPHABET) for _ in range(10))


def clean_email(text: str) -> str:
    """Return an e-mail address as it is stored, with its domain in Unicode. Raises InvalidInput.

    Only the syntax is checked: no DNS look-up, no list of top-level domains.
    """
    try:
        if len(text) > EMAIL_LENGTH or DROPPED_FROM_DOMAINS.search(text):
            raise EmailNotValidError
        local, _at, domain = ascii_address(text.strip(" ")).rpartition("@")
        # The library would decode xn--…, and refuse the invisible joiners that some scripts need and IDNA 2008 allows.
        stand_in = domain.lower().replace("xn--", "xn0-")
        checked = validate_email(f"{local}@{stand_in}", check_deliverability=False, globally_deliverable=False)
        email = f"{checked.local_part}@{idna.decode(domain)}"
        if max(len(email), len(email_key(email))) > EMAIL_LENGTH:
            raise EmailNotValidError
    except (EmailNotValidError, idna.IDNAError):
        raise InvalidInput(_("This is not an e-mail address. It looks like name@example.org.")) from None
    return email


def ascii_address(email: str) -> str:
    """Return an e-mail address with its domain in ASCII (IDNA 2008, RFC 5891), as mail servers need it.

    Python's own "idna" codec follows the rules of 2003, which turn straße.example into strasse.example: another domain.
    What is no domain is returned as it is.
    """
    local, at, domain = email.rpartition("@")
    if domain.isascii() or len(domain) > EMAIL_LENGTH:
        return email
    try:
        return f"{local}{at}{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError:
        return email


def email_key(email: str) -> str:
    """Return the key by which addresses are compared: regardless of case, Unicode form, and how the domain is written.

    Lower case instead of case folding, which would merge different mailboxes: ß with ss, ς with σ.
    """
    return lower(ascii_address(normalize("NFC", email)))


def clean_bio(text: str) -> str:
    """Return a bio as it is stored: in NFC, with \\n line breaks, trimmed. Raises InvalidInput."""
    bio = normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip(" \n")
    for char in bio:
        invisible = category(char) in {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"} and char != "\n"
        if invisible or DIRECTION.match(char):
            raise InvalidInput(_("This text has a character that cannot be shown: %(sign)s.", sign=describe_char(char)))
    if len(bio) > BIO_LENGTH:
        over = len(bio) - BIO_LENGTH
        raise InvalidInput(ngettext("One character too many.", "%(num)s characters too many.", over))
    return bio


def describe_char(char: str) -> str:
    """Return a character for a message: in quotes, or by its code point (U+200B) if it is invisible."""
    if category(char)[0] in "LNPS" and not is_ignorable(char):
        return f"“{char}”"
    return f"U+{ord(char):04X}"


def _check_length(text: str, minimum: int, maximum: int):
    if len(text) < minimum:
        raise InvalidInput(ngettext("Write at least one character.", "Write at least %(num)s characters.", minimum))
    if len(text) > maximum:
        raise InvalidInput(ngettext("Write at most one character.", "Write at most %(num)s characters.", maximum))
