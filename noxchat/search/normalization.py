"""The text by which something is found, and queries, both folded in the same way.

A model names its searched attributes (`SearchableMixin.__searchable__`). They become one text, stored with the row,
which every engine searches and by which every list of names is sorted:

    "  anna  o'neil\t  anna_o\t  neil  oneil  o"

First the words of the name, then those of the other attributes, each word preceded by two spaces; last whatever else a
reader sees as the beginning of a word: the parts of `anna_o`, and `oneil` without its apostrophe. So a text that
contains "  ann" has a word that begins with ann, one that begins with "  anna\t" has exactly that name, and a word of
one letter makes, with its spaces, the three characters that a trigram index needs.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

# FIELD_END sorts before every character of a name, so that an exact name comes before longer ones.
WORD_START, FIELD_END, AFTER_FIELD_END = "  ", "\t", "\n"
MAX_CHAR = "\U0010ffff"
MAX_QUERY_LENGTH = 200  # folded; the longest name is 32 characters, some of which become several
MAX_WORDS = 8
EXACT, NAME_PREFIX, WORD_PREFIX, SUBSTRING = range(4)  # the ranks of hits
SHORT_WORD = 2  # words up to this length only match at the beginning of words
PUNCTUATION = "_-.'"  # inside names; the next character begins a word

SEPARATORS = re.compile(f"[{re.escape(PUNCTUATION)}]+")

# Letters that have no decomposition, and punctuation that is typed in several ways.
EQUIVALENTS = str.maketrans(dict(zip("øłđħıðŋ’‘ʼ´`", "oldhidn'''''", strict=True)) | {"æ": "ae", "œ": "oe", "þ": "th"})


def fold(text: str) -> str:
    """Return a text without case and accents (ё becomes е), so that different spellings of a name are the same."""
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char)).translate(EQUIVALENTS)


@lru_cache(maxsize=4096)
def fold_char(char: str) -> str:
    """Return what a single character is folded to."""
    return fold(char)


def make_search_text(*fields: str) -> str:
    """Return the search text for these fields: see the top of this file."""
    texts, extra = [], []
    for field in fields:
        words = fold(field).split()
        texts.append("".join(WORD_START + word for word in words))
        for word in words:
            parts = [part for part in SEPARATORS.split(word) if part]
            extra += [part for part in (*parts, word.replace("'", "")) if part and not word.startswith(part)]
    return FIELD_END.join([*texts, "".join(WORD_START + word for word in dict.fromkeys(extra))])


def is_name_char(char: str) -> bool:
    """Tell whether a folded name can contain this character."""
    return char.isalnum() or char in PUNCTUATION or unicodedata.category(char).startswith("M")


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
        if not any(char.isalnum() for char in self.prefix):
            return NAME_PREFIX
        return WORD_PREFIX if self.is_short else SUBSTRING

    def highlight(self, text: str) -> list[tuple[str, bool]]:
        """Return a text in segments, each with whether it matches a word of the query."""
        folded, origins = text.lower(), list(range(len(text)))
        if not text.isascii():  # a character may be folded to several
            chars = [fold_char(char) for char in text]
            folded, origins = "".join(chars), [index for index, char in enumerate(chars) for _ in char]
        matches = []
        for word in self.words:
            start = folded.find(word)
            while start >= 0:
                if len(word) > SHORT_WORD or not folded[start - 1 : start].isalnum():
                    matches.append((origins[start], origins[start + len(word) - 1] + 1))
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
