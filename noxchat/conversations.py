"""Conversations as their members see them: opening, lists, what is unread, reading, drafts.

groups.py has what only groups have, messages.py the messages. Whoever changes a conversation locks its row first, after
those of users; so what is decided then holds until the commit, and versions and ids are drawn in the order of commits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache

from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import (
    Integer,
    Row,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import aliased

from noxchat import announcements, blocks, keyset
from noxchat.database import UTCDateTime, execute_dml, now
from noxchat.exceptions import Conflict, InvalidInput, NotFound
from noxchat.extensions import db
from noxchat.models import DIRECT, GROUP, Conversation, Member, Message, Profile, PublicId, User, friends
from noxchat.models.conversations import BIG_ID, TEXT
from noxchat.profiles import is_online, may_share_presence
from noxchat.relationships import BLOCKED, FRIENDS
from noxchat.search import Query, contains_all

MAX_UNREAD = 100  # counted; more are shown as 99+
MAX_SCANNED = 1000  # messages that are looked at for that, whatever they are
DRAFT_FACTOR = 4  # how many times as long as a message a draft can be
PREVIEW_LENGTH = 140
NEWEST_ON_HOME = 4

VIEWER = bindparam("viewer", type_=Integer)
CONVERSATION = bindparam("conversation", type_=Integer)

Other, OtherProfile = aliased(User), aliased(Profile)
OTHER_ID = case((Conversation.low_id == VIEWER, Conversation.high_id), else_=Conversation.low_id)
OTHER_COLUMNS = (
    Other.id.label("other_id"),
    Other.username,
    OtherProfile.public_id,
    OtherProfile.avatar,
    Other.last_seen_at,
    Other.show_presence,
)
IS_FRIEND = exists().where(friends.c.user_id == VIEWER, friends.c.friend_id == Other.id)
IS_MEMBER = and_(Member.user_id == VIEWER, Member.left_at.is_(None))


@dataclass
class Participant:
    """The other person of a direct conversation, as a Person."""

    id: int
    username: str
    public_id: str
    avatar: str | None
    last_seen_at: datetime | None
    show_presence: str


def _participant(row: Row) -> Participant | None:
    """Return the other person in a row with OTHER_COLUMNS; None where there is none, or the account was deleted."""
    if row.other_id is None:
        return None
    return Participant(row.other_id, row.username, row.public_id, row.avatar, row.last_seen_at, row.show_presence)


def _name(kind: str, title: str, other: Participant | None) -> str:
    if kind == GROUP:
        return title
    return other.username if other else _("Deleted account")


@dataclass(frozen=True)
class ConversationView:
    """A conversation as one of its members, the viewer, sees it.

    other: of a direct conversation; None when the account was deleted. is_friend: whether the other is the viewer's
    friend. joined_after, read_up_to, draft, draft_revision: see Member.
    first_unread_id: of the first message that the viewer has not read, or None. shows_seen: whether both sides show how
    far they have read. seen_up_to: the newest message that the other has read, if so; otherwise 0. member_count: of a
    group. has_blocked_member: whether somebody whom the viewer blocks is in it.
    """

    id: int
    kind: str
    title: str
    owner_id: int | None
    version: int
    last_message_id: int
    viewer: User
    other: Participant | None
    is_friend: bool
    joined_after: int
    read_up_to: int
    is_muted: bool
    draft: str
    draft_revision: int
    shows_seen: bool
    first_unread_id: int | None = None
    seen_up_to: int = 0
    member_count: int = 0
    has_blocked_member: bool = False

    @property
    def is_group(self) -> bool:
        return self.kind == GROUP

    @property
    def is_owner(self) -> bool:
        return self.is_group and self.owner_id == self.viewer.id

    @property
    def can_write(self) -> bool:
        """Whether the viewer may write here: in a group as long as they are in it, otherwise to friends."""
        return self.is_group or self.is_friend

    @property
    def name(self) -> str:
        """The title of the group, or the name of the other person."""
        return _name(self.kind, self.title, self.other)

    @property
    def last_seen_at(self) -> datetime | None:
        """When the other was active last, if the viewer may see that."""
        if not (self.other and self.is_friend and may_share_presence(self.viewer, self.other)):
            return None
        return self.other.last_seen_at

    @property
    def is_online(self) -> bool:
        """Whether the other is online, if the viewer may see that."""
        return is_online(self.last_seen_at)


def _unread_messages(most: int):
    """Return a subquery of the ids of the oldest unread messages for the Member of a statement, up to `most`.

    No more than MAX_SCANNED are looked at, however many are deleted or by blocked people.
    """
    newer = and_(Message.conversation_id == Member.conversation_id, Message.id > Member.read_up_to)
    columns = (Message.id, Message.kind, Message.deleted_at, Message.author_id)
    scanned = select(*columns).where(newer).order_by(Message.id).limit(MAX_SCANNED).correlate(Member).subquery()
    # SQLAlchemy would add the member to a subquery's tables, unless it is told that it is that of the statement.
    is_blocked = blocks.is_blocked(Member.user_id, scanned.c.author_id).correlate(Member, scanned)
    unread = and_(
        scanned.c.kind == TEXT,
        scanned.c.deleted_at.is_(None),
        or_(scanned.c.author_id.is_(None), scanned.c.author_id != Member.user_id),
        not_(is_blocked),
    )
    return select(scanned.c.id).where(unread).order_by(scanned.c.id).limit(most).correlate(Member).subquery()


def _unread_count():
    return select(func.count()).select_from(_unread_messages(MAX_UNREAD)).scalar_subquery()


def _first_unread():
    return select(_unread_messages(1).c.id).scalar_subquery()


def unread_conversations(viewer):
    """Return a select of the conversations that have something unread and are not muted, up to MAX_UNREAD.

    viewer: a column or parameter with the person's id.
    """
    return (
        select(Member.conversation_id)
        .join(Conversation, Conversation.id == Member.conversation_id)
        .where(
            Member.user_id == viewer,
            Member.left_at.is_(None),
            Member.muted_at.is_(None),
            Conversation.last_message_id > Member.read_up_to,
            _first_unread().is_not(None),
        )
        .limit(MAX_UNREAD)
        .correlate_except(Member, Conversation)
    )


BlockedMember = aliased(Member)
HAS_BLOCKED_MEMBER = exists().where(
    Conversation.kind == GROUP,
    BlockedMember.conversation_id == Conversation.id,
    BlockedMember.left_at.is_(None),
    blocks.is_blocked(VIEWER, BlockedMember.user_id),
)
AllMembers, TheirMember = aliased(Member), aliased(Member)
MEMBER_COUNT = (
    select(func.count())
    .where(AllMembers.conversation_id == Conversation.id, AllMembers.left_at.is_(None))
    .correlate(Conversation)
    .scalar_subquery()
)
SEEN_UP_TO = (
    select(TheirMember.shown_up_to)
    .where(TheirMember.conversation_id == Conversation.id, TheirMember.user_id == Other.id)
    .correlate(Conversation, Other)
    .scalar_subquery()
)
# What whoever changes a conversation needs to know of it, and what its page shows besides.
TO_CHANGE = (
    select(
        *(Conversation.id, Conversation.kind, Conversation.title, Conversation.owner_id),
        *(Conversation.version, Conversation.last_message_id),
        *(Member.joined_after, Member.read_up_to, Member.muted_at, Member.draft, Member.draft_revision),
        *OTHER_COLUMNS,
        *(IS_FRIEND.label("is_friend"), Other.show_seen),
    )
    .join(Member, Member.conversation_id == Conversation.id)
    .outerjoin(Other, and_(Conversation.kind == DIRECT, Other.id == OTHER_ID))
    .outerjoin(OtherProfile, OtherProfile.user_id == Other.id)
    .where(Conversation.id == CONVERSATION, IS_MEMBER)
)
TO_SHOW = TO_CHANGE.add_columns(
    _first_unread().label("first_unread_id"),
    func.coalesce(SEEN_UP_TO, 0).label("seen_up_to"),
    MEMBER_COUNT.label("member_count"),
    HAS_BLOCKED_MEMBER.label("has_blocked_member"),
)
# Executed for every message, so they are built once. The columns that change are parameters.
BUMP = update(Conversation.__table__).where(Conversation.id == CONVERSATION)
UP_TO = bindparam("up_to", type_=BIG_ID)


def _at_least_up_to(column):
    return case((column < UP_TO, UP_TO), else_=column)


SENT_REVISION = bindparam("revision", type_=BIG_ID)
IS_SENT = Member.draft_revision <= SENT_REVISION  # rather than a text that was typed since


@cache
def _set_read_statement(*, is_shown: bool, is_sending: bool):
    values = {"read_up_to": _at_least_up_to(Member.read_up_to)}
    if is_shown:
        values["shown_up_to"] = _at_least_up_to(Member.shown_up_to)
    if is_sending:
        values["draft"] = case((IS_SENT, ""), else_=Member.draft)
        values["draft_revision"] = case((IS_SENT, SENT_REVISION + 1), else_=Member.draft_revision)
    mine = and_(Member.user_id == VIEWER, Member.conversation_id == CONVERSATION)
    return update(Member.__table__).where(mine).values(values)


LOCK = select(Conversation.id).where(Conversation.id == CONVERSATION).with_for_update()


def find(viewer: User, conversation_id: int) -> ConversationView:
    """Return a conversation as its page shows it, in one statement. Raises NotFound where the viewer is no member."""
    row = _find(TO_SHOW, viewer, conversation_id)
    view = _make_view(viewer, row)
    return replace(
        view,
        first_unread_id=row.first_unread_id,
        seen_up_to=row.seen_up_to if view.shows_seen else 0,
        member_count=row.member_count,
        has_blocked_member=row.has_blocked_member,
    )


def find_to_change(viewer: User, conversation_id: int) -> ConversationView:
    """Return a conversation without what only its page shows, which has the defaults. Raises NotFound as `find`."""
    return _make_view(viewer, _find(TO_CHANGE, viewer, conversation_id))


def lock(viewer: User, conversation_id: int) -> ConversationView:
    """Lock a conversation until the transaction ends, and return it as `find_to_change` does, as it is then."""
    db.session.execute(LOCK, {"conversation": conversation_id})
    # In a statement of its own: on PostgreSQL, one that waits sees other tables as they were before.
    return find_to_change(viewer, conversation_id)


def _find(statement, viewer: User, conversation_id: int) -> Row:
    row = db.session.execute(statement, {"viewer": viewer.id, "conversation": conversation_id}).first()
    if row is None:
        raise NotFound
    return row


def _make_view(viewer: User, row: Row) -> ConversationView:
    return ConversationView(
        *(row.id, row.kind, row.title, row.owner_id, row.version, row.last_message_id),
        viewer=viewer,
        other=_participant(row),
        is_friend=row.is_friend,
        joined_after=row.joined_after,
        read_up_to=row.read_up_to,
        is_muted=row.muted_at is not None,
        draft=row.draft,
        draft_revision=row.draft_revision,
        shows_seen=viewer.show_seen and bool(row.show_seen),
    )


def bump_version(view: ConversationView, **values) -> int:
    """Raise the version of a locked conversation, and tell its members' pages. Returns the new version.

    values: other columns of Conversation that change.
    """
    version = view.version + 1
    db.session.execute(BUMP, {"conversation": view.id, "version": version, "changed_at": now(), **values})
    announcements.announce_change(view.id, version)
    return version


def open_direct(viewer: User, person: User, state: str) -> int:
    """Return the id of the conversation of two people, which is created on first use.

    Both are locked (friendships.lock_pair). state: how the person is related to the viewer. Raises Conflict when they
    are no friends and there is no conversation yet.
    """
    low, high = sorted((viewer.id, person.id))
    existing = select(Conversation.id).where(Conversation.low_id == low, Conversation.high_id == high)
    conversation_id = db.session.scalar(existing)
    if conversation_id is not None:
        return conversation_id
    if state == BLOCKED:
        raise Conflict(_("You blocked %(name)s. Unblock them first.", name=person.username))
    if state != FRIENDS:
        raise Conflict(_("Only friends can write to each other. Ask %(name)s to be friends.", name=person.username))
    created = insert(Conversation).values(kind=DIRECT, low_id=low, high_id=high, title="", search_text="")
    conversation_id = db.session.execute(created.returning(Conversation.id)).scalar_one()
    rows = [{"conversation_id": conversation_id, "user_id": user_id} for user_id in (low, high)]
    db.session.execute(insert(Member), rows)
    return conversation_id


def find_direct(viewer: User, public_id: str) -> int | None:
    """Return the id of the viewer's conversation with the person of this Public ID, if there is one."""
    pair = or_(
        and_(Conversation.low_id == viewer.id, Conversation.high_id == PublicId.user_id),
        and_(Conversation.low_id == PublicId.user_id, Conversation.high_id == viewer.id),
    )
    return db.session.scalar(select(Conversation.id).join(PublicId, pair).where(PublicId.key == public_id.lower()))


