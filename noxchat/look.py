"""How pages are dressed: language, theme, times, and the addresses of our own files."""

import hashlib
import logging
import os
import secrets
from datetime import UTC
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from flask import Flask, current_app, g, has_request_context, request, url_for
from flask_babel import format_datetime, get_locale, get_translations
from flask_babel import gettext as _
from flask_moment import moment
from flask_wtf.csrf import generate_csrf
from jinja_partials import generate_render_partial
from markupsafe import Markup, escape

from noxchat import htmx, people

log = logging.getLogger("noxchat.look")

LANGUAGES = {"en": "English", "ru": "Русский"}
THEMES = ("auto", "night", "day")
YEAR = 365 * 24 * 3600


def viewer():
    """Return who is signed in if this request has found that out already, without asking the database."""
    user = g.get("_login_user")
    return user if user is not None and user.is_authenticated else None


def wear(user):
    """Answer this request in somebody's own language and theme, even if it fails and the rest of them is lost."""
    g.own_language, g.own_theme = user.language, user.theme


def language() -> str:
    """Return the language to answer in: the person's setting, else the cookie, else what the browser prefers."""
    if not has_request_context():  # the command line speaks English, and the postman says what each letter speaks
        return "en"
    chosen = g.get("own_language") or request.cookies.get("language")
    return chosen if chosen in LANGUAGES else request.accept_languages.best_match(LANGUAGES, "en")


def theme() -> str:
    """Return the theme to answer in: the person's setting, else the cookie, else `auto`: as the device has it."""
    chosen = g.get("own_theme") or request.cookies.get("theme")
    return chosen if chosen in THEMES else "auto"


def remember(response, name: str, value: str):
    """Keep a choice in the browser for a year, for pages that are shown before anybody signs in."""
    response.set_cookie(
        name, value, max_age=YEAR, httponly=True, samesite="Lax", secure=current_app.config["SECURE"], path="/"
    )


class Moment(moment):
    """A moment as a <time>: readable UTC without JavaScript, the reader's own zone with it.

    Flask-Moment's own markup has an inline style, which our policy forbids, and shows nothing without JavaScript.
    """

    READABLE = {"MMMM YYYY": "LLLL y", "D MMM YYYY": "d MMM y", "dddd, D MMMM": "EEEE, d MMMM"}

    def _render(self, func, format=None, refresh=False, **_unused):  # noqa: A002
        utc = self.timestamp.replace(tzinfo=UTC) if self.timestamp.tzinfo is None else self.timestamp
        shape = Markup(' data-format="{}"').format(format) if format else ""
        iso = utc.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        pattern = self.READABLE.get(format)
        words = format_datetime(utc, pattern) if pattern else format_datetime(utc, "d MMM y, HH:mm") + " UTC"
        return Markup(
            '<time class="flask-moment" datetime="{0}" data-timestamp="{0}" data-function="{1}"{2} data-refresh="{3}">'
            "{4}</time>"
        ).format(iso, func, shape, int(refresh) * 60000, words)


@cache
def _said(locale, text: str) -> Markup:  # noqa: ARG001  the locale is at hand, and what the cache goes by
    return Markup(get_translations().ugettext(text))  # noqa: S704  our own words


def say(text: str, **values) -> Markup:
    """Return a string of ours in the language at hand: what templates call _(), a hundred times a page.

    Jinja's own looks everything up at each call. Values are escaped.
    """
    words = _said(get_locale(), text)
    return words % values if values or "%" in words else words


