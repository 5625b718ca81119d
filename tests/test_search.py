"""Finding people: one contract for every engine, on real databases, page by page to the end."""

import random
import time

import psycopg
import pytest
from flask import current_app
from sqlalchemy import insert, inspect, select, text

from noxchat import accounts, blocks, friendships, profiles, search
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.models import Profile, PublicId, User
from noxchat.search import EXACT, NAME_PREFIX, SUBSTRING, WORD_PREFIX, Query, fold, make_search_text, outbox
from noxchat.search.engines import database_engine
from tests.conftest import make_person, prefix, settle

ENGINES = [
    *("sqlite with FTS5", "sqlite without", "sqlite with Elasticsearch"),
    *("postgresql with pg_trgm", "postgresql without", "postgresql with Elasticsearch"),
]


def without_index(app):
    """Take the engine's own index away."""
    with app.app_context():
        index = search.trigram_index_name("users")
        begin_write(db.session)
        if db.engine.dialect.name == "postgresql":
            db.session.execute(text(f"DROP INDEX {index}"))
        else:
            for when in ("insert", "update", "delete"):
                db.session.execute(text(f"DROP TRIGGER {index}_{when}"))
            db.session.execute(text(f"DROP TABLE {index}"))
        db.session.commit()
        search.select_engine(app)


@pytest.fixture(params=ENGINES)
def engine_app(request, make_app):
    """An application on each engine in turn."""
    kind, _with, rest = request.param.partition(" with")
    more = {}
    if "Elasticsearch" in rest:
        server = request.getfixturevalue("elasticsearch")
        more = {"ELASTICSEARCH_URL": server.url, "ELASTICSEARCH_PREFIX": prefix()}
    app = make_app(kind, **more)
    if rest == "out":
        without_index(app)
    with app.app_context():
        assert (database_engine() is search.ENGINES[kind][0]) is (rest != "out")
    yield app
    if more:
        assert app.extensions["elasticsearch"].is_ready, "the database answered"


def settle_once(app):
    """Have Elasticsearch know everything, if there is something that it does not."""
    if not app.extensions["elasticsearch"].is_ready or outbox.lag("users") is not None:
        db.session.commit()
        settle(app)


def hits_alone(hits):
    return select(hits).order_by(hits.c.rank, hits.c.search_text)


def search_(viewer, typed, after, limit):
    """One page of hits."""
    if current_app.extensions["indexer"]:
        settle_once(current_app)
    query, about = Query.parse(typed), {"excluded": blocks.HIDDEN_FROM_SEARCH, "viewer": viewer.id}
    return [search.Hit(*row) for row in User.search(query, after, limit, hits_alone, **about)]


def find(viewer, typed, limit=21):
    """All hits of a search, page by page, so that every place is a cursor once."""
    found, after = [], None
    while True:
        hits = search_(viewer, typed, after, limit)
        found += hits[: limit - 1]
        if len(hits) < limit:
            return found
        after = hits[limit - 2]


def found(viewer, typed, limit=21):
    names = dict(map(tuple, db.session.execute(select(User.id, User.username))))
    return [names[hit.id] for hit in find(viewer, typed, limit)]


CROWD = {
    "Nika": "nika",
    "Nils": "nils",
    "Anika_S": "anika_s",
    "Monique": "monique",
    "Anna Niemi": "anna_n",
    "Алёна": "alyona",
    "Алена Б": "alena_b",
    "Фёдор": "fyodor",
    "Élodie O'Neil": "elodie",
    "timur_dev": "timur-dev",
    "Ann-Marie Smith": "am_smith",
    "Zoë Müller": "zoe.m".replace(".", "_"),
    "Łukasz": "lukasz",
    "Nikanor": "nobody-1",
    "Somebody": "nikanika",
}


