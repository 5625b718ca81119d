"""Announcements to open pages that something happened in a conversation. They are no rows, and can be lost.

They are told once the transaction is committed, by event_stream.py, which makes up for those of changes that were lost
with their process. What changed is fetched by the page, which is where permissions are checked.
"""

from collections.abc import Iterable

from noxchat.extensions import db

# The names of the server-sent events.
CHAT, TYPING, UNREAD, SEEN = "chat", "typing", "unread", "seen"
# The first word of the kind, the conversation, and more: see below.
Announcement = list


def pending() -> list[Announcement]:
    """Return the announcements of the transaction at hand, to be added to."""
    return db.session.info.setdefault("announcements", [])


def announce_change(conversation_id: int, version: int):
    """Announce to all members that messages or members of a conversation have changed."""
    pending().append([CHAT, conversation_id, version])


def announce_typing(conversation_id: int, public_id: str, recipients: Iterable[int]):
    """Announce to some members (by their user ids) that somebody is typing."""
    pending().append([TYPING, conversation_id, public_id, list(recipients)])


def announce_unread(conversation_id: int, reader_id: int):
    """Announce to somebody's own pages that the number of their unread messages has changed."""
    pending().append([UNREAD, conversation_id, "", [reader_id]])


def announce_seen(conversation_id: int, message_id: int, recipient_id: int):
    """Announce to the other side of a direct conversation up to which message it was read."""
    pending().append([SEEN, conversation_id, message_id, [recipient_id]])
