"""Friends: the three lists, the blocked, and the button that changes how two people stand to each other."""

import logging
from dataclasses import dataclass

from flask import abort, redirect, request, url_for
from flask_babel import gettext as _
from flask_login import current_user
from jinja_partials import render_partial

from noxchat import circle, friendships, people
from noxchat.database import start_writing
from noxchat.extensions import db
from noxchat.friendships import BLOCKED, FRIENDS, INCOMING, OUTGOING, Outcome
from noxchat.htmx import changed, here, local_path, show, tab, wants_fragment
from noxchat.keyset import Page
from noxchat.main import blueprint
from noxchat.models import User
from noxchat.refusal import Gone, Refused, TooMany
from noxchat.search import Query
from noxchat.signed_in import undo

log = logging.getLogger("noxchat.friends")

# Lists whose rows belong there only while their button has this state.
LISTS = {"friends": FRIENDS, "incoming": INCOMING, "outgoing": OUTGOING, "blocked": BLOCKED}


@dataclass(frozen=True)
class Entry:
    """A row of a list. state: of its button. online: only ever true for friends. note: words beside the name."""

    person: User
    state: str
    online: bool = False
    note: str = ""


def entry(person: User, state: str, note: str = "") -> Entry:
    """Return the row for a person."""
    return Entry(person, state, state == FRIENDS and people.is_online(person), note)


def asked() -> str:
    """Return what is typed into the search box of this page."""
    return request.args.get("q", "").strip()


def more(page: Page, **values) -> str:
    """Return the address of the page that follows, empty at the end."""
    return url_for(request.endpoint, after=page.next, **values) if page.next else ""


def show_list(name: str, page: Page, typed: str):
    """Answer with one of the lists, or with the rows that follow when htmx wants those."""
    rows = "partials/people/rows.html" if not page.start else "partials/people/results.html"
    return show(
        "main/friends.html" if name != "blocked" else "settings/blocked.html",
        rows,
        name=name,
        entries=[entry(person, LISTS[name]) for person in page.items],
        more=more(page, q=typed or None),
        typed=typed,
        query=Query.of(typed),
        back=here(),
        start=page.start,
        oob=True,
    )


@blueprint.route("/friends")
def friends():
    """Show friends by name."""
    page = circle.page_of_friends(current_user, Query.of(asked()), request.args.get("after"))
    return show_list("friends", page, asked())


@blueprint.route("/friends/incoming")
def incoming():
    """Show who asks, the newest first."""
    page = circle.page_of_requests(current_user, INCOMING, Query.of(asked()), request.args.get("after"))
    return show_list("incoming", page, asked())


@blueprint.route("/friends/outgoing")
def outgoing():
    """Show who was asked, the newest first."""
    page = circle.page_of_requests(current_user, OUTGOING, Query.of(asked()), request.args.get("after"))
    return show_list("outgoing", page, asked())


@blueprint.route("/settings/blocked")
def blocked():
    """Show who is blocked."""
    return show_list("blocked", circle.page_of_blocked(current_user, request.args.get("after")), "")


def words(outcome: Outcome, state: str, name: str) -> tuple[str, str]:
    """Return what happened, and the kind of notice that says so: `ok` only for what really happened."""
    happened = {
        Outcome.SENT: _("Your request to %(name)s is on its way.", name=name),
        Outcome.ACCEPTED: _("You and %(name)s are friends now.", name=name),
        Outcome.DECLINED: _("The request by %(name)s is declined.", name=name),
        Outcome.CANCELLED: _("Your request to %(name)s is cancelled.", name=name),
        Outcome.REMOVED: _("You and %(name)s are no longer friends.", name=name),
        Outcome.BLOCKED: _("%(name)s is blocked, and sees nothing of you any more.", name=name),
        Outcome.UNBLOCKED: _("%(name)s is not blocked any more.", name=name),
    }
    if outcome in happened:
        return happened[outcome], "ok"
    as_it_is = {
        FRIENDS: _("You and %(name)s are friends already.", name=name),
        OUTGOING: _("Your request to %(name)s is still open.", name=name),
        INCOMING: _("%(name)s is waiting for your answer.", name=name),
        BLOCKED: _("%(name)s is blocked already.", name=name),
    }
    return as_it_is.get(state, _("Nothing is open between you and %(name)s any more.", name=name)), "info"


