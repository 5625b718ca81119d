"""Elasticsearch compared with the database alone, and with crashes of server and application: `bin/bench search`."""

import http.client
import itertools
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from urllib.parse import quote

import flask_migrate
import psutil
from sqlalchemy import select

from config import ROOT, Config
from noxchat import create_app, passwords
from noxchat.extensions import db, limiter
from noxchat.models import User
from noxchat.search import outbox
from tests import elasticsearch
from tests.bench.databases import CACHE, BenchDatabase, say
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


def run_search_command(environment: dict, *arguments: str) -> tuple[str, float, float]:
    """Run a subcommand of `flask search`; return its output, its seconds, and its peak memory in megabytes."""
    began, peak = time.monotonic(), 0
    program = [sys.executable, "-m", "flask", "--app", "main", "search", *arguments]
    process = subprocess.Popen(
        program,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = []
    reader = threading.Thread(target=lambda: output.append(process.stdout.read()))
    reader.start()
    while process.poll() is None:
        try:
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1)
    process.wait()
    reader.join()
    return "".join(output), time.monotonic() - began, peak / 1e6


class Client:
    """A logged-in client with a persistent connection."""

    def __init__(self, port: int, cookie: str):
        self.port, self.cookie = port, cookie
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def get(self, path: str) -> tuple[float, str]:
        """Return the milliseconds that the fragment of a page takes, and the fragment."""
        began = time.perf_counter()
        self.connection.request("GET", path, headers={"Cookie": self.cookie, "HX-Request": "true"})
        response = self.connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, (path, response.status)
        return (time.perf_counter() - began) * 1000, body


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
        overrides = {"ELASTICSEARCH_URL": server.url, "ELASTICSEARCH_PREFIX": f"bench_{count}"}
        indexed = Server(database.folder, database.uri, **overrides)
        try:
            cookie = session_cookie(database.app(), 1)
            status = run_search_command(indexed.environment, "status")[0]
            if f"of {count} rows" not in status:
                say("the server builds the index by itself")
                wait_until(
                    lambda: f"Documents: {count} of" in run_search_command(indexed.environment, "status")[0], 900
                )
            passed = measure_reindex(count, indexed, cookie)
            wait_until(lambda: uses_elasticsearch(server, Client(indexed.port, cookie)), 60)
            say(f"{count:,} people, PostgreSQL alone and with Elasticsearch, in turn: milliseconds until the response,")
            print("  CPU milliseconds of application + database, and of application + database + Elasticsearch")
            pids = {"alone": (plain.process.pid,), "with": (indexed.process.pid,)}
            database_pid = database.postgres.pid()
            print(f"  {'':22}{'alone':>8}{'with':>8}   {'CPU alone':>18}   CPU with")
            for label, term in SEARCH_TERMS.items():
                clients = {"alone": Client(plain.port, cookie), "with": Client(indexed.port, cookie)}
                path = path_of_page(clients["alone"], term, 50 if label == "page 50" else 1)
                found = {name: public_ids(client.get(path)[1]) for name, client in clients.items()}
                passed &= found["alone"] == found["with"]
                took, used = {name: [] for name in clients}, {name: [0.0, 0.0, 0.0] for name in clients}
                for _round in range(ROUNDS):
                    for name, client in clients.items():
                        processes = (pids[name], [database_pid], [server.process.pid])
                        before = [cpu_seconds(group) for group in processes]
                        took[name] += [client.get(path)[0] for _request in range(BATCH)]
                        after = [cpu_seconds(group) for group in processes]
                        used[name] = [u + b - a for u, a, b in zip(used[name], before, after, strict=True)]
                each = {name: [value * 1000 / ROUNDS / BATCH for value in values] for name, values in used.items()}
                median_alone, median_with = (statistics.median(took[name]) for name in ("alone", "with"))
                a, w = each["alone"], each["with"]
                print(
                    f"  {label:22}{median_alone:8.1f}{median_with:8.1f}   {a[0]:8.1f} + {a[1]:6.1f}"
                    f"   {w[0]:8.1f} + {w[1]:4.1f} + {w[2]:4.1f}"
                    f"{'' if found['alone'] == found['with'] else '   DIFFERENT RESULTS'}"
                )
        finally:
            indexed.stop()
            plain.stop()
            database.close()
    return passed


def public_ids(fragment: str) -> list[str]:
    """Return the Public IDs of the people in a fragment, in order."""
    return re.findall(r'href="/u/([^"?]+)', fragment)


def uses_elasticsearch(server, client: Client) -> bool:
    """Tell whether searches are answered by Elasticsearch: whether it uses CPU time meanwhile."""
    before = cpu_seconds([server.process.pid])
    for _request in range(20):
        client.get("/search?q=anna")
    return cpu_seconds([server.process.pid]) > before


