"""Accounts and profiles: register, find, edit, delete, on both databases and in concurrent threads."""

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from noxchat import accounts, profiles, relationships
from noxchat.database import begin_write
from noxchat.exceptions import Conflict, InvalidInput
from noxchat.extensions import db
from noxchat.models import Profile, PublicId, Session, User, friend_requests, friends
from noxchat.names import clean_email
from tests.conftest import befriend, make_person, password_hash, run_in_threads


def register(username, email):
    begin_write(db.session)
    user = accounts.create(username, email, password_hash())
    db.session.commit()
    return user


def test_username_race_creates_one_account(any_app):
    password_hash()
    results = run_in_threads(any_app, 8, lambda number: register("Mila", f"mila{number}@nox.example"))
    assert sum(isinstance(result, User) for result in results) == 1
    assert sum(isinstance(result, InvalidInput) and result.field == "username" for result in results) == 7
    with any_app.app_context():
        assert db.session.scalar(select(func.count()).select_from(User)) == 1
        assert db.session.scalar(select(func.count()).select_from(Profile)) == 1


def test_addresses_at_similar_domains_are_different_accounts(any_app):
    """By the rules of 2003, straße.example would be strasse.example."""
    with any_app.test_request_context():
        emails = ["jo@straße.example", "jo@strasse.example", "jo@βόλος.example", "jo@βόλοσ.example", "ſam@x", "sam@x"]
        people = [register(f"Person {'abcdef'[number]}", clean_email(email)) for number, email in enumerate(emails)]
        register("Somebody", clean_email("jo@xn--strae-oqa.example"))
        typed = [
            "JO@STRAẞE.example",
            "jo@strasse.EXAMPLE",
            "jo@xn--nxasmm1c.example",
            "jo@βόλοσ.example",
            "ſam@X",
            "SAM@x",
        ]
        assert [accounts.find_by_identifier(each).id for each in typed] == [person.id for person in people]


def test_public_id_race_has_one_winner(any_app):
    people = [make_person(any_app, f"Person {letter}", f"{letter}@nox.example") for letter in "abcdefgh"]

    def rename(number):
        begin_write(db.session)
        user = accounts.lock_account(people[number])
        profiles.edit(user, username=user.username, public_id="moon", bio="")
        db.session.commit()
        return user

    results = run_in_threads(any_app, 8, rename)
    assert sum(isinstance(result, User) for result in results) == 1
    assert sum(isinstance(result, InvalidInput) and result.field == "public_id" for result in results) == 7


def test_username_is_unique_across_case_accents_and_scripts(any_app):
    make_person(any_app, "José", "jose@nox.example")
    with any_app.test_request_context():
        for name in ("jose", "JOSE", "Jose\u0301", "jоsе"):
            with pytest.raises(InvalidInput):
                register(name, "other@nox.example")
            db.session.rollback()


def test_released_public_id_stays_reserved_for_its_former_owner(any_app):
    alice, bob = make_person(any_app, "Alice", public_id="alice"), make_person(any_app, "Bob", public_id="bobby")
    with any_app.test_request_context():
        begin_write(db.session)
        profiles.edit(accounts.lock_account(alice), username="Alice", public_id="Wonder", bio="")
        db.session.commit()
        assert profiles.find_by_public_id("alice") is None
        assert relationships.find_visible(bob, "ALICE")[0].id == alice.id
        assert profiles.find_by_public_id("wonder").profile.public_id == "Wonder"
        begin_write(db.session)
        with pytest.raises(InvalidInput):
            profiles.edit(accounts.lock_account(bob), username="Bob", public_id="Alice", bio="")
        db.session.rollback()
        begin_write(db.session)
        profiles.edit(accounts.lock_account(alice), username="Alice", public_id="ALICE", bio="")
        db.session.commit()
        assert profiles.find_by_public_id("alice").profile.public_id == "ALICE"


