"""Who is logged in: Flask-Login on top of sessions.py, and its cookies."""

import logging
import secrets

from flask import Flask, after_this_request, current_app, g, request, session
from flask_login import login_user, logout_user, user_loaded_from_cookie

from noxchat import sessions, throttle
from noxchat.database import begin_write
from noxchat.extensions import db, login
from noxchat.models import User
from noxchat.web.preferences import apply_preferences

log = logging.getLogger("noxchat.auth")

DEVICE_COOKIE_SECONDS = 365 * 24 * 3600


def init_app(app: Flask):
    """Let Flask-Login load users by their session, and record when they were active."""
    login.init_app(app)
    # Flask-Login's protection binds a session to IP address and browser, which change; ours can be revoked instead.
    login.session_protection = None
    login.user_loader(load_user)
    user_loaded_from_cookie.connect(rotate_remember_cookie, app)
    app.after_request(record_presence)


def load_user(token: str) -> User | None:
    """Return the user whose session has this token."""
    user = sessions.load(token, current_app.config["REMEMBER_COOKIE_DURATION"])
    if user is not None:
        apply_preferences(user)
    return user


def loaded_user() -> User | None:
    """Return who is logged in if this request has loaded that already, without asking the database."""
    user = g.get("_login_user")
    return user if user is not None and user.is_authenticated else None


def skip_user_loading():
    """Treat this request as anonymous if no user was loaded yet: templates would ask the database."""
    if "_login_user" not in g:
        g._login_user = login.anonymous_user()


def rotate_remember_cookie(_app, user: User):
    """Replace the remember cookie that was just used, and the session's token with it."""
    begin_write(db.session)
    rotate_session_token(user)
    db.session.commit()


def rotate_session_token(user: User):
    """Give this browser's session a new token and new cookies, so that copies of the old ones no longer work."""
    if sessions.rotate_token(user):
        session["_user_id"] = user.session_token
        if current_app.config["REMEMBER_COOKIE_NAME"] in request.cookies:
            session["_remember"] = "set"


def record_presence(response):
    """Record that somebody is active, in a transaction of its own and at most once a minute."""
    user = loaded_user()
    if user is not None and user.session is not None and not g.get("failed") and sessions.is_touch_due(user):
        begin_write(db.session)
        sessions.touch(user)
        db.session.commit()
    return response


def log_in(user: User, *, remember: bool):
    """Log somebody in, in a new session that takes over nothing of the previous one. Call it before the commit."""
    session.clear()
    g.pop("csrf_token", None)
    user = sessions.create(user, request.user_agent.string, current_app.config["REMEMBER_COOKIE_DURATION"])
    login_user(user, remember=remember)
    name = current_app.config["DEVICE_COOKIE_NAME"]
    if not throttle.known_device(request.cookies.get(name), user):
        cookie = throttle.create_device_cookie(user, secrets.token_hex(8))

        @after_this_request
        def set_device_cookie(response):
            response.set_cookie(
                name,
                cookie,
                max_age=DEVICE_COOKIE_SECONDS,
                httponly=True,
                samesite="Lax",
                secure=current_app.config["SECURE"],
                path="/",
            )
            return response


def log_out():
    """Log out in this browser. Ending the session's row is up to the caller."""
    session.clear()
    g.pop("csrf_token", None)
    logout_user()


def rollback_and_reload_user():
    """Roll back what a rule refused, and load the user again: the page that shows the error shows them unchanged."""
    token = session.get("_user_id")
    db.session.rollback()
    if token:
        load_user(token)
