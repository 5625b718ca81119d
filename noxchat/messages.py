"""Messages: sending, editing, deleting, and the pages of a conversation."""

import dataclasses
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import current_app
from flask_babel import gettext as _
from flask_babel import ngettext
from sqlalchemy import (
    Boolean,
    Row,
    String,
    and_,
    bindparam,
    case,
    false,
    func,
    insert,
    select,
    true,
    union,
    union_all,
    update,
)
from sqlalchemy.orm import aliased

from noxchat import blocks, conversations
from noxchat.characters import category, is_ignorable, normalize
from noxchat.conversations import ConversationView
from noxchat.database import now
from noxchat.exceptions import Conflict, InvalidInput, NotAllowed, NotFound
from noxchat.extensions import db
from noxchat.models import Conversation, Message, Profile, User
from noxchat.models.conversations import BIG_ID, CLIENT_ID_LENGTH, TEXT
from noxchat.names import describe_char

PAGE_SIZE = 50
MAX_UNREAD_ROWS = 200  # from the first unread on, when a conversation is opened: what was missed is there at once
CONTEXT = 15  # messages shown before the one at which a page begins
MAX_CHANGES = 100
QUOTE_LENGTH = 140
CLIENT_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{CLIENT_ID_LENGTH}}}")
BRAILLE_BLANK = "\u2800"  # a letter, for Unicode


def clean_text(text: str, field: str, allowed: str = "\n\t") -> str:
    r"""Return a text in NFC with \n line breaks, trimmed. Raises InvalidInput about control characters but these."""
    text = normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    for char in text:
        if category(char) in {"Cc", "Cs"} and char not in allowed:
            text = _("This text has a character that cannot be shown: %(sign)s.", sign=describe_char(char))
            raise InvalidInput(text, field)
    return text


def is_blank(text: str) -> bool:
    """Tell whether nothing of a text can be seen."""
    return all(char == BRAILLE_BLANK or is_ignorable(char) or category(char)[0] in "ZC" for char in text)


def clean_body(text: str) -> str:
    """Return the text of a message as it is stored. Raises InvalidInput about `body`."""
    body = clean_text(text, "body")
    if is_blank(body):
        raise InvalidInput(_("Write something first."), "body")
    over = len(body) - current_app.config["MESSAGE_LENGTH"]
    if over > 0:
        raise InvalidInput(ngettext("One character too many.", "%(num)s characters too many.", over), "body")
    return body


def new_client_id() -> str:
    """Return an id for a message that is about to be written."""
    return secrets.token_hex(12)


def _check_can_write(view: ConversationView):
    if not view.can_write:
        raise Conflict(_("You can no longer write here: only friends can write to each other."))


def send(
    viewer: User,
    conversation_id: int,
    *,
    body: str,
    client_id: str,
    reply_to: int | None = None,
    seen: int | None = None,
    revision: int = 0,
) -> "tuple[ConversationView, MessageRow]":
    """Store a message. Returns the conversation and the message; one that is stored already as it is now.

    body: as returned by clean_body. client_id: as chosen by the page. reply_to: the message that it answers. seen: the
    newest that was on the screen; without it, sending reads everything. revision: of the draft that is sent,
    0 for whatever is kept.
    Raises NotFound; Conflict when the viewer may not write, or sent another text with this client_id; InvalidInput.
    """
    if not CLIENT_ID.fullmatch(client_id):
        raise InvalidInput(_("This page is out of date. Load it again."))
    view = conversations.lock(viewer, conversation_id)
    same, quoted = _find_same_and_quoted(view, client_id, reply_to)
    if same:
        if same.body != body and not (same.edited_at or same.deleted_at):
            raise Conflict(_("This page already sent a different message. Send this one again."))
        return view, _find_stored(view, same.id)
    _check_can_write(view)
    if reply_to is not None and quoted is None:
        raise InvalidInput(_("The message you are replying to is not in this chat."), "reply_to")
    sent_at = now()
    message_id = _insert(view, TEXT, body=body, client_id=client_id, reply_to_id=reply_to, created_at=sent_at)
    conversations.bump_version(view, last_message_id=message_id, last_at=now())
    read_up_to = message_id if seen is None or seen >= view.last_message_id else seen
    conversations.set_read(view, read_up_to, revision or view.draft_revision)
    if reply_to is not None:
        return view, _find_stored(view, message_id)
    return view, _own_row(view, message_id, body, client_id, sent_at)


