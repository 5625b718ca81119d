"""A handler for each kind of error."""

import contextlib
import logging

from flask import current_app, g, request
from flask_babel import gettext as _
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import ClientDisconnected, HTTPException

from noxchat.database import is_disk_full, is_read_only
from noxchat.errors import blueprint
from noxchat.errors.responses import NO_COOKIE, error_response
from noxchat.exceptions import Conflict, InvalidInput, NotAllowed, NotFound, RateLimited
from noxchat.extensions import db
from noxchat.web import htmx

log = logging.getLogger("noxchat.errors")

# How much of a body that is too large is still read, so that the browser stops sending and shows the response.
MAX_DISCARDED_BYTES = 64_000_000
RETRY_AFTER_SECONDS = 10
IDLE_TOO_LONG = "25P03"  # PostgreSQL's idle_in_transaction_session_timeout, after which a frozen process goes on


def rollback_request():
    """Roll back what the failed request left unfinished in the database."""
    g.failed = True
    # What was loaded stays readable: a rollback would expire it, and rendering the page would query the database.
    db.session.expunge_all()
    # A broken connection cannot be rolled back either; the pool discards it by itself.
    with contextlib.suppress(SQLAlchemyError):
        db.session.rollback()


def discard_body():
    """Read a body that is too large for a while: a browser that is cut off while sending never shows the response."""
    stream, left = request.environ["wsgi.input"], MAX_DISCARDED_BYTES
    with contextlib.suppress(OSError):
        while left > 0 and (chunk := stream.read(min(left, 65536))):
            left -= len(chunk)


@blueprint.app_errorhandler(HTTPException)
def http_error(error):
    rollback_request()
    if error.response is not None or error.code is None or error.code < 400:
        return error  # a redirect of the router
    if error.code == 413:
        discard_body()
    headers = {}
    if error.code == 405 and error.valid_methods:
        headers["Allow"] = ", ".join(error.valid_methods)
    if isinstance(error, CSRFError) and current_app.config["SESSION_COOKIE_NAME"] not in request.cookies:
        return error_response(400, kind=NO_COOKIE)
    if isinstance(error, ClientDisconnected):  # or is too slow
        return error_response(408)
    malformed = error.code == 400 and not isinstance(error, CSRFError)
    text = _("The request was not understood. Nothing was changed.") if malformed else ""
    return error_response(error.code, text, headers)


@blueprint.app_errorhandler(NotFound)
def not_found(_error):
    rollback_request()
    return error_response(404)


@blueprint.app_errorhandler(NotAllowed)
def not_allowed(error):
    rollback_request()
    return error_response(403, str(error))


@blueprint.app_errorhandler(Conflict)
def conflict(error):
    rollback_request()
    if htmx.wants_fragment() or request.blueprint == "chat":  # whose plain forms have no page that could show it
        return error_response(409, str(error))
    return htmx.redirect_to(htmx.page_path(), str(error), kind="error")


@blueprint.app_errorhandler(InvalidInput)
def invalid_input(error):
    rollback_request()
    return error_response(422, str(error))


@blueprint.app_errorhandler(RateLimited)
def rate_limited(error):
    rollback_request()
    log.warning("rate limited: from %s", request.remote_addr)
    return error_response(429, str(error), {"Retry-After": str(error.retry_after)})


@blueprint.app_errorhandler(OperationalError)
@blueprint.app_errorhandler(InterfaceError)
@blueprint.app_errorhandler(PoolTimeoutError)
def no_database(error):
    rollback_request()
    log.error("database unavailable: %s", type(error.orig if hasattr(error, "orig") else error).__name__)
    text = ""
    if isinstance(error, DBAPIError) and is_read_only(error):
        text = _("NoxChat can only be read just now: nothing can be saved. Nothing was changed.")
    if is_disk_full(error):
        log.error("the disk of the database is full")
        text = _("The disk of NoxChat is full: nothing can be saved just now. Nothing was changed.")
    return error_response(503, text, {"Retry-After": str(RETRY_AFTER_SECONDS)})


@blueprint.app_errorhandler(InternalError)
@blueprint.app_errorhandler(ProgrammingError)
def database_refuses(error):
    if is_read_only(error) or getattr(error.orig, "sqlstate", None) == IDLE_TOO_LONG:
        return no_database(error)
    raise error


@blueprint.app_errorhandler(500)
def internal_error(_error):
    rollback_request()
    return error_response(500)
