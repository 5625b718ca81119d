"""Time limits for reading requests and writing answers, which gunicorn's worker with threads does not have.

A client that sends its request too slowly would hold a thread for as long as it likes, and the end of the server, too.
"""

import select
import socket
import time

from gunicorn.workers.gthread import TConn

READ_SECONDS = 20  # without a byte
READ_SECONDS_AT_STOP = 5  # once the server is to end
BYTES_PER_SECOND = 1000  # of a request as a whole, after READ_SECONDS
POLL_MILLISECONDS = 500  # between looks at whether the server is to end
WRITE_SECONDS = 60  # for each part of an answer; a whole page is one


class TooSlow(Exception):
    """The head of a request did not arrive in time."""


class Reader:
    """Stands in for a client's socket while gunicorn reads from it.

    worker: has `alive`, which is False once the server is to end. timeout: as of a socket; gunicorn sets it while it
    discards what the application has not read.
    """

    def __init__(self, sock: socket.socket, worker):
        self.sock, self.worker = sock, worker
        self.timeout: float | None = None
        self.gave_up = False
        self.begin()

    def begin(self):
        """Begin with a request: its head comes first."""
        self.began, self.received, self.reads_body = time.monotonic(), 0, False

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, timeout: float | None):
        self.timeout = timeout

    def recv(self, size: int) -> bytes:
        """Return what has arrived. Raises TooSlow for the head of a request, TimeoutError for its body, OSError."""
        since, poll = time.monotonic(), select.poll()  # select() cannot wait for file descriptors above 1023
        poll.register(self.sock, select.POLLIN)
        while not poll.poll(POLL_MILLISECONDS):
            self._check_pace(time.monotonic() - since)
        data = self.sock.recv(size)
        self.received += len(data)
        self._check_pace(0)
        return data

    def _check_pace(self, silent_for: float):
        longest = READ_SECONDS if self.worker.alive else READ_SECONDS_AT_STOP
        lasted, allowed = time.monotonic() - self.began, READ_SECONDS + self.received / BYTES_PER_SECOND
        if silent_for > (longest if self.timeout is None else self.timeout) or lasted > allowed:
            self.gave_up = True
            raise TimeoutError if self.reads_body else TooSlow


class Connection(TConn):
    """A connection of gunicorn with these limits. worker: is set on a subclass."""

    worker = None

    def init(self):
        """Prepare for a request, in the thread that reads it."""
        super().init()
        self.sock.settimeout(WRITE_SECONDS)
        unreader = self.parser.unreader
        if not isinstance(unreader.sock, Reader):
            unreader.sock = Reader(self.sock, self.worker)
        unreader.sock.begin()

    def close(self, graceful=False):
        """Close the connection, without waiting for a client that is too slow to close it first."""
        reader = self.parser and self.parser.unreader.sock
        super().close(graceful and not getattr(reader, "gave_up", False))
