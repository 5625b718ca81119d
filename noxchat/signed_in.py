"""Who is signed in: Flask-Login on top of sessions.py, and the cookies that go with it."""

import logging
import secrets

from flask import Flask, after_this_request, current_app, g, request, session
from flask_login import login_user, logout_user, user_loaded_from_cookie

from noxchat import look, sessions, throttle
from noxchat.database import start_writing
from noxchat.extensions import db, login
from noxchat.models import User

log = logging.getLogger("noxchat.auth")

DEVICE_DAYS = 365


def init_app(app: Flask):
    """Let Flask-Login find people by their session, and write down when they were there."""
    login.init_app(app)
    # Its check ties a session to address and browser, which change under people's feet; ours can be ended by them.
    login.session_protection = None
    login.user_loader(load)
    user_loaded_from_cookie.connect(renew, app)
    app.after_request(note_presence)


def load(token: str) -> User | None:
    """Return whose session has this secret."""
    user = sessions.load(token, current_app.config["REMEMBER_COOKIE_DURATION"])
    if user is not None:
        look.wear(user)
    return user


def renew(_app, user: User):
    """Change the remember cookie that was just used, and the session's secret with it."""
    start_writing(db.session)
    change_secret(user)
    db.session.commit()


def change_secret(user: User):
    """Give this browser's session a new secret, and its cookies with it: copies of the old ones are dead."""
    if sessions.renew(user):
        session["_user_id"] = user.session_token
        if current_app.config["REMEMBER_COOKIE_NAME"] in request.cookies:
            session["_remember"] = "set"


def note_presence(response):
    """Write down that somebody is there, in a transaction of its own and at most once a minute."""
    user = look.viewer()
    if user is not None and user.session is not None and not g.get("broken") and sessions.is_due(user):
        start_writing(db.session)
        sessions.touch(user)
        db.session.commit()
    return response


def sign_in(user: User, *, remember: bool):
    """Sign somebody in, in a session that has nothing of the one before. Call it before the commit."""
    session.clear()
    g.pop("csrf_token", None)
    user = sessions.begin(user, request.user_agent.string, current_app.config["REMEMBER_COOKIE_DURATION"])
    login_user(user, remember=remember)
    if not throttle.known_device(request.cookies.get(current_app.config["DEVICE_COOKIE_NAME"]), user):
        cookie = throttle.device_cookie(user, secrets.token_hex(8))

        @after_this_request
        def keep_device(response):
            response.set_cookie(
                current_app.config["DEVICE_COOKIE_NAME"],
                cookie,
                max_age=DEVICE_DAYS * 24 * 3600,
                httponly=True,
                samesite="Lax",
                secure=current_app.config["SECURE"],
                path="/",
            )
            return response


def leave_unknown():
    """Do without knowing who is signed in, if this request has not found out yet: templates would ask the database."""
    if "_login_user" not in g:
        g._login_user = login.anonymous_user()


def undo():
    """Roll back what a rule refused, and load anew who is signed in: the page that says so shows them unchanged."""
    token = session.get("_user_id")
    db.session.rollback()
    if token:
        load(token)


def sign_out():
    """Forget in this browser who was signed in. The session's row is the caller's to end."""
    session.clear()
    g.pop("csrf_token", None)
    logout_user()
