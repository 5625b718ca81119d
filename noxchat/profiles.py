"""Profiles: find, edit, presence, and how a person is drawn."""

import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from string import ascii_lowercase
from typing import Protocol

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import contains_eager

from noxchat.database import now, violates_constraint
from noxchat.exceptions import InvalidInput
from noxchat.extensions import db
from noxchat.models import TO_FRIENDS, USERNAME_LENGTH, Profile, PublicId, User
from noxchat.names import clean_public_id, clean_username, skeleton

ONLINE_FOR = timedelta(minutes=5)  # after the last request
HUES = 8
MAX_SUGGESTIONS = 3


def username_taken(username: str) -> InvalidInput:
    """Return the error about a username that is taken, with others that are free."""
    text = _("This name is taken, or looks like one that is. Choose another.")
    return InvalidInput(text, "username", _free_variants(username, clean_username, User.username_key, skeleton))


def public_id_taken(public_id: str) -> InvalidInput:
    """Return the error about a Public ID that is taken or reserved, with others that are free."""
    text = _("This Public ID is already in use. Choose another.")
    return InvalidInput(text, "public_id", _free_variants(public_id, clean_public_id, PublicId.key, str.lower))


def _free_variants(value: str, clean: Callable[[str], str], column, to_key: Callable[[str], str]) -> list[str]:
    """Return up to MAX_SUGGESTIONS values like one that is taken: cleaned, and with a key that no row has."""
    numbers = [*"23456789", *(str(10 + secrets.randbelow(990)) for _again in range(4))]
    ends = [f"_{secrets.choice(ascii_lowercase)}", *numbers]
    variants: dict[str, str] = {}
    for end in ends:
        with suppress(InvalidInput):
            variant = clean(value[: USERNAME_LENGTH[1] - len(end)] + end)
            variants[to_key(variant)] = variant
    taken = set(db.session.scalars(select(column).where(column.in_(variants))))
    return [variant for key, variant in variants.items() if key not in taken][:MAX_SUGGESTIONS]


def check_username(username: str, user: User | None = None):
    """Raise InvalidInput about `username` if it is taken by another person than the user."""
    others = select(User.id).where(User.username_key == skeleton(username), User.id != (user.id if user else 0))
    if db.session.scalar(others) is not None:
        raise username_taken(username)


def check_public_id(public_id: str, user: User):
    """Raise InvalidInput about `public_id` if it is taken by or reserved for another person."""
    if db.session.scalar(select(PublicId.user_id).where(PublicId.key == public_id.lower())) not in (None, user.id):
        raise public_id_taken(public_id)


def with_profile():
    """Return a select of users with their profiles, in one statement."""
    return select(User).join(User.profile).options(contains_eager(User.profile))


class Person(Protocol):
    """Somebody as they are shown in a list: a User with their profile, or a row of `select_people`."""

    id: int
    username: str
    public_id: str
    avatar: str | None
    last_seen_at: datetime | None
    show_presence: str


def select_people(*more):
    """Return a select of people as lists show them, which costs half as much as loading users. more: columns."""
    person = (User.id, User.username, Profile.public_id, Profile.avatar, User.last_seen_at, User.show_presence)
    return select(*person, *more).join(User.profile)


def find_by_public_id(public_id: str) -> User | None:
    """Return the person with this Public ID, regardless of case, whoever may see them. For a viewer: relationships."""
    return db.session.scalar(with_profile().where(Profile.public_id_key == public_id.lower()))


def lock_users(*user_ids: int):
    """Lock users' rows in the order of their ids until the transaction ends."""
    rows = select(User.id).where(User.id.in_(user_ids)).order_by(User.id).with_for_update(key_share=True)
    db.session.execute(rows)


def edit(user: User, *, username: str, public_id: str, bio: str):
    """Change the profile of a person who was returned by accounts.lock_account.

    The texts are as returned by names.clean_username, clean_public_id and clean_bio.
    Raises InvalidInput about `username` or `public_id` when that is taken or reserved.
    """
    key = public_id.lower()
    owner_id = db.session.scalar(select(PublicId.user_id).where(PublicId.key == key))
    if owner_id not in (None, user.id):
        raise public_id_taken(public_id)
    try:
        with db.session.begin_nested():
            # Two names that an upgrade found to look alike both stay as long as they are not changed.
            if username != user.username:
                user.username, user.username_key = username, skeleton(username)
            if owner_id is None:
                db.session.add(PublicId(key=key, user_id=user.id))
                db.session.flush()
            user.profile.public_id, user.profile.public_id_key = public_id, key
            user.profile.bio = bio
    except IntegrityError as error:
        if violates_constraint(error, "username_key"):
            raise username_taken(username) from error
        if violates_constraint(error, "public_ids"):
            raise public_id_taken(public_id) from error
        raise


WORD_SEPARATORS = re.compile("[ _.\u2010\u2011֊־゠・･-]+")  # of those that names.py knows


@dataclass(frozen=True)
class Avatar:
    """What is needed to draw somebody's avatar: a picture, or initials on a colour that is always theirs.

    picture: its file name, or None. hue: 0 to HUES - 1.
    """

    public_id: str
    picture: str | None
    initials: str
    hue: int


def avatar_of(person: Person) -> Avatar:
    """Return somebody's avatar."""
    return Avatar(person.public_id, person.avatar, initials(person.username), hue(person.public_id))


@lru_cache(maxsize=10_000)
def initials(username: str) -> str:
    """Return the one or two letters that stand for somebody without a picture."""
    words = [word for word in WORD_SEPARATORS.split(username) if word]
    letters = words[0][0] + words[1][0] if len(words) > 1 else username[:2]
    return letters.upper()[:2]


@lru_cache(maxsize=10_000)
def hue(public_id: str) -> int:
    """Return the colour of a Public ID, 0 to HUES - 1: always the same, whatever its case."""
    return sum(ord(char) * (index + 1) for index, char in enumerate(public_id.lower())) % HUES


def may_share_presence(viewer: User, friend: Person) -> bool:
    """Tell whether two friends see when the other one is online: both have to show it."""
    return viewer.show_presence == friend.show_presence == TO_FRIENDS


def is_online(last_seen_at: datetime | None) -> bool:
    """Tell whether somebody who was active last at this time counts as online."""
    return last_seen_at is not None and last_seen_at > now() - ONLINE_FOR