@cache
def _digest(path: Path, _modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@cache
def asset(name: str) -> str:
    """Return the address of a file under static/, which changes with its content; empty where there is no such file."""
    return asset_now(name)


def asset_now(name: str) -> str:
    """Return the same, looked up anew: in development, where files change."""
    path = Path(current_app.static_folder, name)
    try:
        return url_for("static", filename=name, v=_digest(path, path.stat().st_mtime_ns))
    except FileNotFoundError:
        return ""


def moment_script() -> str:
    """Return the address of Flask-Moment's script, which changes with its content."""
    return url_for("main.moment_js", v=hashlib.sha256(moment.flask_moment_js().encode()).hexdigest()[:12])


def cache_static(response):
    """Let browsers keep a file for ever when its address names its content."""
    if request.endpoint == "static" and response.status_code == 200 and "v" in request.args:
        response.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable"
    return response


def marked(name: str, query) -> Markup | str:
    """Return a name with what was looked for in it marked. query: a search.Query, or None."""
    if not query:
        return name
    pieces = ((escape(piece), hit) for piece, hit in query.pieces(name))
    return Markup("".join(f"<mark>{piece}</mark>" if hit else piece for piece, hit in pieces))  # noqa: S704  escaped


def home_of(public_id: str) -> str:
    """Return the address of somebody's page. What people do with each other is below it: /u/PID/request.

    url_for says the same; but lists need it for every row, and Public IDs are letters that need no quoting.
    """
    return f"/u/{public_id}"


class Stencil:
    """Draws the button of each row of a list: each state of it once, in which a person's name is then filled in.

    A list of twenty is mostly one state, and all of it would be a fifth of what the page costs. Called as the macro is.
    """

    ID, NAME = "~id~", "~name~"  # no Public ID and no escaped name can hold a ~

    def __init__(self, macro):
        self.macro = macro
        self.drawn = {}
        anybody = SimpleNamespace(public_id=self.ID)
        self.anybody = SimpleNamespace(username=self.NAME, profile=anybody)

    def __call__(self, person, state, place, back, focus):
        if "~" in back:  # what is typed into a search may be anything
            return self.macro(person, state, place, back, focus)
        if state not in self.drawn:
            self.drawn[state] = self.macro(self.anybody, state, place, back, focus)
        return self.drawn[state].replace(self.ID, person.profile.public_id).replace(self.NAME, escape(person.username))


def token() -> str:
    """Return the token of forms: Flask-WTF's, which looks up its settings each time that it is asked."""
    return g.get("csrf_token") or generate_csrf()


def new_tab() -> str:
    """Return a name for the browser tab that this page will be in."""
    return secrets.token_hex(4)


def strings() -> dict[str, str]:
    """Return what app.js has to say itself, for want of an answer from the server."""
    return {
        "offline": _("The network does not answer. Nothing was changed; try again."),
        "broken": _("Something went wrong. Nothing was changed; try again."),
        "again": _("Try again"),
        "dismiss": _("Dismiss"),
    }


def compile_translations(folder: Path):
    """Compile the words of each language that have changed since, so that they need no step of their own at set-up."""
    for source in folder.glob("*/LC_MESSAGES/messages.po"):
        target = source.with_suffix(".mo")
        if target.exists() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns:
            continue
        with open(source, "rb") as words:
            catalog = read_po(words)
        try:
            unfinished = target.with_suffix(f".{os.getpid()}.tmp")
            with open(unfinished, "wb") as file:
                write_mo(file, catalog)
            unfinished.replace(target)
        except OSError as error:
            log.warning("%s cannot be written, so some words stay English: %s", target, error.strerror)


def init_app(app: Flask):
    """Give templates what they need beside their own names."""
    compile_translations(Path(app.root_path).parent / "translations")
    app.extensions["moment"] = Moment
    app.after_request(cache_static)

    # Partials by the environment itself: Flask's way looks for context processors and signals at each of them.
    def render(partial, /, **context):
        return app.jinja_env.get_template(partial).render(context)

    app.jinja_env.globals["render_partial"] = generate_render_partial(render)
    app.jinja_env.filters["marked"] = marked
    drawings = app.jinja_env.get_template("partials/ui/icons.html").module
    app.jinja_env.globals.update(
        # Drawn on every row of every list, always alike.
        icon=cache(drawings.icon),
        drawn=cache(drawings.moon),
        avatar=app.jinja_env.get_template("partials/people/avatar.html").module.avatar,
        _=say,
        asset=asset_now if app.debug else asset,
        home_of=home_of,
        moment=Moment,
        stencil=Stencil,
        csrf_token=token,
        moment_script=moment_script,
        language=language,
        theme=theme,
        viewer=viewer,
        face=people.face,
        here=htmx.here,
        strings=strings,
        new_tab=new_tab,
        LANGUAGES=LANGUAGES,
    )
