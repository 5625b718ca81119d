"""The tables. What must never be wrong is a constraint here, not an `if` elsewhere."""

from noxchat.models.attempts import Attempt
from noxchat.models.conversations import DIRECT, GROUP, TITLE_LENGTH, Conversation, Member, Message
from noxchat.models.emails import EmailChange, QueuedEmail
from noxchat.models.events import Event
from noxchat.models.friendships import blocks, friend_requests, friends, request_cooldowns, undo_records
from noxchat.models.invitations import Invitation
from noxchat.models.people import (
    BIO_LENGTH,
    BY_EVERYBODY,
    BY_FRIENDS_OF_FRIENDS,
    EMAIL_LENGTH,
    PASSWORD_LENGTH,
    PUBLIC_ID_LENGTH,
    TO_FRIENDS,
    TO_NOBODY,
    USERNAME_LENGTH,
    Profile,
    PublicId,
    User,
)
from noxchat.models.sessions import Session

__all__ = [
    "BIO_LENGTH",
    "BY_EVERYBODY",
    "BY_FRIENDS_OF_FRIENDS",
    "DIRECT",
    "EMAIL_LENGTH",
    "GROUP",
    "PASSWORD_LENGTH",
    "PUBLIC_ID_LENGTH",
    "TITLE_LENGTH",
    "TO_FRIENDS",
    "TO_NOBODY",
    "USERNAME_LENGTH",
    "Attempt",
    "Conversation",
    "EmailChange",
    "Event",
    "Invitation",
    "Member",
    "Message",
    "Profile",
    "PublicId",
    "QueuedEmail",
    "Session",
    "User",
    "blocks",
    "friend_requests",
    "friends",
    "request_cooldowns",
    "undo_records",
]
