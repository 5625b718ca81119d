"""What people are found by: one folded text for each, and what somebody looks for, folded alike.

A model names what it is searched by (`SearchableMixin.__searchable__`). That becomes one text, kept with the row, which
every engine searches and by which every list of names is sorted:

    "  anna  o'neil\t  anna_o\t  neil  oneil  o"

First the words of the name, then those of the other fields, each with two spaces before it; last what else begins a
word for a reader: the parts of `anna_o`, and `oneil` without its sign. So a text that holds "  ann" has a word that
begins with ann, one that begins with "  anna\t" is of somebody called exactly that, and a word of one letter is, with
its spaces, still the three characters that indexes of trigrams need.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

BEFORE_WORD, AFTER_FIELD, NEXT_SIGN = "  ", "\t", "\n"
LAST_SIGN = "\U0010ffff"
LONGEST_QUERY = 200  # folded; the longest name is 32 characters, of which a few become several
MOST_WORDS = 8
EXACT, NAME_BEGINS, WORD_BEGINS, INSIDE = range(4)
SHORT = 2  # a word up to this long is looked for at the beginnings of words only
SIGNS = "_-.'"  # what stands inside names beside letters and digits, and begins a word for a reader

PARTS = re.compile(f"[{re.escape(SIGNS)}]+")

# Letters that have no accent to take off, and signs that are typed for each other.
ALIKE = str.maketrans(dict(zip("øłđħıðŋ’‘ʼ´`", "oldhidn'''''", strict=True)) | {"æ": "ae", "œ": "oe", "þ": "th"})


def fold(words: str) -> str:
    """Return text without case and accents (so ё is е), in which two spellings of one name are the same."""
    bare = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", words).casefold())
    return "".join(char for char in bare if not unicodedata.combining(char)).translate(ALIKE)


@lru_cache(maxsize=4096)
def fold_letter(char: str) -> str:
    """Return what becomes of a single character."""
    return fold(char)


def searchable(*fields: str) -> str:
    """Return the text by which something with these fields is found: see the top of this file."""
    also, written = [], []
    for field in fields:
        words = fold(field).split()
        written.append("".join(BEFORE_WORD + word for word in words))
        for word in words:
            parts = [part for part in PARTS.split(word) if part]
            also += [part for part in (*parts, word.replace("'", "")) if part and not word.startswith(part)]
    return AFTER_FIELD.join([*written, "".join(BEFORE_WORD + word for word in dict.fromkeys(also))])


def is_in_names(char: str) -> bool:
    """Tell whether a folded name can hold this character."""
    return char.isalnum() or char in SIGNS or unicodedata.category(char).startswith("M")


@dataclass(frozen=True)
class Query:
    """What somebody looks for, folded.

    words: without a leading @, as Public IDs are shown with one.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, typed: str) -> "Query":
        """Return the query in a text of any length; whatever it holds is letters."""
        words = fold(typed[: 10 * LONGEST_QUERY]).split()
        return cls(tuple(word for word in (word.removeprefix("@") for word in words) if word))

    def __bool__(self):
        return bool(self.words)

    @cached_property
    def whole(self) -> str:
        """The beginning of the text of everybody whose name begins with this."""
        return "".join(BEFORE_WORD + word for word in self.words)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """What the text of everybody contains who is found by this: no order, each of them somewhere."""
        return tuple(word if len(word) > SHORT else BEFORE_WORD + word for word in self.words)

    @cached_property
    def starts(self) -> tuple[str, ...]:
        """The same, with each word at the beginning of one."""
        return tuple(BEFORE_WORD + word for word in self.words)

    @cached_property
    def is_short(self) -> bool:
        """Whether this is so little that only beginnings of words are found."""
        return max(map(len, self.words), default=0) <= SHORT

    @cached_property
    def is_possible(self) -> bool:
        """Whether anybody can be called so: names hold no other signs, and are not that long."""
        return (
            0 < len(self.whole) <= LONGEST_QUERY
            and len(self.words) <= MOST_WORDS
            and all(is_in_names(char) for word in self.words for char in word)
        )

    @cached_property
    def last_rank(self) -> int:
        """The last rank that can have anybody: no index knows signs alone; short words are found where words begin."""
        if not any(char.isalnum() for char in self.whole):
            return NAME_BEGINS
        return WORD_BEGINS if self.is_short else INSIDE

    def pieces(self, name: str) -> list[tuple[str, bool]]:
        """Return a name in pieces, each with whether it is what was looked for, where that can be told."""
        folded, origin = name.lower(), range(len(name))
        if not name.isascii():  # a letter may become several
            letters = [fold_letter(char) for char in name]
            folded, origin = "".join(letters), [place for place, char in enumerate(letters) for _letter in char]
        hits = []
        for word in self.words:
            start = folded.find(word)
            while start >= 0:
                if len(word) > SHORT or not folded[start - 1 : start].isalnum():
                    hits.append((origin[start], origin[start + len(word) - 1] + 1))
                start = folded.find(word, start + len(word))
        pieces, done = [], 0
        for start, end in sorted(hits):
            if start >= done:
                pieces += [(name[done:start], False), (name[start:end], True)]
                done = end
        return [(piece, hit) for piece, hit in [*pieces, (name[done:], False)] if piece]

    @cached_property
    def values(self) -> dict[str, str]:
        """The parameters of `fits`."""
        return {f"part{number}": part for number, part in enumerate(self.parts)}


class Hit(NamedTuple):
    """Something that was found. `rank` and `text` are its place in the order, and the cursor of whatever follows it."""

    id: int
    rank: int
    text: str
