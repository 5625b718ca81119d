"""A proxy between the application and Elasticsearch that injects faults."""

import socket
import threading
import time

PASS = "pass"
FAULTS = [
    *("refuse", "hang", "slow", "drip", "endless", "truncate", "close"),
    *("401", "403", "429", "500", "503", "404"),
    *("noise", "html", "json", "list", "invalid-sort", "partial"),
    *("invalid-text", "huge-id", "deeply-nested", "infinite-score"),
]
JSON = b"content-type: application/vnd.elasticsearch+json;compatible-with=9\r\nx-elastic-product: Elasticsearch\r\n"


def answer(status: str, body: bytes, headers: bytes = JSON) -> bytes:
    """Return an HTTP response."""
    return b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n%s" % (status.encode(), headers, len(body), body)


ANSWERS = {
    "401": answer("401 Unauthorized", b'{"error":{"type":"security_exception","reason":"no"},"status":401}'),
    "403": answer("403 Forbidden", b'{"error":{"type":"security_exception","reason":"no"},"status":403}'),
    "429": answer("429 Too Many Requests", b'{"error":{"type":"circuit_breaking_exception"},"status":429}'),
    "500": answer("500 Internal Server Error", b"oh no", b"content-type: text/plain\r\n"),
    "503": answer("503 Service Unavailable", b'{"error":{"type":"no_master"},"status":503}'),
    "404": answer("404 Not Found", b'{"error":{"type":"index_not_found_exception"},"status":404}'),
    "noise": b"\x00\xff\xfe\x80 not HTTP\r\n\r\n",
    "html": answer("200 OK", b"<h1>Welcome to nginx!</h1>", b"content-type: text/html\r\n"),
    "json": answer("200 OK", b'{"hits": {"hits": [{"_id": "x", "sort": "y"}]}, "timed_out": false, "items": 3}'),
    "list": answer("200 OK", b"[1, 2, 3]"),
    "invalid-sort": answer("200 OK", b'{"timed_out": false, "hits": {"hits": [{"_id": "1", "sort": [99, null]}]}}'),
    "invalid-text": answer(
        "200 OK", b'{"timed_out": false, "hits": {"hits": [{"_id": "1", "sort": [4.0, "a\\u0000\\ud800"]}]}}'
    ),
    "huge-id": answer(
        "200 OK", b'{"timed_out": false, "hits": {"hits": [{"_id": "99999999999", "sort": [4.0, "a"]}]}}'
    ),
    "deeply-nested": answer("200 OK", b"[" * 200_000),
    "infinite-score": answer("200 OK", b'{"timed_out": false, "hits": {"hits": [{"_id": "1", "sort": [1e999, "a"]}]}}'),
    "partial": answer("200 OK", b'{"timed_out": true}'),
    "close": b"",
}


class FaultProxy:
    """Forwards requests to a server on loopback, or injects a fault into each.

    fault: PASS, or one of FAULTS; applies to all later requests. requests: those received, as bytes. tls: an SSL
    context for TLS with clients.
    """

    def __init__(self, port: int, tls=None):
        self.server_port, self.tls = port, tls
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
                client, _address = self.listener.accept()
            except OSError:
                return
            if self.fault == "refuse":  # a listening port can only reset connections
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                client.close()
            else:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    @property
    def request_count(self) -> int:
        """How many requests were received."""
        return len(self.requests)

    def _serve(self, client):
        """Answer the requests of one connection."""
        try:
            if self.tls:
                client = self.tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.server_port))
        except OSError:
            client.close()
            return
        with client, server:
            try:
                while request := read_message(client):
                    self.requests.append(request)
                    if self.fault == "hang":
                        while self.fault == "hang" and not self.closed:
                            time.sleep(0.05)
                        return
                    if self.fault == "refuse":
                        return
                    if self.fault in ANSWERS:
                        client.sendall(ANSWERS[self.fault])
                        return
                    if self.fault == "slow":
                        time.sleep(5)
                    if self.fault == "endless":
                        client.sendall(b"HTTP/1.1 200 OK\r\n" + JSON + b"content-length: 99999999999\r\n\r\n")
                        while not self.closed:
                            client.sendall(b" " * 65536)
                    server.sendall(request)
                    response = read_message(server)
                    if self.fault == "truncate":
                        client.sendall(response[: len(response) - 20])
                        return
                    if self.fault == "drip":
                        for offset in range(len(response)):
                            client.sendall(response[offset : offset + 1])
                            time.sleep(0.05)
                    client.sendall(response if self.fault != "drip" else b"")
            except OSError:
                return


def read_message(connection) -> bytes:
    """Return a whole request or response; empty once the connection is closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        data += chunk
    head, _blank, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
    if fields.get(b"transfer-encoding", b"").strip() == b"chunked":
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(65536)
        return data
    length = int(fields.get(b"content-length", b"0"))
    while len(body) < length:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        body, data = body + chunk, data + chunk
    return data
