"""Upgrading a database with data from the previous release keeps everything, on both databases; and back again."""

import flask_migrate
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from noxchat import accounts, email_addresses, profiles, relationships
from noxchat.database import begin_write
from noxchat.exceptions import InvalidInput
from noxchat.extensions import db
from noxchat.mail import worker
from noxchat.models import User
from noxchat.names import email_key, skeleton
from noxchat.search import Query, make_search_text, outbox
from tests.conftest import DATABASES

RELEASE_1_2 = "5b0c7e91d3fa"
TIMES = "'2026-11-24 21:38:00.000000'"
DATA = [
    *(
        f"INSERT INTO users (id, username, username_key, email, email_key, password_hash, reset_nonce, theme, created_at)"
        f" VALUES ({number}, '{name}', '{name}', '{name}@x', '{name}@x', '!', '{name}', 'auto', {TIMES})"
        for number, name in ((1, "alice"), (2, "bob"))
    ),
    f"INSERT INTO pauses (sender_id, receiver_id, until) VALUES (1, 2, {TIMES})",
    *(
        "INSERT INTO outbox (user_id, kind, language, tries, next_try_at, created_at)"
        f" VALUES ({number}, '{kind}', 'ru', 3, {TIMES}, {TIMES})"
        for number, kind in ((1, "reset"), (2, "taken"))
    ),
    f"INSERT INTO events (user_id, kind, about, tab, created_at) VALUES (1, 'friendship', 'bob', 't', {TIMES})",
    "INSERT INTO search_indexes (kind, place, name, known) VALUES ('users', 'abc', 'noxchat-users-1', 7)",
]


def rows(statement):
    found = [tuple(map(str, row)) for row in db.session.execute(text(statement))]
    db.session.commit()
    return found


@pytest.fixture(params=DATABASES)
def old_app(request, make_app, tmp_path):
    """An application on a database of release 1.2 with data in every table that has changed since."""
    if request.param == "sqlite":
        app = make_app(uri=f"sqlite:///{tmp_path}/old.db")
    else:
        postgres = request.getfixturevalue("postgres")
        postgres.execute("DROP DATABASE IF EXISTS nox_old")
        postgres.execute("CREATE DATABASE nox_old")
        app = make_app(uri=postgres.uri("nox_old"))
    app.extensions["mail_worker"].stopped = True
    with app.app_context():
        flask_migrate.upgrade(revision=RELEASE_1_2)
        for statement in DATA:
            db.session.execute(text(statement))
        db.session.commit()
        yield app


OLD_TABLES = (
    *("SELECT sender_id, receiver_id, until FROM pauses", "SELECT about, tab FROM events"),
    "SELECT user_id, kind, language, tries, next_try_at, created_at FROM outbox ORDER BY id",
    "SELECT kind, place, name, known FROM search_indexes",
)


def test_upgrade_from_1_2_keeps_everything(old_app):
    before = [rows(statement) for statement in OLD_TABLES]
    flask_migrate.upgrade()
    assert rows("SELECT sender_id, receiver_id, until FROM request_cooldowns") == before[0]
    assert rows("SELECT data, tab FROM events") == before[1]
    kinds = {"reset": "password_reset", "taken": "address_taken"}
    queued = rows("SELECT user_id, kind, language, tries, next_try_at, created_at FROM email_queue ORDER BY id")
    assert queued == [(row[0], kinds[row[1]], *row[2:]) for row in before[2]]
    assert rows("SELECT kind, id, name, known FROM search_indexes, installation") == before[3]
    flask_migrate.downgrade(revision=RELEASE_1_2)
    assert [rows(statement) for statement in OLD_TABLES] == before


def test_emails_queued_by_1_2_are_sent(old_app):
    flask_migrate.upgrade()
    while worker.send_next():
        continue
    sent = [path.read_text() for path in old_app.config["MAIL_DIR"].glob("*.eml")]
    assert {"To: alice@x" in email for email in sent} == {True, False} and len(sent) == 2
    assert rows("SELECT * FROM email_queue") == []


