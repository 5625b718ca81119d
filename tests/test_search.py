"""Searching for people: every engine, on real databases, must return the same rows in the same order."""

import os
import random
import subprocess
import sys
import time
import unicodedata

import flask_migrate
import psycopg
import pytest
from flask import current_app
from sqlalchemy import insert, select

from config import ROOT
from noxchat import accounts, blocks, friendships, profiles, search
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.models import Profile, PublicId, User
from noxchat.relationships import IS_LISTED
from noxchat.search import EXACT, NAME_PREFIX, SUBSTRING, WORD_PREFIX, Query, fold, make_search_text, outbox
from tests.conftest import DATABASES, act, index_everything, index_prefix, make_person, settings

ENGINES = ["sqlite", "postgresql", "sqlite, Elasticsearch", "postgresql, Elasticsearch"]


@pytest.fixture(params=ENGINES)
def engine_app(request, make_app):
    """An application on each engine in turn."""
    database, _comma, elasticsearch = request.param.partition(", ")
    extra = {}
    if elasticsearch:
        server = request.getfixturevalue("elasticsearch")
        extra = {"ELASTICSEARCH_URL": server.url, "ELASTICSEARCH_PREFIX": index_prefix()}
        extra["ELASTICSEARCH_MILLISECONDS"] = 5000  # other tests use the same server
    app = make_app(database, **extra)
    with app.app_context():
        assert search.has_trigram_index("users")
    yield app
    if extra:
        assert app.extensions["indexer"].engine.is_ready, "the database searched instead"


def search_page(viewer, term, after, limit):
    """Return one page of hits."""
    indexer = current_app.extensions["indexer"]
    if indexer and (not indexer.engine.is_ready or outbox.lag("users") is not None):
        db.session.commit()
        index_everything(current_app)
    return User.search(Query.parse(term), after, limit, IS_LISTED, viewer=viewer.id)


def find_all(viewer, term, limit=21):
    """Return all hits, page by page: with limit=2, every hit is a cursor once."""
    all_hits, after = [], None
    while True:
        hits = search_page(viewer, term, after, limit)
        all_hits += hits[: limit - 1]
        if len(hits) < limit:
            return all_hits
        after = hits[limit - 2]


def found_names(viewer, term, limit=21):
    names = dict(map(tuple, db.session.execute(select(User.id, User.username))))
    return [names[hit.id] for hit in find_all(viewer, term, limit)]


PEOPLE = {
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
    "Zoë Müller": "zoe_m",
    "Łukasz": "lukasz",
    "Nikanor": "nobody-1",
    "Somebody": "nikanika",
}


@pytest.fixture
def viewer(engine_app):
    """The account that searches; PEOPLE are registered."""
    viewer = make_person(engine_app, "Viewer", public_id="viewer")
    for name, public_id in PEOPLE.items():
        make_person(engine_app, name, f"{public_id}@nox.example", public_id=public_id)
    with engine_app.test_request_context():
        yield viewer


RESULTS = {
    **dict.fromkeys(["nika", "NIKA", "@nika"], ["Nika", "Nikanor", "Somebody", "Anika_S"]),
    "ni": ["Nika", "Nikanor", "Nils", "Anna Niemi", "Somebody"],
    **dict.fromkeys(["алена", "АЛЁНА"], ["Алёна", "Алена Б"]),
    "федор": ["Фёдор"],
    **dict.fromkeys(["elodie oneil", "o’neil", "neil"], ["Élodie O'Neil"]),
    **dict.fromkeys(["dev timur", "r_d", "r-d"], ["timur_dev"]),
    **dict.fromkeys(["smith ann", "marie"], ["Ann-Marie Smith"]),
    **dict.fromkeys(["muller", "zoe m", "z"], ["Zoë Müller"]),
    "lukasz": ["Łukasz"],
    "nobody": ["Nikanor"],
    **dict.fromkeys(["anna  niemi", "niemi anna", "anna_n"], ["Anna Niemi"]),
    "viewer": ["Viewer"],
    **dict.fromkeys(["zz", "qqqqqq", " ", ""], []),
}


