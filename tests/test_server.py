"""The real server: start and shutdown, database outages, uploads, memory."""

import io
import os
import re
import signal
import socket
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psutil
import psycopg
import pytest
from PIL import Image

from noxchat.web import security
from tests.conftest import PASSWORD, Server, Visitor, copy_database, wait_until


def in_threads(count, work):
    """Return what work() returned in so many threads at once."""
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(work) for _thread in range(count)]]


def test_first_start_creates_demo_data_and_prints_a_login(serve, tmp_path):
    server = serve(uri=f"sqlite:///{tmp_path}/new.db", DEMO=1, SECRET_KEY="")
    identifier, password = re.search(r"Demo login: (\S+)  password: (\S+)", server.output_text()).groups()
    assert f"NoxChat is at {server.base}" in server.output_text()
    visitor = Visitor(server)
    visitor.post("/auth/login", {"identifier": identifier, "password": password})
    assert "Mila" in visitor.open("/").text
    assert (tmp_path / "data" / "secret_key").stat().st_mode & 0o777 == 0o600
    server.stop()
    restarted = serve(uri=f"sqlite:///{tmp_path}/new.db", DEMO=1, SECRET_KEY="")
    assert f"Demo login: {identifier}  password: {password}" in restarted.output_text()


@pytest.mark.parametrize("shutdown_signal", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_finishes_requests_and_stops_workers(serve, shutdown_signal):
    """A request whose body is still being sent when the signal arrives gets its response."""
    server = serve("postgresql", WORKERS=2)
    workers = psutil.Process(server.process.pid).children(recursive=True)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /auth/reset HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 20\r\n"
        connection.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nemail=a".encode())
        time.sleep(1)
        server.process.send_signal(shutdown_signal)
        time.sleep(1)
        connection.sendall(b"@nox.example1")
        response = connection.recv(100)
    assert response.startswith(b"HTTP/1.1 400 ")  # there is no CSRF token
    server.process.wait(30)
    assert not [worker for worker in workers if worker.is_running()]


def test_database_outage_returns_503_and_recovers(serve, postgres):
    server = serve("postgresql")
    visitor = Visitor(server).register()
    postgres.stop("immediate")
    try:
        for path in ("/", "/settings", "/u/nobody"):
            began = time.monotonic()
            response = visitor.open(path)
            assert response.status == 503 and response.headers["Retry-After"]
            assert time.monotonic() - began < 5
            assert "Temporarily unavailable" in response.text
        fragment = visitor.open("/", **{"HX-Request": "true"})
        assert fragment.status == 503 and "<html" not in fragment.text
        assert server.get("/static/css/base.css").status == 200
        assert server.get("/healthz").status == 200
        assert server.get("/readyz").status == 503
        assert server.get("/auth/login").status == 200
    finally:
        postgres.start()
    wait_until(lambda: visitor.open("/settings").status == 200, 15)


def test_no_request_fails_after_database_restart(serve, postgres):
    server = serve("postgresql")
    visitor = Visitor(server).register()
    assert in_threads(8, lambda: visitor.open("/").status) == [200] * 8  # so that the pool has connections
    postgres.stop("fast")
    postgres.start()
    assert [visitor.open("/settings").status for _page in range(12)] == [200] * 12


def test_frozen_database_returns_503(serve, postgres):
    server = serve("postgresql")
    visitor = Visitor(server).register()
    processes = [psutil.Process(postgres.pid()), *psutil.Process(postgres.pid()).children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        began = time.monotonic()
        response = visitor.open("/settings")
        assert response.status == 503
        assert time.monotonic() - began < 15
    finally:
        for process in processes:
            process.resume()
    wait_until(lambda: visitor.open("/settings").status == 200, 15)


def test_registration_can_be_repeated_after_database_outage(serve, postgres):
    """The database goes away between the statements of a registration."""
    server = serve("postgresql")
    uri = server.environment["SQLALCHEMY_DATABASE_URI"]
    visitor = Visitor(server)
    token = visitor.token("/auth/register")
    fields = {"username": "Mila", "email": "m@nox.example", "password": PASSWORD, "password2": PASSWORD}
    body = urllib.parse.urlencode({**fields, "csrf_token": token}).encode()
    # Another transaction keeps a table from being written, so that the account is inserted and not committed.
    with ThreadPoolExecutor(1) as pool, closing(psycopg.connect(uri)) as other:
        other.execute("LOCK TABLE profiles IN EXCLUSIVE MODE")
        answer = pool.submit(visitor.open, "/auth/register", body)
        wait_until(lambda: is_waiting(uri))
        postgres.stop("immediate")
        try:
            assert answer.result().status == 503
        finally:
            postgres.start()
    wait_until(lambda: server.get("/readyz").status == 200)
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
    assert "Welcome" in visitor.post("/auth/register", fields).text


def is_waiting(uri):
    """Tell whether a transaction that has inserted waits for a lock."""
    waiting = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_xid IS NOT NULL"
    with psycopg.connect(uri) as connection:
        return connection.execute(waiting).fetchall()


def test_oversized_upload_shows_an_error_page(serve):
    visitor = Visitor(serve("sqlite")).register()
    response = visitor.upload("/settings/profile", {}, os.urandom(20_000_000))
    assert response.status == 413 and "This is too large" in response.text
    assert visitor.open("/settings").url.endswith("/settings")


def test_memory_is_bounded_after_many_uploads(serve):
    server = serve("sqlite")
    visitor = Visitor(server).register()
    worker = psutil.Process(server.process.pid).children()[0]
    before = worker.memory_info().rss
    picture = io.BytesIO()
    Image.effect_noise((2000, 1500), 100).convert("RGB").save(picture, "JPEG", quality=92)
    fields = {"username": "Mila", "public_id": "mila", "bio": ""}
    for _upload in range(6):  # each would leave its 9 MB of pixels, or 12 with what libraries keep, if they were kept
        assert visitor.upload("/settings/profile", fields, picture.getvalue()).status == 200
    after = worker.memory_info().rss
    print(f"worker: {before / 1e6:.0f} MB at the start, {after / 1e6:.0f} MB after 6 uploads")
    assert after - before < 45_000_000 and after < 512_000_000


def test_simultaneous_wrong_passwords_do_not_exceed_the_limit_of_several_processes(serve):
    """And a restart does not reset it."""
    server = serve("postgresql", WORKERS=2)
    visitor = Visitor(server)
    token = visitor.token("/auth/login")
    body = urllib.parse.urlencode({"identifier": "nobody", "password": "wrong one 12", "csrf_token": token}).encode()
    assert sorted(in_threads(40, lambda: visitor.open("/auth/login", body).status)) == [422] * 9 + [429] * 31
    server.stop()
    restarted = Visitor(serve(uri=server.environment["SQLALCHEMY_DATABASE_URI"]))
    restarted.jar = visitor.jar
    answer = restarted.post("/auth/login", {"identifier": "nobody", "password": "wrong one 12"})
    assert answer.status == 429 and 0 < int(answer.headers["Retry-After"]) <= 900


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"<script>alert(1)</script>\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nCookie: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: strange\r\n\r\n", 501),
    ],
)
def test_request_that_cannot_be_read_is_refused_as_text(error_server, request_head, status):
    """HTML would need the security headers, which only the application writes."""
    with closing(socket.create_connection(("127.0.0.1", error_server.port), 5)) as connection:
        connection.sendall(request_head)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head = answer.partition(b"\r\n\r\n")[0].decode().splitlines()
    assert int(head[0].split()[1]) == status
    assert {"Content-Type: text/plain; charset=latin-1", "X-Content-Type-Options: nosniff"} <= set(head)


