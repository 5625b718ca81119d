"""Fixtures and helpers that tests share: real databases and servers, applications, users, and browsers."""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from html import unescape
from http.cookiejar import CookieJar
from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace

import flask_migrate
import psycopg
import pytest
from flask import current_app, has_app_context
from jinja2 import BytecodeCache
from sqlalchemy import delete, event
from sqlalchemy.engine import Engine
from werkzeug.routing import Rule
from werkzeug.security import generate_password_hash

from config import ROOT, Config
from noxchat import NoxChat, accounts, create_app, email_addresses, friendships, profiles, sessions, throttle
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.models import blocks, friend_requests, friends, request_cooldowns
from noxchat.search import models, outbox
from tests import elasticsearch as elastic
from tests.elasticsearch import faults

CI = os.environ.get("CI") == "true"
PASSWORD = "a lamp in the night 7"
DATABASES = ("sqlite", "postgresql")


class CompiledTemplates(BytecodeCache):
    """Compiled templates, by the hash of their source, so that the applications of a process do not all compile them."""

    def __init__(self):
        self.code = {}

    def load_bytecode(self, bucket):
        bucket.code = self.code.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket):
        self.code[bucket.key, bucket.checksum] = bucket.code


NoxChat.jinja_options = {**NoxChat.jinja_options, "bytecode_cache": CompiledTemplates()}


def compile_once(compile_builder):
    """Return a function that compiles URL rules as Werkzeug's does, each once for all applications of a process.

    Compiling them took most of the time of creating an application.
    """
    compiled = {}

    def compile_or_reuse(rule, append_unknown=True):
        key = (*rule._trace, repr(rule.defaults), append_unknown)
        if key not in compiled:
            compiled[key] = compile_builder(rule, append_unknown)
        return compiled[key]

    return compile_or_reuse


