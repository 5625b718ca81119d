"""Registering, logging in and out, password reset."""

import logging
import time

from flask import current_app, request, url_for
from flask_babel import gettext as _
from flask_login import current_user
from werkzeug.wrappers import Response

from noxchat import accounts, passwords, sessions, throttle, tokens
from noxchat.auth import blueprint
from noxchat.auth.forms import LoginForm, RegisterForm, RequestResetForm, ResetPasswordForm
from noxchat.database import begin_write
from noxchat.exceptions import Conflict, InvalidInput
from noxchat.extensions import db
from noxchat.mail import kinds, queue, worker
from noxchat.models import User
from noxchat.web import cookies
from noxchat.web.forms import Form
from noxchat.web.htmx import redirect_to, safe_path, show
from noxchat.web.login import authenticate, log_in, log_out
from noxchat.web.preferences import language
from noxchat.web.security import public

log = logging.getLogger("noxchat.auth")

# A reset request is not answered sooner than this, so that the time does not tell whether an e-mail was queued.
RESET_SECONDS = 0.25


def show_form(name: str, form: Form, **context) -> Response:
    """Answer with a form of this blueprint."""
    return show(f"auth/{name}.html", f"partials/auth/{name}.html", form.status, form=form, **context)


@blueprint.route("/auth/register", methods=["GET", "POST"])
@public
def register():
    """Create an account. A taken address gets the same response as a free one, and its owner an e-mail."""
    if current_user.is_authenticated:
        return redirect_to(url_for("main.home"))
    form = RegisterForm()
    if not form.validate_on_submit():
        return show_form("register", form)
    throttle.count_registration(request.remote_addr or "")
    password_hash = passwords.hash_password(form.password.data)
    begin_write(db.session)
    try:
        user = accounts.register(**form.cleaned, password_hash=password_hash, language=language())
    except InvalidInput as error:
        db.session.rollback()
        return show_form("register", form.with_error(error))
    db.session.commit()
    worker.wake()
    log.info("register ok: user %s", user.id) if user else log.info("register refused: address taken")
    return redirect_to(url_for("auth.login"), registered_text(form), kind="info")


def registered_text(form: RegisterForm) -> str:
    """Return what is said after registering, whether or not the address was free."""
    text = _(
        "Thank you! If %(email)s is new here, your account is ready: log in. If it is not, we have written to it.",
        email=form.cleaned["email"],
    )
    return f"{text} {form.strength}"


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
    verified_hash = user.password_hash
    begin_write(db.session)
    user = accounts.lock_account(user)
    if user.password_hash != verified_hash:
        raise Conflict(_("The password was changed just now. Try again."))
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


@blueprint.route("/auth/reset", methods=["GET", "POST"])
@public
def request_reset():
    """Request a link to choose a new password. The response never tells whether the account exists."""
    form = RequestResetForm()
    if not form.validate_on_submit():
        return show_form("request_reset", form, minutes=current_app.config["RESET_MINUTES"])
    began = time.monotonic()
    email = form.cleaned["email"]
    throttle.count_reset_request(email, request.remote_addr or "")
    begin_write(db.session)
    if user := accounts.find_by_email(email):
        tokens.renew_reset_nonce(user)
        queue.enqueue(kinds.password_reset, user)
    db.session.commit()
    worker.wake()
    log.info("reset requested")
    time.sleep(max(0, RESET_SECONDS - (time.monotonic() - began)))
    text = _("If an account uses %(email)s, a link is on its way.", email=email)
    return redirect_to(url_for("auth.reset_sent"), text, kind="info")


@blueprint.route("/auth/reset/sent")
@public
def reset_sent():
    """Say that an e-mail may be on its way, and what to do if none comes."""
    return show("auth/reset_sent.html", "partials/auth/reset_sent.html")


@blueprint.route("/auth/reset/<token>", methods=["GET", "POST"])
@public
def reset_password(token):
    """Choose a new password with the link of an e-mail. It works once, and ends every session."""
    user = tokens.verify_reset_token(token)
    if user is None:
        return show_invalid_link()
    form = ResetPasswordForm(user)
    if not form.validate_on_submit():
        return without_referrer(show_form("new_password", form, user=user))
    password_hash = passwords.hash_password(form.password.data)
    begin_write(db.session)
    if not tokens.redeem_reset_token(user, password_hash):
        db.session.rollback()
        return show_invalid_link()
    sessions.revoke_all(user)
    db.session.commit()
    log.info("reset ok: user %s", user.id)
    text = _("Your password is changed. Log in with the new one.")
    return without_referrer(redirect_to(url_for("auth.login"), text))


def show_invalid_link() -> Response:
    """Answer a reset link that is used, expired or damaged with a page that offers a new one."""
    log.warning("reset refused: link used, expired or damaged")
    return without_referrer(show("auth/reset_invalid.html", "partials/auth/reset_invalid.html", 400))


def without_referrer(response: Response) -> Response:
    """Keep the page's URL, which is as secret as a password, out of the Referer header of its links."""
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
