"""The e-mail address: changing it, and having the link to confirm it sent again."""

import logging

from flask import current_app, url_for
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import accounts, email_addresses, throttle
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.mail import worker
from noxchat.settings import blueprint
from noxchat.settings.forms import EmailForm
from noxchat.web.htmx import changed, render_partial, show

log = logging.getLogger("noxchat.settings")


@blueprint.route("/settings/email", methods=["GET", "POST"])
def edit_email():
    """Change the address, once the new one is confirmed by the link in an e-mail."""
    form = EmailForm(current_user)
    if not form.validate_on_submit():
        return show("settings/email.html", "partials/settings/email.html", form.status, form=form, user=current_user)
    send = throttle.allow_confirmation_email(form.cleaned["email"])
    begin_write(db.session)
    user = accounts.lock_verified_account(current_user)
    email_addresses.request_change(user, form.cleaned["email"], send=send)
    db.session.commit()
    worker.wake()
    log.info("change of address: user %s", user.id)
    return show_changed(sent_text(user.unconfirmed_email))


@blueprint.route("/settings/email/resend", methods=["POST"])
def resend_confirmation():
    """Send the link that confirms the address again; earlier ones stop working."""
    throttle.count_resend(current_user)
    send = throttle.allow_confirmation_email(current_user.unconfirmed_email or "")
    begin_write(db.session)
    user = accounts.lock_account(current_user)
    if user.unconfirmed_email:
        email_addresses.request_confirmation(user, send=send)
    db.session.commit()
    worker.wake()
    return show_changed(sent_text(user.unconfirmed_email))


def sent_text(email: str | None) -> str:
    """Return what is said after asking for a link. email: that waits to be confirmed, None when none does."""
    if email is None:
        return _("Your address stays as it is.")
    if not current_app.config["MAIL_SERVER"]:
        return _("%(email)s is your address once it is confirmed.", email=email)
    return _("A link is on its way to %(email)s.", email=email)


def show_changed(text: str):
    """Answer with the address as it is now, an empty form and a notice."""
    form = EmailForm(current_user, formdata=None)
    fragment = render_partial("partials/settings/email.html", form=form, user=current_user)
    return changed(fragment, back=url_for("settings.edit_email"), ok=text, kind="info")
