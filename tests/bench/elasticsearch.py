"""Elasticsearch compared with the database alone, and with crashes of server and application: `bin/bench search`."""

import http.client
import itertools
import os
import random
import re
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import quote

import flask_migrate
from sqlalchemy import select

from config import Config
from noxchat import create_app, passwords
from noxchat.extensions import db
from noxchat.models import User
from noxchat.search import outbox
from tests import elasticsearch
from tests.bench.databases import CACHE, BenchDatabase, in_background, run_flask, say
from tests.bench.pages import cpu_seconds, session_cookie
from tests.conftest import PASSWORD, Browser, Postgres, Server, free_port, make_person, settings, wait_until

SEARCH_TERMS = {
    "common": "anna",
    "common, one letter": "a",
    "family name": "novak",
    "two words": "anna novak",
    "rare": "ixwor",
    "short": "qu",
    "Cyrillic": "алена",
    "Cyrillic, inside": "ова",
    "nobody": "zzzzzz",
    "late names only": "user",
    "page 50": "anna",
}
ROUNDS, BATCH = 8, 25
MAX_REINDEX_MINUTES, MAX_REINDEX_MEGABYTES = 3, 200
THREADS = 8
MAX_SECONDS = 2.0  # of a request during outages


@contextmanager
def elasticsearch_server(name: str, heap: str = "1g"):
    """Run Elasticsearch in a with statement; its indexes are kept for the next run."""
    folder = CACHE / f"elasticsearch-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    server = elasticsearch.Server(free_port(), folder, heap)
    try:
        yield server
    finally:
        server.revive()
        server.process.terminate()
        server.process.wait(60)


class Client:
    """A logged-in client with a persistent connection."""

    def __init__(self, port: int, cookie: str):
        self.cookie = cookie
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def get(self, path: str) -> tuple[float, str]:
        """Return the milliseconds that the fragment of a page takes, and the fragment."""
        began = time.perf_counter()
        self.connection.request("GET", path, headers={"Cookie": self.cookie, "HX-Request": "true"})
        response = self.connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, (path, response.status)
        return (time.perf_counter() - began) * 1000, body

    def found(self, path: str) -> list[str]:
        """Return the Public IDs of the people in the fragment of a page, in order."""
        return re.findall(r'href="/u/([^"?]+)', self.get(path)[1])


def path_of_page(client: Client, term: str, number: int) -> str:
    """Return the path of a page of a search."""
    path = f"/search?q={quote(term)}"
    for _page in range(number - 1):
        path = re.search(r'/search\?[^"]*after=[^"]*', client.get(path)[1])[0].replace("&amp;", "&")
    return path


def compare(count: int) -> bool:
    """Compare a server with Elasticsearch and one without, in turn, and print what each search costs.

    Before that, rebuild the index while there are searches. Returns whether that stayed within its limits, and both
    servers found the same people.
    """
    database = BenchDatabase("postgresql", count, hub=10_500, requests=10_500)
    plain = Server(database.folder, database.uri)
    with elasticsearch_server("compare") as server:
        overrides = {"ELASTICSEARCH_URL": server.url, "ELASTICSEARCH_PREFIX": "bench"}
        indexed = Server(database.folder, database.uri, **overrides)
        try:
            cookie = session_cookie(database.app(), 1)
            client, client_with = Client(plain.port, cookie), Client(indexed.port, cookie)
            complete = f"Documents: {count} of {count} rows"
            wait_until(lambda: complete in run_flask(indexed.environment, "search", "status").output, 900)
            passed = measure_reindex(count, indexed, cookie)
            wait_until(lambda: uses_elasticsearch(server, client_with), 60)
            say(f"{count:,} people, PostgreSQL alone and with Elasticsearch, in turn: milliseconds until the response,")
            print("  CPU milliseconds of application + database, and of application + database + Elasticsearch")
            print(f"  {'':22}{'alone':>8}{'with':>8}   {'CPU alone':>18}   CPU with")
            processes = [database.postgres.pid(), server.process.pid]
            for label, term in SEARCH_TERMS.items():
                path = path_of_page(client, term, 50 if label == "page 50" else 1)
                same = client.found(path) == client_with.found(path)
                passed &= same
                (alone, a), (combined, w) = measure_in_turn(
                    path, (client, [plain.process.pid, *processes]), (client_with, [indexed.process.pid, *processes])
                )
                print(
                    f"  {label:22}{alone:8.1f}{combined:8.1f}   {a[0]:8.1f} + {a[1]:6.1f}"
                    f"   {w[0]:8.1f} + {w[1]:4.1f} + {w[2]:4.1f}{'' if same else '   DIFFERENT RESULTS'}"
                )
        finally:
            indexed.stop()
            plain.stop()
            database.close()
    return passed


