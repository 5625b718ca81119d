"""Profiles: showing and editing them."""

import logging

from flask import abort, redirect, url_for
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import accounts, avatars, profiles, relationships, throttle
from noxchat.counters import get_counters
from noxchat.database import begin_write
from noxchat.exceptions import InvalidInput
from noxchat.extensions import db
from noxchat.main import blueprint
from noxchat.main.forms import ProfileForm
from noxchat.web.htmx import changed, current_path, redirect_to, render_partial, show
from noxchat.web.login import rollback_and_reload_user

log = logging.getLogger("noxchat.profiles")


@blueprint.route("/u/<public_id>")
def profile(public_id):
    """Show a person. A former Public ID redirects to the present one."""
    details = relationships.find_details(current_user, public_id)
    if details is None:
        abort(404)
    person, is_self = details.person, details.state == relationships.SELF
    if person.profile.public_id_key != public_id.lower():
        return redirect(url_for("main.profile", public_id=person.public_id), 302)
    last_seen_at = relationships.last_seen(current_user, person, details.state)
    return show(
        "main/profile.html",
        "partials/people/profile.html",
        details=details,
        own_counters=(current_user.counters or get_counters(current_user)) if is_self else None,
        last_seen_at=last_seen_at,
        online=profiles.is_online(last_seen_at),
        hue=profiles.hue(person.public_id),
        back=current_path(),
    )


@blueprint.route("/settings/profile", methods=["GET", "POST"])
def edit_profile():
    """Change name, Public ID, bio and picture: all of them or none."""
    form = ProfileForm(current_user)
    if not form.validate_on_submit():
        return show_form(form)
    try:
        save_profile(**form.cleaned)
    except InvalidInput as error:
        rollback_and_reload_user()
        return show_form(form.with_error(error))
    log.info("profile changed: user %s", current_user.id)
    return redirect_to(url_for("main.profile", public_id=current_user.public_id), _("Your profile is saved."))


def show_form(form: ProfileForm):
    """Answer with the form of the profile."""
    context = {"form": form, "person": current_user}
    return show("main/edit_profile.html", "partials/main/edit_profile.html", form.status, **context)


def save_profile(username: str, public_id: str, bio: str, avatar: bytes | None):
    """Save a profile, and a new picture if there is one. Raises InvalidInput and RateLimited."""
    begin_write(db.session)
    user = accounts.lock_account(current_user)
    old_public_id = user.public_id
    if (user.username, old_public_id) != (username, public_id):
        throttle.count_rename(user)
    profiles.edit(user, username=username, public_id=public_id, bio=bio)
    avatars.update(user, old_public_id, avatar)
    db.session.commit()


@blueprint.route("/settings/avatar/remove", methods=["POST"])
def remove_avatar():
    """Go back to the initials that are drawn by default."""
    begin_write(db.session)
    user = accounts.lock_account(current_user)
    had_avatar = user.avatar is not None
    avatars.remove(user)
    db.session.commit()
    return changed(
        render_partial("partials/main/picture.html", person=user, errors=[]),
        render_partial("partials/nav/picture.html", person=user, oob=True),
        back=url_for("main.edit_profile"),
        ok=_("Your picture is gone; your initials are back.") if had_avatar else "",
    )
