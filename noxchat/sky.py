"""The moon tonight."""

from dataclasses import dataclass
from datetime import UTC, datetime

from flask_babel import gettext as _

# A new moon (6 January 2000, 18:14 UTC) and the mean time from one to the next: Meeus, Astronomical Algorithms, 49.
NEW_MOON = datetime(2000, 1, 6, 18, 14, tzinfo=UTC)
MONTH_DAYS = 29.530588861


@dataclass(frozen=True)
class Moon:
    """A phase: which drawing shows it, whether it is mirrored, and its name."""

    drawing: str
    waning: bool
    words: str


def moon(moment: datetime) -> Moon:
    """Return the moon's phase at a moment, half a day more or less."""
    age = (moment - NEW_MOON).total_seconds() / 86400 % MONTH_DAYS / MONTH_DAYS
    drawing, words = (
        ("new", _("New moon tonight.")),
        ("crescent", _("A young moon tonight.")),
        ("half", _("Half moon tonight.")),
        ("gibbous", _("The moon is filling up tonight.")),
        ("full", _("Full moon tonight.")),
        ("gibbous", _("The moon is thinning tonight.")),
        ("half", _("Half moon tonight.")),
        ("crescent", _("An old moon tonight.")),
    )[round(age * 8) % 8]
    return Moon(drawing, age > 0.5, words)