def test_index_of_1_2_still_belongs_to_this_installation(old_app):
    """So that it is deleted once the new one is built: test_index_of_earlier_release_is_replaced."""
    flask_migrate.upgrade()
    assert outbox.register("users") == "abc" and outbox.last_built("users") == ("noxchat-users-1", 7)


RELEASE_1_4 = "9c41a7b3e562"


def test_upgrade_from_1_4_keeps_accounts_and_compares_addresses_anew(old_app):
    old_keys = {"jo@straße.example": "jo@strasse.example", "JO@пример.рф": "jo@пример.рф", "a@x.example": "a@x.example"}
    new_keys = ["jo@xn--strae-oqa.example", "jo@xn--e1afmkfd.xn--p1ai", "a@x.example"]
    flask_migrate.upgrade(revision=RELEASE_1_4)
    for number, (email, key) in enumerate(old_keys.items(), 10):
        name = f"Person {number}"
        values = {"id": number, "name": name, "key": name.lower(), "email": email, "email_key": key}
        db.session.execute(
            text(
                "INSERT INTO users (id, username, username_key, email, email_key, password_hash, theme, created_at,"
                " search_text) VALUES (:id, :name, :key, :email, :email_key, 'x', 'auto', '2026-11-26 00:00:00', '')"
            ),
            values,
        )
        db.session.execute(
            text(
                "INSERT INTO sessions (user_id, token_hash, user_agent, created_at, last_used_at)"
                " VALUES (:id, :name, '', '2026-11-26 00:00:00', '2026-11-26 00:00:00')"
            ),
            values,
        )
    db.session.commit()
    flask_migrate.upgrade()
    assert rows("SELECT email_key FROM users WHERE id >= 10 ORDER BY id") == [(key,) for key in new_keys]
    assert rows("SELECT email FROM users WHERE id >= 10 ORDER BY id") == [(email,) for email in old_keys]
    assert len(rows("SELECT id FROM sessions WHERE previous_token_hash IS NULL AND replaced_at IS NULL")) == 3
    assert [email_key(email) for email in old_keys] == new_keys  # as those who log in are found
    flask_migrate.downgrade(revision=RELEASE_1_4)
    assert rows("SELECT email FROM users WHERE id >= 10 ORDER BY id") == [(email,) for email in old_keys]


RELEASE_1_5 = "b5d0f3a91c47"
# Names with the keys that release 1.5 gave them. Those in one row are one name now: the key is of the first.
NAMES_OF_1_5 = [
    [("O'Neil", "o'nell"), ("OʻNeil", "oʻnell"), ("Oʼneil", "oʼnell")],
    [("كريم", "كريم"), ("کریم", "کریم")],
    [("محمد", "محمد"), ("محـمد", "محـمد")],
    # The new key of the first is the old one of the second.
    [("ハـナ", "ハـナ")],
    [("バナ", "ハナ")],
    [("Anna", "anna")],
    [("王小明", "王小明")],
]


def test_upgrade_from_1_5_compares_names_anew_and_keeps_all(old_app):
    flask_migrate.upgrade(revision=RELEASE_1_5)
    people = [person for alike in NAMES_OF_1_5 for person in alike]
    for number, (name, key) in enumerate(people, 10):
        values = {"id": number, "name": name, "key": key, "public_id": f"id-{number}"}
        for statement in (
            "INSERT INTO users (id, username, username_key, email, email_key, password_hash, theme, created_at,"
            " search_text) VALUES (:id, :name, :key, :public_id, :public_id, 'x', 'auto', '2026-11-26 00:00:00', 'old')",
            "INSERT INTO public_ids (key, user_id) VALUES (:public_id, :id)",
            "INSERT INTO profiles (user_id, public_id, public_id_key, bio) VALUES (:id, :public_id, :public_id, '')",
        ):
            db.session.execute(text(statement), values)
    db.session.commit()
    flask_migrate.upgrade()
    found = rows("SELECT username, username_key, search_text FROM users WHERE id >= 10 ORDER BY id")
    assert [name for name, _key, _text in found] == [name for name, _key in people]
    assert [text for _name, _key, text in found] == [
        make_search_text(name, f"id-{number}") for number, (name, _key) in enumerate(people, 10)
    ]
    keys = {name: key for name, key, _text in found}
    assert len(set(keys.values())) == len(people)
    for first, *others in NAMES_OF_1_5:
        assert keys[first[0]] == skeleton(first[0])
        assert all(keys[name].startswith(skeleton(first[0]) + "\t") for name, _key in others)
    # Whoever has such a name can edit the profile, and nobody else can take the name.
    with old_app.test_request_context():
        begin_write(db.session)
        person = accounts.lock_account(db.session.get(User, 11))
        profiles.edit(person, username="OʻNeil", public_id="id-11", bio="Aloha")
        db.session.commit()
        for name in ("O’Neil", "OʻNeil"):
            with pytest.raises(InvalidInput, match="taken"):
                accounts.create(name, f"{name}@x", "x")
            db.session.rollback()
    assert rows("SELECT bio FROM profiles WHERE user_id = 11") == [("Aloha",)]
    flask_migrate.downgrade(revision=RELEASE_1_5)
    flask_migrate.upgrade()
    assert {
        name: key for name, key, _text in rows("SELECT username, username_key, '' FROM users WHERE id >= 10")
    } == keys


