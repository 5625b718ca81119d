"""The fragments that change with a friendship: button or row, and counters."""

from flask import request
from flask_login import current_user

from noxchat.counters import get_counters
from noxchat.models import User
from noxchat.web.htmx import render_partial
from noxchat.web.people import LIST_STATES


def render_counters() -> str:
    """Return the counters of the navigation, to be swapped out of band."""
    return render_partial("partials/nav/counters.html", counters=get_counters(current_user))


def button_fragments(
    public_id: str, person: User | None, state: str | None, back: str, *, focus: bool
) -> tuple[str, str]:
    """Return a person's friend button, or the removal of their row from a list where they no longer belong; counters.

    person: None when the viewer may not see them. back: the path of the page. focus: whether the button was pressed in
    this tab, and keeps the focus.
    """
    list_name = request.values.get("list", "")
    if person is None or (list_name in LIST_STATES and state != LIST_STATES[list_name]):
        button = render_partial("partials/people/removed.html", public_id=public_id)
    else:
        button = render_partial(
            "partials/friends/button.html", person=person, state=state, list_name=list_name, back=back, focus=focus
        )
    return button, render_counters()