def test_search_results_and_their_order(viewer):
    for term, names in RESULTS.items():
        assert found_names(viewer, term) == names, term
        assert found_names(viewer, term, limit=2) == names, term


UNSPACED_PEOPLE = {
    "王小明": "wang",
    "小明 李": "lixm",
    "陈小明月": "chen",
    "田中さくら": "sakura",
    "ジョン・スミス": "smith-j",
    "𠮷野家": "yoshino",
    "김민수": "kim",
    "สมชาย ใจดี": "somchai",
    "ສົມພອນ": "somphone",
    "សុខាវិចិត្រ": "sokha",
    "ကျော်ထွန်း": "kyaw",
    "བཀྲ་ཤིས་སྒྲོལ་མ": "tashi",
    "Gal·la Puig": "galla",
    "ʻIolani": "iolani",
    "רמב״ם": "rambam",
    "محـــمد علی‌رضا": "ali",
    "كريم ٣٤": "karim",
}
UNSPACED_RESULTS = {
    # A name that begins with it, then one in which it is inside.
    "小明": ["小明 李", "王小明", "陈小明月"],
    "明": ["小明 李", "王小明", "陈小明月"],
    **dict.fromkeys(["小明月", "明月"], ["陈小明月"]),
    **dict.fromkeys(["くら", "さ", "中"], ["田中さくら"]),
    **dict.fromkeys(["スミ", "ミス", "ジョン・ス", "ジョンスミス", "ｽﾐ", "ス"], ["ジョン・スミス"]),
    **dict.fromkeys(["野", "家", "𠮷"], ["𠮷野家"]),
    **dict.fromkeys(["수", "민", "민수", "미"], ["김민수"]),
    **dict.fromkeys(["ชา", "จ", "าย"], ["สมชาย ใจดี"]),
    **dict.fromkeys(["ພອ", "ອນ"], ["ສົມພອນ"]),
    **dict.fromkeys(["ខា", "ច"], ["សុខាវិចិត្រ"]),
    **dict.fromkeys(["ထွ", "ထွန်း", "န်း"], ["ကျော်ထွန်း"]),
    **dict.fromkeys(["ཤི", "སྒྲ", "མ", "ཤིས", "བཀྲ་ཤིས"], ["བཀྲ་ཤིས་སྒྲོལ་མ"]),
    **dict.fromkeys(["galla", "gal·la", "gal‧la", "la"], ["Gal·la Puig"]),
    **dict.fromkeys(["'iolani", "ʻiolani", "ʼio", "’iolani", "‘iolani", "`iolani", "′iolani", "iolani"], ["ʻIolani"]),
    **dict.fromkeys(['רמב"ם', "רמבם", "רמב״ם"], ["רמב״ם"]),
    **dict.fromkeys(["محمد", "مح", "محمـد", "عليرضا", "على‌رضا", "علی"], ["محـــمد علی‌رضا"]),
    **dict.fromkeys(["کریم", "كرىم", "كر", "34", "۳۴", "٣٤"], ["كريم ٣٤"]),
    # Of scripts with spaces, short words still only match where a word begins.
    **dict.fromkeys(["ol", "حم", "ig", "یم", "ี"], []),
}


def test_short_pieces_of_unspaced_names_and_other_spellings_are_found(engine_app):
    viewer = make_person(engine_app, "Viewer", public_id="viewer")
    for name, public_id in UNSPACED_PEOPLE.items():
        make_person(engine_app, name, f"{public_id}@nox.example", public_id=public_id)
    with engine_app.test_request_context():
        for term, names in UNSPACED_RESULTS.items():
            for typed in {term, unicodedata.normalize("NFD", term)}:
                assert found_names(viewer, typed) == names, term
                assert found_names(viewer, typed, limit=2) == names, term