@pytest.fixture
def crowd(engine_app):
    viewer = make_person(engine_app, "Viewer", public_id="viewer")
    for name, public_id in CROWD.items():
        make_person(engine_app, name, f"{public_id}@nox.example", public_id=public_id)
    with engine_app.test_request_context():
        yield viewer


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("nika", ["Nika", "Nikanor", "Somebody", "Anika_S"]),
        ("NIKA", ["Nika", "Nikanor", "Somebody", "Anika_S"]),
        ("@nika", ["Nika", "Nikanor", "Somebody", "Anika_S"]),
        ("ni", ["Nika", "Nikanor", "Nils", "Anna Niemi", "Somebody"]),
        ("алена", ["Алёна", "Алена Б"]),
        ("АЛЁНА", ["Алёна", "Алена Б"]),
        ("федор", ["Фёдор"]),
        ("elodie oneil", ["Élodie O'Neil"]),
        ("o’neil", ["Élodie O'Neil"]),
        ("neil", ["Élodie O'Neil"]),
        ("dev timur", ["timur_dev"]),
        ("r_d", ["timur_dev"]),
        ("r-d", ["timur_dev"]),
        ("smith ann", ["Ann-Marie Smith"]),
        ("marie", ["Ann-Marie Smith"]),
        ("muller", ["Zoë Müller"]),
        ("zoe m", ["Zoë Müller"]),
        ("lukasz", ["Łukasz"]),
        ("z", ["Zoë Müller"]),
        ("zz", []),
        ("nobody", ["Nikanor"]),
        ("viewer", []),
        ("anna  niemi", ["Anna Niemi"]),
        ("niemi anna", ["Anna Niemi"]),
        ("anna_n", ["Anna Niemi"]),
        ("qqqqqq", []),
    ],
)
def test_who_is_found_and_in_which_order(crowd, typed, names):
    assert found(crowd, typed) == names
    assert found(crowd, typed, limit=2) == names


@pytest.mark.parametrize(
    "typed",
    [
        *("%", "_", "%%%", "___", "*", "?", "~", '"', "'", "\\", "%a%", "a%", "[a-z]", ":", "AND", "OR", "NOT", "/.*/"),
        *(
            "username:*",
            "nika*",
            '"nika"',
            "nika AND nils",
            "NEAR(a b)",
            "a\tb",
            "--",
            "'; DROP TABLE users; --",
            "^nika",
        ),
        *("\u202e", "\ud7ff", "\U0010ffff", "{{7*7}}", "x" * 10_000, "a " * 5_000, "😀", "é" * 3000, "\u0301"),
    ],
)
def test_signs_are_letters(crowd, typed):
    words = set(fold(typed).split())
    texts = {name: make_search_text(name, public_id) for name, public_id in CROWD.items()}
    find(crowd, "nika")  # Elasticsearch indexes the people now, and not in the time that is measured
    began = time.perf_counter()
    names = found(crowd, typed)
    took = time.perf_counter() - began
    assert set(names) <= {name for name, text in texts.items() if all(word in text for word in words)}
    assert took < 2


def test_nothing_typed_finds_nobody(crowd):
    assert not Query.parse("  \t ") and find(crowd, " ") == []


def test_blocked_people_are_not_found_by_either(crowd):
    nika = profiles.find_by_public_id("nika")
    for blocker, blocked in ((nika, crowd), (crowd, nika)):
        begin_write(db.session)
        friendships.block(blocker, blocked)
        db.session.commit()
        assert found(crowd, "nika") == ["Nikanor", "Somebody", "Anika_S"]
        assert "Viewer" not in found(nika, "viewer")
        begin_write(db.session)
        friendships.unblock(blocker, blocked)
        db.session.commit()
    assert found(crowd, "nika")[0] == "Nika" and found(nika, "viewer") == ["Viewer"]


def test_what_is_found_follows_every_change(crowd):
    nika = profiles.find_by_public_id("nika")
    begin_write(db.session)
    profiles.edit(accounts.lock_account(nika), username="Veronika", public_id="vera", bio="")
    db.session.commit()
    assert found(crowd, "nika")[0] == "Nikanor" and "Veronika" in found(crowd, "nika")
    assert found(crowd, "vera") == ["Veronika"]
    begin_write(db.session)
    accounts.delete_account(nika)
    db.session.commit()
    assert found(crowd, "vera") == [] and "Veronika" not in found(crowd, "nika")


def expected(texts, typed):
    """What a search finds, by its rules and nothing else."""
    query = Query.parse(typed)
    if not query.can_match:
        return []
    hits = []
    for number, name in texts.items():
        begins = all(start in name for start in query.word_prefixes)
        if name.startswith(query.prefix + "\t") or (
            len(query.words) == 1 and name.split("\t")[1] == "  " + query.words[0]
        ):
            hits.append((EXACT, name, number))
        elif name.startswith(query.prefix):
            hits.append((NAME_PREFIX, name, number))
        elif begins and query.max_rank > NAME_PREFIX:
            hits.append((WORD_PREFIX, name, number))
        elif all(part in name for part in query.substrings) and query.max_rank > NAME_PREFIX:
            hits.append((SUBSTRING, name, number))
    return sorted(hits)


