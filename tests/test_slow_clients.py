"""Clients that send or read slowly, and the end of the server meanwhile."""

import os
import resource
import selectors
import signal
import socket
import struct
import threading
import time
from contextlib import ExitStack, closing
from types import SimpleNamespace

import psutil
import pytest
from gunicorn import config as gunicorn_config

from noxchat.web import connections
from noxchat.web.connections import Arrival, Connection, Reader, TooSlow
from noxchat.web.server import CONNECTIONS, FILES
from noxchat.web.worker import Worker
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
    monkeypatch.setattr(connections, "READ_SECONDS", 0.6)
    monkeypatch.setattr(connections, "READ_SECONDS_AT_STOP", 0.2)
    monkeypatch.setattr(connections, "POLL_MILLISECONDS", 50)
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
    monkeypatch.setattr(connections, "READ_SECONDS", 60)
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


@pytest.fixture
def connection():
    """A connection as gunicorn has it, and its client."""
    near, client = socket.socketpair()
    with near, client:
        yield Connection(gunicorn_config.Config(), near, ("127.0.0.1", 1), ("127.0.0.1", 2)), client


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("data", "arrival", "missing"),
    [
        (b"", Arrival.PART, 1),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", Arrival.PART, 1),
        (b"\r\nGET / HTTP/1.1\r\n", Arrival.PART, 1),
        (b"\r\n\r\n", Arrival.PART, 1),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Arrival.WHOLE, 0),
        (b"GET / HTTP/1.1\nHost: a\r\n", Arrival.WHOLE, 0),  # which gunicorn refuses
        (POST + b"Content-Length: 5\r\n\r\n12", Arrival.PART, 3),
        (POST + b"content-length:5 \r\n\r\n12345", Arrival.WHOLE, 0),
        (POST + b"Content-Length: 5\r\n\r\n12345GET / HT", Arrival.WHOLE, 0),
        (POST + b"Content-Length: 0000005\r\n\r\n12", Arrival.PART, 3),
        (POST + b"Content-Length: five\r\n\r\n", Arrival.LONG, 0),
        (POST + b"Content-Length: " + b"0" * 20 + b"5\r\n\r\n12", Arrival.LONG, 0),
        (POST + b"Content-Length: " + b"9" * 25 + b"\r\n\r\n12", Arrival.LONG, 0),
        (POST + b"Content-Length: 70000\r\n\r\n", Arrival.LONG, 0),
        (POST + b"Content-Length: " + b"9" * 18 + b"\r\n\r\n", Arrival.LONG, 0),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", Arrival.LONG, 0),
        (POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", Arrival.LONG, 0),
        (b"GET /?q=" + b"x" * 70_000, Arrival.LONG, 0),
    ],
)
def test_how_much_of_a_request_has_arrived(connection, data, arrival, missing):
    near, client = connection
    client.sendall(data)
    assert near.look() is arrival
    if arrival is Arrival.PART:
        assert near.awaited == len(data) + missing
        client.shutdown(socket.SHUT_WR)
        assert near.look() is (Arrival.LONG if data else Arrival.ENDED)  # no more will come


def test_pages_are_answered_while_very_many_requests_are_half_sent(serve):
    """A request gets a thread only once it has arrived."""
    server = serve(THREADS=3)
    process = psutil.Process(server.process.pid).children()[0]
    with ExitStack() as stack:
        for number in range(900):
            half = HALF_SENT["line"] if number % 3 == 0 else HALF_SENT["head"] if number % 3 == 1 else HALF_SENT["body"]
            stack.enter_context(closing(connect(server, half)))
        visitor = Visitor(server)
        for _page in range(3):
            began = time.monotonic()
            assert visitor.open("/auth/login").status == 200
            assert time.monotonic() - began < 3  # a held thread would be free after 20 s
        assert process.num_threads() < 20


def test_requests_that_are_half_sent_behind_another_hold_no_thread(serve):
    server = serve(THREADS=3)
    with ExitStack() as stack:
        for _number in range(20):
            whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            pipelined = stack.enter_context(closing(connect(server, whole + HALF_SENT["body"])))
            assert b" 200 " in pipelined.recv(100)
        began = time.monotonic()
        assert Visitor(server).open("/auth/login").status == 200
        assert time.monotonic() - began < 3  # a held thread would be free after 20 s