HOSTILE_TERMS = [
    *("%", "_", "%%%", "___", "*", "?", "~", '"', "'", "\\", "%a%", "a%", "[a-z]", ":", "AND", "OR", "NOT", "/.*/"),
    *("username:*", "nika*", '"nika"', "nika AND nils", "NEAR(a b)", "a\tb", "--", "'; DROP TABLE users; --", "^nika"),
    *("\u202e", "\ud7ff", "\U0010ffff", "{{7*7}}", "x" * 10_000, "a " * 5_000, "😀", "é" * 3000, "\u0301"),
]


def test_special_characters_are_matched_literally(viewer):
    texts = {name: make_search_text(name, public_id) for name, public_id in PEOPLE.items()}
    find_all(viewer, "nika")  # has Elasticsearch index PEOPLE before the measurement
    for term in HOSTILE_TERMS:
        query, began = Query.parse(term), time.perf_counter()
        names = found_names(viewer, term)
        assert time.perf_counter() - began < 2, term[:20]
        # No name contains anything that has no letter or digit, but for punctuation within words.
        matches = {name for name, text in texts.items() if query and all(part in text for part in query.substrings)}
        assert set(names) == (matches if query.can_match and query.max_rank > NAME_PREFIX else set()), term[:20]
        assert set(names) <= {name for name, text in texts.items() if all(word in text for word in fold(term).split())}


def test_blocker_and_blocked_do_not_find_each_other(viewer):
    nika = profiles.find_by_public_id("nika")
    for blocker, blocked in ((nika, viewer), (viewer, nika)):
        begin_write(db.session)
        act(friendships.block, blocker, blocked)
        db.session.commit()
        assert found_names(viewer, "nika") == ["Nikanor", "Somebody", "Anika_S"]
        assert "Viewer" not in found_names(nika, "viewer")
        begin_write(db.session)
        act(friendships.unblock, blocker, blocked)
        db.session.commit()
    assert found_names(viewer, "nika")[0] == "Nika" and found_names(nika, "viewer") == ["Viewer"]


def test_condition_of_caller_decides_who_may_be_found(viewer):
    """As a search among one's friends, or in messages, would use it."""
    only_blocked = User.id.in_(select(blocks.blocks.c.blocked_id))
    begin_write(db.session)
    for public_id in ("nikanika", "monique"):
        act(friendships.block, viewer, profiles.find_by_public_id(public_id))
    db.session.commit()
    find_all(viewer, "nika")
    hits = User.search(Query.parse("ni"), None, 21, only_blocked) + User.search(
        Query.parse("que"), None, 21, only_blocked
    )
    assert [db.session.get(User, hit.id).username for hit in hits] == ["Somebody", "Monique"]


def test_search_follows_renaming_and_deletion(viewer):
    nika = profiles.find_by_public_id("nika")
    begin_write(db.session)
    profiles.edit(accounts.lock_account(nika), username="Veronika", public_id="vera", bio="")
    db.session.commit()
    assert found_names(viewer, "nika")[0] == "Nikanor" and "Veronika" in found_names(viewer, "nika")
    assert found_names(viewer, "vera") == ["Veronika"]
    begin_write(db.session)
    accounts.delete_account(nika)
    db.session.commit()
    assert found_names(viewer, "vera") == [] and "Veronika" not in found_names(viewer, "nika")


def test_cursor_at_deleted_account_continues_from_its_position(viewer):
    hits = search_page(viewer, "n", None, 3)
    begin_write(db.session)
    accounts.delete_account(db.session.get(User, hits[1].id))
    db.session.commit()
    assert search_page(viewer, "n", hits[1], 3)[0].id == hits[2].id


