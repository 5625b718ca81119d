"""Blocks: a blocked person cannot see the person who blocked them, and is not told."""

from sqlalchemy import delete, exists, insert, select, union_all

from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import User, blocks


def hidden_from(viewer, *, include_blocked: bool = True):
    """Return a select of the ids of people whom a viewer does not see. Every look-up of people excludes them.

    viewer: an id, or a parameter that stands for one. include_blocked: also those whom the viewer blocked: they are in
    no list, though their profile opens, so that they can be unblocked.
    """
    hidden = [select(blocks.c.blocker_id).where(blocks.c.blocked_id == viewer)]
    if include_blocked:
        hidden.append(select(blocks.c.blocked_id).where(blocks.c.blocker_id == viewer))
    return union_all(*hidden)


def is_blocked(blocker, blocked):
    """Return the condition that one person blocks another. Both: ids, parameters or columns."""
    return exists().where(blocks.c.blocker_id == blocker, blocks.c.blocked_id == blocked)


def add(blocker: User, blocked: User):
    """Insert a block. Ending friendship and requests is up to friendships.block."""
    db.session.execute(insert(blocks).values(blocker_id=blocker.id, blocked_id=blocked.id, since=now()))


def remove(blocker: User, blocked: User):
    """Delete a block."""
    db.session.execute(delete(blocks).where(blocks.c.blocker_id == blocker.id, blocks.c.blocked_id == blocked.id))
