"""Registering, signing in and out, getting back in, passwords, sessions, leaving for good."""

import logging
import time

from flask import abort, current_app, request, url_for
from flask_babel import gettext as _
from flask_babel import ngettext
from flask_login import current_user
from jinja_partials import render_partial

from noxchat import look, mailer, passwords, people, resets, sessions, throttle
from noxchat.auth import blueprint
from noxchat.auth.forms import LoginForm, NewPasswordForm, RegisterForm, ResetForm
from noxchat.database import start_writing
from noxchat.extensions import db
from noxchat.forms import ChangePasswordForm
from noxchat.htmx import changed, local_path, moved, show
from noxchat.refusal import Invalid, Refused
from noxchat.security import public
from noxchat.signed_in import change_secret, sign_in, sign_out

log = logging.getLogger("noxchat.auth")

# Asking for a reset answers no sooner than this, so that its time does not tell whether there was a letter to write.
RESET_SECONDS = 0.25


def gate(name: str, form, status: int = 200, **context):
    """Answer with one of the pages before the door."""
    return show(f"auth/{name}.html", f"partials/auth/{name}.html", status, form=form, **context)


@blueprint.route("/auth/register", methods=["GET", "POST"])
@public
def register():
    """Make an account. A taken address gets the answer of a free one, and its owner a letter."""
    if current_user.is_authenticated:
        return moved(url_for("main.home"))
    form = RegisterForm()
    if not form.validate_on_submit():
        return gate("register", form, 422 if form.is_submitted() else 200)
    username, email = form.cleaned["username"], form.cleaned["email"]
    try:
        strength = passwords.check(form.password.data, username, email)
    except Invalid as error:
        form.refuse(Invalid(str(error), "password"))
        return gate("register", form, 422)
    throttle.sign_up(request.remote_addr)
    password_hash = passwords.hashed(form.password.data)
    start_writing(db.session)
    try:
        user = people.register(username, email, password_hash, language=look.language())
    except Invalid as error:
        db.session.rollback()
        form.refuse(error)
        return gate("register", form, 422)
    if user is None:
        start_writing(db.session)
        owner = people.find_by_email(email)
        if owner and throttle.notice_letter(owner):
            mailer.post(owner, mailer.TAKEN)
    db.session.commit()
    mailer.wake()
    log.info("register ok: user %s", user.id) if user else log.info("register refused: address taken")
    text = _(
        "Thank you! If %(email)s is new here, your account is ready: log in. If it is not, we have written to it.",
        email=email,
    )
    return moved(url_for("auth.login"), f"{text} {strength}", kind="info")


@blueprint.route("/auth/login", methods=["GET", "POST"])
@public
def login():
    """Sign in by e-mail address or Public ID, and go on to where one wanted to be."""
    target = local_path(request.args.get("next"))
    if current_user.is_authenticated:
        return moved(target)
    form = LoginForm()
    if not form.validate_on_submit():
        return gate("login", form, 422 if form.is_submitted() else 200, target=target)
    user = people.find_by_identifier(form.identifier.data)
    device = request.cookies.get(current_app.config["DEVICE_COOKIE_NAME"])
    tries = throttle.SignIn(form.identifier.data, user, request.remote_addr, device)
    tries.check()
    db.session.commit()  # hashing takes a while, and others may need the connection
    if not people.authenticate(user, form.password.data):
        tries.failed()
        log.warning("login failed: from %s", request.remote_addr)
        form.refuse(Invalid(_("E-mail, Public ID or password is wrong.")))
        return gate("login", form, 422, target=target)
    checked_hash = user.password_hash
    start_writing(db.session)
    user = people.locked(user)
    if user.password_hash != checked_hash:
        raise Refused(_("The password was changed just now. Try again."))
    sign_in(user, remember=form.remember_me.data)
    db.session.commit()
    log.info("login ok: user %s from %s", user.id, request.remote_addr)
    return moved(target)


@blueprint.route("/auth/logout", methods=["POST"])
def logout():
    """Sign out here, and only here."""
    start_writing(db.session)
    sessions.end(current_user, current_user.session.id)
    db.session.commit()
    log.info("logout: user %s", current_user.id)
    sign_out()
    return moved(url_for("main.home"), _("You are logged out."))


@blueprint.route("/auth/reset", methods=["GET", "POST"])
@public
def reset():
    """Ask for a link to choose a new password. The answer never tells whether there is such an account."""
    form = ResetForm()
    minutes = current_app.config["RESET_MINUTES"]
    if not form.validate_on_submit():
        return gate("reset", form, 422 if form.is_submitted() else 200, minutes=minutes)
    began = time.monotonic()
    email = form.cleaned["email"]
    throttle.reset_letter(email, request.remote_addr)
    start_writing(db.session)
    user = people.find_by_email(email)
    if user:
        resets.ask(user)
        mailer.post(user, mailer.RESET)
    db.session.commit()
    mailer.wake()
    log.info("reset asked")
    time.sleep(max(0, RESET_SECONDS - (time.monotonic() - began)))
    text = _("If an account uses %(email)s, a link is on its way.", email=email)
    return moved(url_for("auth.reset_sent"), text, kind="info")