def bump_versions(*conditions) -> Sequence[Row]:
    """Lock conversations and raise their versions, and tell their members' pages. Returns ids and new versions."""
    raised = update(Conversation).where(*conditions).values(version=Conversation.version + 1, changed_at=now())
    rows = db.session.execute(raised.returning(Conversation.id, Conversation.version)).all()
    for row in rows:
        announcements.announce_change(row.id, row.version)
    return rows


def friendship_changed(one_id: int, other_id: int):
    """Lock the conversation of two people, if there is one, whose friendship begins or ends in this transaction.

    So a message comes either before that or after it; and open pages are told.
    """
    low, high = sorted((one_id, other_id))
    bump_versions(Conversation.low_id == low, Conversation.high_id == high)


def is_news(view: ConversationView, message_id: int) -> bool:
    """Tell whether the viewer has read more than is known when they have read up to a message."""
    return min(message_id, view.last_message_id) > view.read_up_to


def read(view: ConversationView, message_id: int):
    """Remember that the viewer has read everything up to a message. Older ones change nothing.

    message_id: is limited to that of the newest message.
    """
    set_read(view, min(message_id, view.last_message_id))
    announcements.announce_unread(view.id, view.viewer.id)


def set_read(view: ConversationView, up_to: int, sent_revision: int | None = None):
    """Set how far the viewer has read, unless they have read more.

    sent_revision: of the draft that the viewer is sending. It is emptied, unless a newer one is kept, and one of that
    revision that is saved late is ignored.
    """
    is_shown = view.shows_seen and view.is_friend and up_to > view.read_up_to
    if is_shown and view.other:
        announcements.announce_seen(view.id, up_to, view.other.id)
    values = {"viewer": view.viewer.id, "conversation": view.id, "up_to": up_to}
    if sent_revision is not None:
        values["revision"] = sent_revision
    db.session.execute(_set_read_statement(is_shown=is_shown, is_sending=sent_revision is not None), values)