def test_account_deletion_removes_related_rows(any_app):
    alice, bob, clara = (make_person(any_app, name) for name in ("Alice", "Bob", "Clara"))
    befriend(any_app, alice, bob)
    with any_app.test_request_context():
        begin_write(db.session)
        db.session.execute(friend_requests.insert(), [{"sender_id": clara.id, "receiver_id": alice.id}])
        db.session.add(Session(token_hash="x" * 64, user_id=alice.id))
        accounts.delete_account(alice)
        db.session.commit()
        for table in (friends, friend_requests, Session.__table__):
            assert db.session.scalar(select(func.count()).select_from(table)) == 0
        assert db.session.scalar(select(func.count()).select_from(PublicId)) == 2
        with pytest.raises(Conflict):
            accounts.lock_account(alice)


def test_deleted_user_id_is_never_reused(any_app):
    first = make_person(any_app, "Alice")
    with any_app.test_request_context():
        begin_write(db.session)
        accounts.delete_account(first)
        db.session.commit()
    assert make_person(any_app, "Bob").id > first.id


INVALID_CHANGES = {
    "friendship with oneself": lambda a, b: friends.insert().values(user_id=a, friend_id=a),
    "one-way friendship": lambda a, b: friends.insert().values(user_id=a, friend_id=b),
    "request to oneself": lambda a, b: friend_requests.insert().values(sender_id=a, receiver_id=a),
    "crossing requests": lambda a, b: friend_requests.insert().values(
        [{"sender_id": a, "receiver_id": b}, {"sender_id": b, "receiver_id": a}]
    ),
    "long username": lambda a, b: User.__table__.update().where(User.id == a).values(username="x" * 33),
    "short username": lambda a, b: User.__table__.update().where(User.id == a).values(username="x"),
    "unknown theme": lambda a, b: User.__table__.update().where(User.id == a).values(theme="pink"),
    "long bio": lambda a, b: Profile.__table__.update().where(Profile.user_id == a).values(bio="x" * 141),
    "username of another account": lambda a, b: User.__table__.update().values(username_key="same"),
    "address of another account": lambda a, b: User.__table__.update().values(email_key="same"),
    "Public ID of another account": lambda a, b: (
        Profile.__table__.update().where(Profile.user_id == a).values(public_id="bobby", public_id_key="bobby")
    ),
    "Public ID that differs from its key": lambda a, b: (
        Profile.__table__.update().where(Profile.user_id == a).values(public_id="other")
    ),
}


def test_database_refuses_invalid_rows(any_app):
    alice, bob = make_person(any_app, "Alice", public_id="alice"), make_person(any_app, "Bob", public_id="bobby")
    for name, change in INVALID_CHANGES.items():
        with any_app.app_context():
            begin_write(db.session)
            refusal = None
            try:
                db.session.execute(change(alice.id, bob.id))
                db.session.commit()
            except DBAPIError as error:
                refusal = error
            db.session.rollback()
        too_long = name == "long username" and "too long" in str(refusal)  # in PostgreSQL
        assert isinstance(refusal, IntegrityError) or too_long, (name, refusal)


def test_deleting_one_friendship_row_deletes_the_opposite_row(any_app):
    alice, bob = make_person(any_app, "Alice"), make_person(any_app, "Bob")
    befriend(any_app, alice, bob)
    with any_app.app_context():
        assert relationships.get_relationship(alice, bob).state == "friends"
        begin_write(db.session)
        db.session.execute(friends.delete().where(friends.c.user_id == alice.id))
        db.session.commit()
        assert relationships.get_relationship(bob, alice).state == "none"


def test_initials_and_hue_are_deterministic(app):
    person = make_person(app, "Anna Maria", public_id="anna")
    avatar = profiles.avatar_of(person)
    assert avatar.initials == "AM"
    assert avatar.hue == profiles.hue("anna")
    assert 0 <= avatar.hue < profiles.HUES


@pytest.mark.parametrize(
    ("name", "initials"),
    [
        ("Jean\u2011Luc", "JL"),
        ("ジョン・スミス", "ジス"),
        ("בן־דוד", "בד"),
        ("timur_dev", "TD"),
        ("王小明", "王小"),
        ("ကျော်", "ကျ"),
    ],
)
def test_initials_are_of_the_words_of_a_name(app, name, initials):
    person = make_person(app, name, public_id="x-1")
    assert profiles.avatar_of(person).initials == initials
