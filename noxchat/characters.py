"""What Unicode says about characters: one version of its data for every Python and machine.

Each release of Python has its own: 3.11 has Unicode 14 (2021), 3.13 has 15.1. With those, an emoji of 2022 would be
unassigned on one server and fine on the next, and two processes that share a database would disagree about which names
are the same and what a search text is. So the data comes from a package (unicodedata2, whose version is Unicode's),
and no other module asks `unicodedata`, or methods of str that depend on it, such as isalnum and casefold.

Release 18.0 of both this package and idna, which has the joining types, are Unicode 18.
"""

import re
import unicodedata as python_data
from functools import lru_cache

from idna.idnadata import joining_types
from idna.intranges import intranges_contain
from unicodedata2 import category as category
from unicodedata2 import combining as combining
from unicodedata2 import decimal, lookup, name
from unicodedata2 import normalize as normalize

ZWNJ, ZWJ = "\u200c", "\u200d"
VIRAMA = 9  # the combining class of signs that join two consonants
# Unicode's Default_Ignorable_Code_Point: what is not drawn.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def is_alnum(char: str) -> bool:
    """Tell whether a character is a letter or number of any script."""
    return category(char)[0] in "LN"


def is_mark(char: str) -> bool:
    """Tell whether a character is a mark, which belongs to the letter before it."""
    return category(char)[0] == "M"


def is_ignorable(char: str) -> bool:
    """Tell whether a character is not drawn, by its property Default_Ignorable_Code_Point."""
    return bool(_IGNORABLE.match(char))


def is_vowel_sign(char: str) -> bool:
    """Tell whether a character is a dependent vowel of an Indic script. Of "" it is false."""
    return bool(char) and "VOWEL SIGN" in name(char, "")


def to_ascii_digit(char: str) -> str:
    """Return the ASCII digit of the same value for a decimal digit of any script, other characters as they are."""
    value = decimal(char, None)
    return char if value is None else str(value)


def joining_type(char: str) -> str:
    """Return how a letter of a cursive script joins its neighbours: D, R, L, C or T (transparent), or U for not."""
    return next((kind for kind, ranges in joining_types.items() if intranges_contain(ord(char), ranges)), "U")


@lru_cache(maxsize=8192)
def script(char: str) -> str:
    """Return the first word of a character's name, which says its script: LATIN, HEBREW, MYANMAR, CJK.

    Marks that any script uses are COMBINING; of "" it is empty. Neither Python nor the package has the
    property Script itself.
    """
    word = name(char, "").partition(" ")[0] if char else ""
    return "KATAKANA" if word == "HALFWIDTH" else word


@lru_cache(maxsize=8192)
def _small(char: str) -> str:
    """Return the small letter for a capital that the running Python does not know yet, by its name."""
    if char.isascii() or category(char) not in {"Lu", "Lt"} or python_data.category(char) != "Cn":
        return char
    try:
        return lookup(name(char).replace("CAPITAL", "SMALL"))
    except KeyError:
        return char


def casefold(text: str) -> str:
    """Return a text case-folded. Python's own folding is right for the letters that it knows: it never changes."""
    return "".join(map(_small, text.casefold()))


def lower(text: str) -> str:
    """Return a text in lower case."""
    return "".join(map(_small, text.lower()))