# Executed for every message, so they are built once.
IN_CONVERSATION = Message.conversation_id == conversations.CONVERSATION
FOUND = (Message.id, Message.body, Message.edited_at, Message.deleted_at)
IS_SAME = and_(Message.author_id == conversations.VIEWER, Message.client_id == bindparam("client_id", type_=String))
SAME = select(*FOUND, true().label("is_same")).where(IN_CONVERSATION, IS_SAME)
IS_QUOTED = and_(
    Message.id == bindparam("quoted", type_=BIG_ID),
    Message.id > bindparam("joined_after", type_=BIG_ID),
    Message.kind == TEXT,
)
QUOTED = select(*FOUND, false().label("is_same")).where(IN_CONVERSATION, IS_QUOTED)
INSERT = insert(Message.__table__).returning(Message.__table__.c.id)


def _find_same_and_quoted(view: ConversationView, client_id: str, reply_to: int | None):
    """Return the message of the viewer with this client_id, and the one that is answered; None for what is missing."""
    values = {"conversation": view.id, "viewer": view.viewer.id, "client_id": client_id}
    rows = list(db.session.execute(SAME, values))
    if reply_to is not None:
        values = {"conversation": view.id, "quoted": reply_to, "joined_after": view.joined_after}
        rows += db.session.execute(QUOTED, values).all()
    same = next((row for row in rows if row.is_same), None)
    return same, next((row for row in rows if row.id == reply_to), None)


def _insert(view: ConversationView, kind: str, **values) -> int:
    message = {"conversation_id": view.id, "version": view.version + 1, "kind": kind, "author_id": view.viewer.id}
    return db.session.execute(INSERT, {**message, **values}).scalar_one()


def add_system_message(
    view: ConversationView, kind: str, subject_id: int | None = None, body: str = "", **values
) -> ConversationView:
    """Add a system message about what the viewer does to a locked group. Returns the view with its new version.

    values: columns of Conversation that change with it.
    """
    line_id = _insert(view, kind, subject_id=subject_id, body=body)
    version = conversations.bump_version(view, last_message_id=line_id, last_at=now(), **values)
    return dataclasses.replace(view, version=version, last_message_id=line_id)


def find_own(view: ConversationView, message_id: int) -> Row:
    """Return a message of the viewer. Raises NotFound, NotAllowed about another's, and Conflict about a deleted one."""
    columns = (Message.id, Message.author_id, Message.kind, Message.body, Message.created_at, Message.deleted_at)
    is_meant = and_(Message.conversation_id == view.id, Message.id == message_id, Message.id > view.joined_after)
    message = db.session.execute(select(*columns).where(is_meant)).first()
    if message is None:
        raise NotFound
    if message.author_id != view.viewer.id or message.kind != TEXT:
        raise NotAllowed(_("You can edit only your own messages."))
    if message.deleted_at:
        raise Conflict(_("This message was deleted."))
    return message


def check_can_edit(view: ConversationView, message: Row):
    """Raise Conflict when a message of the viewer can no longer be edited."""
    _check_can_write(view)
    hours = current_app.config["EDIT_HOURS"]
    if message.created_at < now() - timedelta(hours=hours):
        raise Conflict(
            ngettext("A message can be edited for one hour.", "A message can be edited for %(num)s hours.", hours)
        )


def edit(viewer: User, conversation_id: int, message_id: int, body: str):
    """Change the text of a message. body: as returned by clean_body.

    Raises NotFound, NotAllowed about another's, and Conflict when it is deleted or too old, or one may not write here.
    """
    view = conversations.lock(viewer, conversation_id)
    message = find_own(view, message_id)
    check_can_edit(view, message)
    if body != message.body:
        _update(view, message_id, body=body, edited_at=now())


