"""The page of an invitation's link."""

import logging

from flask import abort, request, url_for
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import invitations, relationships
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.friends import blueprint
from noxchat.friendships import FriendshipChange
from noxchat.web.htmx import login_required, redirect_to, show, tab_id
from noxchat.web.security import public

log = logging.getLogger("noxchat.friends")


@blueprint.route("/i/<token>", methods=["GET", "POST"])
@public
def invitation(token):
    """Show who invites, with the ways to register and to log in; or become friends with them."""
    if request.method == "POST":
        return accept(token)
    viewer = current_user if current_user.is_authenticated else None
    found = invitations.find_open(token, viewer)
    if found is None:
        abort(404)
    state = None
    if viewer and found.inviter:
        _person, state = relationships.find_visible(viewer, found.inviter.public_id)
    context = {"inviter": found.inviter, "state": state, "token": token}
    return show("friends/invitation.html", "partials/friends/invitation.html", **context)


def accept(token: str):
    """Answer somebody who presses the button to become friends."""
    if not current_user.is_authenticated:
        return login_required()
    begin_write(db.session)
    pair, change = invitations.accept(current_user, token, tab_id())
    db.session.commit()
    log.info("invitation accepted: user %s", current_user.id)
    is_new = change is FriendshipChange.ACCEPTED
    text = _("You and %(name)s are friends now.", name=pair.person.username) if is_new else ""
    return redirect_to(url_for("main.profile", public_id=pair.person.public_id), text)
