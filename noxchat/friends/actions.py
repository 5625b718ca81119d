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
from noxchat.friendships import UNDOABLE, FriendshipChange, Pair
from noxchat.models import User
from noxchat.relationships import BLOCKED, FRIENDS, INCOMING, OUTGOING
from noxchat.web.htmx import changed, safe_path, tab_id, wants_fragment
from noxchat.web.login import rollback_and_reload_user

log = logging.getLogger("noxchat.friends")


def notice(change: FriendshipChange, state: str | None, name: str) -> tuple[str, str]:
    """Return the notice about an action and its kind: `ok` only for what really happened."""
    done = {
        FriendshipChange.SENT: _("You asked %(name)s to be friends.", name=name),
        FriendshipChange.ACCEPTED: _("You and %(name)s are friends now.", name=name),
        FriendshipChange.DECLINED: _("You declined %(name)s's request.", name=name),
        FriendshipChange.CANCELLED: _("You cancelled your request to %(name)s.", name=name),
        FriendshipChange.REMOVED: _("You and %(name)s are no longer friends.", name=name),
        FriendshipChange.BLOCKED: _("You blocked %(name)s. They can no longer see you.", name=name),
        FriendshipChange.UNBLOCKED: _("You unblocked %(name)s.", name=name),
        FriendshipChange.UNDONE: _("Everything between you and %(name)s is as it was.", name=name),
    }
    if change in done:
        return done[change], "ok"
    unchanged: dict[str | None, str] = {
        FRIENDS: _("You and %(name)s are friends already.", name=name),
        OUTGOING: _("%(name)s has not answered your request yet.", name=name),
        INCOMING: _("%(name)s is waiting for your answer.", name=name),
        BLOCKED: _("%(name)s is blocked already.", name=name),
    }
    return unchanged.get(state, _("This request no longer exists.")), "info"


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
    undone = change is FriendshipChange.UNDONE
    state = relationships.get_relationship(pair.viewer, pair.person).state if undone else pair.state_after(change)
    text, kind = notice(change, state, pair.person.username)
    return answer(public_id, pair.person, state, text, kind, change=change)


def refuse(public_id: str, text: str):
    """Answer that a rule refused, with the button as it is."""
    rollback_and_reload_user()
    person, state = relationships.find_visible(current_user, public_id)
    log.info("friendship refused: user %s and user %s", current_user.id, person and person.id)
    return answer(public_id, person, state, text, "error", 409)


def answer(
    public_id: str,
    person: User | None,
    state: str | None,
    text: str,
    kind: str,
    status: int = 200,
    change: FriendshipChange = FriendshipChange.UNCHANGED,
):
    """Answer an action: for htmx with button, counters and notice, for a plain form with the page to go back to."""
    if "next" in request.form or person is None:
        back = safe_path(request.form.get("next"))
    else:
        back = url_for("main.profile", public_id=person.public_id)
    fragments: tuple[str, ...] = ()
    if wants_fragment() and person is not None and state is not None:
        fragments = button_fragments(person, state, back, focus=True, change=change)
    db.session.commit()  # what was read for the answer: psycopg forgets its prepared statements at a rollback
    undo = (
        {"path": url_for("friends.undo", public_id=public_id), "action": UNDOABLE[change]}
        if change in UNDOABLE
        else None
    )
    return changed(*fragments, back=back, ok=text, kind=kind, status=status, undo=undo, subject=public_id.lower())


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


@blueprint.route("/u/<public_id>/undo", methods=["POST"])
def undo(public_id):
    """Take back what one did to somebody last."""
    return perform(public_id, lambda pair, tab: friendships.undo(pair, request.form.get("action", ""), tab))
