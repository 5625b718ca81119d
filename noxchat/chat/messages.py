"""Sending, editing and deleting messages, and what has changed since a page was loaded."""

from typing import Any

from flask import make_response, redirect, request
from flask_login import current_user
from werkzeug.wrappers import Response

from noxchat import conversations, messages, throttle
from noxchat.chat import blueprint
from noxchat.chat.pages import (
    CID,
    MID,
    conversation_path,
    message_path,
    number,
    number_or_refuse,
    render_message,
    show_conversation,
)
from noxchat.conversations import ConversationView
from noxchat.database import begin_write, limited_concurrency
from noxchat.exceptions import Conflict, InvalidInput, RateLimited, RuleError
from noxchat.extensions import db
from noxchat.messages import MessageRow
from noxchat.web.htmx import changed, refresh_page, render_partial, retarget, show, wants_fragment
from noxchat.web.login import rollback_and_reload_user

STATUSES = {Conflict: 409, InvalidInput: 422, RateLimited: 429}


@blueprint.route(f"/chats/{CID}/messages", methods=["POST"])
def send(conversation_id):
    """Send a message."""
    try:
        view, message = store_message(conversation_id)
    except (Conflict, InvalidInput, RateLimited) as error:
        return refuse(conversation_id, error)
    if not wants_fragment():
        return redirect(conversation_path(conversation_id, message.id), 303)
    composer = render_partial("partials/chat/sent.html", client_id=messages.new_client_id())
    return changed(render_partial("partials/chat/message.html", row=message, view=view), composer, back="/")


def store_message(conversation_id: int) -> tuple[ConversationView, MessageRow]:
    """Store the message of a form. Returns and raises what messages.send does; raises RateLimited, too."""
    body = messages.clean_body(request.form.get("body", ""))
    db.session.commit()  # no transaction is open while the limit is counted
    throttle.count_message(current_user)
    fields: dict[str, Any] = {
        "client_id": request.form.get("client_id") or messages.new_client_id(),
        "reply_to": number_or_refuse("reply_to"),
        "seen": number_or_refuse("seen"),
        "revision": number("revision") or 0,
    }
    with limited_concurrency():
        begin_write(db.session)
        sent = messages.send(current_user, conversation_id, body=body, **fields)
        db.session.commit()
    return sent


def refuse(conversation_id: int, error: RuleError) -> Response:
    """Answer that a message was not sent: with what was typed, which htmx leaves where it is."""
    rollback_and_reload_user()
    view = conversations.find(current_user, conversation_id)
    status = STATUSES[type(error)]
    if wants_fragment():
        context = {"error": str(error), "client_id": messages.new_client_id() if status == 409 else None}
        fragment = render_partial("partials/chat/composer_error.html", **context)
        response = retarget(make_response(fragment, status), "#composer-errors")
    else:
        response = show_conversation(view, status, body=request.form.get("body", ""), error=str(error))
    if isinstance(error, RateLimited):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


@blueprint.route(f"/chats/{CID}/messages/{MID}/edit", methods=["GET", "POST"])
def edit(conversation_id, message_id):
    """Edit one of one's own messages."""
    if request.method == "GET":
        view = conversations.find_to_change(current_user, conversation_id)
        message = messages.find_own(view, message_id)
        messages.check_can_edit(view, message)
        return show_editor(conversation_id, message_id, message.body)
    try:
        body = messages.clean_body(request.form.get("body", ""))
        begin_write(db.session)
        messages.edit(current_user, conversation_id, message_id, body)
        db.session.commit()
    except (Conflict, InvalidInput) as error:
        return refuse_edit(conversation_id, message_id, error)
    return show_changed(conversation_id, message_id)


def refuse_edit(conversation_id: int, message_id: int, error: RuleError) -> Response:
    """Answer that a message was not changed, with what was typed."""
    rollback_and_reload_user()
    view = conversations.find_to_change(current_user, conversation_id)
    if isinstance(error, InvalidInput):
        messages.find_own(view, message_id)
    body, status = request.form.get("body", ""), STATUSES[type(error)]
    response = show_editor(conversation_id, message_id, body, status, str(error))
    return retarget(response, f"#edit-{message_id}", "outerHTML") if wants_fragment() else response


def show_editor(conversation_id: int, message_id: int, body: str, status: int = 200, error: str = "") -> Response:
    """Answer with the form in which a message is edited."""
    context = {"conversation_id": conversation_id, "message_id": message_id, "body": body, "error": error}
    return show("chat/edit.html", "partials/chat/edit.html", status, **context)


@blueprint.route(f"/chats/{CID}/messages/{MID}/delete", methods=["POST"])
def delete(conversation_id, message_id):
    """Delete one of one's own messages."""
    begin_write(db.session)
    messages.delete(current_user, conversation_id, message_id)
    db.session.commit()
    return show_changed(conversation_id, message_id)


@blueprint.route(f"/chats/{CID}/messages/{MID}")
def message(conversation_id, message_id):
    """Show a message where it stands in its conversation."""
    html = render_message(conversations.find(current_user, conversation_id), message_id)
    return changed(html, back=message_path(conversation_id, message_id))


def show_changed(conversation_id: int, message_id: int) -> Response:
    """Answer with a message as it is now; for a plain request, with the conversation around it."""
    if not wants_fragment():
        return redirect(message_path(conversation_id, message_id), 303)
    return changed(render_message(conversations.find(current_user, conversation_id), message_id), back="/")


@blueprint.route(f"/chats/{CID}/changes")
def changes(conversation_id):
    """Show what has changed since a version, to a page that shows the messages from `from` on."""
    view, since = conversations.find(current_user, conversation_id), number("since") or 0
    if not wants_fragment():
        return redirect(conversation_path(conversation_id), 303)
    if view.version <= since:
        return "", 204
    rows = messages.list_changes(view, since, number("from") or 0)
    if rows is None:
        return refresh_page(make_response("", 204))
    return changed(render_partial("partials/chat/changes.html", rows=rows, view=view), back="/")
