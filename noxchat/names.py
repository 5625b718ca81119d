"""Validation of names, Public IDs, e-mail addresses and bios; and which names are too much alike."""

import re
import secrets
import unicodedata

import idna
from confusable_homoglyphs.confusables import confusables_data
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from flask_babel import gettext as _
from flask_babel import ngettext
from python_usernames.reserved_words import get_reserved_words

from noxchat.exceptions import InvalidInput
from noxchat.models import BIO_LENGTH, EMAIL_LENGTH, PUBLIC_ID_LENGTH, USERNAME_LENGTH

# Private networks have hosts such as mail.local. The library's documented way to allow them is to empty this list.
SPECIAL_USE_DOMAIN_NAMES.clear()

# Besides letters, marks and digits of any script: O'Neil, Anne-Marie, J. R. Smith, timur_dev.
NAME_PUNCTUATION = set(" _-.'’")
NAME_CATEGORIES = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd"}
# Characters of those categories that are invisible (Unicode's Default_Ignorable_Code_Point).
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# Embeddings, overrides and isolates change the direction of the text around them (Unicode's UAX #9).
DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
MAX_COMBINING_MARKS = 2
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
PATHS = set("blocked counters delete email i look moment.js password sessions u undo".split())

# Characters of one alphabet that are easily confused (Unicode's UTS #39), in lower case.
LOOKALIKES = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "’": "'"})


def skeleton(name: str) -> str:
    """Return the skeleton of a name (UTS #39): names that look alike have the same one, and only one can be taken.

    Case, accents and lookalikes from other scripts are folded.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    bare = "".join(c for c in unicodedata.normalize("NFD", folded) if not unicodedata.combining(c))
    folded = "".join(_prototype(c) for c in bare).translate(LOOKALIKES)
    return folded.replace("rn", "m").replace("vv", "w")


def _prototype(char: str) -> str:
    """Return the ASCII letter or digit that a character looks like, or the character itself."""
    if char.isascii():
        return char
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    # Lower case first: р is p; but т looks like t only as the capital Т.
    for form in (char, char.upper()):
        for homoglyph in confusables_data.get(form, ()):
            if homoglyph["c"].isascii() and homoglyph["c"].isalnum():
                return homoglyph["c"].casefold()
    return char


RESERVED_SKELETONS = {skeleton(word) for word in RESERVED}
# Words that change nothing: The Admins, Nox Team, Служба поддержки.
FILLERS = "nox noxchat the customer service desk bot s служба тех".split()
_operator, _filler = ("|".join(sorted(map(skeleton, words), key=len, reverse=True)) for words in (OPERATORS, FILLERS))
OPERATOR_NAMES = re.compile(f"({_filler})*({_operator})({_filler}|{_operator})*")


def imitates_operator(name: str) -> bool:
    """Tell whether a name or Public ID pretends to be of whoever runs the place.

    Punctuation is ignored, and so are digits before and after it; such words may be joined: Adm1n, support-2, Nox Team.
    """
    trimmed = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", name)
    return any(OPERATOR_NAMES.fullmatch(skeleton(re.sub(r"[\W_]", "", text))) for text in (name, trimmed))


def _without_signs(public_id: str) -> str:
    return re.sub("[-_.]", "", public_id.lower())


# The package's words are refused as Public IDs only: among them are names of people, such as Ruby.
RESERVED_PUBLIC_IDS = {_without_signs(word) for word in RESERVED | PATHS | get_reserved_words()}


def is_reserved_public_id(public_id: str) -> bool:
    """Tell whether nobody can take a Public ID: in any case, and with or without - and _ between its words."""
    return _without_signs(public_id) in RESERVED_PUBLIC_IDS or imitates_operator(public_id)


def clean_username(text: str) -> str:
    """Return a username as it is stored: in NFC, trimmed. Raises InvalidInput."""
    name = unicodedata.normalize("NFC", text).strip(" ")
    _check_length(name, *USERNAME_LENGTH)
    for char in name:
        if unicodedata.category(char) not in NAME_CATEGORIES and char not in NAME_PUNCTUATION or INVISIBLE.match(char):
            raise InvalidInput(
                _(
                    "A name is made of letters, digits, spaces and _ - . '. It cannot hold %(sign)s.",
                    sign=describe_char(char),
                )
            )
    if re.search(r" {2}|[_.'’-]{3}", name):
        raise InvalidInput(_("A name has single spaces and no rows of signs."))
    marks = "".join("m" if unicodedata.category(c) in {"Mn", "Mc"} else "-" for c in name)
    if "m" * (MAX_COMBINING_MARKS + 1) in marks or marks.startswith("m"):
        raise InvalidInput(_("This name has too many marks over its letters."))
    if not any(unicodedata.category(c)[0] in "LN" for c in name):
        raise InvalidInput(_("A name holds at least one letter or digit."))
    key = skeleton(name)
    if key in RESERVED_SKELETONS or imitates_operator(name):
        raise InvalidInput(_("This name is reserved. Choose another."))
    if len(key) > 255:
        raise InvalidInput(_("This name is too long when written out. Choose another."))
    return name


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
    return ascii_address(unicodedata.normalize("NFC", email)).lower()


def clean_bio(text: str) -> str:
    """Return a bio as it is stored: in NFC, with \\n line breaks, trimmed. Raises InvalidInput."""
    bio = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip(" \n")
    for char in bio:
        invisible = unicodedata.category(char) in {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"} and char != "\n"
        if invisible or DIRECTION.match(char):
            raise InvalidInput(_("This text holds a sign that cannot be shown: %(sign)s.", sign=describe_char(char)))
    if len(bio) > BIO_LENGTH:
        over = len(bio) - BIO_LENGTH
        raise InvalidInput(ngettext("One character too many.", "%(num)s characters too many.", over))
    return bio


def describe_char(char: str) -> str:
    """Return a character for a message: in quotes, or by its code point (U+200B) if it is invisible."""
    if unicodedata.category(char)[0] in "LNPS" and not INVISIBLE.match(char):
        return f"“{char}”"
    return f"U+{ord(char):04X}"


def _check_length(text: str, minimum: int, maximum: int):
    if len(text) < minimum:
        raise InvalidInput(ngettext("Write at least one character.", "Write at least %(num)s characters.", minimum))
    if len(text) > maximum:
        raise InvalidInput(ngettext("Write at most one character.", "Write at most %(num)s characters.", maximum))
