"""How long searches take in the database, and what they read: `bin/bench search`."""

import statistics
import time

from flask import current_app
from sqlalchemy import select

from noxchat import accounts, blocks, keyset, relationships, sessions
from noxchat.extensions import db
from noxchat.models import User
from noxchat.search import Hit, Query
from noxchat.search.engines import database_engine
from tests.bench.databases import BenchDatabase, say

QUERIES = {
    "one letter, common": "a",
    "one letter, in few names": "ø",
    "one digit": "7",
    "two letters, common": "ni",
    "two letters, rare": "qu",
    "two letters, nobody": "zx",
    "three letters, common": "ann",
    "three letters, in most IDs": "nox",
    "three letters, Cyrillic": "ова",
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
    "signs": "'n_",
    "twenty letters, nobody": "abcdefghijklmnopqrst",
    "nobody": "zzzzzz",
}
# Common, but only in names that come late in the order: there the walk finds nothing, and the index much. Told, not judged.
WORST = "user"
MOST = {"postgresql": 20.0, "sqlite": 30.0}  # milliseconds
TIMES = 9


def page(typed, after=None):
    about = {"excluded": blocks.HIDDEN_FROM_SEARCH, "viewer": 1}
    return [Hit(*row) for row in User.search(Query.parse(typed), after, keyset.PAGE_SIZE + 1, hits_alone, **about)]


def hits_alone(hits):
    return select(hits).order_by(hits.c.rank, hits.c.search_text)


def timed(what) -> float:
    """Return the milliseconds that something takes, the median of several times."""
    took = []
    for _time in range(TIMES):
        began = time.perf_counter()
        what()
        db.session.commit()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def sequential_scans() -> int:
    """Return how often PostgreSQL has read the whole table of people so far."""
    db.session.commit()
    db.session.connection().exec_driver_sql("SELECT pg_stat_force_next_flush()")
    db.session.commit()
    return (
        db.session.connection()
        .exec_driver_sql("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'users'")
        .scalar()
    )


def pages(typed: str, number: int):
    """Return the place after so many pages of a search, and the place after the first."""
    after = first = None
    for _page in range(number - 1):
        hits = page(typed, after)
        if len(hits) <= keyset.PAGE_SIZE:
            break
        after = hits[keyset.PAGE_SIZE - 1]
        first = first or after
    return after


def lists() -> bool:
    """Measure the first and the five hundredth page of endless lists. Returns whether they cost the same."""
    me, nobody, good = db.session.get(User, 1), Query(()), True
    kinds = {
        "friends": lambda after: relationships.list_friends(me, nobody, after),
        "incoming": lambda after: relationships.list_requests(me, "incoming", nobody, after),
    }
    for name, page_of in kinds.items():
        after = None
        for _page in range(499):
            after = page_of(after).next_cursor
        assert after, "the list is too short"
        first, far = (
            timed(lambda page_of=page_of: page_of(None)),
            timed(lambda page_of=page_of, after=after: page_of(after)),
        )
        good &= far <= 1.2 * first
        print(f"  {name}, page 1 against page 500: {first:30.2f} {far:8.2f}  ×{far / first:.2f}")
    return good


def signing_in():
    """Measure what a sign-in asks of the database, but for the password's hash."""
    config = current_app.config
    for what, identifier in (("e-mail", "p777@nox.example"), ("Public ID", "zebulon_q")):
        took = timed(lambda identifier=identifier: accounts.find_by_identifier(identifier))
        print(f"  signing in, by {what:12} {took:37.2f}")
    user = db.session.get(User, 1)
    token = sessions.create(user, "bench", config["REMEMBER_COOKIE_DURATION"]).session_token
    db.session.commit()
    print(f"  who is signed in {timed(lambda: sessions.load(token, config['REMEMBER_COOKIE_DURATION'])):47.2f}")


def measure(kind: str, count: int) -> bool:
    """Measure one database. Returns whether everything was fast enough."""
    place = BenchDatabase(kind, count, hub=10_500, requests=10_500)
    good = True
    try:
        app = place.app()
        with app.app_context():
            say(f"{kind}, {count:,} people, {database_engine().name}: milliseconds in the database, median of {TIMES}")
            scans = sequential_scans() if kind == "postgresql" else 0
            for what, typed in QUERIES.items():
                found = len(page(typed))
                took = timed(lambda typed=typed: page(typed))
                good &= took <= MOST[kind]
                print(
                    f"  {what:28} {typed!r:24} {found:3} hits {took:8.2f}{'' if took <= MOST[kind] else '   TOO SLOW'}"
                )
            print(
                f"  {'worst: late names only':28} {WORST!r:24} {len(page(WORST)):3} hits {timed(lambda: page(WORST)):8.2f}"
            )
            for typed, far in (("a", 500), ("nox", 500), ("novak", 500), ("anna", 500)):
                after = pages(typed, far)
                first, last = (
                    timed(lambda typed=typed: page(typed)),
                    timed(lambda typed=typed, after=after: page(typed, after)),
                )
                good &= last <= MOST[kind]
                print(f"  page 1 against page {far:4} {typed!r:24} {first:8.2f} {last:8.2f}  ×{last / first:.2f}")
            good &= lists()
            signing_in()
            if kind == "postgresql":
                db.session.commit()
                read = sequential_scans() - scans
                good &= read == 0
                print(f"  sequential scans of people: {read}")
            db.session.remove()
            db.engine.dispose()
    finally:
        place.close()
    return good


def main(postgres: int = 1_000_000, sqlite: int = 100_000) -> bool:
    """Measure both databases. Returns whether every search was fast enough."""
    return all([measure("postgresql", postgres), measure("sqlite", sqlite)])
