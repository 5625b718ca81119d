"""Who is out of whose sight: a blocked person sees nothing of whoever blocked them, and is not told."""

from sqlalchemy import Integer, bindparam, delete, exists, insert, select, union_all

from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import User, blocks


def out_of_sight(viewer, *, listed: bool = True, searched: bool = False):
    """Return a select of the ids of people whom somebody may not see. Every look-up of people leaves these out.

    viewer: whose eyes, as an id or a parameter. listed: also those whom the viewer blocked, who are in no list either,
    though their profile opens, to take the block back. searched: also the viewer, whom nobody needs to look for.
    """
    hidden = [select(blocks.c.blocker_id).where(blocks.c.blocked_id == viewer)]
    if listed:
        hidden.append(select(blocks.c.blocked_id).where(blocks.c.blocker_id == viewer))
    if searched:
        hidden.append(select(viewer))
    return union_all(*hidden)


# For every search the same, so that its statement is made once: the viewer is a parameter.
UNSEARCHED = out_of_sight(bindparam("viewer", type_=Integer), searched=True)


def is_blocked(blocker_id: int, blocked_id: int):
    """Return the condition that one person blocks another."""
    return exists().where(blocks.c.blocker_id == blocker_id, blocks.c.blocked_id == blocked_id)


def add(blocker: User, blocked: User):
    """Write a block down that is not there yet. What else it ends is friendships.block's to do."""
    db.session.execute(insert(blocks).values(blocker_id=blocker.id, blocked_id=blocked.id, since=now()))


def remove(blocker: User, blocked: User):
    """Take a block back."""
    db.session.execute(delete(blocks).where(blocks.c.blocker_id == blocker.id, blocks.c.blocked_id == blocked.id))
