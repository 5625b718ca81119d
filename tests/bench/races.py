"""Ten thousand random actions on twenty people by eight threads: `bin/bench races`."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import flask_migrate
import psycopg
from sqlalchemy import select

from config import Config
from noxchat import counters, create_app
from noxchat.extensions import db
from noxchat.models import User, blocks, friend_requests, friends
from tests.bench.databases import CACHE, say
from tests.conftest import Browser, Postgres, make_person, settings

THREADS, PEOPLE = 8, 20
ACTIONS = (
    ["request"] * 5 + ["request/accept"] * 3 + ["request/decline", "request/cancel", "unfriend", "block", "unblock"]
)


def count_violations() -> Counter:
    """Count violated invariants: one-way friendships, crossed requests, several relationships, wrong counters."""
    friend_pairs, request_pairs, block_pairs = (
        {tuple(row[:2]) for row in db.session.execute(select(table))} for table in (friends, friend_requests, blocks)
    )
    reversed_requests = {pair[::-1] for pair in request_pairs}
    blocked_either_way = block_pairs | {pair[::-1] for pair in block_pairs}
    violations = Counter()
    violations["one-way friendships"] = len(friend_pairs ^ {pair[::-1] for pair in friend_pairs})
    violations["crossed requests"] = len(request_pairs & reversed_requests)
    violations["requests between friends"] = len((request_pairs | reversed_requests) & friend_pairs)
    violations["friends or requests despite a block"] = len(blocked_either_way & (friend_pairs | request_pairs))
    for user in db.session.scalars(select(User)):
        count = counters.get_counters(user)
        violations["wrong counters"] += count.friends != sum(one == user.id for one, _other in friend_pairs)
        violations["wrong counters"] += count.incoming != sum(other == user.id for _one, other in request_pairs)
        violations["wrong counters"] += count.outgoing != sum(one == user.id for one, _other in request_pairs)
    return violations


def storm(app, actions: int) -> Counter:
    """Send random actions from THREADS threads, as htmx sends them. Returns the number of responses by status."""
    people = [
        make_person(app, f"Person {number}", f"{number}@nox.example", public_id=f"p-{number}")
        for number in range(PEOPLE)
    ]

    def send_actions(seed):
        rng = random.Random(seed)
        browsers = [Browser(app, person) for person in people]
        tokens = [browser.token() for browser in browsers]
        own_statuses = Counter()
        for _action in range(actions // THREADS):
            one, other = rng.sample(range(PEOPLE), 2)
            path = f"/u/p-{other}/{rng.choice(ACTIONS)}"
            own_statuses[browsers[one].post(path, htmx=True, token=tokens[one]).status_code] += 1
        return own_statuses

    with ThreadPoolExecutor(THREADS) as executor:
        return sum(executor.map(send_actions, range(THREADS)), Counter())


def main(actions: int = 10_000) -> bool:
    """Run a storm on each database. Returns whether there were no errors, deadlocks and violated invariants."""
    passed = True
    CACHE.mkdir(parents=True, exist_ok=True)
    postgres = Postgres(durable=True)
    try:
        for kind in ("sqlite", "postgresql"):
            folder = CACHE / f"races-{kind}-{time.time_ns()}"
            if kind == "postgresql":
                postgres.execute("CREATE DATABASE races")
            uri = postgres.uri("races") if kind == "postgresql" else f"sqlite:///{folder}.db"
            overrides = {"REQUESTS_PER_HOUR": 10**6, "DATABASE_SECONDS": 30}
            app = create_app(Config(settings(folder, uri, **overrides), debug=False))
            app.logger.handlers.clear()
            with app.app_context():
                flask_migrate.upgrade()
            deadlocks_before = count_deadlocks(postgres) if kind == "postgresql" else 0
            began = time.monotonic()
            statuses = storm(app, actions)
            took = time.monotonic() - began
            with app.test_request_context():
                violations = count_violations()
                db.session.remove()
                db.engine.dispose()
            deadlocks = count_deadlocks(postgres) - deadlocks_before if kind == "postgresql" else 0
            passed &= not sum(violations.values()) and not deadlocks and not any(status >= 500 for status in statuses)
            say(f"{kind}: {sum(statuses.values()):,} actions by {THREADS} threads on {PEOPLE} people in {took:.0f} s")
            print(
                f"  statuses {dict(sorted(statuses.items()))}, deadlocks {deadlocks},"
                f" violated invariants {dict(violations)}"
            )
    finally:
        postgres.stop("immediate")
    return passed


def count_deadlocks(postgres) -> int:
    """Return how many deadlocks PostgreSQL has detected."""
    with psycopg.connect(postgres.uri("races")) as connection:
        return connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = 'races'").fetchone()[0]
