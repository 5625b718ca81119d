"""Pages of endless lists, found by where the one before ended: as cheap at the thousandth page as at the first."""

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SIZE = 20


@dataclass(frozen=True)
class Page:
    """items: at most SIZE. next: the cursor of the page after it, None at the end. start: whether this is the first."""

    items: list
    next: str | None
    start: bool = True


def page(rows: Iterable, cursor: str | None, place: Callable[..., Iterable]) -> Page:
    """Return a page of what stands first in rows, of which one more than SIZE were asked for, to see if there are more.

    cursor: where it began. place: returns a row's place in the order, as texts and numbers.
    """
    rows = list(rows)
    following = encode(*place(rows[SIZE - 1])) if len(rows) > SIZE else None
    return Page([row[0] for row in rows[:SIZE]], following, cursor is None)


def encode(*place) -> str:
    """Return a place in a list for an address."""
    return base64.urlsafe_b64encode(json.dumps(place, ensure_ascii=False).encode()).decode().rstrip("=")


def decode(cursor: str | None, *kinds: type):
    """Return the place that a cursor names, if it is one of these kinds of values; None begins at the beginning."""
    try:
        place = json.loads(base64.urlsafe_b64decode((cursor or "") + "=" * (-len(cursor or "") % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    fits = isinstance(place, list) and [type(value) for value in place] == list(kinds)
    good = fits and all(abs(value) < 2**31 if isinstance(value, int) else "\0" not in value for value in place)
    return tuple(place) if good and _is_text(place) else None


def _is_text(place: list) -> bool:
    """Tell whether the texts can be said in UTF-8: JSON can smuggle in halves of characters."""
    try:
        json.dumps(place, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
