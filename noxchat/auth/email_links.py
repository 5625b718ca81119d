"""Pages for links in e-mails: choosing a new password, confirming an address, undoing its change."""

import logging
import time

from flask import current_app, request, url_for
from flask_babel import gettext as _
from flask_login import current_user
from werkzeug.wrappers import Response

from noxchat import accounts, email_addresses, passwords, throttle, tokens
from noxchat.auth import blueprint
from noxchat.auth.forms import RequestResetForm, ResetPasswordForm
from noxchat.auth.routes import show_form
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.mail import kinds, queue, worker
from noxchat.web.htmx import redirect_to, show
from noxchat.web.security import public

log = logging.getLogger("noxchat.auth")

# A reset request is not answered sooner than this, so that the time does not tell whether an e-mail was queued.
RESET_SECONDS = 0.25


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
    if user := email_addresses.find_holder(email, lock=True):
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
    link = tokens.verify_reset_token(token)
    if link is None:
        return show_invalid_link("reset_invalid")
    form = ResetPasswordForm(link.user)
    if not form.validate_on_submit():
        return without_referrer(show_form("new_password", form, user=link.user))
    password_hash = passwords.hash_password(form.password.data)
    begin_write(db.session)
    if not accounts.reset_password(link, password_hash):
        db.session.rollback()
        return show_invalid_link("reset_invalid")
    db.session.commit()
    log.info("reset ok: user %s", link.user.id)
    text = _("Your password is changed. Log in with the new one.")
    return without_referrer(redirect_to(url_for("auth.login"), text))


@blueprint.route("/auth/confirm/<token>", methods=["GET", "POST"])
@public
def confirm_email(token):
    """Confirm an address by pressing a button: scanners of e-mails open links, too. Logs nobody in."""
    link = tokens.verify_confirmation_token(token)
    if link is None:
        return show_invalid_link("link_invalid")
    if request.method != "POST":
        page = show("auth/confirm_email.html", "partials/auth/confirm_email.html", user=link.user, email=link.email)
        return without_referrer(page)
    begin_write(db.session)
    if not accounts.confirm_email(link):
        db.session.rollback()
        return show_invalid_link("link_invalid")
    db.session.commit()
    worker.wake()
    log.info("address confirmed: user %s", link.user.id)
    target = url_for("settings.edit_email" if current_user.is_authenticated else "auth.login")
    return without_referrer(redirect_to(target, _("%(email)s is confirmed.", email=link.email)))


@blueprint.route("/auth/email-undo/<token>", methods=["GET", "POST"])
@public
def undo_email_change(token):
    """Take back a change of address with the link that its former address got, and choose a new password."""
    found = tokens.verify_undo_token(token)
    if found is None:
        return show_invalid_link("link_invalid")
    change, user = found
    form = ResetPasswordForm(user)
    if not form.validate_on_submit():
        return without_referrer(show_form("undo_email_change", form, user=user, email=change.former_email))
    password_hash = passwords.hash_password(form.password.data)
    begin_write(db.session)
    if not accounts.undo_email_change(user, change, password_hash):
        db.session.rollback()
        return show_invalid_link("link_invalid")
    db.session.commit()
    log.info("change of address undone: user %s", user.id)
    text = _("The change is taken back, and your password is new. Log in.")
    return without_referrer(redirect_to(url_for("auth.login"), text))


def show_invalid_link(name: str) -> Response:
    """Answer a link that is used, expired or damaged with a page that says so. name: of the page and its partial."""
    log.warning("link refused: used, expired or damaged")
    return without_referrer(show(f"auth/{name}.html", f"partials/auth/{name}.html", 400))


def without_referrer(response: Response) -> Response:
    """Keep the page's URL, which is as secret as a password, out of the Referer header of its links."""
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
