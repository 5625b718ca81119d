"""The language and theme of a request: from the account, else a cookie, else the browser; and the browser's sound."""

from flask import g, has_request_context, request
from werkzeug.wrappers import Response

from noxchat.models import User
from noxchat.web import cookies

LANGUAGES = {"en": "English", "ru": "Русский"}
THEMES = ("auto", "night", "day")
SOUNDS = ("off", "on")
ACCOUNT_PREFERENCES = ("language", "theme")  # stored in the account; the others only in the browser


def apply_preferences(user: User):
    """Answer this request in somebody's language and theme, even if it fails and the user is no longer loaded."""
    g.user_language, g.user_theme = user.language, user.theme


def language() -> str:
    """Return the language to answer in."""
    if not has_request_context():  # the command line is in English, and the mail worker sets each e-mail's language
        return "en"
    chosen = g.get("user_language") or cookies.get("LANGUAGE_COOKIE_NAME")
    return chosen if chosen in LANGUAGES else request.accept_languages.best_match(LANGUAGES, "en")


def theme() -> str:
    """Return the theme to answer in; `auto` follows the device."""
    chosen = g.get("user_theme") or cookies.get("THEME_COOKIE_NAME")
    return chosen if chosen in THEMES else "auto"


def sound() -> str:
    """Return whether this browser plays a sound for new messages: `on` or `off`."""
    chosen = cookies.get("SOUND_COOKIE_NAME")
    return chosen if chosen in SOUNDS else "off"


def set_cookies(response: Response, preferences: dict[str, str]):
    """Store preferences in the browser, also for pages that are shown before logging in."""
    for name, value in preferences.items():
        cookies.set_cookie(response, f"{name.upper()}_COOKIE_NAME", value)