RELEASE_1_6 = "e4a17c90d2b6"


def test_upgrade_from_1_6_keeps_friendships_and_sorts_them_by_name(old_app):
    flask_migrate.upgrade(revision=RELEASE_1_6)
    for table in ("public_ids (key, user_id)", "profiles (public_id_key, user_id, public_id, bio)"):
        more = ", public_id, bio" if table.startswith("profiles") else ""
        values = "username, id" + (", username, ''" if more else "")
        db.session.execute(text(f"INSERT INTO {table} SELECT {values} FROM users"))
    since = "2026-11-25 12:00:00.000000"
    db.session.execute(
        text(f"INSERT INTO friends (user_id, friend_id, since) VALUES (1, 2, '{since}'), (2, 1, '{since}')")
    )
    db.session.commit()
    before = rows("SELECT user_id, friend_id, since FROM friends ORDER BY user_id")
    flask_migrate.upgrade(revision=RELEASE_1_7)
    assert rows("SELECT user_id, friend_id, since FROM friends ORDER BY user_id") == before
    copies = "SELECT f.search_text = u.search_text FROM friends f JOIN users u ON u.id = f.friend_id"
    assert {row[0] for row in rows(copies)} in ({"True"}, {"1"})
    flask_migrate.upgrade()
    bob = email_addresses.find_holder("bob@x")
    assert [person.username for person in relationships.list_friends(bob, Query(()), None).items] == ["alice"]
    db.session.commit()
    flask_migrate.downgrade(revision=RELEASE_1_6)
    assert rows("SELECT user_id, friend_id, since FROM friends ORDER BY user_id") == before


RELEASE_1_7 = "c7f1d2a6b930"
USERS_OF_1_7 = (
    "SELECT id, username, username_key, email, email_key, password_hash, reset_nonce, language, theme, created_at,"
    " search_text FROM users ORDER BY id"
)