def act(public_id: str, rule):
    """Do one of the things that the button does, and answer with the button as it now is."""
    start_writing(db.session)
    person, _state = circle.find(current_user, public_id)
    if person is None:
        abort(404)
    name, number, refusal, outcome = person.username, person.id, None, Outcome.UNCHANGED
    try:
        outcome = rule(current_user, person, tab())
        db.session.commit()
    except (Gone, TooMany):
        raise
    except Refused as error:
        refusal = str(error)
        undo()
    log.info("friendship %s: user %s and user %s", "refused" if refusal else outcome.value, current_user.id, number)
    person, state = circle.find(current_user, public_id)
    back = local_path(request.form.get("next"))
    if "next" not in request.form and person:
        back = url_for("main.profile", public_id=person.profile.public_id)
    fragments = parts(public_id, person, state, back, focus=True) if wants_fragment() else ()
    text, kind = (refusal, "error") if refusal else words(outcome, state, name)
    return changed(*fragments, back=back, ok=text, kind=kind, status=409 if refusal else 200)


def parts(public_id: str, person: User | None, state: str | None, back: str, *, focus: bool) -> tuple[str, str]:
    """Return what changes on a page: the button, or its row where that does not belong any more; and the counters.

    person: None when the viewer may not see them. back: the address of the page. focus: whether the button was pressed
    here, and keeps the focus.
    """
    place = request.values.get("place", "")
    if person is None or (place in LISTS and state != LISTS[place]):
        button = render_partial("partials/people/removed.html", public_id=public_id)
    else:
        button = render_partial(
            "partials/friends/button.html", person=person, state=state, place=place, back=back, focus=focus
        )
    return button, render_partial("partials/nav/counters.html", counters=circle.counters(current_user))


@blueprint.route("/u/<public_id>/button")
def button(public_id):
    """Show how somebody stands to the viewer now, in a page that heard of a change."""
    person, state = circle.find(current_user, public_id)
    if person is None:
        abort(404)
    if not wants_fragment():
        return redirect(url_for("main.profile", public_id=person.profile.public_id))
    fragments = parts(public_id, person, state, local_path(request.args.get("next")), focus=False)
    return changed(*fragments, back="/")


@blueprint.route("/u/<public_id>/row")
def row(public_id):
    """Put somebody into a list that they belong to since a change that the page heard of; and renew its counters."""
    person, state = circle.find(current_user, public_id)
    if not wants_fragment():
        return redirect(url_for("main.profile", public_id=public_id))
    fragments = [render_partial("partials/nav/counters.html", counters=circle.counters(current_user))]
    place = request.args.get("place", "")
    if person is not None and LISTS.get(place) == state and not asked():
        follows = circle.neighbour(current_user, person) if place == "friends" else None
        fragments.append(
            render_partial(
                "partials/people/inserted.html",
                entry=entry(person, state),
                place=place,
                follows=follows,
                back=local_path(request.args.get("next")),
            )
        )
    return changed(*fragments, back="/")


@blueprint.route("/counters")
def counters():
    """Show the counters alone, to a page that has no stream of events."""
    if not wants_fragment():
        return redirect(url_for("main.friends"))
    return changed(render_partial("partials/nav/counters.html", counters=circle.counters(current_user)), back="/")


@blueprint.route("/u/<public_id>/request", methods=["POST"])
def send_request(public_id):
    """Ask somebody to be friends; if they asked first, accept."""
    return act(public_id, friendships.send)


@blueprint.route("/u/<public_id>/request/accept", methods=["POST"])
def accept_request(public_id):
    """Accept somebody's request."""
    return act(public_id, friendships.accept)


@blueprint.route("/u/<public_id>/request/decline", methods=["POST"])
def decline_request(public_id):
    """Decline somebody's request."""
    return act(public_id, friendships.decline)


@blueprint.route("/u/<public_id>/request/cancel", methods=["POST"])
def cancel_request(public_id):
    """Take one's own request back."""
    return act(public_id, friendships.cancel)


@blueprint.route("/u/<public_id>/unfriend", methods=["POST"])
def unfriend(public_id):
    """End a friendship."""
    return act(public_id, friendships.remove)


@blueprint.route("/u/<public_id>/block", methods=["POST"])
def block(public_id):
    """Block somebody."""
    return act(public_id, friendships.block)


@blueprint.route("/u/<public_id>/unblock", methods=["POST"])
def unblock(public_id):
    """Take a block back."""
    return act(public_id, friendships.unblock)
