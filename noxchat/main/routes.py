"""Home, and the pages of people."""

from flask import abort, redirect, render_template, url_for
from flask_babel import ngettext
from flask_login import current_user

from noxchat import circle, people, sky, whatsnew
from noxchat.database import now
from noxchat.friendships import FRIENDS, INCOMING, NONE
from noxchat.htmx import here, show
from noxchat.main import blueprint
from noxchat.main.friends import entry
from noxchat.security import public

FRIENDS_AT_HOME = 12
REQUESTS_AT_HOME = 3


@blueprint.route("/")
@public
def home():
    """Show what awaits whoever is signed in, and what is new; to strangers, what this place is."""
    if not current_user.is_authenticated:
        return render_template("main/landing.html")
    asking, seen = circle.at_home(current_user, REQUESTS_AT_HOME, FRIENDS_AT_HOME)
    known = circle.may_know(current_user) if len(seen) <= circle.KNOWN_AT_MOST else []
    return show(
        "main/home.html",
        "partials/main/home.html",
        asking=[entry(person, INCOMING) for person in asking],
        friends=[entry(person, FRIENDS) for person in seen],
        known=[entry(person, NONE, shared(count)) for person, count in known],
        moon=sky.moon(now()),
        today=now(),
        news=whatsnew.entries(),
        back=here(),
    )


def shared(count: int) -> str:
    """Return how many friends two people have in common, in words."""
    return ngettext("One friend in common", "%(num)s friends in common", count)


@blueprint.route("/u/<public_id>")
def profile(public_id):
    """Show a person. Under a Public ID that they gave up, lead to the one they have."""
    person, state = circle.find(current_user, public_id)
    if person is None:
        abort(404)
    if person.profile.public_id_key != public_id.lower():
        return redirect(url_for("main.profile", public_id=person.profile.public_id), 302)
    return show(
        "main/profile.html",
        "partials/people/profile.html",
        person=person,
        state=state,
        online=entry(person, state).online,
        hue=people.hue(person.profile.public_id_key),
        back=here(),
    )
