"""Groups: creating them, their members and their owner, leaving, and what the deletion of an account does to them."""

from collections.abc import Iterable, Sequence

from flask_babel import gettext as _
from flask_babel import ngettext
from sqlalchemy import Row, and_, delete, func, insert, or_, select, update

from noxchat import blocks, conversations, events
from noxchat.conversations import ConversationView
from noxchat.database import now
from noxchat.exceptions import Conflict, InvalidInput, NotAllowed, NotFound
from noxchat.extensions import db
from noxchat.messages import add_system_message, clean_text, is_blank
from noxchat.models import DIRECT, GROUP, TITLE_LENGTH, Conversation, Member, Message, Profile, PublicId, User, friends
from noxchat.models.conversations import ADDED, CREATED, JOINED, LEFT, OWNER, REMOVED, RENAMED
from noxchat.profiles import lock_users, select_people
from noxchat.search import make_search_text

EVENT = "membership"  # data: the id of a group of which the person is a member since, or is no longer
MAX_OTHERS = 99  # members besides oneself
IS_ACTIVE = Member.left_at.is_(None)


def clean_title(text: str) -> str:
    """Return a title as it is stored: in NFC, trimmed. Raises InvalidInput about `title`."""
    title = clean_text(text, "title", allowed="")
    if is_blank(title):
        raise InvalidInput(_("Give the group a name."), "title")
    if len(title) > TITLE_LENGTH[1]:
        over = len(title) - TITLE_LENGTH[1]
        raise InvalidInput(ngettext("One character too many.", "%(num)s characters too many.", over), "title")
    return title


def _lock_friends(viewer: User, public_ids: Iterable[str]) -> list[int]:
    """Lock the viewer and their friends with these Public IDs. Returns the ids of the friends.

    Raises InvalidInput about `members` where one is no friend.
    """
    keys = {public_id.lower() for public_id in public_ids}
    if not 1 <= len(keys) <= MAX_OTHERS:
        raise InvalidInput(_("Choose from 1 to %(max)s friends.", max=MAX_OTHERS), "members")
    of_friends = select(PublicId.key, PublicId.user_id).join(friends, friends.c.friend_id == PublicId.user_id)
    chosen = of_friends.where(friends.c.user_id == viewer.id, PublicId.key.in_(keys))
    ids = {row.user_id for row in db.session.execute(chosen)}
    lock_users(viewer.id, *ids)
    # Again, since a friendship may have ended before they were locked. Somebody may be named by two Public IDs.
    found = db.session.execute(chosen).all()
    if {row.key for row in found} != keys:
        raise InvalidInput(_("You can only add your own friends."), "members")
    return sorted({row.user_id for row in found})


def create(viewer: User, title: str, public_ids: Iterable[str]) -> int:
    """Create a group of the viewer and friends of theirs. Returns its id.

    title: as returned by clean_title. Raises InvalidInput about `members`.
    """
    friend_ids = _lock_friends(viewer, public_ids)
    created = insert(Conversation).values(
        kind=GROUP, title=title, search_text=make_search_text(title), owner_id=viewer.id
    )
    conversation_id = db.session.execute(created.returning(Conversation.id)).scalar_one()
    rows = [{"conversation_id": conversation_id, "user_id": user_id} for user_id in (viewer.id, *friend_ids)]
    db.session.execute(insert(Member), rows)
    add_system_message(conversations.find_to_change(viewer, conversation_id), CREATED)
    _notify(conversation_id, [viewer.id, *friend_ids])
    return conversation_id


def check_owner(viewer: User, conversation_id: int):
    """Raise NotFound when the viewer is not in a group, and NotAllowed when they are not its owner."""
    _check_is_owner(conversations.find_to_change(viewer, conversation_id))


def _check_is_owner(view: ConversationView):
    if not view.is_owner:
        raise NotAllowed(_("Only the owner of the group can do this."))


def _lock_own(viewer: User, conversation_id: int) -> ConversationView:
    """Lock a group of which the viewer is the owner. Raises NotFound, and NotAllowed for other members."""
    view = conversations.lock(viewer, conversation_id)
    _check_is_owner(view)
    return view


def rename(viewer: User, conversation_id: int, title: str) -> bool:
    """Change the title of a group. Returns whether it is another one. Raises NotFound and NotAllowed.

    title: as returned by clean_title.
    """
    view = _lock_own(viewer, conversation_id)
    if title != view.title:
        add_system_message(view, RENAMED, body=title, title=title, search_text=make_search_text(title))
    return title != view.title


