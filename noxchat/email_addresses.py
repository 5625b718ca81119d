"""E-mail addresses: to whom one belongs, confirming it, changing it, and undoing a change.

Several accounts may give one address. It belongs to the one that has confirmed it by the link in an e-mail, which an
index allows for one only; as long as none has, to the one that has had it longest, that is with the lowest id. So
nothing moves when an account is deleted, and registering does the same whether or not an address is known.
"""

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from noxchat import throttle, tokens
from noxchat.database import execute_dml, now, violates_constraint
from noxchat.extensions import db
from noxchat.mail import kinds, queue
from noxchat.models import EmailChange, User
from noxchat.names import email_key
from noxchat.profiles import with_profile

DELETED_AT_ONCE = 100


def find_holder(email: str, *, lock: bool = False) -> User | None:
    """Return the account to which an address belongs, with its profile.

    lock: whether to keep the account from being deleted until the transaction ends.
    """
    accounts = with_profile().where(User.email_key == email_key(email))
    if lock:
        accounts = accounts.with_for_update(read=True, key_share=True, of=User)
    return db.session.scalar(accounts.order_by(User.email_confirmed_at.is_(None), User.id).limit(1))


def request_confirmation(user: User, *, send: bool = True):
    """Prepare a link that confirms the account's `unconfirmed_email`, and queue the e-mail; earlier links stop working.

    If another account has confirmed the address, its owner is told that they have an account instead. send: whether to
    queue anything. user: locked, or new.
    """
    assert user.unconfirmed_email
    user.email_nonce = tokens.new_nonce()
    db.session.flush()
    holder = find_holder(user.unconfirmed_email, lock=True)
    if not send:
        return
    if holder and holder.confirmed_email and holder is not user:
        queue.enqueue(kinds.address_taken, holder)
    else:
        queue.enqueue(kinds.confirm_email, user, address=user.unconfirmed_email)


def request_change(user: User, email: str, *, send: bool = True):
    """Change an account's address once the new one is confirmed, which an e-mail asks for. user: locked.

    email: as returned by names.clean_email; the present one takes back a change that is not confirmed yet. send: as for
    request_confirmation. Raises RateLimited.
    """
    user.pending_email = None if email_key(email) == user.email_key else email
    if user.pending_email:
        throttle.count_email_change(user)
    if user.unconfirmed_email:
        request_confirmation(user, send=send)
    else:
        forget_request(user)


def forget_request(user: User):
    """Take back a change that is not confirmed; links to confirm an address stop working."""
    user.pending_email = user.email_nonce = None
    db.session.flush()


def confirm(user: User) -> bool:
    """Confirm the account's `unconfirmed_email`. A former address that was confirmed gets a link to undo the change.

    user: locked. Returns False when another account has confirmed the address.
    """
    former_email, email = user.confirmed_email, user.unconfirmed_email
    if email is None or not prove(user, email):
        return False
    if former_email:
        db.session.add(EmailChange(user_id=user.id, former_email=former_email, nonce=tokens.new_nonce()))
        db.session.flush()
        queue.enqueue(kinds.email_changed, user, address=former_email)
    return True


def prove(user: User, email: str) -> bool:
    """Give an account an address that it has proved; other changes and links of it are over. user: locked.

    Returns False when another account has proved it.
    """
    if tokens.is_confirmed_by_another(user, email):
        return False
    try:
        with db.session.begin_nested():
            if user.email_key != email_key(email):
                user.reset_nonce = None  # of a link that was sent to the former address
            user.email, user.email_key, user.email_confirmed_at = email, email_key(email), now()
            user.pending_email = user.email_nonce = None
    except IntegrityError as error:
        if violates_constraint(error, "email_key"):
            return False
        raise
    return True


def delete_old(session) -> bool:
    """Delete some changes that cannot be undone any more, so that no former address is kept for ever.

    Returns whether there may be more.
    """
    expired = select(EmailChange.id).where(EmailChange.changed_at < now() - tokens.UNDO_LIFETIME).limit(DELETED_AT_ONCE)
    statement = delete(EmailChange).where(EmailChange.id.in_(expired.with_for_update(skip_locked=True)))
    return execute_dml(session, statement) == DELETED_AT_ONCE


def forget_changes(user: User):
    """Have all links to undo changes stop working."""
    db.session.execute(delete(EmailChange).where(EmailChange.user_id == user.id))


def undo(user: User, change: EmailChange) -> bool:
    """Give an account its former address back, and undo all later changes. user: locked.

    If another account has confirmed that address meanwhile, it stays there, and this account has to confirm one.
    Returns False when the change was undone already.
    """
    former_email = change.former_email
    own = delete(EmailChange).where(EmailChange.user_id == user.id)
    if execute_dml(db.session, own.where(EmailChange.id == change.id)) != 1:
        return False
    db.session.execute(own.where(EmailChange.id > change.id))
    if not prove(user, former_email):
        user.email, user.email_key, user.email_confirmed_at = former_email, email_key(former_email), None
        forget_request(user)
    return True
