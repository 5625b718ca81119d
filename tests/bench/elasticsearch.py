"""Elasticsearch beside the database alone, how its index is built, and what its deaths do: `bin/bench search`."""

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
from tests.bench.pages import cookie_of, cpu
from tests.conftest import PASSWORD, Browser, Postgres, Server, free_port, make_person, settings, wait_until

KINDS = {
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
MINUTES, MEGABYTES = 3, 200
THREADS = 8
MOST = 2.0  # seconds that anybody waits


@contextmanager
def server_of(name: str, heap: str = "1g"):
    """Start an Elasticsearch whose index is kept for the next time, in a with statement."""
    folder = CACHE / f"elasticsearch-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    server = elasticsearch.Server(free_port(), folder, heap)
    try:
        yield server
    finally:
        server.revive()
        server.process.terminate()
        server.process.wait(60)


def command(environment: dict, *arguments: str) -> tuple[str, float, float]:
    """Run a subcommand of `flask search`; return what it said, its seconds, and its largest memory in megabytes."""
    began, most = time.monotonic(), 0
    program = [sys.executable, "-m", "flask", "--app", "main", "search", *arguments]
    process = subprocess.Popen(
        program,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    reader = threading.Thread(target=lambda: said.append(process.stdout.read()))
    reader.start()
    while process.poll() is None:
        try:
            most = max(most, psutil.Process(process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1)
    process.wait()
    reader.join()
    return "".join(said), time.monotonic() - began, most / 1e6


class Person:
    """Somebody who searches, over a line that stays open."""

    def __init__(self, port: int, cookie: str):
        self.port, self.cookie, self.line = port, cookie, http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def open(self, path: str) -> tuple[float, str]:
        """Return the milliseconds that a page's fragment takes, and the fragment."""
        began = time.perf_counter()
        self.line.request("GET", path, headers={"Cookie": self.cookie, "HX-Request": "true"})
        answer = self.line.getresponse()
        body = answer.read().decode()
        assert answer.status == 200, (path, answer.status)
        return (time.perf_counter() - began) * 1000, body


def page_of(person: Person, typed: str, number: int) -> str:
    """Return the address of a page of a search."""
    path = f"/search?q={quote(typed)}"
    for _page in range(number - 1):
        path = re.search(r'/search\?[^"]*after=[^"]*', person.open(path)[1])[0].replace("&amp;", "&")
    return path


def compare(count: int) -> bool:
    """Ask a server with Elasticsearch and one without in turn, and print what each search costs.

    Before that, build the index by the command while people search. Returns whether that was good enough, and both
    found the same.
    """
    place = BenchDatabase("postgresql", count, hub=10_500, requests=10_500)
    plain = Server(place.folder, place.uri)
    with server_of("compare") as server:
        more = {"ELASTICSEARCH_URL": server.url, "ELASTICSEARCH_PREFIX": f"bench_{count}"}
        other = Server(place.folder, place.uri, **more)
        try:
            cookie = cookie_of(place.app(), 1)
            status = command(other.environment, "status")[0]
            if f"of {count} rows" not in status:
                say("the server builds the index by itself")
                wait_until(lambda: f"Documents: {count} of" in command(other.environment, "status")[0], 900)
            good = reindex(count, other, cookie)
            wait_until(lambda: "with Elasticsearch" in with_or_without(server, Person(other.port, cookie)), 60)
            say(f"{count:,} people, PostgreSQL alone and with Elasticsearch, in turn: milliseconds for the person, the")
            print("  CPU milliseconds of application + database, and of application + database + Elasticsearch")
            pids = {"alone": (plain.process.pid,), "with": (other.process.pid,)}
            base = place.postgres.pid()
            print(f"  {'':22}{'alone':>8}{'with':>8}   {'CPU alone':>18}   CPU with")
            for kind, typed in KINDS.items():
                people = {"alone": Person(plain.port, cookie), "with": Person(other.port, cookie)}
                path = page_of(people["alone"], typed, 50 if kind == "page 50" else 1)
                seen = {name: names(person.open(path)[1]) for name, person in people.items()}
                good &= seen["alone"] == seen["with"]
                took, used = {name: [] for name in people}, {name: [0.0, 0.0, 0.0] for name in people}
                for _round in range(ROUNDS):
                    for name, person in people.items():
                        before = [cpu(pids[name]), cpu([base]), cpu([server.process.pid])]
                        took[name] += [person.open(path)[0] for _time in range(BATCH)]
                        after = [cpu(pids[name]), cpu([base]), cpu([server.process.pid])]
                        used[name] = [u + b - a for u, a, b in zip(used[name], before, after, strict=True)]
                each = {name: [value * 1000 / ROUNDS / BATCH for value in values] for name, values in used.items()}
                alone, both = (statistics.median(took[name]) for name in ("alone", "with"))
                a, w = each["alone"], each["with"]
                print(
                    f"  {kind:22}{alone:8.1f}{both:8.1f}   {a[0]:8.1f} + {a[1]:6.1f}   {w[0]:8.1f} + {w[1]:4.1f} + {w[2]:4.1f}"
                    f"{'' if seen['alone'] == seen['with'] else '   OTHER PEOPLE'}"
                )
        finally:
            other.stop()
            plain.stop()
            place.close()
    return good


def names(fragment: str) -> list[str]:
    """Return who is in a fragment, in order."""
    return re.findall(r'href="/u/([^"?]+)', fragment)


def with_or_without(server, person: Person) -> str:
    """Tell whether a search is answered by Elasticsearch."""
    before = cpu([server.process.pid])
    for _time in range(20):
        person.open("/search?q=anna")
    return "with Elasticsearch" if cpu([server.process.pid]) > before else "without"


def reindex(count: int, server: Server, cookie: str) -> bool:
    """Build the index anew by the command, while somebody searches all the while."""
    done, took = threading.Event(), []

    def search():
        person = Person(server.port, cookie)
        for typed in itertools.cycle(["anna", "novak", "ixwor", "qu"]):
            took.append(person.open(f"/search?q={typed}")[0])
            if done.wait(0.05):
                return

    thread = threading.Thread(target=search)
    thread.start()
    said, seconds, memory = command(server.environment, "reindex")
    done.set()
    thread.join()
    say(f"flask search reindex of {count:,}: {seconds:.0f} s, at most {memory:.0f} MB in the application")
    print(f"  {said.strip()}")
    print(
        f"  {len(took)} searches meanwhile, all answered, median {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms"
    )
    return f"{count} people indexed" in said and seconds < MINUTES * 60 and memory < MEGABYTES


def fresh(name: str, **more):
    """Return a PostgreSQL, and an application on an empty database in it."""
    folder = CACHE / f"{name}-{time.time_ns()}"
    postgres = Postgres(durable=True)
    postgres.execute(f"CREATE DATABASE {name}")
    app = create_app(Config(settings(folder, postgres.uri(name), **more), debug=False))
    app.logger.handlers.clear()
    with app.app_context():
        flask_migrate.upgrade()
    return postgres, app


def differences(app) -> str:
    """Wait until all is handed over; return what `flask search check` says then."""
    indexer = app.extensions["indexer"]

    def settled():
        with app.app_context():
            return app.extensions["elasticsearch"].is_ready and outbox.backlog("users").count == 0

    indexer.start()
    wait_until(settled, 180)
    return app.test_cli_runner().invoke(args=["search", "check"]).output.strip()


def outages(actions: int = 20_000) -> bool:
    """Have eight threads sign people up, rename and delete them, and search, while Elasticsearch dies and comes back."""
    quick = {"hash_password": lambda password: f"quick {password}", "verify_password": lambda stored, password: True}
    for name, function in quick.items():  # what a password costs is not what is measured here
        setattr(passwords, name, function)
    limits = dict.fromkeys(["SIGN_UPS_PER_HOUR", "RENAMES_PER_DAY", "SIGN_INS_PER_ADDRESS"], 10**8)
    with server_of(f"outages-{time.time_ns()}", "512m") as server:
        more = {"ELASTICSEARCH_URL": server.url, "ELASTICSEARCH_PREFIX": "outages", "DATABASE_SECONDS": 30, **limits}
        postgres, app = fresh("outages", **more)
        try:
            app.extensions["indexer"].start()
            viewer = make_person(app, "Viewer", public_id="viewer")
            done, slow, bad, deaths = threading.Event(), [], [], []
            numbers = itertools.count()

            def act(seed):
                chance, mine = random.Random(seed), []
                while (number := next(numbers)) < actions:
                    what = chance.choice(["sign up", "rename", "rename", "delete"]) if mine else "sign up"
                    began = time.monotonic()
                    if what == "sign up":
                        browser, name = Browser(app), f"Nova {number:x}"
                        fields = {"username": name, "email": f"n{number}@nox.example"}
                        fields |= {"password": PASSWORD, "password2": PASSWORD}
                        answer = browser.post("/auth/register", fields, token=browser.token("/auth/register"))
                        with app.app_context():
                            user = db.session.scalar(select(User).where(User.username == name))
                        mine.append(Browser(app, user))
                        mine[-1].its_token = mine[-1].token()
                    elif what == "rename":
                        browser = chance.choice(mine)
                        fields = {"username": f"Anna {number:x}", "public_id": f"a-{number:x}", "bio": ""}
                        answer = browser.post("/settings/profile", fields, token=browser.its_token)
                    else:
                        browser = mine.pop(chance.randrange(len(mine)))
                        fields = {"password": PASSWORD, "confirm": "y"}
                        answer = browser.post("/settings/delete", fields, token=browser.its_token)
                    note(what, answer, began)

            def search():
                browser = Browser(app, viewer)
                for typed in itertools.cycle(["anna", "nova", "a", "zzz"]):
                    began = time.monotonic()
                    note("search", browser.get(f"/search?q={typed}", htmx=True), began)
                    if done.wait(0.02):
                        return

            def note(what, answer, began):
                took = time.monotonic() - began
                slow.append((took, what))
                if answer.status_code not in (200, 303) or took > MOST:
                    bad.append((what, answer.status_code, round(took, 2)))

            def harm():
                chance = random.Random(5)
                while not done.is_set():
                    death = chance.choice(["kill", "freeze"])
                    deaths.append(death)
                    getattr(server, death)()
                    done.wait(chance.uniform(1, 6))
                    server.revive()
                    done.wait(chance.uniform(2, 8))

            began = time.monotonic()
            threads = [threading.Thread(target=act, args=(seed,)) for seed in range(THREADS)]
            others = [threading.Thread(target=search), threading.Thread(target=harm)]
            for thread in (*threads, *others):
                thread.start()
            for thread in threads:
                thread.join()
            done.set()
            for thread in others:
                thread.join()
            seconds = time.monotonic() - began
            said = differences(app)
            say(f"{actions:,} sign-ups, renames and deletions by {THREADS} threads in {seconds:.0f} s,"
                f" Elasticsearch killed {deaths.count('kill')} and hung {deaths.count('freeze')} times")  # fmt: skip
            print(
                f"  {len(slow):,} requests, the slowest {max(slow)[0]:.2f} s; failed or over {MOST} s: {bad[:5] or 0}"
            )
            print(f"  afterwards: {said}")
            app.extensions["indexer"].stop()
            app.extensions["mail_worker"].stop()
            with app.app_context():
                limiter.reset()
                db.session.remove()
                db.engine.dispose()
        finally:
            postgres.stop("immediate")
    return not bad and "users: 0 differences." in said


def kills(times: int = 50) -> bool:
    """Kill the application again and again while people are renamed; compare after each start."""
    wrong = 0
    with server_of(f"kills-{time.time_ns()}", "512m") as server:
        more = {"ELASTICSEARCH_URL": server.url, "ELASTICSEARCH_PREFIX": "kills", "RENAMES_PER_DAY": 10**8}
        postgres, app = fresh("kills", **more)
        try:
            uri = app.config["SQLALCHEMY_DATABASE_URI"]
            crowd = [make_person(app, f"Person {n}", f"{n}@nox.example", public_id=f"p-{n}") for n in range(40)]
            cookies = [cookie_of(app, person.id) for person in crowd]
            chance, renamed = random.Random(11), 0
            application = Server(app.config["DATA_DIR"].parent, uri, **more)
            for _time in range(times):
                done, count = threading.Event(), [0]

                def rename(done=done, count=count, port=application.port):
                    browsers = [Renamer(port, cookie, number) for number, cookie in enumerate(cookies)]
                    while not done.is_set():
                        try:
                            chance.choice(browsers).rename()
                            count[0] += 1
                        except (OSError, http.client.HTTPException):
                            return  # it was killed

                threads = [threading.Thread(target=rename) for _thread in range(4)]
                for thread in threads:
                    thread.start()
                time.sleep(chance.uniform(0.1, 1.5))
                os.killpg(application.process.pid, signal.SIGKILL)
                done.set()
                for thread in threads:
                    thread.join()
                application.process.wait()
                renamed += count[0]
                application = Server(app.config["DATA_DIR"].parent, uri, **more)
                wait_until(lambda: settled(app), 60)
                said = app.test_cli_runner().invoke(args=["search", "check"]).output.strip()
                wrong += "users: 0 differences." not in said
            application.stop()
            say(
                f"the application killed {times} times while {renamed:,} people were renamed: {wrong} starts with differences"
            )
        finally:
            postgres.stop("immediate")
    return wrong == 0 and renamed > times


def settled(app) -> bool:
    """Tell whether another process has handed everything over."""
    with app.app_context():
        return outbox.backlog("users").count == 0


class Renamer:
    """Somebody who changes their name again and again, over the network."""

    numbers = itertools.count()

    def __init__(self, port: int, cookie: str, number: int):
        self.person, self.number, self.token = Person(port, cookie), number, None

    def rename(self):
        """Change the name once. Raises OSError or HTTPException when the server is gone."""
        if self.token is None:
            self.token = re.search(r'name="csrf_token" value="([^"]+)"', self.person.open("/settings/look")[1])[1]
        fields = f"username=Name+{next(self.numbers):x}&public_id=p-{self.number}&bio=&csrf_token={quote(self.token)}"
        headers = {"Cookie": self.person.cookie, "Content-Type": "application/x-www-form-urlencoded"}
        self.person.line.request("POST", "/settings/profile", fields, headers)
        answer = self.person.line.getresponse()
        answer.read()
        assert answer.status == 303, answer.status


def breaker(count: int = 100_000) -> bool:
    """Measure a search while Elasticsearch is away, beside one of a place that has none."""
    place = BenchDatabase("postgresql", count, hub=20, requests=3)
    plain = Server(place.folder, place.uri)
    other = Server(place.folder, place.uri, ELASTICSEARCH_URL=f"http://127.0.0.1:{free_port()}")
    try:
        cookie = cookie_of(place.app(), 1)
        people = [Person(plain.port, cookie), Person(other.port, cookie)]
        took = [[], []]
        for _round in range(400):
            for person, times in zip(people, took, strict=True):
                times.append(person.open("/search?q=anna")[0])
        alone, away = (statistics.median(times[50:]) for times in took)
        say(f"a search of {count:,} people: {alone:.2f} ms without Elasticsearch, {away:.2f} ms while it is away")
    finally:
        plain.stop()
        other.stop()
        place.close()
    return away - alone <= 2


def compare_all(*counts: int) -> bool:
    """Compare with a hundred thousand people and with a million. Returns whether all of it was good enough."""
    results = [compare(count) for count in counts or (100_000, 1_000_000)]
    return all(results)