@pytest.mark.parametrize("window", [3, 50, 10_000])
def test_every_engine_finds_the_same_as_the_rules_say_whatever_the_window(engine_app, window, monkeypatch):
    """Generated names and queries, compared to the end; small windows lead through every branch of the statement."""
    monkeypatch.setattr(search.Engine, "WINDOW", window)
    chance = random.Random(window)
    letters = "aabbcdëöаабв"
    viewer = make_person(engine_app, "Viewer")
    with engine_app.test_request_context():
        begin_write(db.session)
        for number in range(150):
            words = ["".join(chance.choices(letters, k=chance.randint(1, 5))) for _word in range(chance.randint(1, 3))]
            name = chance.choice([" ", "_", "-", "'"]).join(words)[:28]
            db.session.add(
                User(
                    username=f"{name}{number:x}"[:32],
                    username_key=str(number),
                    email=f"{number}@x",
                    email_key=f"{number}@x",
                    password_hash="!",
                )
            )
        db.session.commit()
        texts = dict(map(tuple, db.session.execute(select(User.id, User.search_text).where(User.id != viewer.id))))
        for _query in range(60):
            words = [
                "".join(chance.choices(letters, k=chance.choice([1, 1, 2, 2, 3, 4])))
                for _word in range(chance.choice([1, 1, 1, 2, 3]))
            ]
            typed = " ".join(words)
            hits = [(hit.rank, hit.text, hit.id) for hit in find(viewer, typed, limit=chance.choice([2, 6, 21]))]
            assert hits == expected(texts, typed), typed


NAUGHTY = (
    *(
        "%",
        "_",
        "*",
        "?",
        "~",
        '"',
        ":",
        "AND",
        "OR NOT",
        "/.*/",
        "a*",
        "_a",
        "a_",
        "-",
        ".",
        "'",
        "o'",
        "'b",
        "a'b",
        "\\",
    ),
    *(
        "ё",
        "Ё",
        "е",
        "ß",
        "ss",
        "İ",
        "ı",
        "ﬁ",
        "fi",
        "æ",
        "Å",
        "ø",
        "ж",
        "жё",
        "@",
        "@a",
        "😀",
        "a😀",
        "\u0301",
        "a\u0301",
    ),
)
ALPHABETS = ("abcde'-_.oé", "абвеё", "aæøßı", "xyz019")


def generated_names(chance, count):
    """Names of one to four words in several alphabets, with all the signs that names may hold."""
    for number in range(count):
        letters = chance.choice(ALPHABETS)
        words = ["".join(chance.choices(letters, k=chance.randint(1, 7))) for _word in range(chance.randint(1, 4))]
        name = chance.choice([" ", " ", "_", "-", "."]).join(words)[:25]
        yield f"{name.title() if number % 3 else name} x".strip()


def generated_queries(chance, names, count):
    """What people type: pieces of names, in any case and order, beginnings, single letters, and naughty things."""
    for number in range(count):
        name = chance.choice(names)
        place = chance.randint(0, max(0, len(name) - 1))
        piece = name[place : place + chance.randint(1, 8)]
        words = name.split()
        chance.shuffle(words)
        yield chance.choice(
            [
                piece,
                piece.upper(),
                name,
                name[: chance.randint(1, 6)],
                " ".join(word[: chance.randint(1, 4)] for word in words),
                f"{piece} {chance.choice(names)[:2]}",
                NAUGHTY[number % len(NAUGHTY)],
            ]
        )