def expected(texts, term):
    """Return the hits of a search in order: a reference implementation."""
    query = Query.parse(term)
    if not query.can_match:
        return []
    hits = []
    for row_id, search_text in texts.items():
        if query.words[0] not in search_text:  # no hit of any rank; most texts are passed over here
            continue
        words_match = all(word_prefix in search_text for word_prefix in query.word_prefixes)
        if search_text.startswith(query.prefix + "\t") or (
            len(query.words) == 1 and search_text.split("\t")[1] == "  " + query.words[0]
        ):
            hits.append((EXACT, search_text, row_id))
        elif search_text.startswith(query.prefix):
            hits.append((NAME_PREFIX, search_text, row_id))
        elif words_match and query.max_rank > NAME_PREFIX:
            hits.append((WORD_PREFIX, search_text, row_id))
        elif all(part in search_text for part in query.substrings) and query.max_rank > NAME_PREFIX:
            hits.append((SUBSTRING, search_text, row_id))
    return sorted(hits)


def add_people(names, public_id=None):
    """Insert people with these names, and Public IDs of their number if wanted; return all search texts by id."""
    begin_write(db.session)
    rows = [
        {"username": name, "username_key": f"{n}", "email": f"{n}@x", "email_key": f"{n}@x", "password_hash": "!",
         "search_text": make_search_text(name, f"{public_id}{n:x}" if public_id else "")}
        for n, name in enumerate(names)
    ]  # fmt: skip
    db.session.execute(insert(User), rows)
    if public_id:
        ids = dict(map(tuple, db.session.execute(select(User.username_key, User.id))))
        keys = [{"key": f"{public_id}{n:x}", "user_id": ids[str(n)]} for n in range(len(names))]
        db.session.execute(insert(PublicId), keys)
        profiles = [{"user_id": k["user_id"], "public_id": k["key"], "public_id_key": k["key"]} for k in keys]
        db.session.execute(insert(Profile), profiles)
    db.session.commit()
    return dict(map(tuple, db.session.execute(select(User.id, User.search_text))))


def assert_matches_reference(viewer, texts, term, limit):
    hits = [(hit.rank, hit.text, hit.id) for hit in find_all(viewer, term, limit)]
    assert hits == expected(texts, term), term


