"""Groups: creating them, their members, title and owner, leaving and joining, muting."""

from collections.abc import Callable, Collection
from urllib.parse import urlencode

from flask import request, url_for
from flask_babel import gettext as _
from flask_login import current_user
from werkzeug.wrappers import Response

from noxchat import conversations, groups, relationships
from noxchat.chat import blueprint
from noxchat.chat.forms import TitleForm
from noxchat.chat.pages import CID, conversation_path
from noxchat.database import begin_write
from noxchat.exceptions import InvalidInput
from noxchat.extensions import db
from noxchat.search import Query
from noxchat.web.htmx import changed, redirect_to, render_partial, show, wants_fragment
from noxchat.web.login import rollback_and_reload_user


def find_choices(path: str, members: Collection[int] = ()) -> dict:
    """Return the friends among whom members are chosen: those who are chosen, and a page of those who match.

    path: of the page that shows them. members: ids of those who are in the group already, and left out.
    """
    term, public_ids = request.values.get("q", "").strip(), chosen_ids()
    chosen = groups.list_friends_to_add(current_user, public_ids) if public_ids else []
    page = relationships.list_friends(current_user, Query.parse(term), request.args.get("after"))
    left_out = {*members, *(person.id for person in chosen)}
    query = ""
    if page.next_cursor:
        values = {"q": term, "title": request.values.get("title", ""), "after": page.next_cursor}
        query = f"?{urlencode({**values, 'members': [person.public_id for person in chosen]}, doseq=True)}"
    return {
        # Rows that are appended follow those that are chosen.
        "chosen": [] if "after" in request.args and wants_fragment() else chosen,
        "found": [person for person in page.items if person.id not in left_out],
        "next_path": f"{path}{query}" if query else "",
        "next_url": f"{url_for('chat.new_group')}{query}" if query else "",
        "term": term,
    }


def chosen_ids() -> list[str]:
    """Return the Public IDs of the friends that are chosen."""
    return request.values.getlist("members")[: 2 * groups.MAX_OTHERS]


def show_new_group(form: TitleForm, status: int = 200) -> Response:
    """Answer with the form for a new group, or with the friends to choose from when htmx asked for those."""
    fragment = "partials/chat/choices.html" if request.method == "GET" else "partials/chat/new.html"
    return show("chat/new.html", fragment, status, form=form, **find_choices(url_for("chat.new_group")))


@blueprint.route("/chats/new")
def new_group():
    """Show the form for a new group."""
    return show_new_group(TitleForm(data={"title": request.args.get("title", "")}))


@blueprint.route("/chats", methods=["POST"])
def create_group():
    """Create a group; without JavaScript also filter the friends to choose from."""
    form = TitleForm()
    if "filter" in request.form:
        return show_new_group(form)
    if not form.validate_on_submit():
        return show_new_group(form, 422)
    begin_write(db.session)
    try:
        conversation_id = groups.create(current_user, form.cleaned["title"], chosen_ids())
        db.session.commit()
    except InvalidInput as error:
        rollback_and_reload_user()
        return show_new_group(form.with_error(error), 422)
    return redirect_to(conversation_path(conversation_id))


def find_details(conversation_id: int, form: TitleForm | None = None, error: str = "") -> dict:
    """Return what the details of a conversation show.

    form, error: what was refused about its title, and about members that were to be added.
    """
    view = conversations.find(current_user, conversation_id)
    members = groups.list_members(view) if view.is_group else []
    choices = (
        find_choices(url_for("chat.details", conversation_id=view.id), {member.id for member in members})
        if view.is_owner
        else {}
    )
    form = form or TitleForm(formdata=None, data={"title": view.title})
    return {"view": view, "members": members, "form": form, "error": error, "choices": choices}


def show_details(conversation_id: int, status: int = 200, **refused) -> Response:
    """Answer with the details of a conversation. refused: as for find_details."""
    details = find_details(conversation_id, **refused)
    return show("chat/details.html", "partials/chat/details.html", status, **details)


@blueprint.route(f"/chats/{CID}/details")
def details(conversation_id):
    """Show the members of a conversation, and what can be done with it."""
    return show_details(conversation_id)


def perform(conversation_id: int, rule: Callable[..., bool | None], *arguments, ok: str) -> Response:
    """Call one of the rules about a conversation, and answer with its details as they are now.

    ok: a notice, unless the rule returns False because nothing has changed.
    """
    begin_write(db.session)
    if rule(current_user, conversation_id, *arguments) is False:
        ok = ""
    db.session.commit()
    details = render_partial("partials/chat/details.html", **find_details(conversation_id)) if wants_fragment() else ""
    db.session.commit()  # what was read for the answer
    return changed(details, back=url_for("chat.details", conversation_id=conversation_id), ok=ok)


@blueprint.route(f"/chats/{CID}/title", methods=["POST"])
def rename(conversation_id):
    """Change the title of a group."""
    groups.check_owner(current_user, conversation_id)
    form = TitleForm()
    if not form.validate_on_submit():
        return show_details(conversation_id, 422, form=form)
    begin_write(db.session)
    is_new = groups.rename(current_user, conversation_id, form.cleaned["title"])
    db.session.commit()
    path = url_for("chat.details", conversation_id=conversation_id)
    return redirect_to(path, _("The group has a new name.") if is_new else "")


@blueprint.route(f"/chats/{CID}/members", methods=["POST"])
def add_members(conversation_id):
    """Add friends to a group; without JavaScript also filter them."""
    if "filter" in request.form:
        return show_details(conversation_id)
    try:
        return perform(conversation_id, groups.add_members, chosen_ids(), ok=_("Added to the group."))
    except InvalidInput as error:
        rollback_and_reload_user()
        return show_details(conversation_id, 422, error=str(error))


@blueprint.route(f"/chats/{CID}/members/<public_id>/remove", methods=["POST"])
def remove_member(conversation_id, public_id):
    """Remove a member of a group."""
    return perform(conversation_id, groups.remove_member, public_id, ok=_("Removed from the group."))


@blueprint.route(f"/chats/{CID}/members/<public_id>/owner", methods=["POST"])
def make_owner(conversation_id, public_id):
    """Hand a group over to another member."""
    return perform(conversation_id, groups.make_owner, public_id, ok=_("The group has a new owner."))


@blueprint.route(f"/chats/{CID}/mute", methods=["POST"])
def mute(conversation_id):
    """Leave a conversation out of the number of unread ones."""
    return perform(conversation_id, conversations.mute, ok=_("This chat is muted."))


@blueprint.route(f"/chats/{CID}/unmute", methods=["POST"])
def unmute(conversation_id):
    """Count a conversation among the unread ones again."""
    return perform(conversation_id, conversations.unmute, ok=_("This chat is no longer muted."))


@blueprint.route(f"/chats/{CID}/leave", methods=["POST"])
def leave(conversation_id):
    """Leave a group."""
    begin_write(db.session)
    groups.leave(current_user, conversation_id)
    db.session.commit()
    return redirect_to(url_for("chat.conversation_list"), _("You left the group."))


@blueprint.route(f"/chats/{CID}/join", methods=["POST"])
def join(conversation_id):
    """Come back to a group, after being added to it again."""
    begin_write(db.session)
    groups.join(current_user, conversation_id)
    db.session.commit()
    return redirect_to(conversation_path(conversation_id))
