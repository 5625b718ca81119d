"""Accounts: register, recover, change, delete."""

from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from noxchat import avatars, email_addresses, events, friendships, groups, invitations, messages, profiles, sessions
from noxchat.database import violates_constraint, without_statement_timeout
from noxchat.exceptions import Conflict, NotAllowed
from noxchat.extensions import db
from noxchat.invitations import OpenInvitation
from noxchat.models import EmailChange, Profile, PublicId, User
from noxchat.names import email_key, random_public_id, skeleton
from noxchat.tokens import Link

# What rule modules contribute to the deletion of an account, besides the rows that the database deletes by itself.
# Functions of the user, in steps because of the lock order: lock what is affected; change what stays; return the events
# that tell others; after the deletion, remove what is not in the database.
LOCK_FOR_DELETION = (friendships.lock_for_deletion, groups.lock_for_deletion)
BEFORE_DELETION = (groups.leave_all,)
DELETION_EVENTS = (friendships.deletion_events,)
AFTER_DELETION = (avatars.after_account_deletion,)


def create(username: str, email: str, password_hash: str, *, language: str | None = None) -> User:
    """Create an account with an empty profile and a random Public ID. Its address is not confirmed.

    username, email: as returned by names.clean_username and names.clean_email.
    Raises InvalidInput about `username` when that is taken.
    """
    user = User(
        username=username,
        username_key=skeleton(username),
        email=email,
        email_key=email_key(email),
        password_hash=password_hash,
        language=language,
    )
    profiles.check_username(username)
    try:
        with db.session.begin_nested():
            db.session.add(user)
    except IntegrityError as error:
        if violates_constraint(error, "username_key"):
            raise profiles.username_taken(username) from error
        raise
    public_id = random_public_id()
    db.session.add(PublicId(key=public_id, user_id=user.id))
    db.session.flush()
    db.session.add(Profile(user=user, public_id=public_id, public_id_key=public_id))
    db.session.flush()
    return user


def check_may_register(invitation: OpenInvitation | None):
    """Raise NotAllowed when the setting REGISTRATION does not let somebody register. invitation: theirs, if any."""
    registration = current_app.config["REGISTRATION"]
    if registration == "closed":
        raise NotAllowed(_("Registration is closed right now."))
    if registration == "invitation" and invitation is None:
        raise NotAllowed(_("To join, you need an invitation that still works. Ask someone here for a link."))


def register(
    username: str,
    email: str,
    password_hash: str,
    *,
    language: str,
    invitation: OpenInvitation | None = None,
    send_email: bool = True,
) -> User:
    """Create an account as `create` does, ask to confirm its address, and make the newcomer friends with the inviter.

    Whoever registers cannot tell whether another account has the address. send_email: whether to queue an e-mail.
    Raises InvalidInput, also about an invitation that is no longer open.
    """
    if invitation and invitation.inviter:
        profiles.lock_users(invitation.inviter.id)  # before the newcomer, whose id is higher
    user = create(username, email, password_hash, language=language)
    pair = invitations.join(user, invitation) if invitation else None
    email_addresses.request_confirmation(user, send=send_email)
    if pair:
        friendships.befriend(pair)  # last, since it publishes events
    return user


def find_by_identifier(identifier: str) -> User | None:
    """Return the account with this e-mail address or Public ID. One look-up: a Public ID never contains an @."""
    identifier = identifier.strip(" ")
    return email_addresses.find_holder(identifier) if "@" in identifier else profiles.find_by_public_id(identifier)


def lock_account(user: User) -> User:
    """Return the account as it is now, with its profile, locked against changes until the transaction ends.

    Raises Conflict when it was deleted in the meantime.
    """
    statement = profiles.with_profile().where(User.id == user.id).with_for_update()
    locked = db.session.scalar(statement.execution_options(populate_existing=True))
    if locked is None:
        raise Conflict(_("This account no longer exists."))
    return locked


def lock_verified_account(user: User) -> User:
    """Return an account whose password was verified for this request, as lock_account does.

    Raises Conflict, also when the password was changed since: whoever did that is to be safe from this request.
    """
    verified_hash = user.password_hash
    locked = lock_account(user)
    if locked.password_hash != verified_hash:
        raise Conflict(_("The password was changed just now. Try again."))
    return locked


def set_password(user: User, password_hash: str):
    """Set a new password. Password reset links stop working."""
    user.password_hash = password_hash
    user.reset_nonce = None
    db.session.flush()


def change_password(user: User, password_hash: str):
    """Set a new password, and end what somebody else who knew the old one may have begun, except for the sessions.

    user: locked. Links that undo a change of address go on working: they are the owner's.
    """
    set_password(user, password_hash)
    email_addresses.forget_request(user)
    invitations.revoke_all(user)


def confirm_email(link: Link) -> bool:
    """Confirm an address. Returns False when the link was used meanwhile, or the address is another account's."""
    user = lock_account(link.user)
    return user.email_nonce == link.nonce and email_addresses.confirm(user)


def reset_password(link: Link, password_hash: str) -> bool:
    """Set a new password with a reset link, which proves the address that it was sent to.

    Returns False when it was used or replaced meanwhile, or the address is another account's.
    """
    user = lock_account(link.user)
    if user.reset_nonce != link.nonce or (link.email and not email_addresses.prove(user, link.email)):
        return False
    email_addresses.forget_changes(user)
    _recover(user, password_hash)
    return True


def undo_email_change(user: User, change: EmailChange, password_hash: str) -> bool:
    """Undo a change of address, and set a new password. Returns False when it was undone already."""
    user = lock_account(user)
    if not email_addresses.undo(user, change):
        return False
    _recover(user, password_hash)
    return True


def _recover(user: User, password_hash: str):
    """Change the password of somebody who may have lost control of the account, and log everybody out."""
    change_password(user, password_hash)
    sessions.revoke_all(user)


def set_choices(user: User, choices: dict[str, str | bool]):
    """Set some of theme, language and the privacy settings. Raises Conflict when the account was deleted."""
    user = lock_account(user)
    for name, value in choices.items():
        setattr(user, name, value)
    db.session.flush()


def delete_account(user: User, *, delete_messages: bool = False):
    """Delete an account, with all rows that refer to it. Raises Conflict as lock_verified_account does.

    delete_messages: whether to erase what they have written to others; otherwise it stays, without their name.
    """
    for lock in LOCK_FOR_DELETION:
        lock(user)
    user = lock_verified_account(user)
    # Somebody may have written so much that this takes longer than other statements may.
    with without_statement_timeout(db.session.connection()):
        if delete_messages:
            messages.erase_all(user)
        for leave in BEFORE_DELETION:
            leave(user)
        _delete(user)
    for clean_up in AFTER_DELETION:
        clean_up(user)


def _delete(user: User):
    events.publish_all([event for get_events in DELETION_EVENTS for event in get_events(user)])
    db.session.execute(delete(User).where(User.id == user.id))
