"""What our pages cost compared with a bare Flask page on the same database: `bin/bench pages`.

Both servers run at the same time and get batches of requests in turn, so that changes in the machine's speed affect
both. What is compared is CPU time per request, of the application's processes and of the database's.
"""

import http.client
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from config import ROOT
from noxchat import sessions
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.models import User
from tests.bench.databases import BenchDatabase, say
from tests.conftest import Server, free_port, wait_until

CONNECTIONS = 8
BATCH = 240
ROUNDS = int(os.environ.get("ROUNDS", 9))
MAX_RATIO = 1.5
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


def main(count: int = 100_000) -> bool:
    """Measure all pages on PostgreSQL. Returns whether each costs at most MAX_RATIO times the bare page."""
    database = BenchDatabase("postgresql", count, hub=20, requests=3)
    passed, bare_server = True, None
    server = Server(database.folder, database.uri)
    try:
        cookie = session_cookie(database.app(), 1)
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
        results = {name: [] for name in ("bare", *PAGES, *NOT_JUDGED)}
        for _round in range(ROUNDS + 1):
            for name in results:
                pid, port, path = (
                    (bare_server.pid, bare_port, "/")
                    if name == "bare"
                    else (server.process.pid, server.port, (PAGES | NOT_JUDGED)[name])
                )
                application_before, database_before = cpu_seconds([pid]), cpu_seconds([database_pid])
                began = time.perf_counter()
                send_requests(port, path, cookie, BATCH)
                took = time.perf_counter() - began
                application_used = cpu_seconds([pid]) - application_before
                database_used = cpu_seconds([database_pid]) - database_before
                results[name].append((application_used / BATCH, database_used / BATCH, BATCH / took))
        # Without the first round, which only warms up the servers.
        bare = [statistics.median(column) for column in zip(*results["bare"][1:], strict=True)]
        for name, rounds in results.items():
            application, database_cpu, rate = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
            ratio = (application + database_cpu) / (bare[0] + bare[1])
            passed &= ratio <= MAX_RATIO or name in NOT_JUDGED
            print(
                f"  {name:14} CPU per request: application {application * 1000:6.2f} ms,"
                f" database {database_cpu * 1000:5.2f} ms; {rate:5.0f} requests per second"
                f"  ×{ratio:.2f}{'' if ratio <= MAX_RATIO else '   TOO MUCH'}"
            )
    finally:
        server.stop()
        if bare_server:
            bare_server.terminate()
            bare_server.wait(10)
        database.close()
    return passed


def is_alive(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
