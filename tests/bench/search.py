"""How long searches, lists and logging in take in the database: `bin/bench database`."""

import statistics
import time

from flask import current_app
from sqlalchemy import func, select

from noxchat import accounts, keyset, relationships, sessions
from noxchat.extensions import db
from noxchat.models import User, friends
from noxchat.search import Query
from noxchat.search.engines import database_engine
from tests.bench.databases import BenchDatabase, say

SEARCH_TERMS = {
    "one letter, common": "a",
    "one letter, in few names": "ø",
    "one digit": "7",
    "two letters, common": "ni",
    "two letters, rare": "qu",
    "two letters, nobody": "zx",
    "three letters, common": "ann",
    "three letters, in most IDs": "nox",
    "three letters, Cyrillic": "ова",
    "one character, inside": "明",
    "two characters, inside": "小明",
    "two characters, inside, rare": "龘龘",
    "two characters, inside, nobody": "明小",
    "one syllable, inside": "수",
    "Thai, inside": "ชา",
    "a name": "anna",
    "a name with ё for е": "алена",
    "a family name": "novak",
    "two words": "anna novak",
    "two words, short": "an no",
    "two words, inside": "ova ikto",
    "rare, inside": "ixwor",
    "rare, whole": "Zebulon Quixworthy",
    "a Public ID": "zebulon_q",
    "ends of IDs": "f42",
    "punctuation": "'n_",
    "twenty letters, nobody": "abcdefghijklmnopqrst",
    "nobody": "zzzzzz",
}
# Printed, but without a limit: it is common, but only in names that come late in the order, so that walking through the
# names in order finds nothing, and the trigram index finds a lot.
WORST_CASE = "user"
MAX_MILLISECONDS = {"postgresql": 20.0, "sqlite": 30.0}
REPEATS = 9


def search_page(term, after=None):
    return User.search(Query.parse(term), after, keyset.PAGE_SIZE + 1, relationships.IS_LISTED, viewer=1)


def median_milliseconds(function) -> float:
    """Return how many milliseconds a function takes, the median of REPEATS calls."""
    times = []
    for _repeat in range(REPEATS):
        began = time.perf_counter()
        function()
        db.session.commit()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def count_sequential_scans() -> int:
    """Return how often PostgreSQL has scanned the whole table of users so far."""
    db.session.commit()
    db.session.connection().exec_driver_sql("SELECT pg_stat_force_next_flush()")
    db.session.commit()
    return (
        db.session.connection()
        .exec_driver_sql("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'users'")
        .scalar()
    )


def position_of_page(term: str, number: int):
    """Return the position after which a page of a search begins, or the last page if there are not so many."""
    after = None
    for _page in range(number - 1):
        hits = search_page(term, after)
        if len(hits) <= keyset.PAGE_SIZE:
            break
        after = hits[keyset.PAGE_SIZE - 1]
    return after


def measure_lists() -> bool:
    """Measure pages 1 and 500 of endless lists. Returns whether they cost the same."""
    viewer, everybody, passed = db.session.get(User, 1), Query(()), True
    lists = {
        "friends": lambda after: relationships.list_friends(viewer, everybody, after),
        "incoming": lambda after: relationships.list_requests(viewer, "incoming", everybody, after),
    }
    for name, list_page in lists.items():
        after = None
        for _page in range(499):
            after = list_page(after).next_cursor
        assert after, "the list is too short"
        first, last = (
            median_milliseconds(lambda list_page=list_page: list_page(None)),
            median_milliseconds(lambda list_page=list_page, after=after: list_page(after)),
        )
        passed &= last <= 1.2 * first
        print(f"  {name}, page 1 compared with page 500: {first:30.2f} {last:8.2f}  ×{last / first:.2f}")
    return passed


def measure_friends() -> bool:
    """Measure the first page of friends of people with thirty and with thousands. Returns whether they cost the same."""
    took = {}
    for user_id in (3, 1):
        viewer = db.session.get(User, user_id)
        number = db.session.scalar(select(func.count()).select_from(friends).where(friends.c.user_id == user_id))
        took[number] = median_milliseconds(lambda viewer=viewer: relationships.list_friends(viewer, Query(()), None))
    (few, first), (many, last) = took.items()
    ratio = last / first
    print(f"  {f'page of {few} friends compared with {many:,}':40} {first:29.2f} {last:8.2f}  ×{ratio:.2f}")
    return ratio <= 1.5


def measure_login():
    """Measure the queries of logging in, without hashing the password, and of loading a session."""
    config = current_app.config
    for label, identifier in (("e-mail", "p777@nox.example"), ("Public ID", "zebulon_q")):
        took = median_milliseconds(lambda identifier=identifier: accounts.find_by_identifier(identifier))
        print(f"  {f'find account by {label}':28} {took:42.2f}")
    user = db.session.get(User, 1)
    token = sessions.create(user, "bench", config["REMEMBER_COOKIE_DURATION"]).session_token
    db.session.commit()
    took = median_milliseconds(lambda: sessions.load(token, config["REMEMBER_COOKIE_DURATION"]))
    print(f"  {'load session':28} {took:42.2f}")


def measure(kind: str, count: int) -> bool:
    """Measure one database. Returns whether everything was fast enough."""
    database = BenchDatabase(kind, count, hub=10_500, requests=10_500)
    passed, limit = True, MAX_MILLISECONDS[kind]
    try:
        app = database.app()
        with app.app_context():
            say(
                f"{kind}, {count:,} people, {database_engine().name}: milliseconds in the database, median of {REPEATS}"
            )
            scans_before = count_sequential_scans() if kind == "postgresql" else 0
            for label, term in SEARCH_TERMS.items():
                hits = len(search_page(term))
                took = median_milliseconds(lambda term=term: search_page(term))
                passed &= took <= limit
                print(f"  {label:28} {term!r:24} {hits:3} hits {took:8.2f}{'' if took <= limit else '   TOO SLOW'}")
            hits = len(search_page(WORST_CASE))
            took = median_milliseconds(lambda: search_page(WORST_CASE))
            print(f"  {'worst: late names only':28} {WORST_CASE!r:24} {hits:3} hits {took:8.2f}")
            for term, number in (("a", 500), ("nox", 500), ("novak", 500), ("anna", 500)):
                after = position_of_page(term, number)
                first, last = (
                    median_milliseconds(lambda term=term: search_page(term)),
                    median_milliseconds(lambda term=term, after=after: search_page(term, after)),
                )
                passed &= last <= limit
                print(
                    f"  page 1 compared with page {number:4} {term!r:24} {first:8.2f} {last:8.2f}  ×{last / first:.2f}"
                )
            passed &= measure_lists()
            passed &= measure_friends()
            measure_login()
            if kind == "postgresql":
                db.session.commit()
                scans = count_sequential_scans() - scans_before
                passed &= scans == 0
                print(f"  sequential scans of users: {scans}")
            db.session.remove()
            db.engine.dispose()
    finally:
        database.close()
    return passed


def main(postgres: int = 1_000_000, sqlite: int = 100_000) -> bool:
    """Measure both databases. Returns whether everything was fast enough."""
    return all([measure("postgresql", postgres), measure("sqlite", sqlite)])