def save_draft(viewer: User, conversation_id: int, body: str, revision: int):
    """Keep what the viewer has typed, unless a newer revision is kept. Raises NotFound, and InvalidInput.

    body: any text of up to DRAFT_FACTOR times the length of a message.
    """
    if len(body) > DRAFT_FACTOR * current_app.config["MESSAGE_LENGTH"]:
        find_to_change(viewer, conversation_id)
        raise InvalidInput(_("This text is too long to be kept as a draft."))
    mine = and_(Member.user_id == viewer.id, Member.conversation_id == conversation_id, Member.left_at.is_(None))
    newer = update(Member).where(mine, Member.draft_revision < revision)
    if execute_dml(db.session, newer.values(draft=body, draft_revision=revision)) == 0:
        find_to_change(viewer, conversation_id)


def mute(viewer: User, conversation_id: int):
    """Leave a conversation out of the number of unread ones. Raises NotFound."""
    _set_muted(viewer, conversation_id, func.coalesce(Member.muted_at, now()))


def unmute(viewer: User, conversation_id: int):
    """Count a conversation among the unread ones again. Raises NotFound."""
    _set_muted(viewer, conversation_id, None)


def _set_muted(viewer: User, conversation_id: int, muted_at):
    mine = and_(Member.user_id == viewer.id, Member.conversation_id == conversation_id, Member.left_at.is_(None))
    if execute_dml(db.session, update(Member).where(mine).values(muted_at=muted_at)) == 0:
        raise NotFound
    announcements.announce_unread(conversation_id, viewer.id)