def measure_reindex(count: int, server: Server, cookie: str) -> bool:
    """Rebuild the index by `flask search reindex` while there are searches. Returns whether it stayed within limits."""
    done, took = threading.Event(), []

    def search():
        client = Client(server.port, cookie)
        for term in itertools.cycle(["anna", "novak", "ixwor", "qu"]):
            took.append(client.get(f"/search?q={term}")[0])
            if done.wait(0.05):
                return

    thread = threading.Thread(target=search)
    thread.start()
    output, seconds, memory = run_search_command(server.environment, "reindex")
    done.set()
    thread.join()
    say(f"flask search reindex of {count:,}: {seconds:.0f} s, peak memory of the command {memory:.0f} MB")
    print(f"  {output.strip()}")
    print(
        f"  {len(took)} searches meanwhile, all answered, median {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms"
    )
    is_complete = f"{count} people indexed" in output
    return is_complete and seconds < MAX_REINDEX_MINUTES * 60 and memory < MAX_REINDEX_MEGABYTES


def create_empty_database(name: str, **overrides):
    """Return a PostgreSQL server, and an application on an empty database in it."""
    folder = CACHE / f"{name}-{time.time_ns()}"
    postgres = Postgres(durable=True)
    postgres.execute(f"CREATE DATABASE {name}")
    app = create_app(Config(settings(folder, postgres.uri(name), **overrides), debug=False))
    app.logger.handlers.clear()
    with app.app_context():
        flask_migrate.upgrade()
    return postgres, app


def check_index(app) -> str:
    """Wait until the outbox is empty; return the output of `flask search check` then."""
    indexer = app.extensions["indexer"]

    def is_up_to_date():
        with app.app_context():
            return app.extensions["elasticsearch"].is_ready and outbox.backlog("users").count == 0

    indexer.start()
    wait_until(is_up_to_date, 180)
    return app.test_cli_runner().invoke(args=["search", "check"]).output.strip()


def outages(actions: int = 20_000) -> bool:
    """Register, rename and delete people and search by THREADS threads while Elasticsearch is killed and frozen."""
    # Hashing passwords is not what is measured.
    fakes = {"hash_password": lambda password: f"quick {password}", "verify_password": lambda stored, password: True}
    for name, function in fakes.items():
        setattr(passwords, name, function)
    limits = dict.fromkeys(["SIGN_UPS_PER_HOUR", "RENAMES_PER_DAY", "SIGN_INS_PER_ADDRESS"], 10**8)
    with elasticsearch_server(f"outages-{time.time_ns()}", "512m") as server:
        overrides = {
            "ELASTICSEARCH_URL": server.url,
            "ELASTICSEARCH_PREFIX": "outages",
            "DATABASE_SECONDS": 30,
            **limits,
        }
        postgres, app = create_empty_database("outages", **overrides)
        try:
            app.extensions["indexer"].start()
            viewer = make_person(app, "Viewer", public_id="viewer")
            done, durations, failures, faults = threading.Event(), [], [], []
            numbers = itertools.count()

            def change_accounts(seed):
                rng, browsers = random.Random(seed), []
                while (number := next(numbers)) < actions:
                    action = rng.choice(["register", "rename", "rename", "delete"]) if browsers else "register"
                    began = time.monotonic()
                    if action == "register":
                        browser, name = Browser(app), f"Nova {number:x}"
                        fields = {"username": name, "email": f"n{number}@nox.example"}
                        fields |= {"password": PASSWORD, "password2": PASSWORD}
                        response = browser.post("/auth/register", fields, token=browser.token("/auth/register"))
                        with app.app_context():
                            user = db.session.scalar(select(User).where(User.username == name))
                        browsers.append(Browser(app, user))
                        browsers[-1].csrf_token = browsers[-1].token()
                    elif action == "rename":
                        browser = rng.choice(browsers)
                        fields = {"username": f"Anna {number:x}", "public_id": f"a-{number:x}", "bio": ""}
                        response = browser.post("/settings/profile", fields, token=browser.csrf_token)
                    else:
                        browser = browsers.pop(rng.randrange(len(browsers)))
                        fields = {"password": PASSWORD, "confirm": "y"}
                        response = browser.post("/settings/delete", fields, token=browser.csrf_token)
                    record(action, response, began)

            def search():
                browser = Browser(app, viewer)
                for term in itertools.cycle(["anna", "nova", "a", "zzz"]):
                    began = time.monotonic()
                    record("search", browser.get(f"/search?q={term}", htmx=True), began)
                    if done.wait(0.02):
                        return

            def record(action, response, began):
                took = time.monotonic() - began
                durations.append((took, action))
                if response.status_code not in (200, 303) or took > MAX_SECONDS:
                    failures.append((action, response.status_code, round(took, 2)))

            def break_elasticsearch():
                rng = random.Random(5)
                while not done.is_set():
                    fault = rng.choice(["kill", "freeze"])
                    faults.append(fault)
                    getattr(server, fault)()
                    done.wait(rng.uniform(1, 6))
                    server.revive()
                    done.wait(rng.uniform(2, 8))

            began = time.monotonic()
            threads = [threading.Thread(target=change_accounts, args=(seed,)) for seed in range(THREADS)]
            others = [threading.Thread(target=search), threading.Thread(target=break_elasticsearch)]
            for thread in (*threads, *others):
                thread.start()
            for thread in threads:
                thread.join()
            done.set()
            for thread in others:
                thread.join()
            seconds = time.monotonic() - began
            output = check_index(app)
            say(
                f"{actions:,} registrations, renames and deletions by {THREADS} threads in {seconds:.0f} s,"
                f" Elasticsearch killed {faults.count('kill')} and frozen {faults.count('freeze')} times"
            )
            print(
                f"  {len(durations):,} requests, slowest {max(durations)[0]:.2f} s;"
                f" failed or over {MAX_SECONDS} s: {failures[:5] or 0}"
            )
            print(f"  check afterwards: {output}")
            app.extensions["indexer"].stop()
            app.extensions["mail_worker"].stop()
            with app.app_context():
                limiter.reset()
                db.session.remove()
                db.engine.dispose()
        finally:
            postgres.stop("immediate")
    return not failures and "users: 0 differences." in output


