"""The actions of the friend button."""

import logging
from collections.abc import Callable

from flask import request, url_for
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import friendships, relationships
from noxchat.database import begin_write
from noxchat.exceptions import Conflict
from noxchat.extensions import db
from noxchat.friends import blueprint
from noxchat.friends.fragments import button_fragments
from noxchat.friendships import FriendshipChange, Pair
from noxchat.models import User
from noxchat.relationships import BLOCKED, FRIENDS, INCOMING, OUTGOING
from noxchat.web.htmx import changed, safe_path, tab_id, wants_fragment
from noxchat.web.login import rollback_and_reload_user

log = logging.getLogger("noxchat.friends")


def notice(change: FriendshipChange, state: str | None, name: str) -> tuple[str, str]:
    """Return the notice about an action and its kind: `ok` only for what really happened."""
    done = {
        FriendshipChange.SENT: _("Your request to %(name)s is on its way.", name=name),
        FriendshipChange.ACCEPTED: _("You and %(name)s are friends now.", name=name),
        FriendshipChange.DECLINED: _("The request by %(name)s is declined.", name=name),
        FriendshipChange.CANCELLED: _("Your request to %(name)s is cancelled.", name=name),
        FriendshipChange.REMOVED: _("You and %(name)s are no longer friends.", name=name),
        FriendshipChange.BLOCKED: _("%(name)s is blocked, and sees nothing of you any more.", name=name),
        FriendshipChange.UNBLOCKED: _("%(name)s is not blocked any more.", name=name),
    }
    if change in done:
        return done[change], "ok"
    unchanged: dict[str | None, str] = {
        FRIENDS: _("You and %(name)s are friends already.", name=name),
        OUTGOING: _("Your request to %(name)s is still open.", name=name),
        INCOMING: _("%(name)s is waiting for your answer.", name=name),
        BLOCKED: _("%(name)s is blocked already.", name=name),
    }
    return unchanged.get(state, _("Nothing is open between you and %(name)s any more.", name=name)), "info"


def perform(public_id: str, rule: Callable[[Pair, str], FriendshipChange]):
    """Call one of the rules of friendships.py, and answer with the button as it is now."""
    begin_write(db.session)
    try:
        pair = friendships.lock_pair(current_user, public_id)
        change = rule(pair, tab_id())
        db.session.commit()
    except Conflict as error:
        return refuse(public_id, str(error))
    log.info("friendship %s: user %s and user %s", change.value, current_user.id, pair.person.id)
    state = pair.state_after(change)
    text, kind = notice(change, state, pair.person.username)
    return answer(public_id, pair.person, state, text, kind)


def refuse(public_id: str, text: str):
    """Answer that a rule refused, with the button as it is."""
    rollback_and_reload_user()
    person, state = relationships.find_visible(current_user, public_id)
    log.info("friendship refused: user %s and user %s", current_user.id, person and person.id)
    return answer(public_id, person, state, text, "error", 409)


def answer(public_id: str, person: User | None, state: str | None, text: str, kind: str, status: int = 200):
    """Answer an action: for htmx with button, counters and notice, for a plain form with the page to go back to."""
    if "next" in request.form or person is None:
        back = safe_path(request.form.get("next"))
    else:
        back = url_for("main.profile", public_id=person.public_id)
    fragments = button_fragments(public_id, person, state, back, focus=True) if wants_fragment() else ()
    db.session.commit()  # what was read for the answer: psycopg forgets its prepared statements at a rollback
    return changed(*fragments, back=back, ok=text, kind=kind, status=status)


@blueprint.route("/u/<public_id>/request", methods=["POST"])
def send_request(public_id):
    """Send a friend request; accept theirs if there is one."""
    return perform(public_id, friendships.send)


@blueprint.route("/u/<public_id>/request/accept", methods=["POST"])
def accept_request(public_id):
    """Accept a request."""
    return perform(public_id, friendships.accept)


@blueprint.route("/u/<public_id>/request/decline", methods=["POST"])
def decline_request(public_id):
    """Decline a request."""
    return perform(public_id, friendships.decline)


@blueprint.route("/u/<public_id>/request/cancel", methods=["POST"])
def cancel_request(public_id):
    """Take back one's own request."""
    return perform(public_id, friendships.cancel)


@blueprint.route("/u/<public_id>/unfriend", methods=["POST"])
def unfriend(public_id):
    """End a friendship."""
    return perform(public_id, friendships.remove)


@blueprint.route("/u/<public_id>/block", methods=["POST"])
def block(public_id):
    """Block somebody."""
    return perform(public_id, friendships.block)


@blueprint.route("/u/<public_id>/unblock", methods=["POST"])
def unblock(public_id):
    """Unblock somebody."""
    return perform(public_id, friendships.unblock)