def announce_typing(viewer: User, conversation_id: int):
    """Tell the other members' pages that the viewer is typing, where both show that. Writes nothing.

    Raises NotFound.
    """
    view = find_to_change(viewer, conversation_id)
    if not (view.can_write and viewer.show_typing):
        return
    shown_to = (
        select(Member.user_id)
        .join(User, User.id == Member.user_id)
        .where(
            *(Member.conversation_id == view.id, Member.left_at.is_(None), Member.user_id != viewer.id),
            *(User.show_typing, User.id.not_in(blocks.hidden_from(viewer.id))),
        )
    )
    if recipients := db.session.scalars(shown_to).all():
        announcements.announce_typing(view.id, viewer.public_id, recipients)


@dataclass(frozen=True)
class ConversationRow:
    """A conversation in a list.

    other: as in ConversationView. is_online: whether that person is, if the viewer may see it. unread: how many
    messages, up to MAX_UNREAD. draft: its beginning.
    The newest message that the viewer may see: kind, body (its beginning), is_deleted, is_hidden (by somebody whom the
    viewer blocks), is_own, author, subject (names; None for a deleted account). kind is None where there is none.
    """

    id: int
    is_group: bool
    name: str
    other: Participant | None
    is_online: bool
    is_muted: bool
    unread: int
    last_at: datetime
    draft: str
    kind: str | None
    body: str
    is_deleted: bool
    is_hidden: bool
    is_own: bool
    author: str | None
    subject: str | None