@blueprint.route("/auth/reset/sent")
@public
def reset_sent():
    """Say that a letter may be on its way, and what to do if none comes."""
    return show("auth/reset_sent.html", "partials/auth/reset_sent.html")


@blueprint.route("/auth/reset/<token>", methods=["GET", "POST"])
@public
def reset_password(token):
    """Choose a new password by the link from a letter. It works once, and ends every session."""
    user = resets.owner(token)
    if user is None:
        log.warning("reset refused: link used, old or damaged")
        return no_referrer(show("auth/reset_void.html", "partials/auth/reset_void.html", 400))
    form = NewPasswordForm()
    if not form.validate_on_submit():
        return no_referrer(gate("new_password", form, 422 if form.is_submitted() else 200, user=user))
    try:
        passwords.check(form.password.data, user.username, user.email)
    except Invalid as error:
        form.refuse(Invalid(str(error), "password"))
        return no_referrer(gate("new_password", form, 422, user=user))
    password_hash = passwords.hashed(form.password.data)
    start_writing(db.session)
    if not resets.use(user, password_hash):
        db.session.rollback()
        return no_referrer(show("auth/reset_void.html", "partials/auth/reset_void.html", 400))
    sessions.end_others(user)
    db.session.commit()
    log.info("reset ok: user %s", user.id)
    return no_referrer(moved(url_for("auth.login"), _("Your password is changed. Log in with the new one.")))


def no_referrer(response):
    """Keep the address of the page, which is as good as a password, from wherever its links lead."""
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@blueprint.route("/settings/password", methods=["GET", "POST"])
def change_password():
    """Change the password, which ends every other session."""
    form = ChangePasswordForm()
    page = ("settings/password.html", "partials/settings/password.html")
    if not form.validate_on_submit():
        return show(*page, 422 if form.is_submitted() else 200, form=form)
    try:
        people.confirm(current_user, form.current_password.data, "current_password")
        strength = passwords.check(form.password.data, current_user.username, current_user.email)
    except Invalid as error:
        form.refuse(Invalid(str(error), error.field or "password"))
        return show(*page, 422, form=form)
    password_hash = passwords.hashed(form.password.data)
    start_writing(db.session)
    people.set_password(people.locked(current_user), password_hash)
    sessions.end_others(current_user)
    change_secret(current_user)
    db.session.commit()
    log.info("password changed: user %s", current_user.id)
    text = _("Your password is changed, and every other device is logged out.")
    fragment = render_partial(page[1], form=ChangePasswordForm(formdata=None))
    return changed(fragment, back=url_for("main.settings"), ok=f"{text} {strength}")


@blueprint.route("/settings/sessions")
def list_sessions():
    """Show where the person is signed in."""
    return show("settings/sessions.html", "partials/settings/sessions.html", rows=session_rows())


def session_rows():
    """Return what the list of sessions shows: each one, its device in words, and whether it is this one."""
    return [
        {"session": row, "device": device_words(row.user_agent), "here": row.id == current_user.session.id}
        for row in sessions.of(current_user)
    ]


def device_words(user_agent: str) -> str:
    """Return a browser and its system as a person would say it."""
    browser, system = sessions.device(user_agent)
    if browser and system:
        return _("%(browser)s on %(system)s", browser=browser, system=system)
    return browser or system or _("An unknown device")


@blueprint.route("/settings/sessions/<int:session_id>/revoke", methods=["POST"])
def revoke_session(session_id):
    """Sign out somewhere else; or here, if this is the session."""
    if session_id >= 2**31:
        abort(404)
    if session_id == current_user.session.id:
        return logout()
    start_writing(db.session)
    ended = sessions.end(current_user, session_id)
    db.session.commit()
    if ended:
        log.info("session ended: user %s", current_user.id)
    text = _("That device is logged out.") if ended else ""
    fragment = render_partial("partials/settings/sessions.html", rows=session_rows())
    return changed(fragment, back=url_for("auth.list_sessions"), ok=text)


@blueprint.route("/settings/sessions/revoke-others", methods=["POST"])
def revoke_other_sessions():
    """Sign out everywhere but here."""
    start_writing(db.session)
    count = sessions.end_others(current_user)
    db.session.commit()
    log.info("sessions ended: user %s, %s", current_user.id, count)
    text = ngettext("One other device is logged out.", "%(num)s other devices are logged out.", count) if count else ""
    fragment = render_partial("partials/settings/sessions.html", rows=session_rows())
    return changed(fragment, back=url_for("auth.list_sessions"), ok=text)
