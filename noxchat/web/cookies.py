"""NoxChat's own cookies: session, "remember me", device, language, theme and sound.

Cookies are shared by all ports of a host name, so their names contain the id of the installation: otherwise two
installations on one host would log each other's people out. Cookies of other applications are never judged.
"""

import threading
import time

from flask import Flask, Request, current_app, g, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_login import decode_cookie
from itsdangerous import BadSignature
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from noxchat import installation, tokens
from noxchat.database import begin_write
from noxchat.extensions import db

RETRY_SECONDS = 1
YEAR_SECONDS = 365 * 24 * 3600
# The settings that contain the names. Those that are signed are also read under their names of version 1.4.
SIGNED = ("SESSION_COOKIE_NAME", "REMEMBER_COOKIE_NAME", "DEVICE_COOKIE_NAME")
NAMES = (*SIGNED, "LANGUAGE_COOKIE_NAME", "THEME_COOKIE_NAME", "SOUND_COOKIE_NAME")


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
        self.old = {setting: app.config[setting] for setting in NAMES}
        self.lock = threading.Lock()
        self.is_known = False
        self.retry_at = 0.0

    def load(self):
        """Set the names in the app's config, once. A failure is retried, but not by each request."""
        if self.is_known:
            return
        with self.lock:
            if not self.is_known and time.monotonic() >= self.retry_at:
                self._load()
                self.retry_at = time.monotonic() + RETRY_SECONDS

    def _load(self):
        try:
            installation_id = installation.find_id()
            if installation_id is None:
                begin_write(db.session)
                installation_id = installation.create_id()
            db.session.commit()
        except SQLAlchemyError:  # whatever needs the database will say so
            db.session.rollback()
            return
        prefix = self.app.config["COOKIE_PREFIX"]
        for setting, old in self.old.items():
            self.app.config[setting] = f"{prefix}{installation_id}_{old.removeprefix(prefix)}"
        self.is_known = True


class SessionInterface(SecureCookieSessionInterface):
    """Flask's sessions, skipped where there is no account: Flask-Login would make every response vary by cookie."""

    def open_session(self, app: Flask, request: Request):
        """Read the session of a request. `g.old_cookies` becomes the settings whose cookies have their old names."""
        app.extensions["cookie_names"].load()
        request.cookies, g.old_cookies = own_cookies(request.cookies)  # type: ignore[assignment]
        return super().open_session(app, request)

    def save_session(self, app, session, response):
        """Write the session, unless the request touches none."""
        if not g.get("skip_session"):
            super().save_session(app, session, response)


def own_cookies(sent: MultiDict[str, str]) -> tuple[MultiDict[str, str], list[str]]:
    """Return the cookies of a request with ours under their present names, and the settings of those with old names.

    Without those of ours that are damaged: ours are ASCII, and the libraries that read them rely on it.
    """
    cookies, old_settings = MultiDict(sent), []
    for setting in NAMES:
        name, old = current_app.config[setting], current_app.extensions["cookie_names"].old[setting]
        if not cookies.get(name, "").isascii():
            del cookies[name]
        if setting in SIGNED and name not in cookies and old in cookies and _is_ours(setting, cookies[old]):
            cookies[name] = cookies[old]
            old_settings.append(setting)
    return cookies, old_settings


def _is_ours(setting: str, value: str) -> bool:
    """Tell whether a cookie under an old name is from this installation. Other applications use the same names."""
    sessions = SessionInterface().get_signing_serializer(current_app)
    assert sessions  # there is a SECRET_KEY
    try:
        read = {
            "SESSION_COOKIE_NAME": sessions.loads,
            "REMEMBER_COOKIE_NAME": decode_cookie,
            "DEVICE_COOKIE_NAME": tokens.device_serializer().loads,
        }[setting]
        return value.isascii() and read(value) is not None
    except (BadSignature, ValueError):
        return False


def get(setting: str) -> str | None:
    """Return the value of one of our cookies. setting: that contains its name."""
    return request.cookies.get(current_app.config[setting])


def set_cookie(response: Response, setting: str, value: str) -> Response:
    """Set one of our cookies for a year. setting: that contains its name. Returns the response."""
    flags = {"httponly": True, "samesite": "Lax", "secure": current_app.config["SECURE"], "path": "/"}
    response.set_cookie(current_app.config[setting], value, YEAR_SECONDS, **flags)
    return response


def rewrite_old():
    """Have session and remember cookie that were sent under their old names written under the present ones."""
    if g.get("old_cookies") and not g.get("skip_session"):
        session.modified = True  # so Flask writes it
        if "REMEMBER_COOKIE_NAME" in g.old_cookies:
            session["_remember"] = "set"  # so Flask-Login writes it


def replace_old(response: Response) -> Response:
    """Write the device cookie under its present name, and delete cookies with old names. Returns the response."""
    if g.get("skip_session"):
        return response
    for setting in g.get("old_cookies", ()):
        name, old = current_app.config[setting], current_app.extensions["cookie_names"].old[setting]
        is_set = any(header.startswith(f"{name}=") for header in response.headers.getlist("Set-Cookie"))
        if setting == "DEVICE_COOKIE_NAME" and not is_set:
            set_cookie(response, setting, request.cookies[name])
        response.delete_cookie(old, secure=current_app.config["SECURE"])
    return response
