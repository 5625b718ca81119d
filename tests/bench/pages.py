"""What our pages and friend requests cost compared with a bare Flask page on the same database: `bin/bench pages`.

Both servers run at the same time and get batches of requests in turn, so that changes in the machine's speed affect
both. What is compared is CPU time per request, of the application's processes and of the database's.
"""

import http.client
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import psutil
from sqlalchemy import delete, select

from config import ROOT
from noxchat import sessions
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.models import Attempt, Profile, User, friend_requests
from tests.bench.databases import BenchDatabase, say
from tests.conftest import Server, free_port, wait_until

CONNECTIONS = 8
BATCH = 240
ROUNDS = 9
MAX_RATIO = 1.5
# Milliseconds of a friend request, application and database.
MAX_REQUEST = {"request, form": (10, 3), "request, htmx": (14, 3)}
PAGES = {"home": "/", "friends": "/friends", "search": "/search?q=anna", "profile": "/u/zebulon_q"}
# Printed, but without a limit: it is the second word of many names and the first of none, so that the search needs its
# second statement.
NOT_JUDGED = {"search, family": "/search?q=novak"}


def cpu_seconds(pids) -> float:
    """Return the CPU seconds that processes and their children have used."""
    total = 0.0
    for pid in pids:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total


def session_cookie(app, user_id: int) -> str:
    """Log a user in and return the session cookie."""
    with app.app_context():
        begin_write(db.session)
        duration = app.config["REMEMBER_COOKIE_DURATION"]
        token = sessions.create(db.session.get(User, user_id), "bench", duration).session_token
        db.session.commit()
        signer = app.session_interface.get_signing_serializer(app)
        app.extensions["cookie_names"].load()
        name = app.config["SESSION_COOKIE_NAME"]
        db.session.remove()
        db.engine.dispose()
        return f"{name}={signer.dumps({'_user_id': token, '_fresh': True, 'csrf_token': 'x' * 40})}"


def send_requests(port: int, path: str, cookie: str, count: int) -> int:
    """Send requests over CONNECTIONS connections, and return the bytes of a page. Every response must be a 200."""

    def send(number):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _request in range(number):
            connection.request("GET", path, headers={"Cookie": cookie, "Accept-Encoding": "identity"})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, (path, response.status)
        connection.close()
        return len(body)

    with ThreadPoolExecutor(CONNECTIONS) as executor:
        return list(executor.map(send, [count // CONNECTIONS] * CONNECTIONS))[0]


def send_friend_requests(port: int, public_ids: list[str], cookie: str, headers: dict[str, str]):
    """Send friend requests over one connection. Every response must be the one that a success has."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/", headers={"Cookie": cookie})
    token = re.search(rb'name="csrf-token" content="([^"]+)"', connection.getresponse().read())[1].decode()
    body = urllib.parse.urlencode({"csrf_token": token, "next": "/friends"})
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded", **headers}
    for public_id in public_ids:
        connection.request("POST", f"/u/{public_id}/request", body, headers)
        response = connection.getresponse()
        text = response.read()
        assert response.status == (200 if "HX-Request" in headers else 303), (public_id, response.status, text)
    connection.close()


def main(count: int = 100_000) -> bool:
    """Measure on PostgreSQL. Returns whether each page costs at most MAX_RATIO times the bare page, and requests as given."""
    database = BenchDatabase("postgresql", count, hub=20, requests=3)
    passed, bare_server = True, None
    server = Server(database.folder, database.uri, REQUESTS_PER_HOUR=1_000_000, OPEN_REQUESTS=1_000_000)
    try:
        app = database.app()
        cookie = session_cookie(app, 1)
        strangers = find_strangers(app)
        cookie_name = cookie.partition("=")[0]
        size = send_requests(server.port, "/friends", cookie, CONNECTIONS)
        bare_port = free_port()
        bare_server = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bare_page", database.uri, str(bare_port), str(size), cookie_name],
            cwd=ROOT,
            env={**os.environ, **server.environment},
        )
        wait_until(lambda: is_alive(bare_port), 20)
        bare_size = send_requests(bare_port, "/", cookie, CONNECTIONS)
        say(
            f"{count:,} people; our page {size} bytes, the bare page {bare_size}; {CONNECTIONS} connections, {ROUNDS} rounds"
        )
        database_pid = database.postgres.pid()
        pages = PAGES | NOT_JUDGED
        htmx = {"HX-Request": "true"}
        results = {name: [] for name in ("bare", *pages, *MAX_REQUEST)}
        for _round in range(ROUNDS + 1):
            for name in results:
                forget_requests(app)
                pid = bare_server.pid if name == "bare" else server.process.pid
                application_before, database_before = cpu_seconds([pid]), cpu_seconds([database_pid])
                began = time.perf_counter()
                if name in MAX_REQUEST:
                    send_friend_requests(server.port, strangers, cookie, htmx if "htmx" in name else {})
                else:
                    send_requests(bare_port if name == "bare" else server.port, pages.get(name, "/"), cookie, BATCH)
                took = time.perf_counter() - began
                application_used = cpu_seconds([pid]) - application_before
                database_used = cpu_seconds([database_pid]) - database_before
                results[name].append((application_used / BATCH, database_used / BATCH, BATCH / took))
        # Without the first round, which only warms up the servers.
        bare = [statistics.median(column) for column in zip(*results["bare"][1:], strict=True)]
        for name, rounds in results.items():
            application, database_cpu, rate = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
            ratio = (application + database_cpu) / (bare[0] + bare[1])
            milliseconds = application * 1000, database_cpu * 1000
            within = name in NOT_JUDGED or ratio <= MAX_RATIO
            if name in MAX_REQUEST:
                within = all(used <= most for used, most in zip(milliseconds, MAX_REQUEST[name], strict=True))
            passed &= within
            print(
                f"  {name:14} CPU per request: application {milliseconds[0]:6.2f} ms, database {milliseconds[1]:5.2f} ms;"
                f" {rate:5.0f} requests per second  ×{ratio:.2f}{'' if within else '   TOO MUCH'}"
            )
    finally:
        server.stop()
        if bare_server:
            bare_server.terminate()
            bare_server.wait(10)
        database.close()
    return passed


def find_strangers(app) -> list[str]:
    """Return the Public IDs of BATCH people who have nothing to do with the first one."""
    with app.app_context():
        ids = db.session.scalars(select(Profile.public_id).where(Profile.user_id > 1000).limit(BATCH)).all()
        db.session.remove()
        return list(ids)


def forget_requests(app):
    """Delete the requests of the first person: more than a limit would let through would count for much."""
    with app.app_context():
        db.session.execute(delete(friend_requests).where(friend_requests.c.sender_id == 1))
        db.session.execute(delete(Attempt))
        db.session.commit()
        db.session.remove()


def is_alive(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
