"""The text by which something is found, and queries, both folded in the same way.

A model names its searched attributes (`SearchableMixin.__searchable__`). They become one text, stored with the row,
which every engine searches and by which every list of names is sorted:

    "  anna  o'neil\t  anna_o\t  neil  oneil  o"
    "  王小明\t  nox-5\t  小明  明  5"

First the words of the name, then those of the other attributes, each word preceded by two spaces; last whatever else a
reader sees as the beginning of a word: the parts of `anna_o`, and `oneil` without its apostrophe. Scripts that put no
spaces between words may begin one anywhere, so of these the first two characters from each position are words as well.
So a text that contains "  ann" has a word that begins with ann, one that begins with "  anna\t" has exactly that name,
and a word of one letter makes, with its spaces, the three characters that a trigram index needs.

What this module makes of a name is stored: a change of it needs a migration that computes the texts anew.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import repeat
from typing import NamedTuple

from noxchat.characters import (
    casefold,
    combining,
    is_alnum,
    is_ignorable,
    is_mark,
    normalize,
    script,
    to_ascii_digit,
)

# FIELD_END sorts before every character of a name, so that an exact name comes before longer ones.
WORD_START, FIELD_END, AFTER_FIELD_END = "  ", "\t", "\n"
MAX_CHAR = "\U0010ffff"
MAX_QUERY_LENGTH = 200  # folded; the longest name is 32 characters, some of which become several
MAX_WORDS = 8
EXACT, NAME_PREFIX, WORD_PREFIX, SUBSTRING = range(4)  # the ranks of hits
SHORT_WORD = 2  # words up to this length only match at the beginning of words
PUNCTUATION = "_-.'\"·་"  # inside names; the next character begins a word

SEPARATORS = re.compile(f"[{re.escape(PUNCTUATION)}]+")
LEFT_OUT = str.maketrans("", "", "'\"·")  # of the punctuation, what people leave out

# Punctuation that is typed in several ways. Before the decomposition, which makes two characters of some of it.
TYPED_ALIKE = str.maketrans(
    dict.fromkeys("’‘‛ʼʻʽʹʾʿˈ´`′׳՚Ꞌꞌ", "'")
    | dict.fromkeys("”“„″״", '"')
    | dict.fromkeys("\u2010\u2011֊־゠", "-")
    | dict.fromkeys("・･‧", "·")
)
# Letters that have no decomposition, and those that Arabic and Persian keyboards have each in their own way. Tatweel
# only makes a word longer.
EQUIVALENTS = (
    dict(zip("øłđħıðŋ", "oldhidn", strict=True))
    | {"æ": "ae", "œ": "oe", "þ": "th"}
    | {"ی": "ي", "ى": "ي", "ک": "ك", "\u0640": ""}
)
# Those without spaces between words, by the first words of their characters' names, and Hangul, in which a family name
# and a given name are one word.
UNSPACED_SCRIPTS = set(
    """
    CJK IDEOGRAPHIC HIRAGANA KATAKANA KATAKANA-HIRAGANA BOPOMOFO HANGUL THAI LAO KHMER MYANMAR TIBETAN TAI NEW JAVANESE
    BALINESE TANGUT NUSHU KHITAN YI
    """.split()
)


def fold(text: str) -> str:
    """Return a text without case and accents (ё becomes е), so that different spellings of a name are the same."""
    if text.isascii():
        return text.lower().replace("`", "'")
    decomposed = normalize("NFKD", casefold(normalize("NFKD", text.translate(TYPED_ALIKE))))
    return "".join(map(_fold_decomposed, decomposed))


@lru_cache(maxsize=8192)
def _fold_decomposed(char: str) -> str:
    """Return what a character of a decomposed text is folded to: nothing for accents and what is not drawn."""
    if combining(char) or is_ignorable(char):
        return ""
    return EQUIVALENTS.get(char, to_ascii_digit(char))


@lru_cache(maxsize=4096)
def fold_char(char: str) -> str:
    """Return what a single character is folded to."""
    return fold(char)


def _begins_syllable(char: str) -> bool:
    """Tell whether a folded character is one of the consonants by which decomposed Hangul syllables begin."""
    return "\u1100" <= char <= "\u115f" or "\ua960" <= char <= "\ua97c"


@lru_cache(maxsize=8192)
def is_unspaced(char: str) -> bool:
    """Tell whether a word may begin with this folded character wherever it stands, as in 王小明."""
    if script(char) == "HANGUL":
        return _begins_syllable(char)
    return script(char) in UNSPACED_SCRIPTS and is_alnum(char)


def begins_word(text: str, index: int) -> bool:
    """Tell whether a reader may see the beginning of a word at this position of a folded text."""
    before = text[index - 1 : index]
    return not before or not (is_alnum(before) or is_mark(before)) or is_unspaced(text[index])


def make_search_text(*fields: str) -> str:
    """Return the search text for these fields: see the top of this file."""
    texts, extra = [], []
    for field in fields:
        words = fold(field).split()
        texts.append("".join(WORD_START + word for word in words))
        for word in words:
            parts = [part for part in SEPARATORS.split(word) if part]
            extra += [part for part in (*parts, word.translate(LEFT_OUT)) if part and not word.startswith(part)]
            if not word.isascii():
                starts = [word[index : index + SHORT_WORD] for index in range(1, len(word)) if is_unspaced(word[index])]
                extra += [start for start in starts if not any(map(str.startswith, (*words, *extra), repeat(start)))]
    return FIELD_END.join([*texts, "".join(WORD_START + word for word in dict.fromkeys(extra))])


def is_name_char(char: str) -> bool:
    """Tell whether a folded name can contain this character."""
    return is_alnum(char) or char in PUNCTUATION or is_mark(char)


@dataclass(frozen=True)
class Query:
    """What is searched for, folded.

    words: without a leading @, with which Public IDs are shown.
    """

    words: tuple[str, ...]

    @classmethod
    def parse(cls, term: str) -> "Query":
        """Return the query for a search term of any length. There is no syntax: every character is literal."""
        words = fold(term[: 10 * MAX_QUERY_LENGTH]).split()
        return cls(tuple(word for word in (word.removeprefix("@") for word in words) if word))

    def __bool__(self):
        return bool(self.words)

    @cached_property
    def prefix(self) -> str:
        """What the text of everything begins with whose name begins with this query."""
        return "".join(WORD_START + word for word in self.words)

    @cached_property
    def substrings(self) -> tuple[str, ...]:
        """What the text of every hit contains, in any order."""
        return tuple(word if len(word) > SHORT_WORD else WORD_START + word for word in self.words)

    @cached_property
    def word_prefixes(self) -> tuple[str, ...]:
        """What the text of every hit of rank WORD_PREFIX or better contains, in any order."""
        return tuple(WORD_START + word for word in self.words)

    @cached_property
    def is_short(self) -> bool:
        """Whether all words are so short that only the beginnings of words match."""
        return max(map(len, self.words), default=0) <= SHORT_WORD

    @cached_property
    def can_match(self) -> bool:
        """Whether anything can match: names contain no other characters, and are not longer."""
        return (
            0 < len(self.prefix) <= MAX_QUERY_LENGTH
            and len(self.words) <= MAX_WORDS
            and all(is_name_char(char) for word in self.words for char in word)
        )

    @cached_property
    def max_rank(self) -> int:
        """The last rank that can have hits: no index has punctuation, and short words only match where words begin."""
        if not any(map(is_alnum, self.prefix)):
            return NAME_PREFIX
        return WORD_PREFIX if self.is_short else SUBSTRING

    def highlight(self, text: str) -> list[tuple[str, bool]]:
        """Return a text in segments, each with whether it matches a word of the query."""
        origins: Sequence[int]
        if text.isascii():
            folded, origins = fold(text), range(len(text))
        else:  # a character may be folded to several
            chars = [fold_char(char) for char in text]
            folded, origins = "".join(chars), [index for index, char in enumerate(chars) for _ in char]
        matches = []
        for word in self.words:
            start = folded.find(word)
            while start >= 0:
                if len(word) > SHORT_WORD or begins_word(folded, start):
                    end = origins[start + len(word) - 1] + 1
                    while end < len(text) and is_mark(text[end]):  # which are not searched
                        end += 1
                    matches.append((origins[start], end))
                start = folded.find(word, start + len(word))
        segments, done = [], 0
        for start, end in sorted(matches):
            if start >= done:
                segments += [(text[done:start], False), (text[start:end], True)]
                done = end
        return [(segment, matched) for segment, matched in [*segments, (text[done:], False)] if segment]

    @cached_property
    def patterns(self) -> dict[str, str]:
        """The parameters of engines.contains_all."""
        return {f"pattern{number}": like_pattern(part) for number, part in enumerate(self.substrings)}


def like_pattern(part: str) -> str:
    """Return the pattern with which LIKE finds a substring."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", part) + "%"


class Hit(NamedTuple):
    """A row that was found. `rank` and `text` are its position in the order, and the cursor of what follows it."""

    id: int
    rank: int
    text: str
