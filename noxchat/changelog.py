"""The latest entries of docs/news/, for the home page. (CHANGELOG.md is for those who host NoxChat.)"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "news"
HEADING = re.compile(r"## (?P<version>\S+) · (?P<date>\d{4}-\d{2}-\d{2})")
MAX_ENTRIES = 2


@dataclass(frozen=True)
class ChangelogEntry:
    """A release. highlights: what changed for the people who use NoxChat, a sentence for each."""

    version: str
    date: datetime
    highlights: tuple[str, ...]


def latest_entries(language: str) -> list[ChangelogEntry]:
    """Return the latest releases in a language, newest first; none without the file, as in some containers."""
    path = FOLDER / f"{language}.md"
    try:
        return _parse(path, path.stat().st_mtime_ns)
    except (OSError, UnicodeError):
        return []


@cache
def _parse(path: Path, _modified: int) -> list[ChangelogEntry]:
    entries = []
    for section in re.split(r"^(?=## )", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
        heading = HEADING.match(section)
        highlights = tuple(re.findall(r"^- (.+)$", section, flags=re.M))
        if heading and highlights:
            date = datetime.fromisoformat(heading["date"]).replace(tzinfo=UTC)
            entries.append(ChangelogEntry(heading["version"], date, highlights))
    return entries[:MAX_ENTRIES]