def delete(viewer: User, conversation_id: int, message_id: int):
    """Erase a message; its place stays. Again, it changes nothing. Raises NotFound, and NotAllowed about another's."""
    view = conversations.lock(viewer, conversation_id)
    try:
        find_own(view, message_id)
    except Conflict:
        return
    _update(view, message_id, body="", deleted_at=now())


def _update(view: ConversationView, message_id: int, **values):
    version = conversations.bump_version(view)
    db.session.execute(update(Message).where(Message.id == message_id).values(version=version, **values))


def erase_all(user: User):
    """Erase all messages of an account that is about to be deleted, and whose conversations are locked.

    Those in conversations that it is no longer in are erased as well.
    """
    mine = and_(Message.author_id == user.id, Message.kind == TEXT, Message.deleted_at.is_(None))
    for row in conversations.bump_versions(Conversation.id.in_(select(Message.conversation_id).where(mine))):
        erased = update(Message).where(mine, Message.conversation_id == row.id)
        db.session.execute(erased.values(body="", deleted_at=now(), version=row.version))


@dataclass(frozen=True)
class Quote:
    """A message that another answers. text: its beginning; empty when it is deleted or hidden from the viewer.

    author: a name, or None for a deleted account.
    """

    id: int
    author: str | None
    text: str
    is_deleted: bool
    is_hidden: bool
    is_visible: bool


@dataclass(frozen=True)
class MessageRow:
    """A message as the viewer sees it.

    kind: see models. author, subject: names; author_public_id, avatar: of the author; each None for a deleted account.
    is_hidden: whether it is by somebody whom the viewer blocks: it has no text then. can_edit: for now. client_id: of
    the viewer's own.
    """

    id: int
    kind: str
    body: str
    created_at: datetime
    is_edited: bool
    is_deleted: bool
    is_hidden: bool
    is_own: bool
    can_edit: bool
    is_seen: bool
    author: str | None
    author_public_id: str | None
    avatar: str | None
    subject: str | None
    quote: Quote | None
    client_id: str | None = None

    @property
    def is_system(self) -> bool:
        """Whether it is a system message about the group, instead of something that somebody wrote."""
        return self.kind != TEXT


@dataclass(frozen=True)
class MessagePage:
    """Consecutive messages of a conversation, oldest first, and whether there are others before and after them."""

    rows: list[MessageRow]
    has_older: bool = False
    has_newer: bool = False


Quoted, Author, AuthorProfile, Subject, QuotedAuthor = (
    *(aliased(Message), aliased(User), aliased(Profile)),
    *(aliased(User), aliased(User)),
)
VIEWER = conversations.VIEWER
HIDES_BLOCKED = bindparam("hides_blocked", type_=Boolean)  # in groups


def _is_hidden(message):
    """Return the condition that the viewer blocks whoever wrote a message. message: Message or an alias of it."""
    return and_(HIDES_BLOCKED, message.kind == TEXT, blocks.is_blocked(VIEWER, message.author_id))


COLUMNS = (
    *(Message.id, Message.kind, Message.author_id, Message.created_at),
    *(Message.edited_at, Message.deleted_at, Message.reply_to_id, Message.client_id),
    _is_hidden(Message).label("is_hidden"),
    case((_is_hidden(Message), ""), else_=Message.body).label("body"),
    *(Author.username.label("author"), AuthorProfile.public_id, AuthorProfile.avatar),
    Subject.username.label("subject"),
    QuotedAuthor.username.label("quoted_author"),
    Quoted.deleted_at.label("quoted_deleted_at"),
    _is_hidden(Quoted).label("quoted_is_hidden"),
    case((_is_hidden(Quoted), ""), else_=func.substr(Quoted.body, 1, QUOTE_LENGTH)).label("quoted_text"),
)