CLOSING = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def reset(connection):
    """Close a connection as a client that has crashed does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_error_of_a_connection_ends_no_other_and_closed_ones_are_skipped():
    worker, failed, handled = Worker.__new__(Worker), [], []
    worker.log = SimpleNamespace(exception=failed.append)
    with selectors.DefaultSelector() as worker.poller, ExitStack() as stack:
        readers = []
        for _number in range(3):
            near, far = socket.socketpair()
            stack.enter_context(near)
            stack.enter_context(far)
            far.send(b"x")
            readers.append(near)

        def handle(sock):
            handled.append(sock)
            others = [other for other in readers if other not in handled]
            if len(others) == 2:
                worker.poller.unregister(others[0])
                raise ValueError

        for near in readers:
            worker.poller.register(near, selectors.EVENT_READ, handle)
        worker.wait_for_and_dispatch_events(1)
        assert len(handled) == 2 and len(failed) == 1


def test_clients_that_do_not_close_their_connections_delay_nobody(serve):
    """The server waits for them after its last answer, so that they can read it."""
    server = serve(THREADS=3)
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(server, CLOSING))) for _number in range(40)]
        began = time.monotonic()
        assert server.get("/healthz").status == 200
        assert time.monotonic() - began < 5  # it would be two seconds for each
        for connection in connections:
            answer = b"".join(iter(lambda connection=connection: connection.recv(1000), b""))
            assert b" 200 " in answer
        began = time.monotonic()
        server.process.terminate()
        server.process.wait(30)
        assert time.monotonic() - began < 10


def test_client_that_is_gone_when_its_time_is_over_ends_no_worker(serve):
    server = serve(THREADS=3)
    worker = psutil.Process(server.process.pid).children()[0]
    for half in (HALF_SENT["head"], HALF_SENT["body"]):
        for _number in range(30):
            reset(connect(server, half))
    silent = [connect(server, HALF_SENT["head"]) for _number in range(30)]
    time.sleep(19)
    for number, connection in enumerate(silent):
        time.sleep(0.1)
        reset(connection) if number % 2 else connection.close()
    assert server.get("/healthz").status == 200 and worker.is_running()
    assert "a connection failed" not in server.output_text()


def test_urgent_data_and_strange_lengths_hold_no_thread_of_pages(serve):
    server = serve(THREADS=3)
    with ExitStack() as stack:
        for _number in range(6):
            urgent = stack.enter_context(closing(connect(server, b"GET / HTTP/1.1\r\nHost: a")))
            time.sleep(0.05)
            urgent.send(b"!", socket.MSG_OOB)
            time.sleep(0.05)
            urgent.sendall(b"b\r\n")
            for length in ("0" * 20 + "99", "9" * 25):
                head = f"POST /auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n{FORM}Content-Length: {length}\r\n\r\n"
                stack.enter_context(closing(connect(server, head.encode())))
        began = time.monotonic()
        assert Visitor(server).open("/auth/login").status == 200
        assert time.monotonic() - began < 3  # a held thread would be free after 20 s


def test_clients_that_ask_a_lot_and_read_nothing_hold_no_thread(serve):
    server = serve(THREADS=3)
    with ExitStack() as stack:
        for _number in range(6):
            connection = stack.enter_context(closing(socket.socket()))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", server.port))
            connection.setblocking(False)
            connection.send(b"GET /auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1200)
        time.sleep(6)
        began = time.monotonic()
        assert Visitor(server).open("/auth/login").status == 200
        assert time.monotonic() - began < 5  # a held thread would be free after 60 s


def test_form_that_arrives_slowly_but_steadily_is_handled(serve):
    server = serve(THREADS=3)
    size = 60_000
    head = f"POST /auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n{FORM}Content-Length: {size}\r\n\r\n".encode()
    with closing(connect(server, head)) as connection:
        for _part in range(100):  # 25 s, longer than READ_SECONDS
            connection.sendall(b"x" * (size // 100))
            time.sleep(0.25)
        assert connection.recv(12).split()[1] == b"400"  # there is no CSRF token


def test_long_requests_that_are_half_sent_only_delay_others_of_their_kind(serve):
    server = serve(THREADS=3)
    upload = b"POST /settings/avatar HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 1000
    with ExitStack() as stack:
        for number in range(20):
            stack.enter_context(closing(connect(server, [upload, HALF_SENT["chunk"]][number % 2])))
        began = time.monotonic()
        assert Visitor(server).open("/auth/login").status == 200
        assert time.monotonic() - began < 3  # a held thread would be free after 20 s


@pytest.mark.parametrize("size", [100, 60_000, 70_000, 100_000])
def test_form_that_arrives_in_pieces_is_handled_once_it_is_whole(serve, size):
    server = serve(THREADS=1)
    body = b"identifier=" + b"a" * (size - len("identifier="))
    head = f"POST /auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n{FORM}Content-Length: {size}\r\n\r\n".encode()
    with closing(connect(server, head[:40])) as connection:
        for piece in (head[40:], body[: size // 2], body[size // 2 : -1], body[-1:]):
            time.sleep(0.2)
            connection.sendall(piece)
        assert connection.recv(12).split()[1] == b"400"  # there is no CSRF token
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")


def test_half_sent_requests_make_room_for_others(serve):
    """A quarter of those that have been silent for longest is given up when there is no room."""
    server = serve(STREAMS=0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        with ExitStack() as stack:
            assert Visitor(server).open("/auth/login").status == 200  # the first page of a server takes longer
            for _number in range(CONNECTIONS + 20):
                stack.enter_context(closing(connect(server, HALF_SENT["head"])))
            began = time.monotonic()
            assert Visitor(server).open("/auth/login").status == 200
            print(f"room was made within {time.monotonic() - began:.1f} s")
            assert time.monotonic() - began < 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_streams_are_fewer_where_the_system_allows_few_open_files(tmp_path, new_database):
    server = Server(tmp_path, new_database("sqlite"), prefix=["prlimit", "--nofile=800:800"], STREAMS=500)
    try:
        assert server.get("/auth/login").status == 200
        assert f"STREAMS is {(800 - FILES) // 2}" in server.output_text()
    finally:
        server.stop()


def test_half_sent_requests_are_answered_after_a_while(serve):
    server = serve()
    with ExitStack() as stack:
        began = time.monotonic()
        connections = {name: stack.enter_context(closing(connect(server, data))) for name, data in HALF_SENT.items()}
        answers = {name: connection.recv(12) for name, connection in connections.items()}
        assert 15 < time.monotonic() - began < 30
    assert answers.pop("nothing") == b""
    assert {answer.split()[1] for answer in answers.values()} == {b"408"}, answers


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
