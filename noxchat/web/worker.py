"""gunicorn's worker with threads, in which a client that sends slowly or keeps an event stream open holds no thread.

A thread handles a request once it has arrived whole. Requests that are too long for that (pictures) have threads of
their own. The socket of an event stream stays open without a thread, and event_stream.py writes to it.
"""

import selectors
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from gunicorn import util
from gunicorn.workers import gthread
from gunicorn.workers.gthread import ThreadWorker

from noxchat import search
from noxchat.event_stream import Detached
from noxchat.web import connections
from noxchat.web.connections import Arrival, Connection, TooSlow

CHECK_SECONDS = 0.25  # between looks at the time limits of all connections, which take long when there are many
IGNORES_HUP = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # started by nohup


class Worker(ThreadWorker):
    """Handles requests by threads, and waits for all connections in one loop.

    The signal handlers leave their work to the loop: a handler may interrupt one that holds a lock, because Ctrl-C
    reaches a worker twice, from the terminal and from gunicorn's master.
    """

    def init_process(self):
        """Prepare after the fork, and work until the end."""
        gthread.TConn = type("WorkerConnection", (Connection,), {"worker": self})
        self.long_requests = ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="long-requests")
        self.lingering: dict[Connection, float] = {}  # until when
        self.next_check = 0.0
        super().init_process()

    def wait_for_and_dispatch_events(self, timeout: float):
        """Wait for something to happen to a connection, and handle it. An error of one connection ends no other."""
        for key, _events in self.poller.select(timeout):
            if self.poller.get_map().get(key.fd) != key:
                continue  # what was handled before has closed it
            try:
                key.data(key.fileobj)
            except Exception:  # noqa: BLE001  whatever it is, the others go on
                self.log.exception("a connection failed")

    def init_signals(self):
        """Set up the signals, with HUP as TERM: a terminal that is closed sends it to all processes."""
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN if IGNORES_HUP else self.handle_exit)

    def handle_exit(self, sig, frame):
        """Handle TERM."""
        self.method_queue.defer(self.begin_to_end)
        super().handle_exit(sig, frame)

    def handle_quit(self, sig, frame):
        """Handle Ctrl-C: as TERM, but without waiting for browsers that keep an idle connection."""
        self.method_queue.defer(self.murder_keepalived, True)
        self.handle_exit(sig, frame)

    def is_parent_alive(self) -> bool:
        """Tell whether gunicorn's master lives. Without it, the worker ends."""
        is_alive = super().is_parent_alive()
        if not is_alive:
            self.handle_exit(signal.SIGTERM, None)
        return is_alive

    def begin_to_end(self):
        """End what would not end by itself, and wait less long for requests."""
        self.app.app.extensions["event_streams"].close()
        search.stop(self.app.app)
        soon = time.monotonic() + connections.READ_SECONDS_AT_STOP
        for conn in self.pending_conns:
            conn.deadline = min(conn.deadline, soon) if conn.has_begun else 0.0

    def enqueue_req(self, conn: Connection):
        """Have a thread handle a request, once enough of it has arrived."""
        arrival = conn.look()
        if arrival is Arrival.ENDED:
            self.nr_conns -= 1
            conn.close()
            return
        if arrival in (Arrival.PART, Arrival.BLOCKED):
            self.await_request(conn, arrival)
            return
        if conn.deadline:
            conn.set_awaited(1)
        conn.deadline, conn.awaited, conn.data_ready = 0.0, 0, True
        executor = self.long_requests if arrival is Arrival.LONG else self.tpool
        future = executor.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def await_request(self, conn: Connection, arrival: Arrival):
        """Wait until more of a request has arrived, or earlier answers were read, or for too long."""
        if not conn.deadline:
            conn.began = time.monotonic()
            conn.deadline = conn.began + (connections.READ_SECONDS if self.alive else connections.READ_SECONDS_AT_STOP)
        if arrival is Arrival.PART:
            conn.set_awaited(conn.awaited)
        events = selectors.EVENT_READ if arrival is Arrival.PART else selectors.EVENT_WRITE
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, events, partial(self.on_pending_socket_readable, conn))

    def is_late(self, conn: Connection) -> bool:
        """Tell whether a request has had its time, which is longer for one that arrives slowly but steadily."""
        if self.alive and conn.deadline < time.monotonic():
            pace = conn.arrived() / connections.BYTES_PER_SECOND
            conn.deadline = max(conn.deadline, conn.began + connections.READ_SECONDS + pace)
        return conn.deadline < time.monotonic()

    def murder_pending(self):
        """Answer and close the connections whose requests did not arrive in time.

        When there is no room for others, a quarter of them has had the time: those that have been silent for longest.
        """
        now = time.monotonic()
        if now < self.next_check:
            return  # gunicorn's loop asks after each event
        self.next_check = now + CHECK_SECONDS
        for conn in [conn for conn, deadline in self.lingering.items() if deadline < now]:
            self.end_linger(conn)
        late = [conn for conn in self.pending_conns if self.is_late(conn)]
        if self.nr_conns >= self.worker_connections:
            late = late or list(self.pending_conns)[: len(self.pending_conns) // 4 + 1]
        for conn in late:
            self.pending_conns.remove(conn)
            self.poller.unregister(conn.sock)
            self.nr_conns -= 1
            if conn.has_begun:
                with suppress(OSError):  # reset, or not read
                    write_timeout(conn.sock)
            conn.close()

    def linger(self, conn: Connection):
        """Close a connection once its client has: if that has sent more, closing at once would discard the answer."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            conn.close()
            return
        self.nr_conns += 1
        self.lingering[conn] = time.monotonic() + connections.LINGER_SECONDS
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_lingering_readable, conn))

    def on_lingering_readable(self, conn: Connection, sock: socket.socket):
        """Discard what a client still sends, or close the connection after it."""
        try:
            is_over = not sock.recv(65_536)
        except BlockingIOError:
            is_over = False
        except OSError:
            is_over = True
        if is_over:
            self.end_linger(conn)

    def end_linger(self, conn: Connection):
        """Close a connection whose client had time to do so."""
        del self.lingering[conn]
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def handle_request(self, req, conn: Connection) -> bool:
        """Have the application answer a request whose head was read. Returns whether the connection is kept."""
        conn.parser.unreader.sock.reads_body = True
        try:
            return super().handle_request(req, conn)
        except Detached as detached:
            conn.stream, conn.is_chunked = detached.stream, req.version >= (1, 1)
            return False

    def finish_request(self, conn: Connection, future):
        """Go on with a connection whose request was answered."""
        if conn.stream is None:
            super().finish_request(conn, future)
            return
        conn.sock.setblocking(False)
        end = partial(self.end_stream, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, end)  # the client sends nothing but the end
        conn.stream.attach(conn.write_event, lambda: self.method_queue.defer(end))

    def end_stream(self, conn: Connection, _sock=None):
        """Close the connection of an event stream, because its client or event_stream.py has ended it."""
        if conn.stream is not None:
            stream, conn.stream = conn.stream, None
            self.app.app.extensions["event_streams"].discard(stream)
            self.poller.unregister(conn.sock)
            self.nr_conns -= 1
            conn.end_events()
            conn.close()

    def handle_error(self, req, client, addr, exc):
        """Answer a request that could not be read."""
        if isinstance(exc, TooSlow):
            write_timeout(client)
        else:
            super().handle_error(req, client, addr, exc)


def write_timeout(sock):
    """Answer that a request did not arrive in time."""
    write_error(sock, 408, "Request Timeout", "The request did not arrive in time.")


def write_error(sock, status: int, reason: str, message: str):
    """Answer a request that cannot be read: as text, where gunicorn writes HTML without our security headers."""
    text = f"{message or reason}\n".encode("latin-1", "replace")
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: text/plain; charset=latin-1\r\n"
    head += f"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nContent-Length: {len(text)}\r\n\r\n"
    util.write_nonblock(sock, head.encode("latin-1", "replace") + text)


util.write_error = write_error
