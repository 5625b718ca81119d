"""The states of the partials of conversations, for the snapshots."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

from noxchat.chat.forms import TitleForm
from noxchat.conversations import ConversationRow, ConversationView, Participant
from noxchat.exceptions import InvalidInput
from noxchat.messages import MessagePage, MessageRow, Quote
from noxchat.models import User

MOMENT = datetime(2026, 11, 23, 21, 38, tzinfo=UTC)
NIKA = Participant(2, "Nika", "nika", None, None, "friends")
ONLINE = Participant(2, "Nika", "nika", None, datetime(2999, 1, 1, tzinfo=UTC), "friends")


def view(**more):
    """Return a conversation of Mila, by default with her friend Nika."""
    values = {
        "id": 42,
        "kind": "direct",
        "title": "",
        "owner_id": None,
        "version": 7,
        "last_message_id": 7,
        "viewer": User(id=1, username="Mila", show_presence="friends", show_seen=False, show_typing=True),
        "other": NIKA,
        "is_friend": True,
        "joined_after": 0,
        "read_up_to": 6,
        "is_muted": False,
        "draft": "",
        "draft_revision": 3,
        "first_unread_id": None,
        "shows_seen": False,
        "seen_up_to": 0,
        "member_count": 2,
        "has_blocked_member": False,
    }
    return ConversationView(**{**values, **more})


def group(**more):
    """Return a group of Mila, <Owls>."""
    values = {"kind": "group", "title": "<Owls>", "owner_id": 1, "other": None, "is_friend": False, "member_count": 3}
    return view(**{**values, **more})


def message(**more):
    """Return a message of Nika."""
    values = {
        "id": 7,
        "kind": "text",
        "body": "Hello <b>you</b>\nhttps://nox.example/(a).",
        "created_at": MOMENT,
        "is_edited": False,
        "is_deleted": False,
        "is_hidden": False,
        "is_own": False,
        "can_edit": False,
        "is_seen": False,
        "author": "Nika",
        "author_public_id": "nika",
        "avatar": None,
        "subject": None,
        "quote": None,
    }
    return MessageRow(**{**values, **more})


OWN = {"is_own": True, "author": "Mila", "author_public_id": "mila", "can_edit": True}


def quote(**more):
    values = {"id": 3, "author": "Orson", "text": "a <question>"}
    return Quote(**{**values, "is_deleted": False, "is_hidden": False, "is_visible": True, **more})


def row(**more):
    """Return the row of a conversation with Nika in the list."""
    values = {
        "id": 42,
        "is_group": False,
        "name": "Nika",
        "other": NIKA,
        "is_online": False,
        "is_muted": False,
        "unread": 0,
        "last_at": MOMENT,
        "draft": "",
        "kind": "text",
        "body": "Hello <b>",
        "is_deleted": False,
        "is_hidden": False,
        "is_own": False,
        "author": "Nika",
        "subject": None,
    }
    return ConversationRow(**{**values, **more})


GROUP_ROW = {"is_group": True, "name": "<Owls>", "other": None}


def member(number, name, **more):
    values = {"is_invited": False, "is_blocked": False, "is_hidden": False}
    person = {"id": number, "username": name, "public_id": name.lower(), "avatar": None}
    return SimpleNamespace(**{**person, **values, **more})


MEMBERS = [
    member(1, "Mila"),
    member(2, "Nika", is_blocked=True),
    member(3, "Orson", is_hidden=True),
    member(4, "Zoe", is_invited=True),
]
CHOICES = {
    "chosen": [member(2, "Nika")],
    "found": [member(3, "Orson")],
    "next_path": "/chats/42/details?after=x",
    "next_url": "/chats/new?after=x",
    "term": "o",
}
NO_CHOICES = {"chosen": [], "found": [], "next_path": "", "next_url": "", "term": ""}


def title_form(title="<Owls>", error=""):
    form = TitleForm(formdata=None, data={"title": title})
    return form.with_error(InvalidInput(error, "title")) if error else form


def composer(**more):
    values = {"view": view(), "body": "", "client_id": "c1", "quoted": None, "error": "", "max_length": 4000}
    return {**values, **more}


def thread(of, rows, **more):
    log = MessagePage(rows, has_older=more.pop("has_older", False), has_newer=more.pop("has_newer", False))
    first_unread_id = more.pop("first_unread_id", None)
    return {**composer(view=of), "log": log, "first_unread_id": first_unread_id, **more}


def details(of, members=(), **more):
    return {"view": of, "members": members, "form": title_form(), "error": "", "choices": CHOICES, **more}


STATES = {
    "chat/newest": {
        "some": lambda: {"chats": [row()], "hide": False},
        "none": lambda: {"chats": [], "hide": False},
        "none possible": lambda: {"chats": [], "hide": True},
    },
    "chat/row": {
        "read": lambda: {"row": row()},
        "unread, online": lambda: {"row": row(unread=3, is_online=True)},
        "more than 99 unread, muted": lambda: {"row": row(unread=100, is_muted=True)},
        "own": lambda: {"row": row(is_own=True, author="Mila")},
        "deleted": lambda: {"row": row(is_deleted=True, body="")},
        "empty": lambda: {"row": row(kind=None, body="", author=None)},
        "draft": lambda: {"row": row(draft="not <yet>")},
        "deleted account": lambda: {"row": row(other=None, name="Deleted account", author=None)},
        "group": lambda: {"row": row(**GROUP_ROW)},
        "group, hidden": lambda: {"row": row(**GROUP_ROW, is_hidden=True, body="")},
        "group, line": lambda: {"row": row(**GROUP_ROW, kind="added", body="", subject="Orson")},
    },
    "chat/rows": {"with a next page": lambda: {"rows": [row()], "next_url": "/chats?after=x"}},
    "chat/list": {
        "some": lambda: {
            "rows": [row()],
            "next_url": "",
            "term": "",
            "is_first": True,
            "offers": [SimpleNamespace(id=5, title="<Owls>")],
        },
        "empty": lambda: {"rows": [], "next_url": "", "term": "", "is_first": True, "offers": []},
        "nothing found": lambda: {"rows": [], "next_url": "", "term": "<x>", "is_first": True, "offers": []},
    },
    "chat/message": {
        "of the other": lambda: {"row": message(), "view": view()},
        "own, sent": lambda: {"row": message(**OWN), "view": view()},
        "own, read and edited, too old": lambda: {
            "row": message(**{**OWN, "can_edit": False}, is_seen=True, is_edited=True),
            "view": view(),
        },
        "own, deleted": lambda: {
            "row": message(**{**OWN, "can_edit": False}, is_deleted=True, body=""),
            "view": view(),
        },
        "own, only to read": lambda: {
            "row": message(**{**OWN, "can_edit": False}),
            "view": view(is_friend=False),
        },
        "in a group": lambda: {"row": message(), "view": group()},
        "in a group, hidden": lambda: {"row": message(is_hidden=True, body=""), "view": group()},
        "of a deleted account": lambda: {"row": message(author=None, author_public_id=None), "view": group()},
        "answer": lambda: {"row": message(quote=quote()), "view": group()},
        "answer to a deleted one": lambda: {"row": message(quote=quote(is_deleted=True, text="")), "view": group()},
        "answer to a hidden one": lambda: {"row": message(quote=quote(is_hidden=True, text="")), "view": group()},
        "answer to one from before joining": lambda: {"row": message(quote=quote(is_visible=False)), "view": group()},
        "line": lambda: {"row": message(kind="removed", body="", subject="Orson"), "view": group()},
        "line, renamed by a deleted account": lambda: {
            "row": message(kind="renamed", body="<Owls>", author=None, author_public_id=None),
            "view": group(),
        },
    },
    "chat/messages": {
        "unread, between others": lambda: {
            "log": MessagePage([message(id=6, **OWN), message()], has_older=True, has_newer=True),
            "view": view(),
            "first_unread_id": 7,
        },
        "none": lambda: {"log": MessagePage([]), "view": view(), "first_unread_id": None},
    },
    "chat/thread": {
        "friend": lambda: thread(view(first_unread_id=7), [message()], first_unread_id=7),
        "group, muted": lambda: thread(group(is_muted=True, has_blocked_member=True), [message()]),
        "deleted account": lambda: thread(view(other=None, is_friend=False), [message(author=None)]),
    },
    "chat/head": {
        "friend who is online": lambda: {"view": view(other=ONLINE), "oob": False},
        "former friend": lambda: {"view": view(is_friend=False), "oob": False},
        "group, muted, out of band": lambda: {"view": group(is_muted=True), "oob": True},
    },
    "chat/composer": {
        "empty": composer,
        "reply": lambda: composer(quoted=message(), body="\n typed"),
        "refused": lambda: composer(body="too long", error="One character too many."),
        "only to read": lambda: composer(view=view(is_friend=False), body="kept", error="No longer friends."),
    },
    "chat/composer_error": {
        "text": lambda: {"error": "Write <something>.", "client_id": None},
        "used client id": lambda: {"error": "Send it again.", "client_id": "c2"},
    },
    "chat/sent": {"": lambda: {"client_id": "c2"}},
    "chat/state": {
        "can write": lambda: {"view": view(), "oob": False},
        "former friend": lambda: {"view": view(is_friend=False), "oob": True},
        "deleted account": lambda: {"view": view(other=None, is_friend=False), "oob": False},
        "group with a blocked member": lambda: {"view": group(has_blocked_member=True), "oob": False},
    },
    "chat/version": {
        "in place": lambda: {"view": view(), "oob": False},
        "out of band": lambda: {"view": view(), "oob": True},
    },
    "chat/changes": {"": lambda: {"rows": [message()], "view": view()}},
    "chat/edit": {
        "as stored": lambda: {"conversation_id": 42, "message_id": 7, "body": "<Hello>", "error": ""},
        "refused": lambda: {"conversation_id": 42, "message_id": 7, "body": "", "error": "Too late."},
    },
    "chat/choices": {
        "some": lambda: CHOICES,
        "no friends": lambda: NO_CHOICES,
        "nobody found": lambda: {**NO_CHOICES, "term": "<x>"},
    },
    "chat/picker": {
        "some": lambda: {"error": "", **CHOICES},
        "error": lambda: {"error": "You can only add your own friends.", **NO_CHOICES},
    },
    "chat/new": {
        "empty": lambda: {"form": TitleForm(formdata=None), **NO_CHOICES},
        "refused": lambda: {
            "form": TitleForm(formdata=None).with_error(InvalidInput("Choose from 1 to 99 friends.", "members")),
            **CHOICES,
        },
    },
    "chat/details": {
        "owner": lambda: details(group(), MEMBERS),
        "owner, refused": lambda: details(group(), MEMBERS[:1], form=title_form("", "Give it a name."), error="No."),
        "member": lambda: details(replace(group(has_blocked_member=True), owner_id=2), MEMBERS, choices={}),
        "friend, muted": lambda: details(view(is_muted=True), choices={}),
        "former friend": lambda: details(view(is_friend=False), choices={}),
    },
}