def add_members(viewer: User, conversation_id: int, public_ids: Iterable[str]) -> bool:
    """Add friends of the owner. Who has left by themselves is asked to join again. Nobody is told of blocks.

    Returns whether somebody was added or asked. Raises NotFound, NotAllowed, and InvalidInput about `members`.
    """
    check_owner(viewer, conversation_id)
    friend_ids = _lock_friends(viewer, public_ids)
    view = _lock_own(viewer, conversation_id)
    of_group = Member.conversation_id == view.id
    rows = db.session.execute(select(Member.user_id, Member.left_at, Member.invited_at).where(of_group))
    known = {row.user_id: row for row in rows}
    new_ids = [user_id for user_id in friend_ids if user_id not in known]
    may_be_asked = {row.user_id for row in known.values() if row.left_at and not row.invited_at}
    former_ids = [user_id for user_id in friend_ids if user_id in may_be_asked]
    _check_size(sum(row.left_at is None for row in known.values()) + len(new_ids))
    db.session.execute(update(Member).where(of_group, Member.user_id.in_(former_ids)).values(invited_at=now()))
    joined = {"joined_after": view.last_message_id, "read_up_to": view.last_message_id}
    if new_ids:
        members = [{"conversation_id": view.id, "user_id": user_id, **joined} for user_id in new_ids]
        db.session.execute(insert(Member), members)
    for user_id in new_ids:
        view = add_system_message(view, ADDED, user_id)
    _notify(view.id, [*new_ids, *former_ids])
    return bool(new_ids or former_ids)


def _check_size(number: int):
    """Raise InvalidInput about `members` where a group would have too many."""
    if number > MAX_OTHERS + 1:
        raise InvalidInput(_("A group has at most %(max)s members.", max=MAX_OTHERS + 1), "members")


def _find_member(view: ConversationView, public_id: str) -> Row:
    """Return user_id and left_at of somebody in a group, whatever blocks there are. Raises NotFound."""
    found = select(Member.user_id, Member.left_at).join(PublicId, PublicId.user_id == Member.user_id)
    is_meant = and_(Member.conversation_id == view.id, PublicId.key == public_id.lower())
    row = db.session.execute(found.where(is_meant, or_(IS_ACTIVE, Member.invited_at.is_not(None)))).first()
    if row is None:
        raise NotFound
    return row


def remove_member(viewer: User, conversation_id: int, public_id: str):
    """Remove somebody from a group. Raises NotFound, NotAllowed, and Conflict about the owner themselves."""
    view = _lock_own(viewer, conversation_id)
    member = _find_member(view, public_id)
    if member.user_id == viewer.id:
        raise Conflict(_("You cannot remove yourself. Leave the group instead."))
    if member.left_at:  # and was asked to join again
        away = and_(Member.conversation_id == view.id, Member.user_id == member.user_id)
        db.session.execute(update(Member).where(away).values(invited_at=None))
    else:
        db.session.execute(delete(Member).where(Member.conversation_id == view.id, Member.user_id == member.user_id))
        add_system_message(view, REMOVED, member.user_id)
    _notify(view.id, [member.user_id])


def make_owner(viewer: User, conversation_id: int, public_id: str) -> bool:
    """Hand a group over to another member. Returns False for the owner. Raises NotFound and NotAllowed."""
    view = _lock_own(viewer, conversation_id)
    member = _find_member(view, public_id)
    if member.left_at:
        raise NotFound
    if member.user_id != viewer.id:
        add_system_message(view, OWNER, member.user_id, owner_id=member.user_id)
    return member.user_id != viewer.id


def leave(viewer: User, conversation_id: int):
    """Leave a group. Its owner hands it over to whoever is in it longest; its last member deletes it.

    Raises NotFound, and Conflict about a direct conversation.
    """
    view = conversations.lock(viewer, conversation_id)
    if not view.is_group:
        raise Conflict(_("You cannot leave a direct chat."))
    _leave(view)
    mine = and_(Member.conversation_id == view.id, Member.user_id == viewer.id)
    away = {"left_at": now(), "muted_at": None, "draft": "", "draft_revision": Member.draft_revision + 1}
    db.session.execute(update(Member).where(mine).values(away))
    _notify(view.id, [viewer.id])