def test_two_thousand_names_and_queries_are_answered_alike_by_every_engine_to_the_last_page(engine_app):
    """All engines are compared with one reference, and so with each other."""
    chance = random.Random(2026)
    names = list(generated_names(chance, 2000))
    viewer = make_person(engine_app, "Viewer", public_id="viewer")
    with engine_app.test_request_context():
        begin_write(db.session)
        rows = [
            {"username": name, "username_key": f"{n}", "email": f"{n}@x", "email_key": f"{n}@x", "password_hash": "!",
             "search_text": make_search_text(name, f"id-{n:x}")}
            for n, name in enumerate(names)
        ]  # fmt: skip
        db.session.execute(insert(User), rows)
        ids = dict(map(tuple, db.session.execute(select(User.username_key, User.id))))
        keys = [{"key": f"id-{n:x}", "user_id": ids[str(n)]} for n in range(2000)]
        db.session.execute(insert(PublicId), keys)
        db.session.execute(insert(Profile), [
            {"user_id": key["user_id"], "public_id": key["key"], "public_id_key": key["key"]} for key in keys
        ])  # fmt: skip
        db.session.commit()
        texts = dict(map(tuple, db.session.execute(select(User.id, User.search_text).where(User.id != viewer.id))))
        # Elasticsearch is asked all of them beside one of the databases.
        count = 500 if engine_app.extensions["indexer"] and db.engine.dialect.name == "sqlite" else 2000
        for typed in generated_queries(chance, names, count):
            limit = chance.choice([51, 401])
            hits = [(hit.rank, hit.text, hit.id) for hit in find(viewer, typed, limit)]
            assert hits == expected(texts, typed), typed


def test_texts_are_kept_by_the_model(any_app):
    alice = make_person(any_app, "Алёна О’Нил", "a@nox.example", public_id="Alyona-1")
    with any_app.app_context():
        assert db.session.scalar(select(User.search_text).where(User.id == alice.id)) == make_search_text(
            "Алёна О’Нил", "Alyona-1"
        )


def test_a_cursor_of_somebody_who_left_goes_on_where_they_were(crowd):
    hits = search_(crowd, "n", None, 3)
    begin_write(db.session)
    accounts.delete_account(db.session.get(User, hits[1].id))
    db.session.commit()
    rest = search_(crowd, "n", hits[1], 3)
    assert rest[0].id == hits[2].id


def test_marks_are_where_the_words_are():
    assert Query.parse("алена").highlight("Алёна Б") == [("Алёна", True), (" Б", False)]
    assert Query.parse("ni").highlight("Anika Nils") == [("Anika ", False), ("Ni", True), ("ls", False)]
    assert Query.parse("ss").highlight("Straße") == [("Straße", False)]
    assert Query.parse("trass").highlight("Straße") == [("S", False), ("traß", True), ("e", False)]
    assert Query.parse("x").highlight("") == []


def test_without_the_right_to_make_the_extension_there_is_a_clear_message_and_a_search(
    make_app, postgres, tmp_path, caplog
):
    """A database role that may not create extensions: the migration says so, and people are found all the same."""
    import flask_migrate

    postgres.execute("DROP DATABASE IF EXISTS nox_bare")
    postgres.execute("DROP ROLE IF EXISTS bare")
    postgres.execute("CREATE ROLE bare LOGIN")
    postgres.execute("CREATE DATABASE nox_bare")
    with psycopg.connect(postgres.uri("nox_bare"), autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA public TO bare")
    uri = postgres.uri("nox_bare").replace("postgres@", "bare@")
    app = make_app(uri=uri)
    with app.app_context():
        flask_migrate.upgrade()
        assert "CREATE EXTENSION pg_trgm" in caplog.text and "search reindex" in caplog.text
        search.select_engine(app)
        assert database_engine() is search.ENGINES["postgresql"][1]
    viewer = make_person(app, "Viewer")
    make_person(app, "Nika", public_id="nika")
    with app.test_request_context():
        assert found(viewer, "ika") == ["Nika"]
    assert "WRONG" in app.test_cli_runner().invoke(args=["doctor"]).output
    # The owner makes the extension; then the index is a command away.
    with psycopg.connect(postgres.uri("nox_bare"), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_trgm")
    done = app.test_cli_runner().invoke(args=["search", "reindex"])
    assert done.exit_code == 0, done.output
    with app.test_request_context():
        assert inspect(db.engine).has_index("users", search.trigram_index_name("users"))
        assert database_engine() is search.ENGINES["postgresql"][0]
        assert found(viewer, "ika") == ["Nika"]
        db.session.remove()
        db.engine.dispose()
    postgres.execute("DROP DATABASE nox_bare WITH (FORCE)")
    postgres.execute("DROP ROLE bare")
