"""The list of conversations, opening them, and what a conversation's page tells about its reader."""

from flask import request, url_for
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import conversations, friendships
from noxchat.chat import blueprint
from noxchat.chat.pages import CID, conversation_path, done, list_context, number, show_conversation
from noxchat.counters import get_counters
from noxchat.database import begin_write
from noxchat.exceptions import InvalidInput
from noxchat.extensions import db
from noxchat.web.htmx import changed, redirect_to, render_partial, show
from noxchat.web.people import search_term


@blueprint.route("/chats")
def conversation_list():
    """List the viewer's conversations, newest activity first."""
    context = list_context(search_term(), request.args.get("after"))
    fragment = "partials/chat/list.html" if context["is_first"] else "partials/chat/rows.html"
    return show("chat/chats.html", fragment, view=None, **context)


@blueprint.route("/chats/newest")
def newest():
    """Show the newest conversations, in as many rows as the home page has: what is below them must not move."""
    chats = conversations.list_newest(current_user, max(request.args.get("rows", 1, type=int), 1))
    return changed(render_partial("partials/chat/newest.html", chats=chats, hide=False), back=url_for("main.home"))


@blueprint.route("/u/<public_id>/chat", methods=["POST"])
def open_direct(public_id):
    """Open the conversation with a friend, or the former one with somebody else."""
    conversation_id = conversations.find_direct(current_user, public_id)
    if conversation_id is None:
        begin_write(db.session)
        pair = friendships.lock_pair(current_user, public_id)
        conversation_id = conversations.open_direct(current_user, pair.person, pair.state)
    db.session.commit()
    return redirect_to(conversation_path(conversation_id))


@blueprint.route(f"/chats/{CID}")
def conversation(conversation_id):
    """Show a conversation: at the first unread message, or else at the newest."""
    return show_conversation(conversations.find(current_user, conversation_id))


@blueprint.route(f"/chats/{CID}/head")
def head(conversation_id):
    """Show the head of a conversation, whose presence changes without an announcement."""
    view = conversations.find(current_user, conversation_id)
    return changed(render_partial("partials/chat/head.html", view=view, oob=False), back=conversation_path(view.id))


@blueprint.route(f"/chats/{CID}/row")
def row(conversation_id):
    """Show a conversation as it is in the list now, and the numbers of the navigation."""
    shown = render_partial("partials/chat/row.html", row=conversations.find_row(current_user, conversation_id))
    numbers = render_partial("partials/nav/counters.html", counters=get_counters(current_user), unread=True)
    return changed(shown, numbers, back=conversation_path(conversation_id))


@blueprint.route(f"/chats/{CID}/read", methods=["POST"])
def read(conversation_id):
    """Remember how far the viewer has read."""
    message_id = number("message_id")
    view = conversations.find_to_change(current_user, conversation_id)
    if message_id is None:
        raise InvalidInput(_("The request was not understood. Nothing was changed."))
    if conversations.is_news(view, message_id):
        begin_write(db.session)
        conversations.read(view, message_id)
    db.session.commit()
    return done(conversation_id)


@blueprint.route(f"/chats/{CID}/draft", methods=["POST"])
def save_draft(conversation_id):
    """Keep what the viewer has typed."""
    begin_write(db.session)
    conversations.save_draft(current_user, conversation_id, request.form.get("body", ""), number("revision") or 0)
    db.session.commit()
    return done(conversation_id)


@blueprint.route(f"/chats/{CID}/typing", methods=["POST"])
def typing(conversation_id):
    """Tell others that the viewer is typing."""
    conversations.announce_typing(current_user, conversation_id)
    db.session.commit()
    return done(conversation_id)