Rule._compile_builder = compile_once(Rule._compile_builder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Return the number of workers for `-n auto`: one and a half per core, since many tests mostly wait."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores * 3 // 2


@cache
def password_hash():
    return generate_password_hash(PASSWORD)


def skip(reason):
    """Skip a test for something that is not installed; in CI that is a failure."""
    (pytest.fail if CI else pytest.skip)(reason)


class Postgres:
    """A PostgreSQL server of the tests, on a Unix socket.

    folder: of its data, which is reused if it exists; by default a temporary one. durable: whether it syncs to disk as
    in production.
    """

    def __init__(self, folder=None, *, durable=False):
        found = shutil.which("initdb") or next(
            iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[::-1]), None
        )
        if not found:
            skip("PostgreSQL is not installed: apt-get install postgresql")
        self.bin = Path(found).resolve().parent
        self.folder = folder or Path(tempfile.mkdtemp(prefix="nox-pg-", dir="/tmp"))
        self.folder.mkdir(exist_ok=True)
        self.log = self.folder / "log"
        # With these, it takes a third of the time to copy a database.
        volatile = "-c fsync=off -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 -c autovacuum=off"
        self.tuning = "-c shared_buffers=512MB -c jit=off" if durable else volatile
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        if not (self.folder / "data").exists():
            cluster = ["-D", self.folder / "data", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust", "-U", "postgres"]
            self.run("initdb", *cluster)
        self.start()

    def run(self, name, *arguments):
        program = self.bin / name
        if not program.exists():
            program = Path(next(iter(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[::-1])))
        command = [str(program), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def start(self):
        options = f"-k {self.folder} -c listen_addresses= -c max_connections=200 {self.tuning}"
        self.run("pg_ctl", "-D", self.folder / "data", "-l", self.log, "-w", "-o", options, "start")

    def stop(self, mode="fast"):
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-m", mode, "stop")

    def pid(self):
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def uri(self, name):
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def execute(self, statement):
        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def postgres():
    server = Postgres()
    yield server
    server.stop("immediate")
    shutil.rmtree(server.folder, ignore_errors=True)


# With `bin/test --elasticsearch`: the settings of every application that has none of its own for Elasticsearch.
ELASTICSEARCH_SETTINGS = {}


def pytest_addoption(parser):
    parser.addoption("--elasticsearch", action="store_true", help="have every application search with Elasticsearch")


@pytest.fixture(scope="session", autouse=True)
def search_with_elasticsearch(request):
    """With --elasticsearch, have all applications search with it, and index all changes before each search."""
    if not request.config.getoption("elasticsearch"):
        yield
        return
    from noxchat.search.elasticsearch_engine import ElasticsearchEngine

    search = ElasticsearchEngine.search

    def search_indexed(self, *args, **kwargs):
        db.session.commit()
        # In another thread, so that a test that counts statements does not count these.
        thread = Thread(target=index_everything, args=(current_app._get_current_object(),))
        thread.start()
        thread.join()
        return search(self, *args, **kwargs)

    ElasticsearchEngine.search = search_indexed
    ELASTICSEARCH_SETTINGS["ELASTICSEARCH_URL"] = request.getfixturevalue("elasticsearch").url
    yield
    ElasticsearchEngine.search = search


def settings(folder, uri, **more):
    """Return the environment of an application whose files are in a folder."""
    if ELASTICSEARCH_SETTINGS:
        database = hashlib.sha256(str(uri).encode()).hexdigest()[:8]
        more = {**ELASTICSEARCH_SETTINGS, "ELASTICSEARCH_PREFIX": f"test_{RUN}_{database}", **more}
    return {
        "SECRET_KEY": "tests have a key of thirty-two characters",
        "DATA_DIR": str(folder / "data"),
        "LOG_DIR": str(folder / "logs"),
        "SQLALCHEMY_DATABASE_URI": uri,
        **{name: str(value) for name, value in more.items()},
    }


def migrated(folder, uri):
    """Create the tables in an empty database, by the migrations."""
    app = create_app(Config(settings(folder, uri), debug=False))
    with app.app_context():
        flask_migrate.upgrade()
        db.engine.dispose()


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    """Databases with empty tables, created once and copied for each test."""
    made = {}

    def template(kind, postgres=None):
        if kind not in made:
            folder = tmp_path_factory.mktemp(f"template-{kind}")
            if kind == "sqlite":
                made[kind] = folder / "noxchat.db"
                migrated(folder, f"sqlite:///{made[kind]}")
            else:
                made[kind] = "nox_template"
                postgres.execute("CREATE DATABASE nox_template")
                migrated(folder, postgres.uri("nox_template"))
        return made[kind]

    return template


numbers = iter(range(10**6))


@pytest.fixture(scope="session")
def elasticsearch(tmp_path_factory):
    """A real Elasticsearch server, shared by all processes of the test run: the first that needs it starts it."""
    if url := os.environ.get("ELASTICSEARCH_TEST_URL"):
        yield SimpleNamespace(url=url, port=urllib.parse.urlsplit(url).port)
        return
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    server, address = None, folder / "elasticsearch"
    with open(folder / "elasticsearch.users", "a") as users:
        with open(folder / "elasticsearch.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not address.exists():
                try:
                    server = elastic.Server(free_port())
                except elastic.NotInstalled as reason:
                    skip(str(reason))
                address.write_text(str(server.port))
            fcntl.flock(users, fcntl.LOCK_SH)
        port = int(address.read_text())
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port)
        if server:
            fcntl.flock(users, fcntl.LOCK_EX)  # waits until no other process uses it
            server.close()


@pytest.fixture
def proxy(elasticsearch):
    """A proxy to Elasticsearch that can break connections."""
    proxy = faults.FaultProxy(elasticsearch.port)
    yield proxy
    proxy.fault = faults.PASS
    proxy.close()


def pytest_collection_modifyitems(config, items):
    """With --elasticsearch, leave out the tests that choose their engine themselves."""
    if config.getoption("elasticsearch"):
        items[:] = [item for item in items if item.path.name not in ("test_elasticsearch.py", "test_search.py")]


def copy_database(folder, template, postgres=None):
    """Copy a database with tables, and return its URI: into a folder, or on a PostgreSQL server."""
    if postgres is None:
        path = folder / f"nox{next(numbers)}.db"
        shutil.copyfile(template, path)
        return f"sqlite:///{path}"
    name = f"nox{next(numbers)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    return postgres.uri(name)


@pytest.fixture
def new_database(request, tmp_path, templates):
    """Return a function that creates a database with tables and returns its URI."""
    made = []

    def make(kind):
        if kind == "sqlite":
            return copy_database(tmp_path, templates(kind))
        postgres = request.getfixturevalue("postgres")
        made.append(copy_database(tmp_path, templates(kind, postgres), postgres))
        return made[-1]

    yield make
    for uri in made:
        name = urllib.parse.urlsplit(uri).path[1:]
        request.getfixturevalue("postgres").execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def make_app(tmp_path, new_database):
    """Return a function that creates an application: make_app("postgresql", RESET_MINUTES=5)."""
    made = []

    def make(kind="sqlite", **more):
        uri = more.pop("uri", None) or new_database(kind)
        config = Config(settings(tmp_path, uri, **more), debug=False)
        app = create_app(config)
        # Errors are handled as in production; the log goes to pytest as well.
        app.config["PROPAGATE_EXCEPTIONS"] = False
        app.logger.propagate = True
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["mail_worker"].stop()
        app.extensions["event_streams"].close()
        if thread := app.extensions["event_streams"].thread:
            thread.join(10)  # or the connection that it uses would outlive the pool
        if app.extensions["indexer"]:
            app.extensions["indexer"].stop()
            if thread := app.extensions["indexer"].thread:
                thread.join()
            app.extensions["indexer"].engine.close()
        with app.app_context():
            db.session.remove()
            db.engine.dispose()


RUN = secrets.token_hex(4)


def index_prefix():
    """Return a new ELASTICSEARCH_PREFIX, since applications share a server."""
    return f"test_{RUN}_{next(numbers)}"


def index_everything(app):
    """Send all changes to Elasticsearch and make them searchable, without waiting for the indexer thread."""
    indexer = app.extensions["indexer"]
    with app.app_context():
        for model in models():
            wait_until(lambda: indexer.step() and outbox.lag(model.__tablename__) is None)  # noqa: B023
        db.session.commit()
    for alias in indexer.engine.aliases.values():
        indexer.client.indices.refresh(index=alias)


@pytest.fixture
def app(make_app):
    """An application on SQLite, for tests that do not depend on the database."""
    return make_app()


@pytest.fixture(params=DATABASES)
def any_app(request, make_app):
    """An application on each database."""
    return make_app(request.param)


@pytest.fixture(autouse=True)
def no_transaction_while_limits_are_counted(monkeypatch):
    """Fail if the limiter, whose store may hang, is called while a transaction is open."""
    hit = throttle.Limiter.hit

    def checked_hit(self, *args):
        is_open = has_app_context() and db.session.registry.has() and db.session().in_transaction()
        assert not is_open, "commit before counting an attempt"
        return hit(self, *args)

    monkeypatch.setattr(throttle.Limiter, "hit", checked_hit)


@pytest.fixture(autouse=True)
def no_write_in_a_transaction_that_only_reads():
    """Fail if rows are changed where each statement commits for itself: without begin_write, on PostgreSQL."""

    def check(connection, _cursor, statement, _parameters, context, _many):
        changes_rows = context and (context.isinsert or context.isupdate or context.isdelete)
        level = connection.get_execution_options().get("isolation_level")
        assert not (changes_rows and level == "AUTOCOMMIT"), f"begin_write first: {statement}"

    event.listen(Engine, "before_cursor_execute", check)
    yield
    event.remove(Engine, "before_cursor_execute", check)


TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


class Browser:
    """A browser: a test client that keeps cookies and sends a CSRF token with each POST. user: who is logged in."""

    def __init__(self, app, user=None, address="127.0.0.1"):
        self.app = app
        self.client = app.test_client()
        self.address = address
        self.user_id = None
        if user is not None:
            with app.app_context():
                begin_write(db.session)
                found = sessions.create(
                    db.session.get(type(user), user.id),
                    "Mozilla/5.0 (X11; Linux) Firefox/150.0",
                    app.config["REMEMBER_COOKIE_DURATION"],
                )
                token, self.user_id = found.session_token, user.id
                db.session.commit()
            with self.client.session_transaction() as session:
                session["_user_id"] = token
                session["_fresh"] = True

    def cookie(self, name):
        """Return the value of one of our cookies: SESSION, REMEMBER, DEVICE; None if there is none."""
        found = self.client.get_cookie(self.cookie_name(name))
        return found and found.value

    def cookie_name(self, name):
        self.get("/auth/login")  # the first request makes the names
        return self.app.config[f"{name}_COOKIE_NAME"]

    def set_cookie(self, name, value):
        self.client.set_cookie(self.cookie_name(name), value)

    def headers(self, htmx, more=None):
        return {**({"HX-Request": "true"} if htmx else {}), **(more or {})}

    def get(self, path, htmx=False, headers=None, **kwargs):
        return self.client.get(
            path,
            headers=self.headers(htmx, headers),
            environ_overrides={"REMOTE_ADDR": self.address},
            buffered=True,
            **kwargs,
        )

    def token(self, page="/settings/look"):
        return unescape(TOKEN.search(self.get(page).text)[1])

    def post(self, path, data=None, htmx=False, token=True, headers=None, **kwargs):
        data = dict(data or {})
        if token is True:
            data["csrf_token"] = self.token()
        elif token:
            data["csrf_token"] = token
        return self.client.post(
            path,
            data=data,
            headers=self.headers(htmx, headers),
            environ_overrides={"REMOTE_ADDR": self.address},
            buffered=True,
            **kwargs,
        )

    def log_in(self, identifier, password=PASSWORD, **fields):
        return self.post("/auth/login", {"identifier": identifier, "password": password, **fields})


def make_person(app, username, email=None, public_id=None, **more):
    """Create an account with PASSWORD, and return it. more: bio; confirmed, whether its address is."""
    with app.app_context():
        begin_write(db.session)
        user = accounts.create(username, email or f"{username.lower()}@nox.example", password_hash())
        if more.get("confirmed", True):
            assert email_addresses.prove(user, user.email)
        if public_id:
            profiles.edit(accounts.lock_account(user), username=username, public_id=public_id, bio=more.get("bio", ""))
        db.session.commit()
    if ELASTICSEARCH_SETTINGS:
        index_everything(app)
    return user


@pytest.fixture
def alice(app):
    return make_person(app, "Alice", public_id="alice")


@pytest.fixture
def anonymous(app):
    return Browser(app)


@pytest.fixture
def alice_browser(app, alice):
    """Alice's browser, logged in."""
    return Browser(app, alice)


def befriend(app, one, other):
    """Make two people friends."""
    with app.app_context():
        begin_write(db.session)
        rows = [{"user_id": one.id, "friend_id": other.id}, {"user_id": other.id, "friend_id": one.id}]
        db.session.execute(friends.insert(), rows)
        db.session.commit()


def act(rule, viewer, person):
    """Call a rule of friendships.py, in the transaction at hand."""
    return rule(friendships.lock_pair(viewer, person.public_id))


def forget_relationships(app):
    """Make strangers of all people."""
    with app.app_context():
        begin_write(db.session)
        for table in (friends, friend_requests, blocks, request_cooldowns):
            db.session.execute(delete(table))
        db.session.commit()


def make_friends(app, user, count):
    """Give somebody friends named Friend aa, Friend ab …"""
    alphabet = "abcdefghijkmnopqrstuvwxyz"
    for number in range(count):
        name = f"Friend {alphabet[number // 25]}{alphabet[number % 25]}"
        befriend(app, user, make_person(app, name, f"{number}@nox.example"))


def run_in_threads(app, count, work):
    """Run work(number) in so many threads at once; return what each returned or raised."""
    barrier, results = Barrier(count), [None] * count

    def run(number):
        with app.test_request_context():
            barrier.wait()
            try:
                results[number] = work(number)
            except Exception as error:
                results[number] = error
            finally:
                db.session.remove()

    threads = [Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(check, seconds=20):
    """Wait until check() returns something true, and return that; fail after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.05)
    return pytest.fail(f"not within {seconds} s")


@dataclass
class Answer:
    """A response of the real server."""

    status: int
    headers: object
    url: str
    text: str


def send_request(opener, request, timeout=30):
    """Send a request and return the response, whatever its status."""
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return Answer(response.status, response.headers, response.url, response.read().decode())


class Server:
    """The real server, started as by bin/run, on a free port unless one is given. cwd: the checkout that it runs."""

    def __init__(self, folder, uri, wait=True, prefix=(), port=None, cwd=ROOT, **more):
        self.port = port or free_port()
        self.base = f"http://{'[::1]' if more.get('HOST') == '::1' else '127.0.0.1'}:{self.port}"
        self.environment = settings(folder, uri, PORT=self.port, **{"DEMO": 0, **more})
        self.output = open(folder / f"server-{self.port}.txt", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "noxchat.web.server"],
            env={**os.environ, **self.environment},
            cwd=cwd,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if wait:
            self.wait()

    def wait(self):
        """Wait until it answers, or has ended."""
        wait_until(lambda: self.answers() or self.process.poll() is not None, 30)

    def answers(self):
        try:
            return self.get("/healthz").status == 200
        except OSError:
            return False

    def get(self, path):
        """Return the response to a GET, whatever its status."""
        return send_request(urllib.request.build_opener(), self.base + path)

    def output_text(self):
        return Path(self.output.name).read_text()

    def stop(self):
        """Stop it with TERM, and return how many seconds that took."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(35)
        self.output.close()
        return time.monotonic() - began


@pytest.fixture
def serve(tmp_path, new_database):
    """Return a function that starts servers: serve("postgresql", DEMO=1)."""
    started = []

    def start(kind="sqlite", **more):
        server = Server(tmp_path, more.pop("uri", None) or new_database(kind), **more)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


def browser_cookie(app, person, url):
    """Log somebody in, and return the session cookie as Playwright wants it."""
    browser = Browser(app, person)
    return {"name": browser.cookie_name("SESSION"), "value": browser.cookie("SESSION"), "url": url}


class Visitor:
    """A browser without JavaScript that talks to the real server."""

    def __init__(self, server):
        self.server = server
        self.email = None
        self.jar = CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def open(self, path, data=None, **headers):
        return send_request(self.opener, urllib.request.Request(self.server.base + path, data=data, headers=headers))

    def token(self, page):
        return TOKEN.search(self.open(page).text)[1]

    def post(self, path, fields, page=None):
        fields = {**fields, "csrf_token": self.token(page or path)}
        return self.open(path, urllib.parse.urlencode(fields).encode())

    def upload(self, path, fields, file):
        parts = {**fields, "csrf_token": self.token(path)}
        body = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (k.encode(), v.encode())
            for k, v in parts.items()
        )
        body += b'--x\r\nContent-Disposition: form-data; name="avatar"; filename="a"\r\n\r\n' + file + b"\r\n--x--\r\n"
        return self.open(path, body, **{"Content-Type": "multipart/form-data; boundary=x"})

    def register(self, name="Mila"):
        """Create an account, which logs in."""
        self.email = f"{name}@nox.example"
        fields = {"username": name, "email": self.email, "password": PASSWORD, "password2": PASSWORD}
        assert "Welcome" in self.post("/auth/register", fields).text
        return self

    def log_in(self, **fields):
        """Log in to the account of `email`."""
        self.post("/auth/login", {"identifier": self.email, "password": PASSWORD, **fields})
        assert self.open("/settings").url.endswith("/settings")
