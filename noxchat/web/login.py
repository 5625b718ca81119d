"""Who is logged in: Flask-Login on top of sessions.py, and its cookies."""

import logging
import time

from flask import Flask, abort, after_this_request, current_app, g, request, session
from flask_login import login_user, logout_user, user_loaded_from_cookie

from noxchat import passwords, sessions, throttle, tokens
from noxchat.database import begin_read, begin_write, try_write
from noxchat.extensions import db, login
from noxchat.models import User
from noxchat.web import cookies
from noxchat.web.htmx import is_background, login_required, wants_fragment
from noxchat.web.preferences import apply_preferences

log = logging.getLogger("noxchat.auth")

WAIT_SECONDS = 2  # for other attempts that are under way
POLL_SECONDS = 0.1


def init_app(app: Flask):
    """Let Flask-Login load users by their session, and record when they were active."""
    login.init_app(app)
    # Flask-Login's protection binds a session to IP address and browser, which change; ours can be revoked instead.
    login.session_protection = None
    login.user_loader(load_user)
    user_loaded_from_cookie.connect(replace_remember_cookie, app)
    app.after_request(record_presence)
    app.after_request(replace_old_cookies)


def load_user(token: str) -> User | None:
    """Return the user whose session has this token."""
    begin_read(db.session)  # whoever writes begins a transaction of their own
    is_page = request.method == "GET" and not wants_fragment()
    lifetime = current_app.config["REMEMBER_COOKIE_DURATION"]
    user = sessions.load(token, lifetime, with_counters=is_page) or _load_by_previous_token(token)
    if user is not None:
        apply_preferences(user)
        cookies.rewrite_old()
    return user


def _load_by_previous_token(token: str) -> User | None:
    """Return the user whose session had this token until a moment ago, if the request comes from the same browser."""
    user = sessions.load_by_previous_token(token)
    if user is None or not tokens.verify_device_token(cookies.get("DEVICE_COOKIE_NAME"), user):
        return None
    g.skip_session = True  # the answer that replaced the token sets the cookies
    return user


def loaded_user() -> User | None:
    """Return who is logged in if this request has loaded that already, without asking the database."""
    user = g.get("_login_user")
    return user if user is not None and user.is_authenticated else None


def skip_user_loading():
    """Treat this request as anonymous if no user was loaded yet: templates would ask the database."""
    if "_login_user" not in g:
        g._login_user = login.anonymous_user()


def replace_remember_cookie(_app, user: User):
    """Replace the remember cookie that was just used, and the session's token with it, if that can be written."""
    session["csrf_token"] = tokens.csrf_secret(user)
    if g.get("skip_session"):
        return
    old_token = session["_user_id"]
    if not try_write(db.session, lambda: _use_remember_cookie(user), seconds=1):
        session["_user_id"] = old_token
        session.pop("_remember", None)
        load_user(old_token)


def _use_remember_cookie(user: User):
    if replace_session_token(user, keep_previous=True):
        renew_device_cookie(user)
    else:
        g.skip_session = True  # another tab's request was faster
        session.pop("_remember", None)


def renew_device_cookie(user: User):
    """Have the device cookie last as long as the remember cookie, which is renewed by use."""
    token = cookies.get("DEVICE_COOKIE_NAME")
    if token and tokens.verify_device_token(token, user):
        after_this_request(lambda response: cookies.set_cookie(response, "DEVICE_COOKIE_NAME", token))


def replace_session_token(user: User, *, keep_previous: bool = False) -> bool:
    """Give this browser's session a new token and new cookies, so that copies of the old ones no longer work.

    keep_previous: whether requests of this browser that are under way may still use the old ones.
    Returns False when another request has just done so.
    """
    is_replaced = sessions.replace_token(user, keep_previous=keep_previous)
    if is_replaced:
        g.skip_session = False
        session["_user_id"] = user.session_token
        if current_app.config["REMEMBER_COOKIE_NAME"] in request.cookies:
            session["_remember"] = "set"
    return is_replaced


def record_presence(response):
    """Record that somebody is active, in a transaction of its own and at most once a minute."""
    user = loaded_user()
    if is_background():
        return response
    if user is not None and user.session is not None and not g.get("failed") and sessions.is_touch_due(user):
        try_write(db.session, lambda: sessions.touch(user))
    return response


def authenticate(user: User | None, password: str, limits: list[throttle.Limit]) -> bool:
    """Tell whether this is the password of an account, and count the attempt unless it is. Commits.

    Takes the same time when there is no account. Raises RateLimited.
    """
    attempt = wait_for_attempt(limits)
    is_verified = passwords.verify_password(user.password_hash if user else None, password)
    begin_write(db.session)
    throttle.end_attempt(attempt, succeeded=is_verified)
    db.session.commit()
    return is_verified


def wait_for_attempt(limits: list[throttle.Limit]) -> list[int]:
    """Count an attempt, after waiting for others that are under way when those use up a limit. Raises RateLimited."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        begin_write(db.session)
        attempt = throttle.begin_attempt(limits)
        db.session.commit()
        if attempt:
            return attempt
        while throttle.check_limits(limits):  # without the locks, for which more than these may wait
            db.session.commit()  # a waiting request holds no connection
            if time.monotonic() >= deadline:
                throttle.refuse_simultaneous()
            time.sleep(POLL_SECONDS)


def log_in(user: User, *, remember: bool):
    """Log somebody in, in a new session that takes over nothing of the previous one. Call it before the commit."""
    session.clear()
    g.pop("csrf_token", None)
    user = sessions.create(user, request.user_agent.string, current_app.config["REMEMBER_COOKIE_DURATION"])
    login_user(user, remember=remember)
    session["csrf_token"] = tokens.csrf_secret(user)
    if not tokens.verify_device_token(cookies.get("DEVICE_COOKIE_NAME"), user):
        token = tokens.create_device_token(user)
        after_this_request(lambda response: cookies.set_cookie(response, "DEVICE_COOKIE_NAME", token))


def replace_old_cookies(response):
    """Replace the cookies of somebody who was logged in by cookies of version 1.4."""
    return cookies.replace_old(response) if loaded_user() else response


def log_out():
    """Log out in this browser. Ending the session's row is up to the caller."""
    session.clear()
    g.pop("csrf_token", None)
    logout_user()


def rollback_and_reload_user():
    """Roll back what a rule refused, and load the user again: the page that shows the error shows them unchanged.

    Asks to log in when the session has ended in the meantime.
    """
    token = session.get("_user_id")
    db.session.rollback()
    if token and load_user(token) is None:
        g._login_user = login.anonymous_user()
        abort(login_required())