def measure_in_turn(path: str, *subjects: tuple[Client, list[int]]) -> list[tuple[float, list[float]]]:
    """Return for each client the median milliseconds of a request, and the CPU milliseconds of each of its processes."""
    took, used = [[] for _ in subjects], [[] for _ in subjects]
    for _round in range(ROUNDS):
        for index, (client, pids) in enumerate(subjects):
            before = [cpu_seconds([pid]) for pid in pids]
            took[index] += [client.get(path)[0] for _request in range(BATCH)]
            spent = [cpu_seconds([pid]) - earlier for pid, earlier in zip(pids, before, strict=True)]
            used[index].append([seconds * 1000 / BATCH for seconds in spent])
    # The median of the rounds, since the time of a process is lost when that ends.
    per_request = [[statistics.median(column) for column in zip(*rounds, strict=True)] for rounds in used]
    return [(statistics.median(times), each) for times, each in zip(took, per_request, strict=True)]


def uses_elasticsearch(server, client: Client) -> bool:
    """Tell whether searches are answered by Elasticsearch: whether it uses CPU time meanwhile."""
    before = cpu_seconds([server.process.pid])
    for _request in range(20):
        client.get("/search?q=anna")
    return cpu_seconds([server.process.pid]) > before


def measure_reindex(count: int, server: Server, cookie: str) -> bool:
    """Rebuild the index by `flask search reindex` while there are searches. Returns whether it stayed within limits."""
    took = []

    def search(done):
        client = Client(server.port, cookie)
        for term in itertools.cycle(["anna", "novak", "ixwor", "qu"]):
            took.append(client.get(f"/search?q={term}")[0])
            if done.wait(0.05):
                return

    with in_background(search):
        reindex = run_flask(server.environment, "search", "reindex")
    took_seconds = f"{reindex.seconds:.0f} s, peak memory of the command {reindex.megabytes:.0f} MB"
    say(f"flask search reindex of {count:,}: {took_seconds}")
    times = f"median {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms"
    print(f"  {reindex.output}\n  {len(took)} searches meanwhile, all answered, {times}")
    is_complete = f"{count} users indexed" in reindex.output
    is_small = reindex.megabytes < MAX_REINDEX_MEGABYTES
    return is_complete and is_small and reindex.seconds < MAX_REINDEX_MINUTES * 60


@contextmanager
def empty_application(name: str, server, **overrides):
    """Run PostgreSQL in a with statement, whose value is an application on an empty database, with Elasticsearch."""
    postgres = Postgres(durable=True)
    try:
        postgres.execute(f"CREATE DATABASE {name}")
        overrides |= {"ELASTICSEARCH_URL": server.url, "ELASTICSEARCH_PREFIX": name}
        folder = CACHE / f"{name}-{time.time_ns()}"
        app = create_app(Config(settings(folder, postgres.uri(name), **overrides), debug=False))
        app.logger.handlers.clear()
        app.overrides, app.folder = overrides, folder
        with app.app_context():
            flask_migrate.upgrade()
        yield app
        app.extensions["indexer"].stop()
        app.extensions["mail_worker"].stop()
        with app.app_context():
            db.engine.dispose()
    finally:
        postgres.stop("immediate")


