"""Translations for templates and scripts, and times in the reader's language."""

import logging
import os
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from flask_babel import format_date, format_datetime, get_locale, get_translations
from flask_babel import gettext as _
from flask_moment import moment
from markupsafe import Markup

log = logging.getLogger("noxchat.i18n")


def compile_translations(folder: Path):
    """Compile the catalogs (.po) that have changed since, so that set-up needs no step for it."""
    for source in folder.glob("*/LC_MESSAGES/messages.po"):
        target = source.with_suffix(".mo")
        if target.exists() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns:
            continue
        with open(source, "rb") as file:
            catalog = read_po(file)
        try:
            temporary = target.with_suffix(f".{os.getpid()}.tmp")
            with open(temporary, "wb") as file:
                write_mo(file, catalog)
            temporary.replace(target)
        except OSError as error:
            log.warning("%s cannot be written, so some texts stay English: %s", target, error.strerror)


@cache
def _translate(locale, text: str) -> Markup:  # noqa: ARG001  the current locale is part of the cache's key
    return Markup(get_translations().ugettext(text))  # noqa: S704  our own texts


def gettext(text: str, **values) -> Markup:
    """Translate a string in a template, where it is called `_`. Values are escaped.

    Jinja's own looks up locale and catalog at each call, a hundred times a page.
    """
    translated = _translate(get_locale(), text)
    return translated % values if values or "%" in translated else translated


def script_texts() -> dict[str, str]:
    """Return the texts that app.js shows when there is no answer from the server."""
    return {
        "offline": _("The network does not answer. Nothing was changed; try again."),
        "broken": _("Something went wrong. Nothing was changed; try again."),
        "not-loaded": _("This could not be loaded."),
        "not-reached": _("This could not be loaded. Check your connection."),
        "discard": _("Leave without saving your changes?"),
        "more": _("The rest could not be loaded. Try again"),
    }


# Babel's patterns for the moment.js formats that templates use.
PATTERNS = {"D MMM YYYY": "d MMM y", "D MMMM": "d MMMM", "dddd, D MMMM": "EEEE, d MMMM"}


def month(time: datetime) -> str:
    """Return month and year as they stand in a sentence: October 2025, октября 2025."""
    return format_date(time, "MMMM y")


class Moment(moment):
    """A time as a <time> element: readable UTC without JavaScript, in the reader's time zone with it.

    Flask-Moment's own markup has an inline style, which the CSP forbids, and shows nothing without JavaScript.
    """

    def _render(self, func, format=None, refresh=False, **_unused):  # noqa: A002
        utc = self.timestamp.replace(tzinfo=UTC) if self.timestamp.tzinfo is None else self.timestamp
        return _render_time(get_locale(), utc.replace(microsecond=0), func, format, int(refresh) * 60000)


@lru_cache(maxsize=10_000)
def _render_time(_locale, utc: datetime, function: str, moment_format: str | None, refresh: int) -> Markup:
    pattern = PATTERNS.get(moment_format or "")
    text = format_datetime(utc, pattern) if pattern else format_datetime(utc, "d MMM y, HH:mm") + " UTC"
    values = {"datetime": utc.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "function": function, "text": text}
    data_format = Markup(' data-format="{}"').format(moment_format) if moment_format else ""
    return Markup(
        '<time class="flask-moment" datetime="{datetime}" data-timestamp="{datetime}" data-function="{function}"'
        '{data_format} data-refresh="{refresh}">{text}</time>'
    ).format(**values, data_format=data_format, refresh=refresh)
