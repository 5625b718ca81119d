"""What our pages cost beside a bare Flask page on the same database: `bin/bench pages`.

Both servers run at once and are asked in turn, a batch each, so that a machine whose speed drifts is fair to both. What
counts is CPU time for each request, of the application's processes and of the database's.
"""

import http.client
import os
import statistics
import subprocess
import sys
import threading
import time

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
ROUNDS = 9
MOST = 1.5
PAGES = {"home": "/", "friends": "/friends", "search": "/search?q=anna", "profile": "/u/zebulon_q"}
# Nobody's name begins so, it is the second word of many: the larger part of the search has to be asked as well. Told,
# not judged.
TOLD = {"search, family": "/search?q=novak"}


def cpu(pids) -> float:
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


def cookie_of(app, number: int) -> str:
    """Sign in the person with this number, and return the cookie that says so."""
    with app.app_context():
        begin_write(db.session)
        lasting = app.config["REMEMBER_COOKIE_DURATION"]
        token = sessions.create(db.session.get(User, number), "bench", lasting).session_token
        db.session.commit()
        signer = app.session_interface.get_signing_serializer(app)
        db.session.remove()
        db.engine.dispose()
        return f"session={signer.dumps({'_user_id': token, '_fresh': True, 'csrf_token': 'x' * 40})}"


def ask(port: int, path: str, cookie: str, count: int):
    """Send so many requests over CONNECTIONS lines; every answer must be good."""

    def line(number):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _request in range(number):
            connection.request("GET", path, headers={"Cookie": cookie, "Accept-Encoding": "identity"})
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, (path, answer.status)
            sizes.append(len(body))
        connection.close()

    sizes = []
    threads = [threading.Thread(target=line, args=(count // CONNECTIONS,)) for _line in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sizes[0]


def main(count: int = 100_000) -> bool:
    """Measure all pages on PostgreSQL. Returns whether each costs at most MOST times the bare one."""
    place = BenchDatabase("postgresql", count, hub=20, requests=3)
    good, plain = True, None
    server = Server(place.folder, place.uri)
    try:
        cookie = cookie_of(place.app(), 1)
        size = ask(server.port, "/friends", cookie, CONNECTIONS)
        port = free_port()
        plain = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bare_page", place.uri, str(port), str(size)],
            cwd=ROOT,
            env={**os.environ, **server.environment},
        )
        wait_until(lambda: answers(port), 20)
        bare_size = ask(port, "/", cookie, CONNECTIONS)
        say(
            f"{count:,} people; ours {size} bytes, the bare page {bare_size}; {CONNECTIONS} connections, {ROUNDS} rounds"
        )
        database = place.postgres.pid()
        figures = {name: [] for name in ("bare", *PAGES, *TOLD)}
        for _round in range(ROUNDS + 1):
            for name in figures:
                pid, where, path, who = (
                    (plain.pid, port, "/", cookie)
                    if name == "bare"
                    else (server.process.pid, server.port, (PAGES | TOLD)[name], cookie)
                )
                before, base, began = cpu([pid]), cpu([database]), time.perf_counter()
                ask(where, path, who, BATCH)
                took = time.perf_counter() - began
                figures[name].append(((cpu([pid]) - before) / BATCH, (cpu([database]) - base) / BATCH, BATCH / took))
        bare = [statistics.median(column) for column in zip(*figures["bare"][1:], strict=True)]
        for name, rounds in figures.items():
            application, base, rate = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
            ratio = (application + base) / (bare[0] + bare[1])
            good &= ratio <= MOST or name in TOLD
            print(
                f"  {name:14} application {application * 1000:6.2f} ms, database {base * 1000:5.2f} ms of CPU a request,"
                f" {rate:5.0f} requests a second  ×{ratio:.2f}{'' if ratio <= MOST else '   TOO MUCH'}"
            )
    finally:
        server.stop()
        if plain:
            plain.terminate()
            plain.wait(10)
        place.close()
    return good


def answers(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