def _leave(view: ConversationView):
    """Write down that the viewer leaves a locked group. The last member deletes it."""
    candidates = (
        select(Member.user_id)
        .where(Member.conversation_id == view.id, IS_ACTIVE, Member.user_id != view.viewer.id)
        .order_by(Member.joined_after, Member.user_id)
    )
    new_owner_id = db.session.scalar(candidates.limit(1))
    if new_owner_id is None:
        db.session.execute(delete(Conversation).where(Conversation.id == view.id))
        return
    if not view.is_owner:
        add_system_message(view, LEFT)
        return
    view = add_system_message(view, LEFT, owner_id=new_owner_id)
    add_system_message(view, OWNER, new_owner_id)


def join(viewer: User, conversation_id: int):
    """Come back to a group that one has left, after being added again. Raises NotFound where one was not.

    What was written before is not shown. Raises InvalidInput when the group is full.
    """
    db.session.execute(conversations.LOCK, {"conversation": conversation_id})
    mine = and_(Member.conversation_id == conversation_id, Member.user_id == viewer.id)
    row = db.session.execute(select(Member.left_at, Member.invited_at).where(mine)).first()
    if row is None or (row.left_at and not row.invited_at):
        raise NotFound
    if row.left_at is None:
        return
    current = select(func.count()).where(Member.conversation_id == conversation_id, IS_ACTIVE)
    _check_size(db.session.execute(current).scalar_one() + 1)
    newest = select(Conversation.last_message_id).where(Conversation.id == conversation_id).scalar_subquery()
    back = {"left_at": None, "invited_at": None, "joined_after": newest, "read_up_to": newest}
    db.session.execute(update(Member).where(mine).values(back))
    add_system_message(conversations.find_to_change(viewer, conversation_id), JOINED)
    _notify(conversation_id, [viewer.id])


def list_members(view: ConversationView) -> Sequence[Row]:
    """Return the members of a group as Person, by name; with is_invited, is_blocked, is_hidden.

    is_invited: left, and asked to join again. is_blocked: by the viewer. is_hidden: whether they block the viewer, who
    sees no more than their name.
    """
    viewer_id = view.viewer.id
    rows = select_people(
        Member.invited_at.is_not(None).label("is_invited"),
        blocks.is_blocked(viewer_id, User.id).label("is_blocked"),
        blocks.is_blocked(User.id, viewer_id).label("is_hidden"),
    ).join(Member, Member.user_id == User.id)
    of_group = Member.conversation_id == view.id
    return db.session.execute(
        rows.where(of_group, or_(IS_ACTIVE, Member.invited_at.is_not(None))).order_by(User.search_text)
    ).all()


def list_friends_to_add(viewer: User, public_ids: Iterable[str]) -> Sequence[Row]:
    """Return those of these people who are friends of the viewer, as Person, by name."""
    chosen = Profile.public_id_key.in_({public_id.lower() for public_id in public_ids})
    rows = select_people().join(friends, friends.c.friend_id == User.id).where(friends.c.user_id == viewer.id, chosen)
    return db.session.execute(rows.order_by(User.search_text)).all()


def _notify(conversation_id: int, user_ids: Iterable[int]):
    """Tell people's pages that they are members of a group now, or no longer."""
    events.publish(EVENT, [(user_id, str(conversation_id)) for user_id in user_ids])


def lock_for_deletion(user: User):
    """Lock all conversations that an account is in, or has written in, and which its deletion changes."""
    own = select(Member.conversation_id).where(Member.user_id == user.id)
    written = select(Message.conversation_id).where(Message.author_id == user.id)
    concerned = Conversation.id.in_(own.union_all(written))
    db.session.execute(select(Conversation.id).where(concerned).order_by(Conversation.id).with_for_update())


def leave_all(user: User):
    """Have an account that is about to be deleted leave all its conversations, which are locked.

    Those that nobody is left in are deleted. The pages of the others are told.
    """
    own = select(Member.conversation_id).where(Member.user_id == user.id, IS_ACTIVE)
    is_own = Conversation.id.in_(own)
    is_alone = or_(Conversation.low_id.is_(None), Conversation.high_id.is_(None))
    db.session.execute(delete(Conversation).where(is_own, Conversation.kind == DIRECT, is_alone))
    conversations.bump_versions(is_own, Conversation.kind == DIRECT)
    groups = select(Conversation.id).where(is_own, Conversation.kind == GROUP).order_by(Conversation.id)
    for conversation_id in db.session.scalars(groups).all():
        _leave(conversations.find_to_change(user, conversation_id))