def index_differences(app, seconds: float = 180) -> str:
    """Wait until a server has sent all changes to the index; return the output of `flask search check` then."""

    def is_up_to_date():
        with app.app_context():
            return outbox.backlog("users")[0] == 0

    wait_until(is_up_to_date, seconds)
    # Right after it was started again, Elasticsearch may take longer than the timeout of a search.
    command = app.test_cli_runner().invoke
    wait_until(lambda: "differences" in command(args=["search", "check"]).output, seconds)
    return command(args=["search", "check"]).output.strip()


class Outages:
    """Registers, renames, deletes and searches people, and records how long each request takes."""

    def __init__(self, app, actions: int):
        self.app, self.actions, self.numbers = app, actions, itertools.count()
        self.durations, self.failures = [], []

    def record(self, action: str, send):
        """Send a request, and record its duration and whether it failed."""
        began = time.monotonic()
        response = send()
        took = time.monotonic() - began
        self.durations.append((took, action))
        if response.status_code not in (200, 303) or took > MAX_SECONDS:
            self.failures.append((action, response.status_code, round(took, 2)))

    def change_accounts(self, seed: int):
        """Register, rename and delete people until all threads have done enough."""
        rng, browsers = random.Random(seed), []
        while (number := next(self.numbers)) < self.actions:
            action = rng.choice([self.register, self.rename, self.rename, self.delete]) if browsers else self.register
            action(number, browsers, rng)

    def register(self, number, browsers, _rng):
        browser, name = Browser(self.app), f"Nova {number:x}"
        fields = {"username": name, "email": f"n{number}@nox.example", "password": PASSWORD, "password2": PASSWORD}
        token = browser.token("/auth/register")
        self.record("register", lambda: browser.post("/auth/register", fields, token=token))
        with self.app.app_context():
            browsers.append(Browser(self.app, db.session.scalars(select(User).where(User.username == name)).one()))
        browsers[-1].csrf_token = browsers[-1].token()

    def rename(self, number, browsers, rng):
        browser = rng.choice(browsers)
        fields = {"username": f"Anna {number:x}", "public_id": f"a-{number:x}", "bio": ""}
        self.record("rename", lambda: browser.post("/settings/profile", fields, token=browser.csrf_token))

    def delete(self, _number, browsers, rng):
        browser = browsers.pop(rng.randrange(len(browsers)))
        fields = {"password": PASSWORD, "confirm": "y"}
        self.record("delete", lambda: browser.post("/settings/delete", fields, token=browser.csrf_token))

    def search(self, done, viewer):
        browser = Browser(self.app, viewer)
        for term in itertools.cycle(["anna", "nova", "a", "zzz"]):
            self.record("search", lambda term=term: browser.get(f"/search?q={term}", htmx=True))
            if done.wait(0.02):
                return


def outages(actions: int = 20_000) -> bool:
    """Register, rename and delete people and search by THREADS threads while Elasticsearch is killed and frozen."""
    # Hashing passwords is not what is measured.
    passwords.hash_password = lambda password: f"quick {password}"
    passwords.verify_password = lambda _stored, _password: True
    limits = dict.fromkeys(["SIGN_UPS_PER_HOUR", "RENAMES_PER_DAY", "SIGN_INS_PER_ADDRESS"], 10**8)
    faults = []
    with (
        elasticsearch_server(f"outages-{time.time_ns()}", "512m") as server,
        empty_application("outages", server, DATABASE_SECONDS=30, **limits) as app,
    ):
        app.extensions["indexer"].start()
        viewer, run = make_person(app, "Viewer", public_id="viewer"), Outages(app, actions)

        def break_elasticsearch(done):
            rng = random.Random(5)
            while not done.is_set():
                faults.append(rng.choice(["kill", "freeze"]))
                getattr(server, faults[-1])()
                done.wait(rng.uniform(1, 6))
                server.revive()
                done.wait(rng.uniform(2, 8))

        began = time.monotonic()
        with (
            in_background(break_elasticsearch, lambda done: run.search(done, viewer)),
            ThreadPoolExecutor(THREADS) as executor,
        ):
            list(executor.map(run.change_accounts, range(THREADS)))
        say(
            f"{actions:,} registrations, renames and deletions by {THREADS} threads in {time.monotonic() - began:.0f} s,"
            f" Elasticsearch killed {faults.count('kill')} and frozen {faults.count('freeze')} times"
        )
        print(f"  {len(run.durations):,} requests, slowest {max(run.durations)[0]:.2f} s")
        print(f"  failed or over {MAX_SECONDS} s: {run.failures[:5] or 0}")
        output = index_differences(app)
        print(f"  check afterwards: {output}")
    return not run.failures and output == "users: 0 differences."


