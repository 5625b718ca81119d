"""What's new: the newest entries of CHANGELOG.md, for the home page."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"
HEADING = re.compile(r"## (?P<version>\S+) · (?P<date>\d{4}-\d{2}-\d{2})")
MOST = 3


@dataclass(frozen=True)
class Entry:
    version: str
    date: datetime
    lines: tuple[str, ...]


def entries() -> list[Entry]:
    """Return the newest versions with what changed for people: the lines that begin with a dash and bold words."""
    return _parse(CHANGELOG.stat().st_mtime_ns)


@cache
def _parse(_modified: int) -> list[Entry]:
    found = []
    for section in re.split(r"^(?=## )", CHANGELOG.read_text(encoding="utf-8"), flags=re.M)[1:]:
        heading = HEADING.match(section)
        if heading:
            date = datetime.fromisoformat(heading["date"]).replace(tzinfo=UTC)
            lines = tuple(re.findall(r"^- \*\*(.+?)\*\*", section, flags=re.M))
            found.append(Entry(heading["version"], date, lines))
    return found[:MOST]
