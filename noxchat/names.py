"""What names, Public IDs, addresses and texts may be, and when two names are the same to a reader."""

import re
import secrets
import unicodedata

from confusable_homoglyphs.confusables import confusables_data
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from flask_babel import gettext as _
from flask_babel import ngettext

from noxchat.models import BIO_LENGTH, EMAIL_LENGTH, PUBLIC_ID_LENGTH, USERNAME_LENGTH
from noxchat.refusal import Invalid

# Private networks have hosts such as mail.local; the library's way to take them is to empty this list.
SPECIAL_USE_DOMAIN_NAMES.clear()

# Letters, marks and digits of any script, and what stands inside names: O'Neil, Anne-Marie, J. R. Smith, timur_dev.
NAME_PUNCTUATION = set(" _-.'’")
NAME_CATEGORIES = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd"}
# Letters and marks of those categories that show nothing (Unicode's Default_Ignorable_Code_Point).
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# Embeddings, overrides and isolates turn the text around them (Unicode's UAX #9).
DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
MOST_MARKS = 2

PUBLIC_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# No vowels: a random name should not say anything.
ID_LETTERS = "bcdfghjkmnpqrstvwxz23456789"

RESERVED = set(
    """
    about abuse account admin administrator anonymous api auth avatar avatars block chat chats contact deleted events
    everyone friend friends guest healthz help home host info login logout mail me mod moderator myself news nobody nox
    noxchat null official owner postmaster privacy profile readyz register reset root search security self settings
    staff static support sysadmin system team undefined user users webmaster
    администратор админ модератор поддержка система
    """.split()
)

# Characters of one alphabet that a glance confuses (Unicode's UTS #39), after case is gone.
ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "’": "'"})


def skeleton(name: str) -> str:
    """Return what is left of a name at a glance; two names with one skeleton cannot both be taken.

    Case, accents and look-alikes of other scripts (UTS #39) are folded away.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    bare = "".join(c for c in unicodedata.normalize("NFD", folded) if not unicodedata.combining(c))
    seen = "".join(_prototype(c) for c in bare).translate(ALIKE)
    return seen.replace("rn", "m").replace("vv", "w")


def _prototype(char: str) -> str:
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


def clean_username(text: str) -> str:
    """Return a username as it is kept: NFC, spaces at the ends gone. Raises Invalid, in words for the person."""
    name = unicodedata.normalize("NFC", text).strip(" ")
    _check_length(name, *USERNAME_LENGTH)
    for char in name:
        if unicodedata.category(char) not in NAME_CATEGORIES and char not in NAME_PUNCTUATION or INVISIBLE.match(char):
            raise Invalid(
                _("A name is made of letters, digits, spaces and _ - . '. It cannot hold %(sign)s.", sign=show(char))
            )
    if re.search(r" {2}|[_.'’-]{3}", name):
        raise Invalid(_("A name has single spaces and no rows of signs."))
    marks = "".join("m" if unicodedata.category(c) in {"Mn", "Mc"} else "-" for c in name)
    if "m" * (MOST_MARKS + 1) in marks or marks.startswith("m"):
        raise Invalid(_("This name has too many marks over its letters."))
    if not any(unicodedata.category(c)[0] in "LN" for c in name):
        raise Invalid(_("A name holds at least one letter or digit."))
    key = skeleton(name)
    if key in RESERVED_SKELETONS:
        raise Invalid(_("This name is reserved. Choose another."))
    if len(key) > 255:
        raise Invalid(_("This name is too long when written out. Choose another."))
    return name


def clean_public_id(text: str) -> str:
    """Return a Public ID as it is kept, in the case that it was typed in. Raises Invalid."""
    public_id = text.strip(" ")
    _check_length(public_id, *PUBLIC_ID_LENGTH)
    if not PUBLIC_ID.fullmatch(public_id):
        raise Invalid(_("A Public ID is made of a–z, 0–9, _ and -, and begins with a letter or digit."))
    if public_id.lower() in RESERVED:
        raise Invalid(_("This Public ID is reserved. Choose another."))
    return public_id


def random_public_id() -> str:
    """Return a Public ID for a newcomer: unpredictable, so that nobody can take it first or count people by it."""
    return "nox-" + "".join(secrets.choice(ID_LETTERS) for _place in range(10))


def clean_email(text: str) -> str:
    """Return an e-mail address as it is kept. Raises Invalid.

    Nothing is looked up, and no ending is refused.
    """
    try:
        if len(text) > EMAIL_LENGTH:
            raise EmailNotValidError
        email = validate_email(text.strip(" "), check_deliverability=False, globally_deliverable=False).normalized
    except EmailNotValidError:
        raise Invalid(_("This is not an e-mail address. It looks like name@example.org.")) from None
    if len(email) > EMAIL_LENGTH:
        raise Invalid(_("This is not an e-mail address. It looks like name@example.org."))
    return email


def email_key(email: str) -> str:
    """Return what makes an address the same address: Unicode form and case do not."""
    return unicodedata.normalize("NFC", email).casefold()[:EMAIL_LENGTH]


def clean_bio(text: str) -> str:
    """Return a bio as it is kept: NFC, line ends as one sign, spaces at the ends gone. Raises Invalid."""
    bio = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip(" \n")
    for char in bio:
        hidden = unicodedata.category(char) in {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"} and char != "\n"
        if hidden or DIRECTION.match(char):
            raise Invalid(_("This text holds a sign that cannot be shown: %(sign)s.", sign=show(char)))
    if len(bio) > BIO_LENGTH:
        over = len(bio) - BIO_LENGTH
        raise Invalid(ngettext("One character too many.", "%(num)s characters too many.", over))
    return bio


def show(char: str) -> str:
    """Return a character so that it can be seen in a message, however invisible it is."""
    if unicodedata.category(char)[0] in "LNPS" and not INVISIBLE.match(char):
        return f"“{char}”"
    return f"U+{ord(char):04X}"


def _check_length(text: str, least: int, most: int):
    if len(text) < least:
        raise Invalid(ngettext("Write at least one character.", "Write at least %(num)s characters.", least))
    if len(text) > most:
        raise Invalid(ngettext("Write at most one character.", "Write at most %(num)s characters.", most))
