"""Clients that send or read slowly, and the end of the server meanwhile."""

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, closing
from types import SimpleNamespace

import psutil
import pytest

from noxchat.web import slow_clients
from noxchat.web.slow_clients import Reader, TooSlow
from tests.conftest import Server, Visitor, wait_until

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
HALF_SENT = {
    "nothing": b"",
    "line": b"GET /auth/lo",
    "head": b"GET /auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "body": f"POST /auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n{FORM}Content-Length: 99\r\n\r\nidentifier=a".encode(),
    "chunk": f"POST /auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n{FORM}Transfer-Encoding: chunked\r\n\r\n9\r\nab".encode(),
}


@pytest.fixture
def pair(monkeypatch):
    """A reader of one end of a socket, and the other end."""
    monkeypatch.setattr(slow_clients, "READ_SECONDS", 0.6)
    monkeypatch.setattr(slow_clients, "READ_SECONDS_AT_STOP", 0.2)
    monkeypatch.setattr(slow_clients, "POLL_MILLISECONDS", 50)
    near, far = socket.socketpair()
    with near, far:
        yield Reader(near, SimpleNamespace(alive=True)), far


def test_silent_client_is_given_up(pair):
    reader, client = pair
    client.sendall(b"GET / HT")
    assert reader.recv(100) == b"GET / HT"
    with pytest.raises(TooSlow):
        reader.recv(100)
    reader.reads_body = True
    with pytest.raises(TimeoutError):
        reader.recv(100)


def test_client_that_sends_a_byte_at_a_time_is_given_up(pair):
    reader, client = pair
    began = time.monotonic()
    with pytest.raises(TooSlow):
        while True:
            client.sendall(b"x")
            assert reader.recv(100) == b"x"
            time.sleep(0.1)
    assert time.monotonic() - began < 5


def test_slow_but_steady_client_is_not_given_up(pair, monkeypatch):
    reader, client = pair
    for _part in range(15):  # 1.5 s, longer than READ_SECONDS
        client.sendall(b"x" * 200)
        assert len(reader.recv(1000)) == 200
        time.sleep(0.1)
    reader.begin()
    client.sendall(b"next request")
    assert reader.recv(100) == b"next request"


def test_silent_client_is_given_up_sooner_when_the_server_ends(pair, monkeypatch):
    monkeypatch.setattr(slow_clients, "READ_SECONDS", 60)
    reader, _client = pair
    reader.worker.alive = False
    with pytest.raises(TooSlow):
        reader.recv(100)


def test_timeout_of_the_socket_is_kept(pair):
    reader, _client = pair
    reader.settimeout(0.1)
    assert reader.gettimeout() == 0.1
    with pytest.raises(TooSlow):
        reader.recv(100)


def connect(server, data):
    connection = socket.create_connection(("127.0.0.1", server.port), 30)
    connection.sendall(data)
    return connection


def test_pages_are_answered_while_many_requests_are_half_sent(serve):
    server = serve(THREADS=64)
    with ExitStack() as stack:
        for number in range(150):
            stack.enter_context(closing(connect(server, list(HALF_SENT.values())[1 + number % 4])))
        visitor = Visitor(server)
        for _page in range(3):
            began = time.monotonic()
            assert visitor.open("/auth/login").status == 200
            assert time.monotonic() - began < 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_half_sent_requests_are_answered_when_the_server_ends(serve, number):
    server = serve()
    with ExitStack() as stack:
        connections = {name: stack.enter_context(closing(connect(server, data))) for name, data in HALF_SENT.items()}
        time.sleep(1)
        began = time.monotonic()
        os.killpg(server.process.pid, number)  # as a terminal does
        answers = {name: connection.recv(12) for name, connection in connections.items()}
        server.process.wait(30)
        assert time.monotonic() - began < 20
    assert answers.pop("nothing") == b""
    assert {answer.split()[1] for answer in answers.values()} == {b"408"}, answers


def test_closed_terminal_ends_the_server_and_its_workers(serve):
    server = serve("postgresql", WORKERS=2)
    workers = psutil.Process(server.process.pid).children(recursive=True)
    assert Visitor(server).open("/auth/login").status == 200
    os.killpg(server.process.pid, signal.SIGHUP)
    server.process.wait(30)
    wait_until(lambda: not any(worker.is_running() for worker in workers))


def test_many_half_sent_requests_do_not_delay_the_end(serve):
    server = serve()
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(server, HALF_SENT["head"]))) for _number in range(60)]
        time.sleep(1)
        began = time.monotonic()
        server.process.terminate()
        assert {connection.recv(12).split()[1] for connection in connections} == {b"408"}
        server.process.wait(30)
        assert time.monotonic() - began < 15


def test_server_that_was_started_by_nohup_ignores_a_closed_terminal(tmp_path, new_database):
    server = Server(tmp_path, new_database("sqlite"), prefix=["nohup"])
    try:
        os.killpg(server.process.pid, signal.SIGHUP)
        time.sleep(1)
        assert server.process.poll() is None and server.get("/auth/login").status == 200
    finally:
        server.stop()


def test_slow_upload_gets_its_answer_when_the_server_ends(serve):
    """One that still sends is waited for."""
    server = serve()
    with closing(connect(server, HALF_SENT["body"])) as connection:
        time.sleep(0.5)
        stop = threading.Timer(0.5, server.process.terminate)
        stop.start()
        for _byte in range(99 - len("identifier=a")):
            connection.sendall(b"x")
            time.sleep(0.03)
        assert connection.recv(12).split()[1] == b"400"  # there is no CSRF token
    server.process.wait(30)