@pytest.mark.parametrize("engine_app", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("window", [3, 50])
def test_engines_match_reference_for_any_window(engine_app, window, monkeypatch):
    """Small windows reach every branch of the statement."""
    monkeypatch.setattr(search.Engine, "WINDOW", window)
    rng, letters = random.Random(window), "aabbcdëöаабв小明王ミス"

    def words(lengths, counts):
        return ["".join(rng.choices(letters, k=rng.choice(lengths))) for _word in range(rng.choice(counts))]

    viewer = make_person(engine_app, "Viewer")
    with engine_app.test_request_context():
        names = [rng.choice([" ", "_", "-", "'"]).join(words(range(1, 6), range(1, 4)))[:28] for _name in range(150)]
        texts = add_people([f"{name}{number:x}"[:32] for number, name in enumerate(names)])
        for _query in range(60):
            term = " ".join(words([1, 1, 2, 2, 3, 4], [1, 1, 1, 2, 3]))
            assert_matches_reference(viewer, texts, term, rng.choice([2, 6, 21]))


SPECIAL_TERMS = [
    *("%", "_", "*", "?", "~", '"', ":", "AND", "OR NOT", "/.*/", "a*", "_a", "a_", "-", ".", "'", "o'", "'b", "a'b"),
    *("\\", "ё", "Ё", "е", "ß", "ss", "İ", "ı", "ﬁ", "fi", "æ", "Å", "ø", "ж", "жё", "@", "@a", "😀", "a😀", "\u0301"),
    *(
        "a\u0301",
        "小",
        "明小",
        "ス",
        "・",
        "・ス",
        "་",
        "·",
        "ʻ",
        "״",
        "ـ",
        "ي",
        "ی",
        "٣",
        "수",
        "ྲ",
        "น้",
        "\u200c",
        "𠮷",
    ),
]
UNSPACED_ALPHABETS = ("王小明李a", "ハナコスー・さく", "กขเาันำ", "ကျော်ွြ", "ཀབྲ་ཤིས", "김민수지", "ខាស្ត", "𠮷野")
ALPHABETS = (
    *UNSPACED_ALPHABETS,
    "كریيکمـ٣ʻ",
    *("abcde'-_.oé", "абвеё", "aæøßı", "xyz019"),
)


def generated_names(rng, count):
    """Yield names of one to four words in several alphabets, with all characters that names may contain."""
    for number in range(count):
        letters = rng.choice(ALPHABETS)
        words = ["".join(rng.choices(letters, k=rng.randint(1, 7))) for _word in range(rng.randint(1, 4))]
        name = rng.choice([" ", " ", "_", "-", "."]).join(words)[:25]
        yield f"{name.title() if number % 3 else name} x".strip()


def generated_terms(rng, names, count):
    """Yield terms as people type them: parts of names in any case and order, prefixes, single letters, SPECIAL_TERMS."""
    for number in range(count):
        name = rng.choice(names)
        start = rng.randint(0, max(0, len(name) - 1))
        part = name[start : start + rng.randint(1, 8)]
        words = name.split()
        rng.shuffle(words)
        beginnings = " ".join(word[: rng.randint(1, 4)] for word in words)
        terms = [part, part.upper(), name, name[: rng.randint(1, 6)], beginnings, f"{part} {rng.choice(names)[:2]}"]
        yield rng.choice([*terms, SPECIAL_TERMS[number % len(SPECIAL_TERMS)]])


@pytest.mark.timeout(900)
def test_engines_match_reference_for_2000_names_and_terms(engine_app):
    rng = random.Random(2026)
    names = list(generated_names(rng, 2000))
    viewer = make_person(engine_app, "Viewer", public_id="viewer")
    with engine_app.test_request_context():
        texts = add_people(names, "id-")
        # With Elasticsearch, the full number is searched on PostgreSQL only.
        count = 500 if engine_app.extensions["indexer"] and db.engine.dialect.name == "sqlite" else 2000
        for term in generated_terms(rng, names, count):
            assert_matches_reference(viewer, texts, term, rng.choice([101, 801]))


SECOND_MODEL = """
import sys
import flask_migrate
from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column
from config import Config
from noxchat import create_app, search
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.search import Query

class Note(search.SearchableMixin, db.Model):
    __tablename__ = "notes"
    __searchable__ = ("title",)
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    owner: Mapped[int]

app = create_app(Config(debug=False))
with app.app_context():
    begin_write(db.session)
    Note.__table__.create(db.session.connection())
    search.create_trigram_index(db.session.connection(), "notes")
    db.session.add_all([Note(id=n, title=f"Letter {n} about comets", owner=n % 2) for n in range(1, 9)])
    db.session.commit()
    mine = text("id IN (SELECT id FROM notes WHERE owner = :owner)")
    for term in ("comet", "omets", "letter 3"):
        hits = Note.search(Query.parse(term), None, 10, mine, owner=1)
        print(*(hit.id for hit in hits))
"""


@pytest.mark.parametrize("database", DATABASES)
def test_a_second_model_is_searched_with_a_condition_of_its_own(database, new_database, tmp_path):
    """In a process of its own: a model belongs to all tests of a process."""
    environment = {**os.environ, **settings(tmp_path, new_database(database))}
    done = subprocess.run(
        [sys.executable, "-c", SECOND_MODEL], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "1 3 5 7\n1 3 5 7\n3\n", done.stderr


def test_model_updates_search_text(any_app):
    alice = make_person(any_app, "Алёна О’Нил", "a@nox.example", public_id="Alyona-1")
    with any_app.app_context():
        text = db.session.scalar(select(User.search_text).where(User.id == alice.id))
        assert text == make_search_text("Алёна О’Нил", "Alyona-1")


def test_search_text_has_every_beginning_of_a_word():
    assert make_search_text("Anna O'Neil", "anna_o") == "  anna  o'neil\t  anna_o\t  neil  oneil  o"
    assert make_search_text("王小明", "nox-5") == "  王小明\t  nox-5\t  小明  明  5"
    assert make_search_text("ハナ・スミス", "j") == "  ハナ·スミス\t  j\t  スミス  ハナスミス  ナ·  ミス"
    assert make_search_text("小小小小", "x") == "  小小小小\t  x\t"
    assert make_search_text("마마", "x") == make_search_text(unicodedata.normalize("NFD", "마마"), "x")
    # 32 characters are the longest name: the index of PostgreSQL has room for 2,700 bytes.
    for char in ("𠮷", "각", "ꦱ", "ཀྵ"):
        name = "".join(chr(ord(char) + number) for number in range(32)) if len(char) == 1 else (char * 32)[:32]
        assert len(make_search_text(name, "x" * 32).encode()) < 1000


def test_letters_that_python_does_not_know_are_folded():
    assert fold("\U00016ea0\ua7cb\u1c89") == "\U00016ebb\u0264\u1c8a"
    assert Query.parse("\U00010d50").can_match and Query.parse("\U00010d50").max_rank == WORD_PREFIX
    assert not Query.parse("\u0378").can_match


def test_highlight_marks_matching_words():
    assert Query.parse("小").highlight("王小明") == [("王", False), ("小", True), ("明", False)]
    assert Query.parse("수").highlight("김민수") == [("김민", False), ("수", True)]
    assert Query.parse("ཤི").highlight("བཀྲ་ཤིས") == [("བཀྲ་", False), ("ཤི", True), ("ས", False)]
    assert Query.parse("'io").highlight("ʻIolani") == [("ʻIo", True), ("lani", False)]
    assert Query.parse("حم").highlight("محمد") == [("محمد", False)]
    assert Query.parse("алена").highlight("Алёна Б") == [("Алёна", True), (" Б", False)]
    assert Query.parse("ni").highlight("Anika Nils") == [("Anika ", False), ("Ni", True), ("ls", False)]
    assert Query.parse("ss").highlight("Straße") == [("Straße", False)]
    assert Query.parse("trass").highlight("Straße") == [("S", False), ("traß", True), ("e", False)]
    assert Query.parse("x").highlight("") == []


def test_search_works_without_permission_to_create_pg_trgm(make_app, postgres, caplog):
    """With a role that may not create extensions, the migration logs what to do, and searches work without an index."""
    postgres.execute("DROP DATABASE IF EXISTS nox_bare")
    postgres.execute("DROP ROLE IF EXISTS bare")
    postgres.execute("CREATE ROLE bare LOGIN")
    postgres.execute("CREATE DATABASE nox_bare")
    with psycopg.connect(postgres.uri("nox_bare"), autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA public TO bare")
    app = make_app(uri=postgres.uri("nox_bare").replace("postgres@", "bare@"))
    with app.app_context():
        flask_migrate.upgrade()
        assert "CREATE EXTENSION pg_trgm" in caplog.text and "search reindex" in caplog.text
        assert not search.has_trigram_index("users")
    viewer, rng = make_person(app, "Viewer"), random.Random(7)
    with app.test_request_context():
        names = list(generated_names(rng, 300))
        texts = add_people(names, "id-")
        for term in generated_terms(rng, names, 200):
            assert_matches_reference(viewer, texts, term, 21)
    assert "WRONG" in app.test_cli_runner().invoke(args=["doctor"]).output
    # Once the owner has created the extension, reindex creates the index.
    with psycopg.connect(postgres.uri("nox_bare"), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_trgm")
    result = app.test_cli_runner().invoke(args=["search", "reindex"])
    assert result.exit_code == 0, result.output
    with app.test_request_context():
        assert search.has_trigram_index("users")
        assert_matches_reference(viewer, texts, "ab", 21)
        db.session.remove()
        db.engine.dispose()
    postgres.execute("DROP DATABASE nox_bare WITH (FORCE)")
    postgres.execute("DROP ROLE bare")