Author, Subject = aliased(User), aliased(User)


@cache
def _list(words: int, resumed: bool, limit: int, *, is_one: bool = False):
    # First a page by time, then what is shown of it: unread messages are counted for those rows only.
    listed = (
        select(Conversation.id, Conversation.last_at)
        .join(Member, Member.conversation_id == Conversation.id)
        .where(IS_MEMBER)
        .order_by(Conversation.last_at.desc(), Conversation.id.desc())
    )
    if is_one:
        listed = listed.where(Conversation.id == CONVERSATION)
    if words:
        listed = listed.outerjoin(Other, and_(Conversation.kind == DIRECT, Other.id == OTHER_ID))
        texts = (Conversation.search_text, Other.search_text)
        listed = listed.where(or_(*(contains_all(text, words) for text in texts)))
    if resumed:
        before = tuple_(bindparam("time", type_=UTCDateTime), bindparam("after_id", type_=Integer))
        listed = listed.where(tuple_(Conversation.last_at, Conversation.id) < before)
    page = listed.limit(limit).subquery()
    is_hidden = and_(Conversation.kind == GROUP, Message.kind == TEXT, blocks.is_blocked(VIEWER, Message.author_id))
    newest = and_(Message.id == Conversation.last_message_id, Message.id > Member.joined_after)
    return (
        select(
            *(Conversation.id, Conversation.kind, Conversation.title, Conversation.last_at, Member.muted_at),
            *OTHER_COLUMNS,
            IS_FRIEND.label("is_friend"),
            _unread_count().label("unread"),
            func.substr(Member.draft, 1, PREVIEW_LENGTH).label("draft"),
            Message.kind.label("message_kind"),
            case((is_hidden, ""), else_=func.substr(Message.body, 1, PREVIEW_LENGTH)).label("body"),
            Message.deleted_at,
            is_hidden.label("is_hidden"),
            (Message.author_id == VIEWER).label("is_own"),
            Author.username.label("author"),
            Subject.username.label("subject"),
        )
        .select_from(page)
        .join(Conversation, Conversation.id == page.c.id)
        .join(Member, and_(Member.conversation_id == Conversation.id, Member.user_id == VIEWER))
        .outerjoin(Other, and_(Conversation.kind == DIRECT, Other.id == OTHER_ID))
        .outerjoin(OtherProfile, OtherProfile.user_id == Other.id)
        .outerjoin(Message, newest)
        .outerjoin(Author, Author.id == Message.author_id)
        .outerjoin(Subject, Subject.id == Message.subject_id)
        .order_by(page.c.last_at.desc(), page.c.id.desc())
    )


