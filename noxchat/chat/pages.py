"""The page of a conversation, and its fragments."""

from dataclasses import replace

from flask import current_app, redirect, request, url_for
from flask_babel import gettext as _
from flask_login import current_user

from noxchat import conversations, messages
from noxchat.conversations import ConversationView
from noxchat.exceptions import InvalidInput, NotFound
from noxchat.extensions import db
from noxchat.messages import MessagePage, MessageRow
from noxchat.search import Query
from noxchat.web.htmx import render_partial, show, targets, wants_fragment
from noxchat.web.people import next_page_url

# In a path: numbers that no table can have are 404.
CID = "<int(max=2147483647):conversation_id>"
MID = "<int(max=9223372036854775807):message_id>"


def number(name: str) -> int | None:
    """Return a number from query or form; None where there is none, or nonsense."""
    value = request.values.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None


def number_or_refuse(name: str) -> int | None:
    """Return a number from a form; None where there is none. Raises InvalidInput about nonsense."""
    if request.form.get(name) and number(name) is None:
        raise InvalidInput(_("The request was not understood. Nothing was changed."))
    return number(name)


def conversation_path(conversation_id: int, message_id: int | None = None) -> str:
    """Return the path of a conversation, or of a message that is among its newest."""
    anchor = f"m-{message_id}" if message_id else None
    return url_for("chat.conversation", conversation_id=conversation_id, _anchor=anchor)


def message_path(conversation_id: int, message_id: int) -> str:
    """Return the path of a message, wherever it is in a conversation."""
    return url_for("chat.conversation", conversation_id=conversation_id, around=message_id, _anchor=f"m-{message_id}")


def list_context(term: str = "", cursor: str | None = None) -> dict:
    """Return what a template needs to show the viewer's conversations.

    term: what is searched for. cursor: of a following page.
    """
    page = conversations.list_conversations(current_user, Query.parse(term), cursor)
    return {
        "rows": page.items,
        "next_url": next_page_url(page, "chat.conversation_list", q=term or None),
        "term": term,
        "is_first": page.is_first,
        "offers": conversations.list_offers(current_user) if page.is_first and not term else [],
    }


def find_log(view: ConversationView) -> MessagePage:
    """Return the messages that the request asks for: before, after or around one; otherwise where the view opens.

    A fragment continues a page in one direction. A page is never empty where there are messages.
    """
    before, after, around = number("before"), number("after"), number("around")
    is_page = wants_thread()
    log = None
    if before is not None:
        log = messages.list_newest(view, before)
        log = replace(log, has_newer=log.has_newer and is_page)
    elif after is not None:
        log = replace(messages.list_after(view, after), has_older=is_page)
    elif around is not None:
        log = messages.list_around(view, around)
    return log if log and (log.rows or not is_page) else messages.list_first_page(view)


def find_quoted(view: ConversationView) -> MessageRow | None:
    """Return the message that the request is a reply to, or None."""
    message_id = number("reply_to")
    return messages.find(view, message_id) if message_id else None


def wants_thread() -> bool:
    """Tell whether the whole conversation is asked for: as a page, or as the detail beside the list."""
    return targets("detail") or not wants_fragment()


def show_conversation(view: ConversationView, status: int = 200, *, body: str | None = None, error: str = ""):
    """Answer with a conversation beside the list of all, or for htmx with its messages alone, or as their detail.

    body: what was typed; by default the draft. error: why it was refused.
    """
    log = find_log(view)
    opens = not {"before", "after", "around"} & set(request.args)
    return show(
        "chat/chats.html",
        "partials/chat/thread.html" if wants_thread() else "partials/chat/messages.html",
        status,
        **({} if wants_fragment() else list_context()),
        view=view,
        log=log,
        first_unread_id=view.first_unread_id if opens else None,
        body=view.draft if body is None else body,
        error=error,
        client_id=messages.new_client_id(),
        quoted=find_quoted(view),
        max_length=current_app.config["MESSAGE_LENGTH"],
    )


def done(conversation_id: int):
    """Answer a POST that changes nothing on the page: 204, or for a plain form with the conversation."""
    return ("", 204) if wants_fragment() else redirect(conversation_path(conversation_id), 303)


def render_message(view: ConversationView, message_id: int) -> str:
    """Return a message as HTML, as it is in the log. Raises NotFound."""
    row = messages.find(view, message_id)
    if row is None:
        raise NotFound
    db.session.commit()  # what was read: psycopg forgets its prepared statements at a rollback
    return render_partial("partials/chat/message.html", row=row, view=view)