class Renamer:
    """A client that changes its user's name."""

    counter = itertools.count()

    def __init__(self, port: int, cookie: str, number: int):
        self.client, self.number, self.token = Client(port, cookie), number, None

    def rename(self):
        """Change the name once. Raises OSError or HTTPException when the server is down."""
        if self.token is None:
            self.token = re.search(r'name="csrf_token" value="([^"]+)"', self.client.get("/settings/look")[1])[1]
        fields = f"username=Name+{next(self.counter):x}&public_id=p-{self.number}&bio=&csrf_token={quote(self.token)}"
        headers = {"Cookie": self.client.cookie, "Content-Type": "application/x-www-form-urlencoded"}
        self.client.connection.request("POST", "/settings/profile", fields, headers)
        response = self.client.connection.getresponse()
        response.read()
        assert response.status == 303, response.status


def kills(times: int = 50) -> bool:
    """Kill the application repeatedly while people are renamed; check the index after each restart."""
    failed_checks, renamed, rng = 0, itertools.count(), random.Random(11)
    with (
        elasticsearch_server(f"kills-{time.time_ns()}", "512m") as server,
        empty_application("kills", server, RENAMES_PER_DAY=10**8) as app,
    ):
        uri = app.config["SQLALCHEMY_DATABASE_URI"]
        people = [make_person(app, f"Person {n}", f"{n}@nox.example", public_id=f"p-{n}") for n in range(40)]
        cookies = [session_cookie(app, person.id) for person in people]
        application = Server(app.folder, uri, **app.overrides)

        def rename(done):
            renamers = [Renamer(application.port, cookie, number) for number, cookie in enumerate(cookies)]
            while not done.is_set():
                try:
                    rng.choice(renamers).rename()
                    next(renamed)
                except (OSError, http.client.HTTPException):
                    return  # the application was killed

        for _kill in range(times):
            with in_background(*[rename] * 4) as done:
                time.sleep(rng.uniform(0.1, 1.5))
                os.killpg(application.process.pid, signal.SIGKILL)
                done.set()
            application.process.wait()
            application = Server(app.folder, uri, **app.overrides)
            failed_checks += index_differences(app, 60) != "users: 0 differences."
        application.stop()
        count = next(renamed)
        say(
            f"the application killed {times} times during {count:,} renames: differences after {failed_checks} restarts"
        )
    return failed_checks == 0 and count > times


def breaker(count: int = 100_000) -> bool:
    """Compare a search while Elasticsearch is down with one of a server that is configured without it."""
    database = BenchDatabase("postgresql", count, hub=20, requests=3)
    plain = Server(database.folder, database.uri)
    indexed = Server(database.folder, database.uri, ELASTICSEARCH_URL=f"http://127.0.0.1:{free_port()}")
    try:
        cookie = session_cookie(database.app(), 1)
        clients = [Client(plain.port, cookie), Client(indexed.port, cookie)]
        took = [[client.get("/search?q=anna")[0] for client in clients] for _round in range(400)]
        without, down = (statistics.median(times) for times in zip(*took[50:], strict=True))
        say(f"a search of {count:,} people: {without:.2f} ms without Elasticsearch, {down:.2f} ms while it is down")
    finally:
        plain.stop()
        indexed.stop()
        database.close()
    return down - without <= 2


def compare_all(*counts: int) -> bool:
    """Compare with a hundred thousand and a million people, or other counts. Returns whether all comparisons passed."""
    results = [compare(count) for count in counts or (100_000, 1_000_000)]
    return all(results)