def _row(viewer: User, row: Row) -> ConversationRow:
    other = _participant(row)
    is_shown = other is not None and row.is_friend and may_share_presence(viewer, other)
    return ConversationRow(
        id=row.id,
        is_group=row.kind == GROUP,
        name=_name(row.kind, row.title, other),
        other=other,
        is_online=is_shown and is_online(row.last_seen_at),
        is_muted=row.muted_at is not None,
        unread=row.unread,
        last_at=row.last_at,
        draft=row.draft,
        kind=row.message_kind,
        body=row.body or "",
        is_deleted=row.deleted_at is not None,
        is_hidden=bool(row.is_hidden),
        is_own=bool(row.is_own),
        author=row.author,
        subject=row.subject,
    )


def list_conversations(viewer: User, query: Query, cursor: str | None) -> keyset.Page:
    """Return a page of the viewer's conversations as ConversationRow, newest activity first, in one statement.

    query: what title or name must match; an empty one matches all.
    """
    if query and not query.can_match:
        return keyset.Page([], None)
    after = keyset.time_and_id(keyset.decode_cursor(cursor, str, int))
    position = {"time": after[0], "after_id": after[1]} if after else {}
    statement = _list(len(query.words), bool(after), keyset.PAGE_SIZE + 1)
    rows = db.session.execute(statement, {"viewer": viewer.id, **query.patterns, **position}).all()
    page = keyset.make_page(rows, cursor if after else None, lambda row: (row.last_at.isoformat(), row.id))
    return keyset.Page([_row(viewer, row) for row in page.items], page.next_cursor, page.is_first)


def find_row(viewer: User, conversation_id: int) -> ConversationRow:
    """Return a conversation as the list shows it. Raises NotFound where the viewer is no member."""
    return _row(viewer, _find(_list(0, False, 1, is_one=True), viewer, conversation_id))


def list_newest(viewer: User, most: int = NEWEST_ON_HOME) -> list[ConversationRow]:
    """Return the viewer's newest conversations. most: how many, up to NEWEST_ON_HOME."""
    rows = db.session.execute(_list(0, False, NEWEST_ON_HOME), {"viewer": viewer.id})
    return [_row(viewer, row) for row in rows.all()[:most]]


def list_offers(viewer: User) -> Sequence[Row]:
    """Return id and title of the groups that the viewer has left, and may join again because they were added."""
    invited = and_(Member.user_id == viewer.id, Member.invited_at.is_not(None))
    offers = select(Conversation.id, Conversation.title).join(Member, Member.conversation_id == Conversation.id)
    return db.session.execute(offers.where(invited).order_by(Member.invited_at.desc()).limit(keyset.PAGE_SIZE)).all()


def count_all() -> dict[str, int]:
    """Return how much is stored, by what it is. Reads all messages."""
    text = Message.kind == TEXT
    day_ago = now() - timedelta(days=1)
    per_conversation = select(func.count().label("number")).select_from(Message).group_by(Message.conversation_id)
    largest = per_conversation.subquery()
    counts = {
        "direct conversations": select(func.count()).where(Conversation.kind == DIRECT),
        "groups": select(func.count()).where(Conversation.kind == GROUP),
        "members of groups": select(func.count())
        .select_from(Member)
        .join(Conversation, Conversation.id == Member.conversation_id)
        .where(Conversation.kind == GROUP, Member.left_at.is_(None)),
        "messages": select(func.count()).where(text),
        "messages of the last 24 hours": select(func.count()).where(text, Message.created_at > day_ago),
        "deleted messages": select(func.count()).where(text, Message.deleted_at.is_not(None)),
        "characters of messages": select(func.coalesce(func.sum(func.length(Message.body)), 0)).where(text),
        "messages and lines of the longest": select(func.coalesce(func.max(largest.c.number), 0)),
    }
    return {label: db.session.scalar(count) or 0 for label, count in counts.items()}
