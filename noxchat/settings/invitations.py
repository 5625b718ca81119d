"""Invitations: making links, their QR codes, and revoking them."""

import io
import logging

from flask import abort, make_response, url_for
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import accounts, invitations, tokens
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.mail.kinds import absolute_url
from noxchat.models import Invitation
from noxchat.settings import blueprint
from noxchat.settings.forms import InvitationForm
from noxchat.web.htmx import changed, render_partial, show

log = logging.getLogger("noxchat.settings")

MAX_ID = 2**31 - 1


@blueprint.route("/settings/invitations", methods=["GET", "POST"])
def list_invitations():
    """List one's invitations, and make another."""
    form = InvitationForm()
    if not form.validate_on_submit():
        context = {"form": form, "rows": invitation_rows()}
        return show("settings/invitations.html", "partials/settings/invitations.html", form.status, **context)
    begin_write(db.session)
    invitations.create(accounts.lock_account(current_user), form.uses.data, form.days.data)
    db.session.commit()
    log.info("invitation made: user %s", current_user.id)
    return show_changed(_("Your invitation is ready. Send the link to anyone you want to invite."))


@blueprint.route("/settings/invitations/<int:invitation_id>/revoke", methods=["POST"])
def revoke_invitation(invitation_id):
    """Revoke an invitation: its link stops working."""
    if invitation_id > MAX_ID:
        abort(404)
    begin_write(db.session)
    revoked = invitations.revoke(current_user, invitation_id)
    db.session.commit()
    return show_changed(_("That link no longer works.") if revoked else "")


@blueprint.route("/settings/invitations/<int:invitation_id>/code.svg")
def invitation_code(invitation_id):
    """Draw the link of an invitation as a QR code."""
    invitation = invitations.find_own(current_user, invitation_id) if invitation_id <= MAX_ID else None
    if invitation is None:
        abort(404)
    import segno  # only when it is needed, to save memory

    drawing = io.BytesIO()
    segno.make(link(invitation), micro=False).save(drawing, kind="svg", light="#ffffff", omitsize=True)
    response = make_response(drawing.getvalue())
    response.mimetype = "image/svg+xml"
    response.cache_control.no_store = True
    return response


def show_changed(text: str):
    """Answer with the list of invitations, an empty form and a notice."""
    form = InvitationForm(formdata=None)
    fragment = render_partial("partials/settings/invitations.html", form=form, rows=invitation_rows())
    return changed(fragment, back=url_for("settings.list_invitations"), ok=text)


def invitation_rows() -> list[dict]:
    """Return the rows of the list: each invitation and its link, for those that can still be used."""
    return [
        {"invitation": invitation, "link": link(invitation) if invitation.is_open else ""}
        for invitation in invitations.list_all(current_user)
    ]


def link(invitation: Invitation) -> str:
    """Return the link of an invitation."""
    return absolute_url("friends.invitation", token=tokens.create_invitation_token(invitation))