def test_upgrade_from_1_7_keeps_accounts_and_their_addresses_count_as_confirmed(old_app):
    flask_migrate.upgrade(revision=RELEASE_1_7)
    for statement in (
        "INSERT INTO public_ids (key, user_id) SELECT username, id FROM users",
        "INSERT INTO profiles (public_id_key, user_id, public_id, bio) SELECT username, id, username, '' FROM users",
        f"INSERT INTO users (id, username, username_key, email, email_key, password_hash, theme, created_at)"
        f" VALUES (77, 'gone', 'gone', 'gone@x', 'gone@x', '!', 'auto', {TIMES})",
        "SELECT setval('users_id_seq', 77)" if db.engine.dialect.name == "postgresql" else "SELECT 1",
        "DELETE FROM users WHERE id = 77",
        f"INSERT INTO sessions (user_id, token_hash, user_agent, created_at, last_used_at)"
        f" VALUES (1, 'x', '', {TIMES}, {TIMES})",
        f"INSERT INTO friends (user_id, friend_id, since, search_text) VALUES"
        f" (1, 2, {TIMES}, (SELECT search_text FROM users WHERE id = 2)),"
        f" (2, 1, {TIMES}, (SELECT search_text FROM users WHERE id = 1))",
    ):
        db.session.execute(text(statement))
    db.session.commit()
    tables = ("sessions", "friends", "profiles", "public_ids", "email_queue", "request_cooldowns", "events")
    before = {table: rows(f"SELECT * FROM {table}") for table in tables} | {"users": rows(USERS_OF_1_7)}
    flask_migrate.upgrade()
    assert {table: rows(f"SELECT * FROM {table}") for table in tables} | {"users": rows(USERS_OF_1_7)} == before
    confirmed = rows("SELECT id FROM users WHERE email_confirmed_at = created_at AND pending_email IS NULL")
    assert len(confirmed) == 2

    # The new table of users behaves as the old one: it reuses no id, its search follows a change, its rows are guarded.
    with old_app.test_request_context():
        begin_write(db.session)
        newcomer = accounts.create("Zoë", "alice@x", "x")
        assert newcomer.id == 78
        profiles.edit(accounts.lock_account(newcomer), username="Yorick", public_id=newcomer.public_id, bio="")
        db.session.commit()
        bob = email_addresses.find_holder("bob@x")
        assert [person.username for person, _state in relationships.search_people(bob, Query.parse("yor"), None).items]
        assert email_addresses.find_holder("alice@x").username == "alice"
        db.session.commit()
    with pytest.raises(IntegrityError):
        rows("UPDATE users SET email_confirmed_at = created_at RETURNING id")
    db.session.rollback()

    # An address that two accounts gave belongs to one of them in the older version.
    flask_migrate.downgrade(revision=RELEASE_1_7)
    assert rows(USERS_OF_1_7)[:2] == before["users"]
    assert rows("SELECT email_key FROM users WHERE id = 78") == [("id-78@",)]
    flask_migrate.upgrade()
    assert rows("SELECT id FROM users WHERE email_confirmed_at IS NULL") == [("78",)]
    flask_migrate.downgrade(revision=RELEASE_1_7)
    assert {table: rows(f"SELECT * FROM {table}") for table in ("sessions", "friends")} == {
        table: before[table] for table in ("sessions", "friends")
    }


RELEASE_1_8 = "d3b8f0627ce4"
RELEASE_1_9 = "7f2c5b9ad013"


def test_upgrade_from_1_8_keeps_everybody_visible_and_findable(old_app):
    flask_migrate.upgrade(revision=RELEASE_1_8)
    before = rows("SELECT * FROM users ORDER BY id")
    flask_migrate.upgrade(revision=RELEASE_1_9)
    after = rows("SELECT * FROM users ORDER BY id")
    assert after == [(*row, "friends", "everybody") for row in before] and len(before) == 2
    for column, value in (("show_presence", "all"), ("findable", "nobody"), ("findable", "")):
        with pytest.raises(IntegrityError):
            rows(f"UPDATE users SET {column} = '{value}' RETURNING id")
        db.session.rollback()
    flask_migrate.downgrade(revision=RELEASE_1_8)
    assert rows("SELECT * FROM users ORDER BY id") == before


def test_upgrade_from_1_9_adds_conversations_and_keeps_everybody(old_app):
    flask_migrate.upgrade(revision=RELEASE_1_9)
    before = rows("SELECT * FROM users ORDER BY id")
    flask_migrate.upgrade()
    *_columns, show_typing, show_seen = zip(*rows("SELECT * FROM users ORDER BY id"), strict=True)
    assert [bool(int(value)) if value.isdigit() else value == "True" for value in (*show_typing, *show_seen)] == [
        *(True, True),
        *(False, False),
    ]
    with pytest.raises(IntegrityError):
        rows("INSERT INTO conversations (kind, title, search_text, version) VALUES ('direct', 'x', '', 0) RETURNING id")
    db.session.rollback()
    flask_migrate.downgrade(revision=RELEASE_1_9)
    assert rows("SELECT * FROM users ORDER BY id") == before
