"""Keyset pagination: the next page begins after the last row of this one, so that every page costs the same."""

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

PAGE_SIZE = 20


@dataclass(frozen=True)
class Page:
    """items: at most PAGE_SIZE. next_cursor: of the following page, or None. is_first: whether the list begins here."""

    items: list
    next_cursor: str | None
    is_first: bool = True


def make_page(rows: Iterable, cursor: str | None, position: Callable[..., Iterable]) -> Page:
    """Return a page of rows.

    rows: up to PAGE_SIZE + 1, the last of which only shows that there is another page. cursor: where the page began,
    or None. position: returns a row's position in the order, as strings and integers.
    """
    rows = list(rows)
    next_cursor = encode_cursor(*position(rows[PAGE_SIZE - 1])) if len(rows) > PAGE_SIZE else None
    return Page(rows[:PAGE_SIZE], next_cursor, cursor is None)


def encode_cursor(*position) -> str:
    """Return a position in a list as a URL-safe string."""
    return base64.urlsafe_b64encode(json.dumps(position, ensure_ascii=False).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, *types: type):
    """Return the position that a cursor contains, as a tuple of values of these types; None if it is not valid."""
    try:
        position = json.loads(base64.urlsafe_b64decode((cursor or "") + "=" * (-len(cursor or "") % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    if not isinstance(position, list) or [type(value) for value in position] != list(types):
        return None
    storable = all(abs(value) < 2**31 if isinstance(value, int) else "\0" not in value for value in position)
    return tuple(position) if storable and _is_encodable(position) else None


def _is_encodable(position: list) -> bool:
    """Tell whether the strings can be encoded in UTF-8: JSON can contain lone surrogates."""
    try:
        json.dumps(position, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def time_and_id(position: tuple[str, int] | None) -> tuple[datetime, int] | None:
    """Return the time in UTC and the id of a decoded cursor, or None if it is not one of a list by time."""
    try:
        time = datetime.fromisoformat(position[0]) if position else None
        return (time.astimezone(UTC), position[1]) if position and time and time.tzinfo else None
    except (ValueError, OverflowError):  # not a time, or one beyond the range of UTC
        return None
