"""Settings: overview, preferences, privacy, password, blocked people, deletion of the account."""

import logging

from flask import request, url_for
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import accounts, passwords, relationships, sessions
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.settings import blueprint
from noxchat.settings.forms import ChangePasswordForm, DeleteAccountForm, PreferencesForm, PrivacyForm
from noxchat.web import preferences
from noxchat.web.htmx import changed, redirect_to, refresh_page, render_partial, safe_path, show
from noxchat.web.login import log_out, replace_session_token
from noxchat.web.people import show_people
from noxchat.web.security import public

log = logging.getLogger("noxchat.settings")


def show_form(name: str, form):
    """Answer with a form of the settings."""
    return show(f"settings/{name}.html", f"partials/settings/{name}.html", form.status, form=form)


@blueprint.route("/settings")
def index():
    """Show all settings."""
    return show(
        "settings/index.html",
        "partials/settings/index.html",
        form=PreferencesForm(),
        privacy_form=PrivacyForm(current_user),
        password_form=ChangePasswordForm(current_user),
        session_count=len(sessions.list_all(current_user)),
        user=current_user,
    )


@blueprint.route("/settings/look", methods=["GET", "POST"])
@public
def edit_preferences():
    """Change theme, language or sound: in the account for somebody who is logged in, and in this browser for all."""
    form = PreferencesForm()
    if not form.validate_on_submit():
        return show_form("preferences", form)
    previous_language = preferences.language()
    if current_user.is_authenticated:
        begin_write(db.session)
        stored = {name: value for name, value in form.chosen.items() if name in preferences.ACCOUNT_PREFERENCES}
        accounts.set_choices(current_user, stored)
        db.session.commit()
    saved = _("Your choice is saved.") if current_user.is_authenticated else ""
    response = changed(back=safe_path(request.form.get("next")), ok=saved)
    preferences.set_cookies(response, form.chosen)
    if form.chosen.get("language", previous_language) != previous_language:
        refresh_page(response)
    return response


@blueprint.route("/settings/privacy", methods=["GET", "POST"])
def edit_privacy():
    """Change who can see presence, who can find the account by name, or both."""
    form = PrivacyForm(current_user)
    if not form.validate_on_submit():
        return show_form("privacy", form)
    begin_write(db.session)
    accounts.set_choices(current_user, form.chosen)
    db.session.commit()
    return changed(back=url_for("settings.edit_privacy"), ok=_("Your choice is saved."))


@blueprint.route("/settings/password", methods=["GET", "POST"])
def change_password():
    """Change the password, which ends every other session."""
    form = ChangePasswordForm(current_user)
    if not form.validate_on_submit():
        return show_form("password", form)
    password_hash = passwords.hash_password(form.password.data)
    begin_write(db.session)
    accounts.change_password(accounts.lock_verified_account(current_user), password_hash)
    sessions.revoke_others(current_user)
    replace_session_token(current_user)
    db.session.commit()
    log.info("password changed: user %s", current_user.id)
    text = _("Your password is changed, and every other device is logged out.")
    empty_form = render_partial("partials/settings/password.html", form=ChangePasswordForm(current_user, formdata=None))
    return changed(empty_form, back=url_for("settings.index"), ok=f"{text} {form.strength}")


@blueprint.route("/settings/blocked")
def blocked():
    """List the people whom one blocks."""
    page = relationships.list_blocked(current_user, request.args.get("after"))
    rows = [relationships.person_row(current_user, person, relationships.BLOCKED) for person in page.items]
    return show_people("settings/blocked.html", "blocked", page, rows)


@blueprint.route("/settings/delete", methods=["GET", "POST"])
def delete_account():
    """Delete the account and everything that belongs to it."""
    form = DeleteAccountForm(current_user)
    if not form.validate_on_submit():
        return show_form("delete", form)
    user_id = current_user.id
    begin_write(db.session)
    accounts.delete_account(current_user, delete_messages=form.delete_messages.data)
    db.session.commit()
    log.info("account deleted: user %s", user_id)
    log_out()
    return redirect_to(url_for("main.home"), _("Your account is deleted. Take care."))