def kills(times: int = 50) -> bool:
    """Kill the application repeatedly while people are renamed; check the index after each restart."""
    failed_checks = 0
    with elasticsearch_server(f"kills-{time.time_ns()}", "512m") as server:
        overrides = {"ELASTICSEARCH_URL": server.url, "ELASTICSEARCH_PREFIX": "kills", "RENAMES_PER_DAY": 10**8}
        postgres, app = create_empty_database("kills", **overrides)
        try:
            uri = app.config["SQLALCHEMY_DATABASE_URI"]
            people = [make_person(app, f"Person {n}", f"{n}@nox.example", public_id=f"p-{n}") for n in range(40)]
            cookies = [session_cookie(app, person.id) for person in people]
            rng, renamed = random.Random(11), 0
            application = Server(app.config["DATA_DIR"].parent, uri, **overrides)
            for _kill in range(times):
                done, count = threading.Event(), [0]

                def rename(done=done, count=count, port=application.port):
                    renamers = [Renamer(port, cookie, number) for number, cookie in enumerate(cookies)]
                    while not done.is_set():
                        try:
                            rng.choice(renamers).rename()
                            count[0] += 1
                        except (OSError, http.client.HTTPException):
                            return  # the application was killed

                threads = [threading.Thread(target=rename) for _thread in range(4)]
                for thread in threads:
                    thread.start()
                time.sleep(rng.uniform(0.1, 1.5))
                os.killpg(application.process.pid, signal.SIGKILL)
                done.set()
                for thread in threads:
                    thread.join()
                application.process.wait()
                renamed += count[0]
                application = Server(app.config["DATA_DIR"].parent, uri, **overrides)
                wait_until(lambda: outbox_is_empty(app), 60)
                output = app.test_cli_runner().invoke(args=["search", "check"]).output.strip()
                failed_checks += "users: 0 differences." not in output
            application.stop()
            say(
                f"the application killed {times} times during {renamed:,} renames:"
                f" the index differed after {failed_checks} restarts"
            )
        finally:
            postgres.stop("immediate")
    return failed_checks == 0 and renamed > times


def outbox_is_empty(app) -> bool:
    """Tell whether another process has sent all changes to the index."""
    with app.app_context():
        return outbox.backlog("users").count == 0


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


def breaker(count: int = 100_000) -> bool:
    """Compare a search while Elasticsearch is down with one of a server that is configured without it."""
    database = BenchDatabase("postgresql", count, hub=20, requests=3)
    plain = Server(database.folder, database.uri)
    indexed = Server(database.folder, database.uri, ELASTICSEARCH_URL=f"http://127.0.0.1:{free_port()}")
    try:
        cookie = session_cookie(database.app(), 1)
        clients = [Client(plain.port, cookie), Client(indexed.port, cookie)]
        took = [[], []]
        for _round in range(400):
            for client, times in zip(clients, took, strict=True):
                times.append(client.get("/search?q=anna")[0])
        without, down = (statistics.median(times[50:]) for times in took)
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
