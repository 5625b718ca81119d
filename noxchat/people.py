"""People: register, authenticate, find, edit, leave."""

from dataclasses import dataclass
from datetime import timedelta

from flask_babel import gettext as _
from sqlalchemy import delete, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import contains_eager

from noxchat import passwords, throttle
from noxchat.database import now, violates
from noxchat.extensions import db
from noxchat.models import Profile, PublicId, User
from noxchat.names import email_key, random_public_id, skeleton
from noxchat.refusal import Invalid, Refused

ONLINE = timedelta(minutes=5)
HUES = 8


def name_taken():
    return Invalid(_("This name is taken, or looks like one that is. Choose another."), "username")


def public_id_taken():
    return Invalid(_("This Public ID is already in use. Choose another."), "public_id")


def register(username: str, email: str, password_hash: str, *, language: str | None = None) -> User | None:
    """Make an account with an empty profile and a Public ID that nobody can guess.

    The texts are as names.clean_username and names.clean_email return them.
    Returns None, having made nothing, when the address already belongs to somebody: it is them who should hear of it.
    Raises Invalid about `username` when that is taken.
    """
    user = User(
        username=username,
        username_key=skeleton(username),
        email=email,
        email_key=email_key(email),
        password_hash=password_hash,
        language=language,
    )
    if db.session.scalar(select(exists().where(User.username_key == user.username_key))):
        raise name_taken()
    if find_by_email(email):
        return None
    try:
        db.session.add(user)
        db.session.flush()
    except IntegrityError as error:
        db.session.rollback()
        if violates(error, "username_key"):
            raise name_taken() from error
        if violates(error, "email_key"):
            return None
        raise
    public_id = random_public_id()
    db.session.add(PublicId(key=public_id, user_id=user.id))
    db.session.flush()
    db.session.add(Profile(user=user, public_id=public_id, public_id_key=public_id))
    db.session.flush()
    return user


def with_profile():
    """Return a select of people with their profiles, in one statement."""
    return select(User).join(User.profile).options(contains_eager(User.profile))


def find_by_email(email: str) -> User | None:
    """Return whose e-mail address this is, whatever its case."""
    return db.session.scalar(with_profile().where(User.email_key == email_key(email)))


def find(public_id: str) -> User | None:
    """Return the person who has this Public ID now, whatever its case."""
    return db.session.scalar(with_profile().where(Profile.public_id_key == public_id.lower()))


def find_by_identifier(identifier: str) -> User | None:
    """Return who signs in with this e-mail address or Public ID. One look-up: a Public ID never holds an @."""
    identifier = identifier.strip(" ")
    return find_by_email(identifier) if "@" in identifier else find(identifier)


def authenticate(user: User | None, password: str) -> bool:
    """Tell whether this is the person's password; takes the same time when there is no such person."""
    return passwords.matches(user and user.password_hash, password)


def confirm(user: User, password: str, field: str):
    """Make sure that somebody who is signed in knows their password, before what cannot be undone.

    field: the form field that it was typed into. Raises Invalid about it, or TooMany.
    """
    throttle.confirm_password(user)
    if not authenticate(user, password):
        raise Invalid(_("This is not your password."), field)


def locked(user: User) -> User:
    """Return the person as they are now, with the profile; others wait to change it until the transaction ends.

    Raises Refused when the account was deleted in the meantime.
    """
    statement = with_profile().where(User.id == user.id).with_for_update()
    found = db.session.scalar(statement.execution_options(populate_existing=True))
    if found is None:
        raise Refused(_("This account does not exist any more."))
    return found


def edit(user: User, *, username: str, public_id: str, bio: str):
    """Change what others see of a person who was returned by `locked`.

    The texts are as names.clean_username, clean_public_id and clean_bio return them.
    Raises Invalid about `username` or `public_id` when that is another person's, or kept for one; all of the
    transaction is then undone.
    """
    key = public_id.lower()
    owner = db.session.scalar(select(PublicId.user_id).where(PublicId.key == key))
    if owner not in (None, user.id):
        raise public_id_taken()
    try:
        user.username, user.username_key = username, skeleton(username)
        if owner is None:
            db.session.add(PublicId(key=key, user_id=user.id))
            db.session.flush()
        user.profile.public_id, user.profile.public_id_key = public_id, key
        user.profile.bio = bio
        db.session.flush()
    except IntegrityError as error:
        db.session.rollback()
        if violates(error, "username_key"):
            raise name_taken() from error
        if violates(error, "public_ids"):
            raise public_id_taken() from error
        raise


def set_password(user: User, password_hash: str):
    """Give a person a new password. Links to reset the old one stop working."""
    user.password_hash = password_hash
    user.reset_nonce = None
    db.session.flush()


def remove(user: User):
    """Delete an account. The database takes everything along that refers to it; the pictures are the caller's."""
    db.session.execute(delete(User).where(User.id == user.id))


@dataclass(frozen=True)
class Face:
    """What partials need to draw somebody's avatar: a picture, or initials on a hue that is always theirs."""

    public_id: str
    picture: str | None
    initials: str
    hue: int


def face(user: User) -> Face:
    """Return how somebody looks in a list."""
    words = [word for word in user.username.replace("_", " ").replace("-", " ").replace(".", " ").split() if word]
    letters = words[0][0] + words[1][0] if len(words) > 1 else user.username[:2]
    profile = user.profile
    return Face(profile.public_id, profile.avatar, letters.upper()[:2], hue(profile.public_id_key))


def hue(public_id_key: str) -> int:
    """Return one of HUES colours for a Public ID, the same every time."""
    return sum(ord(char) * (place + 1) for place, char in enumerate(public_id_key)) % HUES


def is_online(user: User) -> bool:
    """Tell whether somebody was there in the last few minutes."""
    return user.last_seen_at is not None and user.last_seen_at > now() - ONLINE