IS_QUOTED_BY = and_(Quoted.conversation_id == Message.conversation_id, Quoted.id == Message.reply_to_id)
WITH_PEOPLE = (
    select(*COLUMNS)
    .outerjoin(Author, Author.id == Message.author_id)
    .outerjoin(AuthorProfile, AuthorProfile.user_id == Message.author_id)
    .outerjoin(Subject, Subject.id == Message.subject_id)
    .outerjoin(Quoted, IS_QUOTED_BY)
    .outerjoin(QuotedAuthor, QuotedAuthor.id == Quoted.author_id)
    .order_by(Message.id)
)
ONE = WITH_PEOPLE.where(
    IN_CONVERSATION,
    Message.id == bindparam("message", type_=BIG_ID),
    Message.id > bindparam("joined_after", type_=BIG_ID),
)


def _row(view: ConversationView, row: Row) -> MessageRow:
    is_own = row.author_id == view.viewer.id
    is_fresh = row.created_at > now() - timedelta(hours=current_app.config["EDIT_HOURS"])
    quote = None
    if row.reply_to_id is not None:
        is_visible = row.reply_to_id > view.joined_after
        quote = Quote(
            row.reply_to_id,
            row.quoted_author if is_visible else None,
            row.quoted_text or "" if is_visible else "",
            is_deleted=row.quoted_deleted_at is not None,
            is_hidden=bool(row.quoted_is_hidden),
            is_visible=is_visible,
        )
    return MessageRow(
        *(row.id, row.kind, row.body, row.created_at),
        is_edited=row.edited_at is not None,
        is_deleted=row.deleted_at is not None,
        is_hidden=bool(row.is_hidden),
        is_own=is_own,
        can_edit=is_own and is_fresh and view.can_write and row.deleted_at is None,
        is_seen=is_own and row.id <= view.seen_up_to,
        author=row.author,
        author_public_id=row.public_id,
        avatar=row.avatar,
        subject=row.subject,
        quote=quote,
        client_id=row.client_id if is_own else None,
    )


def _own_row(view: ConversationView, message_id: int, body: str, client_id: str, sent_at: datetime) -> MessageRow:
    """Return a message that the viewer is sending and that answers none, as `find` would, without a statement."""
    me = view.viewer
    return MessageRow(
        *(message_id, TEXT, body, sent_at),
        is_edited=False,
        is_deleted=False,
        is_hidden=False,
        is_own=True,
        can_edit=current_app.config["EDIT_HOURS"] > 0,
        is_seen=False,
        author=me.username,
        author_public_id=me.profile.public_id,
        avatar=me.profile.avatar,
        subject=None,
        quote=None,
        client_id=client_id,
    )


def _with_people(ids):
    """Return a select of the messages that a select of ids names, oldest first."""
    found = ids.subquery()
    return WITH_PEOPLE.join(found, found.c.id == Message.id)


def _load(view: ConversationView, ids) -> list[MessageRow]:
    """Return the messages that a select of ids names, oldest first."""
    return _load_rows(view, _with_people(ids))


def _load_rows(view: ConversationView, statement, **parameters) -> list[MessageRow]:
    """Return the messages that a select with COLUMNS finds. parameters: of that select."""
    values = {"viewer": view.viewer.id, "hides_blocked": view.is_group, **parameters}
    return [_row(view, row) for row in db.session.execute(statement, values)]


def _ids(view: ConversationView, first: int = 0):
    """Return a select of the ids of the messages that the viewer may see, from `first` on.

    With one lower limit: of two, SQLite would use the index for one, and read all messages for the other.
    """
    first = max(first, view.joined_after + 1)
    return select(Message.id).where(Message.conversation_id == view.id, Message.id >= first)


def find(view: ConversationView, message_id: int) -> MessageRow | None:
    """Return a message as the viewer sees it; None if there is none."""
    values = {"conversation": view.id, "message": message_id, "joined_after": view.joined_after}
    rows = _load_rows(view, ONE, **values)
    return rows[0] if rows else None


def _find_stored(view: ConversationView, message_id: int) -> "MessageRow":
    found = find(view, message_id)
    assert found  # in this transaction
    return found


