"""Ten thousand random actions by eight threads over twenty people: `bin/bench races`."""

import random
import threading
import time
from collections import Counter

import flask_migrate
from sqlalchemy import select

from config import Config
from noxchat import counters, create_app
from noxchat.extensions import db, limiter
from noxchat.models import User, blocks, friend_requests, friends
from tests.bench.databases import CACHE, say
from tests.conftest import Browser, Postgres, make_person, settings

THREADS, PEOPLE = 8, 20
VERBS = ["request"] * 5 + ["request/accept"] * 3 + ["request/decline", "request/cancel", "unfriend", "block", "unblock"]


def broken_rules() -> Counter:
    """Count what must never be: one-way friendships, crossed requests, two relations at once, wrong counters."""
    friendly, asking, blocking = (
        {tuple(row[:2]) for row in db.session.execute(select(table))} for table in (friends, friend_requests, blocks)
    )
    turned = {pair[::-1] for pair in asking}
    found = Counter()
    found["one-way friendships"] = len(friendly ^ {pair[::-1] for pair in friendly})
    found["crossed requests"] = len(asking & turned)
    found["requests between friends"] = len((asking | turned) & friendly)
    found["relations with a block between"] = len((blocking | {pair[::-1] for pair in blocking}) & (friendly | asking))
    for user in db.session.scalars(select(User)):
        count = counters.get_counters(user)
        found["wrong counters"] += count.friends != sum(one == user.id for one, _other in friendly)
        found["wrong counters"] += count.incoming != sum(other == user.id for _one, other in asking)
        found["wrong counters"] += count.outgoing != sum(one == user.id for one, _other in asking)
    return found


def storm(app, actions: int) -> Counter:
    """Have eight threads press buttons, each request as htmx sends it. Returns the answers by status."""
    crowd = [
        make_person(app, f"Person {number}", f"{number}@nox.example", public_id=f"p-{number}")
        for number in range(PEOPLE)
    ]
    answers, lock = Counter(), threading.Lock()

    def press(seed):
        chance = random.Random(seed)
        browsers = [Browser(app, person) for person in crowd]
        tokens = [browser.token() for browser in browsers]
        mine = Counter()
        for _action in range(actions // THREADS):
            one, other = chance.sample(range(PEOPLE), 2)
            path = f"/u/p-{other}/{chance.choice(VERBS)}"
            mine[browsers[one].post(path, htmx=True, token=tokens[one]).status_code] += 1
        with lock:
            answers.update(mine)

    threads = [threading.Thread(target=press, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def main(actions: int = 10_000) -> bool:
    """Storm both databases. Returns whether nothing broke."""
    good = True
    CACHE.mkdir(parents=True, exist_ok=True)
    postgres = Postgres(durable=True)
    try:
        for kind in ("sqlite", "postgresql"):
            folder = CACHE / f"races-{kind}-{time.time_ns()}"
            if kind == "postgresql":
                postgres.execute("CREATE DATABASE races")
            uri = postgres.uri("races") if kind == "postgresql" else f"sqlite:///{folder}.db"
            more = {"REQUESTS_PER_HOUR": 10**6, "DATABASE_SECONDS": 30}
            app = create_app(Config(settings(folder, uri, **more), debug=False))
            app.logger.handlers.clear()
            with app.app_context():
                flask_migrate.upgrade()
            before = deadlocks(postgres) if kind == "postgresql" else 0
            began = time.monotonic()
            answers = storm(app, actions)
            took = time.monotonic() - began
            with app.test_request_context():
                broken = broken_rules()
                limiter.reset()
                db.session.remove()
                db.engine.dispose()
            dead = deadlocks(postgres) - before if kind == "postgresql" else 0
            good &= not sum(broken.values()) and not dead and not any(status >= 500 for status in answers)
            say(f"{kind}: {sum(answers.values()):,} actions by {THREADS} threads over {PEOPLE} people in {took:.0f} s")
            print(f"  answers {dict(sorted(answers.items()))}, deadlocks {dead}, broken rules {dict(broken)}")
    finally:
        postgres.stop("immediate")
    return good


def deadlocks(postgres) -> int:
    """Return how many deadlocks PostgreSQL has had to break."""
    import psycopg

    with psycopg.connect(postgres.uri("races")) as connection:
        return connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = 'races'").fetchone()[0]
