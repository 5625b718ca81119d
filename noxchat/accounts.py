"""Accounts: register, authenticate, change, delete."""

from flask_babel import gettext as _
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from noxchat import avatars, events, friendships, profiles, throttle
from noxchat.database import violates_constraint
from noxchat.exceptions import Conflict
from noxchat.extensions import db
from noxchat.mail import kinds, queue
from noxchat.models import Profile, PublicId, User
from noxchat.names import email_key, random_public_id, skeleton

# What rule modules contribute to the deletion of an account, besides the rows that the database deletes by itself.
# Functions of the user, in three steps because of the lock order: lock what is affected; return the events that tell
# others; after the deletion, remove what is not in the database.
LOCK_FOR_DELETION = (friendships.lock_for_deletion,)
DELETION_EVENTS = (friendships.deletion_events,)
AFTER_DELETION = (avatars.after_account_deletion,)


def create(username: str, email: str, password_hash: str, *, language: str | None = None) -> User | None:
    """Create an account with an empty profile and a random Public ID.

    username, email: as returned by names.clean_username and names.clean_email.
    Returns None when the address belongs to another account. Raises InvalidInput about `username` when that is taken.
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
    if find_by_email(email):
        return None
    try:
        with db.session.begin_nested():
            db.session.add(user)
    except IntegrityError as error:
        if violates_constraint(error, "username_key"):
            raise profiles.username_taken(username) from error
        if violates_constraint(error, "email_key"):
            return None
        raise
    public_id = random_public_id()
    db.session.add(PublicId(key=public_id, user_id=user.id))
    db.session.flush()
    db.session.add(Profile(user=user, public_id=public_id, public_id_key=public_id))
    db.session.flush()
    return user


def register(username: str, email: str, password_hash: str, *, language: str) -> User | None:
    """Create an account as `create` does; if the address belongs to another account, queue an e-mail to its owner.

    Whoever registers cannot tell the two cases apart.
    """
    user = create(username, email, password_hash, language=language)
    if user is None:
        owner = find_by_email(email)
        if owner and throttle.allow_address_taken_email(lock_account(owner)):
            queue.enqueue(kinds.address_taken, owner)
    return user


def find_by_email(email: str) -> User | None:
    """Return the account with this e-mail address, regardless of case."""
    return db.session.scalar(profiles.with_profile().where(User.email_key == email_key(email)))


def find_by_identifier(identifier: str) -> User | None:
    """Return the account with this e-mail address or Public ID. One look-up: a Public ID never contains an @."""
    identifier = identifier.strip(" ")
    return find_by_email(identifier) if "@" in identifier else profiles.find_by_public_id(identifier)


def lock_account(user: User) -> User:
    """Return the account as it is now, with its profile, locked against changes until the transaction ends.

    Raises Conflict when it was deleted in the meantime.
    """
    statement = profiles.with_profile().where(User.id == user.id).with_for_update()
    locked = db.session.scalar(statement.execution_options(populate_existing=True))
    if locked is None:
        raise Conflict(_("This account does not exist any more."))
    return locked


def set_password(user: User, password_hash: str):
    """Set a new password. Password reset links stop working."""
    user.password_hash = password_hash
    user.reset_nonce = None
    db.session.flush()


def set_preferences(user: User, preferences: dict[str, str]):
    """Set the theme, the language or both. Raises Conflict when the account was deleted."""
    user = lock_account(user)
    for name, value in preferences.items():
        setattr(user, name, value)
    db.session.flush()


def delete_account(user: User):
    """Delete an account; the database deletes all rows that refer to it. Raises Conflict when it is deleted already."""
    for lock in LOCK_FOR_DELETION:
        lock(user)
    user = lock_account(user)
    events.publish_all([event for get_events in DELETION_EVENTS for event in get_events(user)])
    db.session.execute(delete(User).where(User.id == user.id))
    for clean_up in AFTER_DELETION:
        clean_up(user)
