"""The real server: TERM, a database that goes away, freezes or restarts, memory after many uploads."""

import io
import os
import re
import signal
import socket
import threading
import time
import urllib.parse
import urllib.request

import psutil
import pytest
from PIL import Image

from noxchat import security
from tests.conftest import PASSWORD, Visitor, wait_until


def test_it_starts_on_an_empty_folder_with_demo_people_and_a_login(serve, tmp_path):
    server = serve(uri=f"sqlite:///{tmp_path}/new.db", DEMO=1, SECRET_KEY="")
    identifier, password = re.search(r"Demo login: (\S+)  password: (\S+)", server.said()).groups()
    assert f"NoxChat is at {server.base}" in server.said()
    visitor = Visitor(server)
    visitor.post("/auth/login", {"identifier": identifier, "password": password})
    assert "Mila" in visitor.open("/").text
    assert (tmp_path / "data" / "secret_key").stat().st_mode & 0o777 == 0o600
    server.stop()
    again = serve(uri=f"sqlite:///{tmp_path}/new.db", DEMO=1, SECRET_KEY="")
    assert f"Demo login: {identifier}  password: {password}" in again.said()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_requests_finish_and_children_end_with_it(serve, sign):
    """A request whose body is still on its way when the server is told to end gets its answer."""
    server = serve("sqlite", WORKERS=2)
    children = psutil.Process(server.process.pid).children(recursive=True)
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        head = f"POST /auth/reset HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 20\r\n"
        line.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nemail=a".encode())
        time.sleep(1)
        server.process.send_signal(sign)
        time.sleep(1)
        line.sendall(b"@nox.example1")
        answer = line.recv(100)
    assert answer.startswith(b"HTTP/1.1 400 ")  # without a token: refused, but answered
    server.process.wait(30)
    assert not [child for child in children if child.is_running()]


def test_a_database_that_is_down_is_a_503_and_back_by_itself(serve, postgres):
    server = serve("postgresql")
    visitor = Visitor(server).register()
    postgres.stop("immediate")
    try:
        for path in ("/", "/settings", "/u/nobody"):
            began = time.monotonic()
            answer = visitor.open(path)
            assert answer.status == 503 and answer.headers["Retry-After"]
            assert time.monotonic() - began < 5
            assert "Back in a moment" in answer.text
        fragment = visitor.open("/", **{"HX-Request": "true"})
        assert fragment.status == 503 and "<html" not in fragment.text
        assert server.get("/static/css/base.css").status == 200
        assert server.get("/healthz").status == 200
        assert server.get("/readyz").status == 503
        assert server.get("/auth/login").status == 200
    finally:
        postgres.start()
    wait_until(lambda: visitor.open("/settings").status == 200, 15)


def test_after_a_mere_restart_not_one_request_fails(serve, postgres):
    server = serve("postgresql")
    visitor = Visitor(server).register()
    threads = [threading.Thread(target=lambda: visitor.open("/")) for _page in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    postgres.stop("fast")
    postgres.start()
    assert [visitor.open("/settings").status for _page in range(12)] == [200] * 12


def test_a_frozen_database_is_a_503_too(serve, postgres):
    server = serve("postgresql")
    visitor = Visitor(server).register()
    family = [psutil.Process(postgres.pid()), *psutil.Process(postgres.pid()).children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        began = time.monotonic()
        answer = visitor.open("/settings")
        assert answer.status == 503
        assert time.monotonic() - began < 15
    finally:
        for process in family:
            process.resume()
    wait_until(lambda: visitor.open("/settings").status == 200, 15)


def test_nobody_is_half_registered_when_the_database_goes(serve, postgres):
    server = serve("postgresql")
    visitor = Visitor(server)
    token = visitor.token("/auth/register")
    fields = {"username": "Mila", "email": "m@nox.example", "password": PASSWORD, "password2": PASSWORD}
    postgres.stop("immediate")
    try:
        body = urllib.parse.urlencode({**fields, "csrf_token": token}).encode()
        assert visitor.open("/auth/register", body).status == 503
    finally:
        postgres.start()
    wait_until(lambda: server.get("/readyz").status == 200)
    assert "Thank you" in visitor.post("/auth/register", fields).text


def test_too_large_an_upload_is_answered_with_a_page(serve):
    visitor = Visitor(serve("sqlite")).register()
    answer = visitor.upload("/settings/profile", {}, os.urandom(20_000_000))
    assert answer.status == 413 and "Too big to carry" in answer.text
    assert visitor.open("/settings").url.endswith("/settings")


def test_memory_stays_near_its_start_after_many_uploads(serve):
    server = serve("sqlite")
    visitor = Visitor(server).register()
    worker = psutil.Process(server.process.pid).children()[0]
    before = worker.memory_info().rss
    out = io.BytesIO()
    Image.effect_noise((2000, 1500), 100).convert("RGB").save(out, "JPEG", quality=92)
    fields = {"username": "Mila", "public_id": "mila", "bio": ""}
    visitor.upload("/settings/profile", fields, out.getvalue())
    for _upload in range(20):
        assert visitor.upload("/settings/profile", fields, out.getvalue()).status == 200
    after = worker.memory_info().rss
    print(f"worker: {before / 1e6:.0f} MB at its start, {after / 1e6:.0f} MB after 21 uploads")
    assert after - before < 150_000_000 and after < 512_000_000


def test_many_sign_ins_at_once_stay_within_memory(serve):
    server = serve("sqlite", SIGN_INS_PER_ADDRESS=1000, SIGN_INS_PER_ACCOUNT_AND_ADDRESS=1000)
    worker = psutil.Process(server.process.pid).children()[0]
    most, done = 0, threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.01):
            most = max(most, worker.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    visitor = Visitor(server)
    token = visitor.token("/auth/login")
    body = urllib.parse.urlencode({"identifier": "nobody", "password": "wrong one 12", "csrf_token": token}).encode()
    threads = [threading.Thread(target=lambda: visitor.open("/auth/login", body)) for _try in range(30)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    done.set()
    watcher.join()
    assert most < 512_000_000


def test_our_own_origin_is_known_behind_a_proxy_that_speaks_tls(make_app):
    """The request itself comes by plain HTTP then; every host that is answered has the scheme of BASE_URL."""
    app = make_app(BASE_URL="https://nox.example", ALLOWED_HOSTS="other.example")
    with app.test_request_context("/", base_url="http://other.example"):
        assert security._is_own("https://other.example") and security._is_own("https://nox.example")
        assert not security._is_own("http://other.example") and not security._is_own("https://evil.example")
