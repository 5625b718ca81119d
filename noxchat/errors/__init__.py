"""The room of errors: what people see when something was refused or broke, as a page or as a fragment."""

import contextlib
import logging

from flask import Flask, g, make_response, render_template, request, url_for
from flask_babel import gettext as _
from flask_wtf.csrf import CSRFError
from jinja_partials import render_partial
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException

from noxchat import htmx
from noxchat.extensions import db
from noxchat.refusal import Gone, Refused, TooMany
from noxchat.signed_in import leave_unknown

log = logging.getLogger("noxchat.errors")

# How much of a body that is too large is still read, so that the browser stops sending and sees the answer.
DRAIN_BYTES = 64_000_000
RETRY_SECONDS = 10


def words(code: int) -> dict:
    """Return what an error page says: a moon, a title, a text, and the ways to go on from there."""
    again = {"href": htmx.page_path(), "label": _("Try again")}
    anew = {"href": htmx.page_path(), "label": _("Load it again")}
    form = {"href": back_from_upload(), "label": _("Back to the form")}
    home = {"href": "/", "label": _("Go home")}
    pages = {
        400: (
            *("crescent", _("This page is out of date")),
            *(_("Nothing was changed. Load it again and repeat the last step."), [anew, home]),
        ),
        403: ("crescent", _("This door is closed"), _("You do not have the key to this page."), [home]),
        404: (
            *("new", _("Nothing shines here")),
            *(_("The page moved, or never rose. Check the address, or begin again from home."), [home]),
        ),
        405: ("new", _("Not this way"), _("This address does not open like this. Begin again from home."), [home]),
        409: ("half", _("It is different by now"), _("Somebody was faster. Look at it again."), [again, home]),
        413: (
            *("gibbous", _("Too big to carry")),
            *(_("A picture may have 5 MB. Make it smaller and try again. Nothing else is lost."), [form]),
        ),
        422: (
            *("half", _("This does not fit")),
            *(_("Something in the form cannot be taken. Go back and look at it again."), [again, home]),
        ),
        429: ("half", _("Slow down a little"), _("Too many tries in a row. Wait a while, then try again."), [again]),
        500: (
            *("full", _("Something broke on our side")),
            *(_("It is written to the log and we will look at it. What was saved is safe."), [again, home]),
        ),
        503: (
            *("full", _("Back in a moment")),
            *(_("The database does not answer just now. Nothing is lost; try again soon."), [again, home]),
        ),
    }
    moon, title, text, ways = pages.get(code) or pages[500 if code >= 500 else 400]
    return {"moon": moon, "title": title, "text": text, "ways": ways}


def back_from_upload() -> str:
    """Return the page on which a picture is chosen; it is the only place for anything large."""
    return url_for("main.edit_profile") if request.url_rule and request.endpoint == "main.edit_profile" else "/"


def answer(code: int, text: str = "", headers: dict | None = None):
    """Return an error as a page, or as a notice when htmx asked. Neither touches the database."""
    leave_unknown()
    about = words(code)
    if text:
        about["text"] = text
    about.update(code=code, request_id=g.get("request_id", "-"))
    if htmx.wants_fragment():
        response = htmx.beside(make_response(render_partial("partials/errors/notice.html", **about), code))
    else:
        response = make_response(render_template("errors/error.html", **about), code)
    response.headers.update(headers or {})
    return response


def give_back():
    """Undo what the failed request left unfinished in the database."""
    g.broken = True
    # What was loaded stays readable: a rollback would expire it, and the page would go to the database for it.
    db.session.expunge_all()
    # A connection that broke cannot be rolled back either; the pool throws it away by itself.
    with contextlib.suppress(SQLAlchemyError):
        db.session.rollback()


def init_app(app: Flask):
    """Answer every error in our own words."""

    @app.errorhandler(HTTPException)
    def http_error(error):
        give_back()
        if error.response is not None or error.code is None or error.code < 400:
            return error  # a redirect of the router's
        if error.code == 413:
            drain()
        headers = {}
        if error.code == 405 and error.valid_methods:
            headers["Allow"] = ", ".join(error.valid_methods)
        is_plain = error.code == 400 and not isinstance(error, CSRFError)
        return answer(
            error.code, _("The request was not understood. Nothing was changed.") if is_plain else "", headers
        )

    @app.errorhandler(TooMany)
    def too_many(error):
        give_back()
        log.warning("too many tries: from %s", request.remote_addr)
        return answer(429, str(error), {"Retry-After": str(error.seconds)})

    @app.errorhandler(Gone)
    def gone(_error):
        give_back()
        return answer(404)

    @app.errorhandler(Refused)
    def refused(error):
        give_back()
        if htmx.wants_fragment():
            return answer(409, str(error))
        return htmx.moved(htmx.page_path(), str(error), kind="error")

    @app.errorhandler(OperationalError)
    @app.errorhandler(InterfaceError)
    @app.errorhandler(PoolTimeoutError)
    def no_database(error):
        give_back()
        log.error("database does not answer: %s", type(error.orig if hasattr(error, "orig") else error).__name__)
        return answer(503, headers={"Retry-After": str(RETRY_SECONDS)})

    @app.errorhandler(500)
    def broken(_error):
        give_back()
        return answer(500)


def drain():
    """Read on for a while what is too large: a browser that is cut off while it sends never sees the answer."""
    stream, left = request.environ["wsgi.input"], DRAIN_BYTES
    with contextlib.suppress(OSError):
        while left > 0 and (chunk := stream.read(min(left, 65536))):
            left -= len(chunk)
