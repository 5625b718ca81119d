"""NoxChat's own cookies: session, "remember me", device, language and theme.

Cookies are shared by all ports of a host name, so their names contain the id of the installation: otherwise two
installations on one host would log each other's people out. Cookies of other applications are never judged.
"""

import time

from flask import Flask, Request, current_app, g, request
from flask.sessions import SecureCookieSessionInterface
from flask_login import decode_cookie
from itsdangerous import BadSignature
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from noxchat import installation, throttle
from noxchat.database import begin_write
from noxchat.extensions import db

RETRY_SECONDS = 5
YEAR_SECONDS = 365 * 24 * 3600
# In seconds, by setting, from the config; None: until the browser is closed.
MAX_AGE = {
    "SESSION_COOKIE_NAME": lambda _config: None,
    "REMEMBER_COOKIE_NAME": lambda config: int(config["REMEMBER_COOKIE_DURATION"].total_seconds()),
    "DEVICE_COOKIE_NAME": lambda _config: YEAR_SECONDS,
    "LANGUAGE_COOKIE_NAME": lambda _config: YEAR_SECONDS,
    "THEME_COOKIE_NAME": lambda _config: YEAR_SECONDS,
}


def init_app(app: Flask):
    """Read and write sessions under the installation's cookie names."""
    app.session_interface = SessionInterface()
    app.extensions["cookie_names"] = CookieNames(app)


class CookieNames:
    """The names of the cookies in use. Without the installation's id while the database has not told it yet.

    old: the names up to version 1.4, by setting.
    """

    def __init__(self, app: Flask):
        self.app = app
        self.old = {setting: app.config[setting] for setting in MAX_AGE}
        self.is_known = False
        self.retry_at = 0.0

    def load(self):
        """Set the names in the app's config, once. A failure is retried, but not by each request."""
        if self.is_known or time.monotonic() < self.retry_at:
            return
        self.retry_at = time.monotonic() + RETRY_SECONDS
        try:
            installation_id = installation.find_id() or self._create_id()
            db.session.commit()
        except SQLAlchemyError:  # whatever needs the database will say so
            db.session.rollback()
            return
        prefix = "__Host-" if self.app.config["SECURE"] else ""
        for setting, old in self.old.items():
            self.app.config[setting] = f"{prefix}{installation_id}_{old.removeprefix(prefix)}"
        self.is_known = True

    def _create_id(self) -> str:
        begin_write(db.session)
        return installation.create_id()


class SessionInterface(SecureCookieSessionInterface):
    """Flask's sessions, skipped where there is no account: Flask-Login would make every response vary by cookie."""

    def open_session(self, app: Flask, request: Request):
        """Read the session of a request."""
        app.extensions["cookie_names"].load()
        request.cookies = own_cookies(request.cookies)  # type: ignore[assignment]
        return super().open_session(app, request)

    def save_session(self, app, session, response):
        """Write the session, unless the request touches none."""
        if not g.get("skip_session"):
            super().save_session(app, session, response)


def own_cookies(sent: MultiDict[str, str]) -> MultiDict[str, str]:
    """Return the cookies of a request, with ours under their present names, and without those of ours that are damaged.

    Ours are ASCII, and the libraries that read them rely on it.
    """
    cookies, g.old_cookies = MultiDict(sent), []
    for setting, old in current_app.extensions["cookie_names"].old.items():
        name = current_app.config[setting]
        if not cookies.get(name, "").isascii():
            del cookies[name]
        if name not in cookies and old in cookies and _is_ours(setting, cookies[old]):
            cookies[name] = cookies[old]
            g.old_cookies.append(setting)
    return cookies


def _is_ours(setting: str, value: str) -> bool:
    """Tell whether a cookie under an old name is from this installation. Other applications use the same names."""
    sessions = SessionInterface().get_signing_serializer(current_app)
    assert sessions  # there is a SECRET_KEY
    try:
        read = {
            "SESSION_COOKIE_NAME": sessions.loads,
            "REMEMBER_COOKIE_NAME": decode_cookie,
            "DEVICE_COOKIE_NAME": throttle.device_serializer().loads,
        }.get(setting, str)
        return value.isascii() and read(value) is not None
    except (BadSignature, ValueError):
        return False


def set_cookie(response: Response, setting: str, value: str) -> Response:
    """Set one of the cookies. setting: that contains its name. Returns the response."""
    flags = {"httponly": True, "samesite": "Lax", "secure": current_app.config["SECURE"], "path": "/"}
    response.set_cookie(current_app.config[setting], value, MAX_AGE[setting](current_app.config), **flags)
    return response


def replace_old(response: Response) -> Response:
    """Store cookies that were sent under the names of version 1.4 under their present ones. Returns the response."""
    names = current_app.extensions["cookie_names"]
    for setting in () if g.get("skip_session") else g.get("old_cookies", ()):
        set_cookie(response, setting, request.cookies[current_app.config[setting]])
        response.delete_cookie(names.old[setting], secure=current_app.config["SECURE"])
    return response
