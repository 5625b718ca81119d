"""Registering, logging in and out."""

import logging

from flask import request, url_for
from flask_babel import gettext as _
from flask_login import current_user
from werkzeug.wrappers import Response

from noxchat import accounts, passwords, sessions, throttle, tokens
from noxchat.auth import blueprint
from noxchat.auth.forms import LoginForm, RegisterForm
from noxchat.database import begin_write
from noxchat.exceptions import InvalidInput, RateLimited
from noxchat.extensions import db
from noxchat.mail import worker
from noxchat.models import EMAIL_LENGTH, User
from noxchat.web import cookies
from noxchat.web.forms import Form
from noxchat.web.htmx import changed, redirect_to, render_partial, safe_path, show
from noxchat.web.login import authenticate, log_in, log_out
from noxchat.web.preferences import language
from noxchat.web.security import public

log = logging.getLogger("noxchat.auth")


def show_form(name: str, form: Form, **context) -> Response:
    """Answer with a form of this blueprint."""
    return show(f"auth/{name}.html", f"partials/auth/{name}.html", form.status, form=form, **context)


@blueprint.route("/auth/register", methods=["GET", "POST"])
@public
def register():
    """Create an account and log in, whether or not the address was known, and go on to `next`."""
    target = safe_path(request.args.get("next"))
    token = request.args.get("invitation", "")
    if current_user.is_authenticated:
        return redirect_to(url_for("friends.invitation", token=token) if token else target)
    form = RegisterForm(token)
    accounts.check_may_register(form.open_invitation)
    if form.is_submitted():
        throttle.count_registration_try(request.remote_addr or "")
    if not form.validate_on_submit():
        return show_form("register", form, target=target)
    try:
        user = create_account(form)
    except InvalidInput as error:
        db.session.rollback()
        form.with_error(error)
        accounts.check_may_register(form.open_invitation)
        return show_form("register", form, target=target)
    return redirect_to(target, welcome_text(user, form))


def create_account(form: RegisterForm) -> User:
    """Create the account of a valid form, and log in to it. Raises InvalidInput and RateLimited."""
    throttle.count_registration(request.remote_addr or "")
    send_email = throttle.allow_confirmation_email(form.cleaned["email"])
    password_hash = passwords.hash_password(form.password.data)
    begin_write(db.session)
    user = accounts.register(
        **form.cleaned,
        password_hash=password_hash,
        language=language(),
        invitation=form.open_invitation,
        send_email=send_email,
    )
    log_in(user, remember=True)
    db.session.commit()
    worker.wake()
    log.info("register ok: user %s", user.id)
    return user


def welcome_text(user: User, form: RegisterForm) -> str:
    """Return what is said after registering."""
    inviter = form.open_invitation.inviter if form.open_invitation else None
    texts = [
        _("Welcome, %(name)s!", name=user.username),
        _("You and %(name)s are friends now.", name=inviter.username) if inviter else "",
        _("Your Public ID is @%(public_id)s: log in with it or with your e-mail.", public_id=user.public_id),
        form.strength,
    ]
    return " ".join(filter(None, texts))


@blueprint.route("/auth/strength", methods=["POST"])
@public
def check_strength():
    """Say how strong a password is while it is typed, below its field."""
    text, status = "", 200
    try:
        throttle.count_strength_check(request.remote_addr or "")
        text = rate_password(request.form.get("password", ""))
    except RateLimited:  # a hint that does not come is no reason for a notice
        status = 429
    fragment = render_partial("partials/auth/strength.html", text=text)
    return changed(fragment, back=url_for("auth.register"), status=status)


def rate_password(password: str) -> str:
    """Return a message about a password that is being typed, whether or not it is good enough; empty without one."""
    personal = [request.form.get(name, "")[:EMAIL_LENGTH] for name in ("username", "email")]
    if current_user.is_authenticated:
        personal = [current_user.username, current_user.email]
    try:
        return passwords.check_strength(password, *personal) if password else ""
    except InvalidInput as error:
        return str(error)


@blueprint.route("/auth/login", methods=["GET", "POST"])
@public
def login():
    """Log in by e-mail address or Public ID, and go on to `next`."""
    target = safe_path(request.args.get("next"))
    if current_user.is_authenticated:
        return redirect_to(target)
    form = LoginForm()
    if not form.validate_on_submit():
        return show_form("login", form, target=target)
    try:
        user = verify_credentials(form)
    except InvalidInput as error:
        return show_form("login", form.with_error(error), target=target)
    start_session(user, remember=form.remember_me.data)
    return redirect_to(target)


def verify_credentials(form: LoginForm) -> User:
    """Return whose identifier and password these are. Raises InvalidInput and RateLimited."""
    user = accounts.find_by_identifier(form.identifier.data)
    device = tokens.verify_device_token(cookies.get("DEVICE_COOKIE_NAME"), user)
    limits = throttle.login_limits(form.identifier.data, user, request.remote_addr or "", device)
    if not authenticate(user, form.password.data, limits) or user is None:
        log.warning("login failed: from %s", request.remote_addr)
        raise InvalidInput(_("E-mail, Public ID or password is wrong."))
    return user


def start_session(user: User, *, remember: bool):
    """Log in somebody whose password was verified. Raises Conflict if it was changed since."""
    begin_write(db.session)
    user = accounts.lock_verified_account(user)
    log_in(user, remember=remember)
    db.session.commit()
    log.info("login ok: user %s from %s", user.id, request.remote_addr)


@blueprint.route("/auth/logout", methods=["POST"])
def logout():
    """Log out in this browser."""
    begin_write(db.session)
    sessions.revoke(current_user, current_user.session.id)
    db.session.commit()
    log.info("logout: user %s", current_user.id)
    log_out()
    return redirect_to(url_for("main.home"), _("You are logged out."))
