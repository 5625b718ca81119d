"""The lists of friends and requests, and the fragments that open pages fetch when something changed."""

from flask import abort, redirect, request, url_for
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import relationships
from noxchat.friends import blueprint
from noxchat.friends.fragments import button_fragments, render_counters
from noxchat.models import User
from noxchat.relationships import FRIENDS, INCOMING, OUTGOING, person_row
from noxchat.search import Query
from noxchat.web.htmx import changed, render_partial, safe_path, toast, wants_fragment
from noxchat.web.people import LIST_STATES, search_term, show_people


def show_list(list_name: str, page):
    """Answer with one of the three lists."""
    rows = [person_row(current_user, person, LIST_STATES[list_name]) for person in page.items]
    return show_people("friends/list.html", list_name, page, rows, search_term())


@blueprint.route("/friends")
def friends():
    """List friends by name."""
    page = relationships.list_friends(current_user, Query.parse(search_term()), request.args.get("after"))
    return show_list("friends", page)


@blueprint.route("/friends/incoming")
def incoming():
    """List incoming requests, newest first."""
    query = Query.parse(search_term())
    return show_list("incoming", relationships.list_requests(current_user, INCOMING, query, request.args.get("after")))


@blueprint.route("/friends/outgoing")
def outgoing():
    """List outgoing requests, newest first."""
    query = Query.parse(search_term())
    return show_list("outgoing", relationships.list_requests(current_user, OUTGOING, query, request.args.get("after")))


@blueprint.route("/friends/online")
def online():
    """Show the friends who are online, as the home page asks again and again while it is open."""
    if not wants_fragment():
        return redirect(url_for("main.home"))
    people, most = relationships.list_online(current_user), relationships.MAX_ONLINE
    return changed(render_partial("partials/people/online.html", people=people, most=most), back="/")


@blueprint.route("/u/<public_id>/button")
def button(public_id):
    """Show a person's friend button as it is now, to a page that was told of a change."""
    person, state = relationships.find_visible(current_user, public_id)
    if person is None or state is None:
        abort(404)
    if not wants_fragment():
        return redirect(url_for("main.profile", public_id=person.public_id))
    fragments = button_fragments(person, state, safe_path(request.args.get("next")), focus=False)
    return changed(*fragments, back="/")


@blueprint.route("/u/<public_id>/row")
def row(public_id):
    """Announce somebody who now belongs in the list of a page that was told of a change; with the counters."""
    person, state = relationships.find_visible(current_user, public_id)
    if not wants_fragment():
        return redirect(url_for("main.profile", public_id=public_id))
    fragments = [render_counters()]
    if person is not None and state == FRIENDS and "accepted" in request.args:
        fragments.append(toast(_("%(name)s accepted your request.", name=person.username), subject=public_id.lower()))
    list_name = request.args.get("list", "")
    if person is not None and LIST_STATES.get(list_name) == state and not search_term():
        fragments.append(render_newcomer(person, list_name))
    return changed(*fragments, back="/")


def render_newcomer(person: User, list_name: str) -> str:
    """Return the row of somebody who is the first of a list, or a link that shows them: other rows must not move.

    list_name: a key of LIST_STATES.
    """
    back = safe_path(request.args.get("next"))
    if request.args.get("rows") == "0":
        row = person_row(current_user, person, LIST_STATES[list_name])
        return render_partial("partials/people/inserted.html", row=row, list_name=list_name, back=back)
    count = min(max(request.args.get("count", 1, type=int), 1), 99)
    return render_partial("partials/people/newcomers.html", list_name=list_name, count=count, href=back)


@blueprint.route("/counters")
def counters():
    """Show the counters alone, to a page without an event stream."""
    if not wants_fragment():
        return redirect(url_for("friends.friends"))
    return changed(render_counters(), back="/")
