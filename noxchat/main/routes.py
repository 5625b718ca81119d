"""Home, and the pages of people."""

from flask import abort, redirect, render_template, url_for
from flask_login import current_user

from noxchat import people, sky, whatsnew
from noxchat.database import now
from noxchat.htmx import show
from noxchat.main import blueprint
from noxchat.security import public

FRIENDS_AT_HOME = 12


@blueprint.route("/")
@public
def home():
    """Show what is new; to strangers, what this place is."""
    if not current_user.is_authenticated:
        return render_template("main/landing.html")
    friends = people.friends_last_seen(current_user, FRIENDS_AT_HOME)
    return show(
        "main/home.html",
        "partials/main/home.html",
        friends=[{"person": friend, "online": people.is_online(friend)} for friend in friends],
        moon=sky.moon(now()),
        today=now(),
        news=whatsnew.entries(),
    )


@blueprint.route("/u/<public_id>")
def profile(public_id):
    """Show a person. Under a Public ID that they gave up, lead to the one they have."""
    person = people.find(public_id)
    if person is None:
        person = people.find_former(public_id) or abort(404)
        return redirect(url_for("main.profile", public_id=person.profile.public_id), 302)
    is_self = person.id == current_user.id
    are_friends = not is_self and people.are_friends(current_user, person)
    return show(
        "main/profile.html",
        "partials/people/profile.html",
        person=person,
        state="self" if is_self else "friends" if are_friends else "none",
        online=are_friends and people.is_online(person),
        hue=people.hue(person.profile.public_id_key),
    )
