"""A line between the application and Elasticsearch that can be broken in every way."""

import socket
import threading
import time

PASS = "pass"
FAULTS = [
    *("refuse", "hang", "slow", "drip", "endless", "cut", "close"),
    *("401", "403", "429", "500", "503", "404"),
    *("noise", "html", "json", "list", "wrong", "partial", "odd", "foreign", "deep", "infinite"),
]
JSON = b"content-type: application/vnd.elasticsearch+json;compatible-with=9\r\nx-elastic-product: Elasticsearch\r\n"


def answer(status: str, body: bytes, headers: bytes = JSON) -> bytes:
    return b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n%s" % (status.encode(), headers, len(body), body)


ANSWERS = {
    "401": answer("401 Unauthorized", b'{"error":{"type":"security_exception","reason":"no"},"status":401}'),
    "403": answer("403 Forbidden", b'{"error":{"type":"security_exception","reason":"no"},"status":403}'),
    "429": answer("429 Too Many Requests", b'{"error":{"type":"circuit_breaking_exception"},"status":429}'),
    "500": answer("500 Internal Server Error", b"oh no", b"content-type: text/plain\r\n"),
    "503": answer("503 Service Unavailable", b'{"error":{"type":"no_master"},"status":503}'),
    "404": answer("404 Not Found", b'{"error":{"type":"index_not_found_exception"},"status":404}'),
    "noise": b"\x00\xff\xfe\x80 nothing of HTTP\r\n\r\n",
    "html": answer("200 OK", b"<h1>Welcome to nginx!</h1>", b"content-type: text/html\r\n"),
    "json": answer("200 OK", b'{"hits": {"hits": [{"_id": "x", "sort": "y"}]}, "timed_out": false, "items": 3}'),
    "list": answer("200 OK", b"[1, 2, 3]"),
    "wrong": answer("200 OK", b'{"timed_out": false, "hits": {"hits": [{"_id": "1", "sort": [99, null]}]}}'),
    "odd": answer(
        "200 OK", b'{"timed_out": false, "hits": {"hits": [{"_id": "1", "sort": [4.0, "a\\u0000\\ud800"]}]}}'
    ),
    "foreign": answer(
        "200 OK", b'{"timed_out": false, "hits": {"hits": [{"_id": "99999999999", "sort": [4.0, "a"]}]}}'
    ),
    "deep": answer("200 OK", b"[" * 200_000),
    "infinite": answer("200 OK", b'{"timed_out": false, "hits": {"hits": [{"_id": "1", "sort": [1e999, "a"]}]}}'),
    "partial": answer("200 OK", b'{"timed_out": true}'),
    "close": b"",
}


class FaultProxy:
    """Passes everything on to a server, or does one of FAULTS, to every request from then on.

    fault: what it does. requests: what came, as bytes. tls: a context, to speak TLS with.
    """

    def __init__(self, port: int, tls=None):
        self.target, self.tls = port, tls
        self.fault, self.requests, self.closed = PASS, [], False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.closed = True
        self.listener.close()

    def _accept(self):
        while not self.closed:
            try:
                there, _address = self.listener.accept()
            except OSError:
                return
            if self.fault == "refuse":  # as near to it as a port that listens comes
                there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                there.close()
            else:
                threading.Thread(target=self._serve, args=(there,), daemon=True).start()

    @property
    def seen(self) -> int:
        """How many requests came."""
        return len(self.requests)

    def _serve(self, there):
        """Answer one connection's requests, one after the other."""
        try:
            if self.tls:
                there = self.tls.wrap_socket(there, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            there.close()
            return
        with there, server:
            try:
                while request := read_message(there):
                    self.requests.append(request)
                    if self.fault == "hang":
                        while self.fault == "hang" and not self.closed:
                            time.sleep(0.05)
                        return
                    if self.fault == "refuse":
                        return
                    if self.fault in ANSWERS:
                        there.sendall(ANSWERS[self.fault])
                        return
                    if self.fault == "slow":
                        time.sleep(5)
                    if self.fault == "endless":
                        there.sendall(b"HTTP/1.1 200 OK\r\n" + JSON + b"content-length: 99999999999\r\n\r\n")
                        while not self.closed:
                            there.sendall(b" " * 65536)
                    server.sendall(request)
                    response = read_message(server)
                    if self.fault == "cut":
                        there.sendall(response[: len(response) - 20])
                        return
                    if self.fault == "drip":
                        for place in range(len(response)):
                            there.sendall(response[place : place + 1])
                            time.sleep(0.05)
                    there.sendall(response if self.fault != "drip" else b"")
            except OSError:
                return


def read_message(line) -> bytes:
    """Return a whole request or response; nothing at the end of a connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = line.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _blank, body = data.partition(b"\r\n\r\n")
    fields = dict(row.lower().split(b":", 1) for row in head.split(b"\r\n")[1:])
    if fields.get(b"transfer-encoding", b"").strip() == b"chunked":
        while not data.endswith(b"0\r\n\r\n"):
            data += line.recv(65536)
        return data
    length = int(fields.get(b"content-length", b"0"))
    while len(body) < length:
        piece = line.recv(65536)
        if not piece:
            return b""
        body, data = body + piece, data + piece
    return data
