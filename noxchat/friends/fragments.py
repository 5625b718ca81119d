"""The fragments that change with a friendship: button or row, and counters."""

from flask import request
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import relationships
from noxchat.counters import get_counters
from noxchat.friendships import UNDOABLE, FriendshipChange
from noxchat.models import User
from noxchat.relationships import FRIENDS, NONE
from noxchat.web.htmx import render_partial
from noxchat.web.people import LIST_STATES


def render_counters(*, unread: bool = True) -> str:
    """Return the counters of the navigation, to be swapped out of band. unread: with that of chats."""
    return render_partial("partials/nav/counters.html", counters=get_counters(current_user), unread=unread)


def button_fragments(
    person: User,
    state: str,
    back: str,
    *,
    focus: bool,
    change: FriendshipChange = FriendshipChange.UNCHANGED,
) -> tuple[str, str]:
    """Return a person's friend button, or what stands in its place after an action for a while; and the counters.

    back: the path of the page. focus: whether the button was pressed in this tab, and keeps the focus. change: what
    the viewer did just now.
    """
    list_name = request.values.get("list", "")
    is_row = list_name != "profile"
    leaves = list_name in LIST_STATES and state != LIST_STATES[list_name]
    context = {"person": person, "state": state, "list_name": list_name, "back": back, "focus": focus}
    if leaves or change in UNDOABLE or (is_row and change is FriendshipChange.ACCEPTED):
        text = done_text(change, list_name, state)
        done = {"text": text, "undo": UNDOABLE.get(change, ""), "leaves": leaves}
        button = render_partial("partials/friends/done.html", **done, **context)
    else:
        ask_again_at = relationships.get_cooldown(current_user, person) if state == NONE else None
        button = render_partial("partials/friends/button.html", ask_again_at=ask_again_at, **context)
    # Messages of people whom one blocks do not count.
    concerns_blocks = change in (FriendshipChange.BLOCKED, FriendshipChange.UNBLOCKED, FriendshipChange.UNDONE)
    return button, render_counters(unread=concerns_blocks)


def done_text(change: FriendshipChange, list_name: str, state: str) -> str:
    """Return what happened to somebody in a list, in one or two words. list_name, state: where they were, and are."""
    texts = {
        FriendshipChange.DECLINED: _("Declined"),
        FriendshipChange.CANCELLED: _("Cancelled"),
        FriendshipChange.REMOVED: _("Removed"),
        FriendshipChange.BLOCKED: _("Blocked"),
        FriendshipChange.UNBLOCKED: _("Unblocked"),
    }
    if change in texts:
        return texts[change]
    if state == FRIENDS:
        return _("Friends")
    return {"friends": _("No longer friends"), "blocked": _("Unblocked")}.get(list_name, _("No longer open"))
