"""The phase of the moon, for the home page."""

from dataclasses import dataclass
from datetime import UTC, datetime

from flask_babel import gettext as _

# A new moon (6 January 2000, 18:14 UTC) and the mean synodic month: Meeus, Astronomical Algorithms, chapter 49.
NEW_MOON = datetime(2000, 1, 6, 18, 14, tzinfo=UTC)
SYNODIC_MONTH_DAYS = 29.530588861


@dataclass(frozen=True)
class MoonPhase:
    """icon: the name of its drawing. waning: whether that is mirrored. description: a sentence."""

    icon: str
    waning: bool
    description: str


def moon_phase(time: datetime) -> MoonPhase:
    """Return the phase of the moon at a time, accurate to half a day."""
    age = (time - NEW_MOON).total_seconds() / 86400 % SYNODIC_MONTH_DAYS / SYNODIC_MONTH_DAYS
    icon, description = (
        ("new", _("New moon tonight.")),
        ("crescent", _("A young moon tonight.")),
        ("half", _("Half moon tonight.")),
        ("gibbous", _("The moon is filling up tonight.")),
        ("full", _("Full moon tonight.")),
        ("gibbous", _("The moon is thinning tonight.")),
        ("half", _("Half moon tonight.")),
        ("crescent", _("An old moon tonight.")),
    )[round(age * 8) % 8]
    return MoonPhase(icon, age > 0.5, description)
