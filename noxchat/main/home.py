"""The home page, or the landing page for visitors."""

from flask import render_template
from flask_babel import ngettext
from flask_login import current_user

from noxchat import changelog, conversations, moon_phase, relationships
from noxchat.counters import get_counters
from noxchat.database import now
from noxchat.main import blueprint
from noxchat.relationships import FRIENDS, INCOMING, NONE, PersonRow, person_row
from noxchat.web.htmx import current_path, show
from noxchat.web.preferences import language
from noxchat.web.security import public

MAX_REQUESTS = 3


@blueprint.route("/")
@public
def home():
    """Show requests, chats, friends or the first steps, suggestions and the changelog; to visitors, what NoxChat is."""
    if not current_user.is_authenticated:
        return render_template("main/landing.html")
    requests, friends, online = relationships.home_lists(current_user, MAX_REQUESTS, relationships.MAX_RECENT)
    return show(
        "main/home.html",
        "partials/main/home.html",
        requests=[person_row(current_user, person, INCOMING) for person in requests],
        chats=conversations.list_newest(current_user),
        friends=[person_row(current_user, person, FRIENDS) for person in friends],
        online=online,
        most_online=relationships.MAX_ONLINE,
        first_steps={} if friends else first_steps(),
        suggestions=suggestion_rows(len(friends)),
        moon=moon_phase.moon_phase(now()),
        today=now(),
        changelog=changelog.latest_entries(language()),
        back=current_path(),
    )


def first_steps() -> dict[str, bool]:
    """Return which of the first steps somebody without friends has done."""
    counters = current_user.counters or get_counters(current_user)
    has_profile = bool(current_user.avatar or current_user.profile.bio)
    return {"has_profile": has_profile, "has_asked": counters.outgoing > 0}


def suggestion_rows(friend_count: int) -> list[PersonRow]:
    """Return people whom somebody with few friends may know."""
    if friend_count > relationships.SUGGEST_UP_TO_FRIENDS:
        return []
    suggestions = relationships.suggest_people(current_user)
    return [person_row(current_user, person, NONE, friends_in_common(count)) for person, count in suggestions]


def friends_in_common(count: int) -> str:
    """Return a note about how many friends two people have in common."""
    return ngettext("One friend in common", "%(num)s friends in common", count)
