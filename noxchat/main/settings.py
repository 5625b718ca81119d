"""Settings: the profile, its picture, how the place looks, leaving."""

import logging

from flask import abort, current_app, request, url_for
from flask_babel import gettext as _
from flask_login import current_user
from jinja_partials import render_partial

from noxchat import look, people, sessions, throttle
from noxchat.database import start_writing
from noxchat.extensions import db
from noxchat.forms import ChangePasswordForm
from noxchat.htmx import changed, local_path, moved, reload, show
from noxchat.main import avatar_utils, blueprint
from noxchat.main.forms import DeleteForm, LookForm, ProfileForm
from noxchat.refusal import Invalid
from noxchat.security import public
from noxchat.signed_in import sign_out, undo

log = logging.getLogger("noxchat.settings")


@blueprint.route("/settings")
def settings():
    """Show all that can be set."""
    return show(
        "settings/index.html",
        "partials/settings/index.html",
        form=look_form(),
        password_form=ChangePasswordForm(),
        sessions=len(sessions.of(current_user)),
    )


@blueprint.route("/settings/profile", methods=["GET", "POST"])
def edit_profile():
    """Change name, Public ID, bio and picture, all of them or none."""
    form = ProfileForm(data=vars_of(current_user))
    page = ("settings/profile.html", "partials/settings/profile.html")
    if not form.is_submitted():
        return show(*page, form=form, person=current_user)
    valid = form.validate()
    picture = None
    try:
        picture = new_picture(request.files.get("avatar"))
    except Invalid as error:
        form.refuse(error)
        valid = False
    if not valid:
        return show(*page, 422, form=form, person=current_user)
    wanted = {name: form.cleaned[name] for name in ("username", "public_id", "bio")}
    before = current_user.username, current_user.profile.public_id
    renames, renamed = throttle.Rename(current_user), before != (wanted["username"], wanted["public_id"])
    if renamed:
        renames.check()
    try:
        save_profile(wanted, picture)
    except Invalid as error:
        undo()
        form.refuse(error)
        return show(*page, 422, form=form, person=current_user)
    if renamed:
        renames.happened()
    log.info("profile changed: user %s", current_user.id)
    return moved(url_for("main.profile", public_id=current_user.profile.public_id), _("Your profile is saved."))


def vars_of(user) -> dict:
    """Return what the profile's form shows at first."""
    return {"username": user.username, "public_id": user.profile.public_id, "bio": user.profile.bio}


def new_picture(upload) -> bytes | None:
    """Return the picture that was uploaded, redrawn; None when none was chosen. Raises Invalid; 413 when too large."""
    if not upload or not upload.filename:
        return None
    data = upload.read(current_app.config["AVATAR_BYTES"] + 1)
    if len(data) > current_app.config["AVATAR_BYTES"]:
        abort(413)
    return avatar_utils.redraw(data)


def save_profile(wanted: dict, picture: bytes | None):
    """Keep a profile and its picture, or neither. Raises Invalid."""
    try:
        with avatar_utils.change() as files:
            start_writing(db.session)
            user = people.locked(current_user)
            old_id, old_name = user.profile.public_id, user.profile.avatar
            people.edit(user, **wanted)
            files.move(old_id, wanted["public_id"], None if picture else old_name)
            if picture:
                user.profile.avatar = files.put(wanted["public_id"], picture)
                if user.profile.avatar != old_name:
                    files.drop(old_id, old_name)
            db.session.commit()
    except OSError as error:
        log.error("picture not kept: %s", error.strerror)
        raise Invalid(_("The picture could not be kept: the disk is full or not writable."), "avatar") from error


@blueprint.route("/settings/avatar/remove", methods=["POST"])
def remove_avatar():
    """Go back to drawn initials."""
    with avatar_utils.change() as files:
        start_writing(db.session)
        user = people.locked(current_user)
        had_one = user.profile.avatar is not None
        files.drop(user.profile.public_id, user.profile.avatar)
        user.profile.avatar = None
        db.session.commit()
    return changed(
        render_partial("partials/settings/picture.html", person=user, errors=[]),
        render_partial("partials/nav/picture.html", person=user, oob=True),
        back=url_for("main.edit_profile"),
        ok=_("Your picture is gone; your initials are back.") if had_one else "",
    )


def look_form() -> LookForm:
    """Return the form of theme and language, as they are now."""
    return LookForm(data={"theme": look.theme(), "language": look.language()})


@blueprint.route("/settings/look", methods=["GET", "POST"])
@public
def change_look():
    """Change theme, language or both: for a person in the account, for everybody in this browser."""
    form = look_form()
    page = ("settings/look.html", "partials/settings/look.html")
    if not form.is_submitted():
        return show(*page, form=form)
    wanted = {name: request.form[name] for name in ("theme", "language") if name in request.form}
    known = wanted.get("theme", "auto") in look.THEMES and wanted.get("language", "en") in look.LANGUAGES
    if not wanted or not known:
        form.validate()
        form.refuse(Invalid(_("Choose one of the themes and languages that there are.")))
        return show(*page, 422, form=form)
    speaks = look.language()
    if current_user.is_authenticated:
        start_writing(db.session)
        user = people.locked(current_user)
        for name, value in wanted.items():
            setattr(user, name, value)
        db.session.commit()
    response = changed(back=local_path(request.form.get("next")))
    for name, value in wanted.items():
        look.remember(response, name, value)
    if wanted.get("language", speaks) != speaks:
        reload(response)
    return response


@blueprint.route("/settings/delete", methods=["GET", "POST"])
def delete_account():
    """Leave for good, with everything."""
    form = DeleteForm()
    page = ("settings/delete.html", "partials/settings/delete.html")
    if not form.validate_on_submit():
        return show(*page, 422 if form.is_submitted() else 200, form=form)
    try:
        people.confirm(current_user, form.password.data, "password")
    except Invalid as error:
        form.refuse(error)
        return show(*page, 422, form=form)
    number = current_user.id
    avatar_utils.remove_account(current_user)
    log.info("account deleted: user %s", number)
    sign_out()
    return moved(url_for("main.home"), _("Your account is deleted. Take care."))