@pytest.fixture(scope="module")
def error_server(tmp_path_factory, templates):
    folder = tmp_path_factory.mktemp("errors")
    server = Server(folder, copy_database(folder, templates("sqlite", None), None))
    yield server
    server.stop()


def test_cookie_of_another_application_with_any_bytes_changes_nothing(serve):
    """Through the real server, which reads the bytes of headers as Latin-1."""
    server = serve()
    large = b"; ".join(b"large%d=%s" % (number, b"x" * 4000) for number in range(15))
    for value in ("Москва".encode(), b"\xff\xfe", b"\xd0", b'"\\377"', large):
        for path in ("/auth/login", "/static/css/base.css", "/healthz"):
            with closing(socket.create_connection(("127.0.0.1", server.port), 5)) as connection:
                head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nCookie: city="
                connection.sendall(head.encode() + value + b"; theme=night\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200 "), (path, value)


def test_memory_is_bounded_during_concurrent_logins(serve):
    server = serve("sqlite", SIGN_INS_PER_ADDRESS=1000, SIGN_INS_PER_ACCOUNT_AND_ADDRESS=1000)
    worker = psutil.Process(server.process.pid).children()[0]
    peak, done = 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, worker.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    visitor = Visitor(server)
    token = visitor.token("/auth/login")
    body = urllib.parse.urlencode({"identifier": "nobody", "password": "wrong one 12", "csrf_token": token}).encode()
    try:
        assert in_threads(16, lambda: visitor.open("/auth/login", body).status) == [422] * 16
    finally:
        done.set()
        watcher.join()
    assert peak < 300_000_000


def test_own_origins_are_recognized_behind_a_tls_proxy(make_app):
    """The proxy forwards plain HTTP, but the origins of all hosts have the scheme of BASE_URL."""
    app = make_app(BASE_URL="https://nox.example", ALLOWED_HOSTS="other.example")
    with app.test_request_context("/", base_url="http://other.example"):
        assert security._is_own("https://other.example") and security._is_own("https://nox.example")
        assert not security._is_own("http://other.example") and not security._is_own("https://evil.example")
