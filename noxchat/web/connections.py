"""A browser's connection to gunicorn's worker (worker.py): how much of a request has arrived, and time limits."""

import re
import select
import socket
import time
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from gunicorn.workers.gthread import TConn

from noxchat.event_stream import EventStream

MAX_AWAITED = 65_536  # bytes of a request that are awaited without a thread
READ_SECONDS = 20  # for such a request; of a longer one, without a byte
READ_SECONDS_AT_STOP = 5  # once the server is to end
BYTES_PER_SECOND = 1000  # of a longer request as a whole, after READ_SECONDS
POLL_MILLISECONDS = 500  # between looks at whether the server is to end
WRITE_SECONDS = 60  # for each part of an answer; a whole page is one
SEND_BUFFER = 200_000  # bytes; a page is a fraction, so that a thread need not wait until a client has read it
LINGER_SECONDS = 2  # for which the client of a closed connection may still read

# An empty line ends the head of a request; gunicorn refuses a line feed without carriage return at once.
END_OF_HEAD = re.compile(rb"\r\n\r\n|(?<!\r)\n")
CONTENT_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r", re.IGNORECASE)
UNKNOWN_LENGTH = re.compile(rb"\n(transfer-encoding:|expect:|content-length:(?![ \t]*\d{1,18}[ \t]*\r))", re.IGNORECASE)


class TooSlow(Exception):
    """The head of a request did not arrive in time."""


class Arrival(Enum):
    """How much of a request has arrived."""

    ENDED = auto()  # the client has closed the connection
    BLOCKED = auto()  # the client has not read earlier answers yet
    PART = auto()
    WHOLE = auto()
    LONG = auto()  # of one that is too long to be awaited, some; or something that only reading can tell


class Reader:
    """Stands in for a client's socket while gunicorn reads from it, and limits the time of a long request.

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
    """A connection of gunicorn's that can tell whether a request has arrived, and carry an event stream.

    worker: is set on a subclass. began, deadline: when the request that is awaited began, and until when it has to
    arrive (time.monotonic). awaited: how many bytes are awaited in the socket. stream: the event stream that has taken
    the connection over.
    """

    worker: Any = None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.began = self.deadline = 0.0
        self.awaited = 0
        self.stream: EventStream | None = None
        self.is_chunked = False

    def init(self):
        """Prepare for a request, in the thread that reads it."""
        super().init()
        self.sock.settimeout(WRITE_SECONDS)
        unreader = self.parser.unreader
        if not isinstance(unreader.sock, Reader):
            unreader.sock = Reader(self.sock, self.worker)
        unreader.sock.begin()

    @property
    def has_begun(self) -> bool:
        """Whether a part of the request that is awaited has arrived."""
        return self.awaited > 1 or self.parser is not None

    def look(self) -> Arrival:
        """Tell how much of a request has arrived, without reading it, and set how many bytes are awaited."""
        read = self.parser.unreader.buf.getvalue() if self.parser else b""
        self.sock.setblocking(False)
        if not self.can_write():
            return Arrival.BLOCKED
        try:
            peeked = self.sock.recv(MAX_AWAITED, socket.MSG_PEEK)
        except BlockingIOError:
            peeked, self.awaited = b"", 0
        except OSError:
            return Arrival.ENDED
        else:
            if not peeked and not read:
                return Arrival.ENDED
            if not peeked or len(peeked) < self.awaited:
                return Arrival.LONG  # no more will come; or there is urgent data, which hides what is behind it
        data = read + peeked
        if len(data) >= MAX_AWAITED:
            return Arrival.LONG
        missing = self._missing(data)
        if missing is None or len(data) + missing > MAX_AWAITED:
            return Arrival.LONG
        self.awaited = len(peeked) + missing
        return Arrival.PART if missing else Arrival.WHOLE

    @staticmethod
    def _missing(data: bytes) -> int | None:
        """Return how many bytes of a request are missing at least; None if only reading can tell."""
        head = END_OF_HEAD.search(data, 2 if data.startswith(b"\r\n") else 0)  # RFC 9112, 2.2, allows an empty line
        if head is None:
            return 1
        if UNKNOWN_LENGTH.search(data, 0, head.end()):
            return None
        length = CONTENT_LENGTH.search(data, 0, head.end())
        return max(0, head.end() + int(length[1]) - len(data)) if length else 0

    def can_write(self) -> bool:
        """Tell whether there is room for an answer: the client has read most of the earlier ones."""
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        return bool(poll.poll(0))

    def arrived(self) -> int:
        """Return how many bytes of a request that is awaited have arrived."""
        read = len(self.parser.unreader.buf.getvalue()) if self.parser else 0
        try:
            return read + len(self.sock.recv(MAX_AWAITED, socket.MSG_PEEK))
        except OSError:
            return read

    def set_awaited(self, size: int):
        """Have the socket count as readable once it holds so many bytes, or the client has closed its side."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def write_event(self, text: str):
        """Write text of an event stream. Raises OSError, also when the client does not read."""
        data = text.encode()
        if self.is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self.sock.send(data) < len(data):
            raise BlockingIOError

    def end_events(self):
        """Tell the client that the event stream ends here, if that can be written."""
        if self.is_chunked:
            with suppress(OSError):
                self.sock.send(b"0\r\n\r\n")

    def close(self, graceful=False):
        """Close the connection. graceful: after its client, which could not read the answer otherwise."""
        reader = self.parser and self.parser.unreader.sock
        if graceful and not getattr(reader, "gave_up", False):
            self.worker.linger(self)
        else:
            super().close()
