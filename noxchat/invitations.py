"""Invitations: links by which people join and become friends with whoever made the link."""

import secrets
from dataclasses import dataclass
from datetime import timedelta

from flask_babel import gettext as _
from flask_babel import ngettext
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import contains_eager

from noxchat import friendships, tokens
from noxchat.blocks import is_blocked
from noxchat.database import execute_dml, now
from noxchat.exceptions import Conflict, InvalidInput, NotFound
from noxchat.extensions import db
from noxchat.friendships import FriendshipChange, Pair
from noxchat.models import Invitation, User
from noxchat.relationships import FRIENDS

MAX_USES, MAX_DAYS = 100, 30
DEFAULT_USES, DEFAULT_DAYS = 5, 7
MAX_INVITATIONS = 10  # of a person


@dataclass(frozen=True)
class OpenInvitation:
    """An invitation that somebody can still use. inviter: with their profile; None where nobody becomes a friend."""

    invitation: Invitation
    inviter: User | None
    token: str


def create(inviter: User | None, max_uses: int, days: int) -> Invitation:
    """Create an invitation, and delete the inviter's used and expired ones.

    inviter: locked, or None. max_uses, days: from 1 to MAX_USES and MAX_DAYS. Raises Conflict when there are too many.
    """
    if inviter:
        own = Invitation.inviter_id == inviter.id
        over = or_(Invitation.uses >= Invitation.max_uses, Invitation.expires_at <= now())
        db.session.execute(delete(Invitation).where(own, over))
        if (db.session.scalar(select(func.count()).select_from(Invitation).where(own)) or 0) >= MAX_INVITATIONS:
            text = ngettext(
                "You have one invitation open. Revoke it before you make another.",
                "You have %(num)s invitations open. Revoke one before you make another.",
                MAX_INVITATIONS,
            )
            raise Conflict(text)
    invitation = Invitation(
        inviter_id=inviter and inviter.id,
        code=secrets.token_urlsafe(8),
        max_uses=max_uses,
        expires_at=now() + timedelta(days=days),
    )
    db.session.add(invitation)
    db.session.flush()
    return invitation


def list_all(inviter: User) -> list[Invitation]:
    """Return a person's invitations, newest first: at most MAX_INVITATIONS."""
    own = select(Invitation).where(Invitation.inviter_id == inviter.id)
    return list(db.session.scalars(own.order_by(Invitation.id.desc())))


def find_own(inviter: User, invitation_id: int) -> Invitation | None:
    """Return an invitation of this person."""
    own = select(Invitation).where(Invitation.id == invitation_id, Invitation.inviter_id == inviter.id)
    return db.session.scalar(own)


def revoke(inviter: User, invitation_id: int) -> bool:
    """Delete an invitation of this person. Returns whether there was one."""
    own = delete(Invitation).where(Invitation.id == invitation_id, Invitation.inviter_id == inviter.id)
    return execute_dml(db.session, own) == 1


def revoke_all(inviter: User):
    """Delete all invitations of this person."""
    db.session.execute(delete(Invitation).where(Invitation.inviter_id == inviter.id))


def find_open(token: str, viewer: User | None = None) -> OpenInvitation | None:
    """Return an invitation by the token of its link; None when it was revoked, has expired, is used up or never was.

    viewer: who opens the link, if that is known: for people whom the inviter blocks there is none.
    """
    code = tokens.verify_invitation_token(token)
    if code is None:
        return None
    found = (
        select(Invitation, User)
        .outerjoin(User, User.id == Invitation.inviter_id)
        .outerjoin(User.profile)
        .options(contains_eager(User.profile))
        .where(Invitation.code == code, *_is_open())
    )
    if viewer:
        found = found.where(or_(User.id.is_(None), ~is_blocked(User.id, viewer.id)))
    row = db.session.execute(found).first()
    return OpenInvitation(*row, token) if row else None


def _is_open():
    return Invitation.uses < Invitation.max_uses, Invitation.expires_at > now()


def accept(viewer: User, token: str, tab: str = "") -> tuple[Pair, FriendshipChange]:
    """Make friends with whoever sent an invitation. Those who are friends already use nothing of it.

    tab: the browser tab that is not told by an event. Returns the two, and what changed. Raises NotFound when there is
    no such invitation (any more), and Conflict when it is the viewer's own, or the viewer blocks the inviter.
    """
    found = find_open(token, viewer)
    if found is None or found.inviter is None:
        raise NotFound
    pair = friendships.lock_pair(viewer, found.inviter.public_id)
    friendships.check_not_blocked(pair)
    if pair.state != FRIENDS and not _use(found.invitation):
        raise NotFound
    return pair, friendships.befriend(pair, tab)


def join(newcomer: User, found: OpenInvitation) -> Pair | None:
    """Count that a new account uses an invitation. Returns the two who are to be made friends, None if there are none.

    Raises InvalidInput when the invitation is no longer open.
    """
    try:
        pair = friendships.lock_pair(newcomer, found.inviter.public_id) if found.inviter else None
    except NotFound as error:  # the inviter has just deleted their account
        raise no_longer_open() from error
    if not _use(found.invitation):
        raise no_longer_open()
    return pair


def no_longer_open() -> InvalidInput:
    """Return the error about an invitation with which somebody wants to register."""
    text = _("This invitation no longer works. You can still create an account without it.")
    return InvalidInput(text, "invitation")


def _use(invitation: Invitation) -> bool:
    """Count a use, with the transaction that saves what comes of it. Returns False when it is no longer open."""
    counted = update(Invitation).where(Invitation.code == invitation.code, *_is_open())
    return execute_dml(db.session, counted.values(uses=Invitation.uses + 1)) == 1