def list_newest(view: ConversationView, before: int | None = None) -> MessagePage:
    """Return the newest messages; before: only older ones than this."""
    ids = _ids(view) if before is None else _ids(view).where(Message.id < before)
    rows = _load(view, ids.order_by(Message.id.desc()).limit(PAGE_SIZE + 1))
    has_newer = bool(rows) and rows[-1].id < view.last_message_id
    return MessagePage(rows[-PAGE_SIZE:], has_older=len(rows) > PAGE_SIZE, has_newer=has_newer)


def list_after(view: ConversationView, after: int) -> MessagePage:
    """Return the oldest messages that are newer than this."""
    rows = _load(view, _ids(view, after + 1).order_by(Message.id).limit(PAGE_SIZE + 1))
    return MessagePage(rows[:PAGE_SIZE], has_older=True, has_newer=len(rows) > PAGE_SIZE)


def list_around(view: ConversationView, message_id: int, limit: int = PAGE_SIZE) -> MessagePage:
    """Return up to `limit` messages from this on, with some before it: at least CONTEXT, and more where few follow."""
    older = _ids(view).where(Message.id < message_id).order_by(Message.id.desc()).limit(PAGE_SIZE + 1).subquery()
    newer = _ids(view, message_id).order_by(Message.id).limit(limit + 1).subquery()
    rows = _load(view, union_all(select(older.c.id), select(newer.c.id)))
    before = [row for row in rows if row.id < message_id]
    after = rows[len(before) :]
    context = max(CONTEXT, PAGE_SIZE - len(after))
    return MessagePage([*before[-context:], *after[:limit]], len(before) > context, len(after) > limit)


def list_first_page(view: ConversationView) -> MessagePage:
    """Return the messages at which a conversation opens: from the first unread on, or else the newest."""
    if view.first_unread_id is None:
        return list_newest(view)
    return list_around(view, view.first_unread_id, MAX_UNREAD_ROWS)


SINCE, FIRST = bindparam("since", type_=BIG_ID), bindparam("first", type_=BIG_ID)
CHANGED = (
    select(Message.id.label("id"))
    .where(IN_CONVERSATION, Message.version > SINCE)
    .order_by(Message.version, Message.id.desc())
    .limit(MAX_CHANGES + 1)
    .cte("changed")
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
Quoting = aliased(Message)
QUOTES_CHANGED = and_(Quoting.conversation_id == conversations.CONVERSATION, Quoting.reply_to_id == CHANGED.c.id)
CHANGED_IDS = union(
    select(CHANGED.c.id).where(CHANGED.c.id >= FIRST),
    select(Quoting.id).join(CHANGED, QUOTES_CHANGED).where(Quoting.id >= FIRST),
)
CHANGES = _with_people(CHANGED_IDS)  # each open page asks for them after each message, so they are built once


def list_changes(view: ConversationView, since: int, first: int) -> list[MessageRow] | None:
    """Return the messages from `first` on that were added, edited or deleted after a version, or quote one that was.

    None where those may be more than MAX_CHANGES. A version is one change, except where an account erased its messages.
    """
    if view.version - since > MAX_CHANGES:
        return None
    first = max(first, view.joined_after + 1)
    rows = _load_rows(view, CHANGES, conversation=view.id, since=since, first=first)
    return rows if len(rows) <= MAX_CHANGES else None


def describe_system_message(row) -> str:
    """Return the sentence of a system message. row: has kind, author, subject (names or None), body."""
    author = row.author or _("Deleted account")
    subject = row.subject or _("Deleted account")
    sentences = {
        "created": _("%(author)s created the group", author=author),
        "added": _("%(author)s added %(subject)s", author=author, subject=subject),
        "removed": _("%(author)s removed %(subject)s", author=author, subject=subject),
        "left": _("%(author)s left", author=author),
        "joined": _("%(author)s rejoined", author=author),
        "renamed": _("%(author)s renamed the group to “%(title)s”", author=author, title=row.body),
        "owner": _("%(subject)s is the owner now", subject=subject),
    }
    return sentences[row.kind]
