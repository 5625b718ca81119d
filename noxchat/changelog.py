"""The latest entries of CHANGELOG.md, for the home page."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"
HEADING = re.compile(r"## (?P<version>\S+) · (?P<date>\d{4}-\d{2}-\d{2})")
MAX_ENTRIES = 3


@dataclass(frozen=True)
class ChangelogEntry:
    """A release. highlights: the bold sentences of its list, which are those for the people who use NoxChat."""

    version: str
    date: datetime
    highlights: tuple[str, ...]


def latest_entries() -> list[ChangelogEntry]:
    """Return the latest releases that have highlights, newest first; none without the file, as in some containers."""
    try:
        return _parse(CHANGELOG.stat().st_mtime_ns)
    except (OSError, UnicodeError):
        return []


@cache
def _parse(_modified: int) -> list[ChangelogEntry]:
    entries = []
    for section in re.split(r"^(?=## )", CHANGELOG.read_text(encoding="utf-8"), flags=re.M)[1:]:
        heading = HEADING.match(section)
        highlights = tuple(re.findall(r"^- \*\*(.+?)\*\*", section, flags=re.M))
        if heading and highlights:
            date = datetime.fromisoformat(heading["date"]).replace(tzinfo=UTC)
            entries.append(ChangelogEntry(heading["version"], date, highlights))
    return entries[:MAX_ENTRIES]
