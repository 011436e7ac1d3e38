"""gunicorn's threaded worker, with connections collected by the event loop until a request is complete.

gunicorn gives a connection to a thread as soon as it is accepted, so that as many slow clients as there are threads
block it. Here a thread gets a request whose head and body have arrived, and clients that are too slow are disconnected.
When there are too many connections, the one that has been waiting longest is closed.
"""

import errno
import itertools
import json
import selectors
import sys
import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from socket import SHUT_WR, socket
from typing import Any, Final

from gunicorn.errors import ConfigError
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from svd_service.server.connection import Connection
from svd_service.server.pacing import ClientLimits, SlowReaders

#: Seconds between two checks for clients that are too slow.
_SWEEP: Final = 0.25

#: Seconds that a client has to read the end of a response before its connection is closed, and maximum bytes per read
#: of what it sends meanwhile, which is discarded.
_LINGER: Final = 2.0
_DISCARDED: Final = 262_144

#: Seconds between two connections that cannot be accepted.
_PAUSE: Final = 0.05

_NO_FILES: Final = {errno.EMFILE, errno.ENFILE}
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT}


#: Answers to requests that cannot be parsed; to all others, 400.
_STATUSES: Final = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}


def _started_pool(threads: int) -> futures.ThreadPoolExecutor:
    """A pool whose threads run already.

    It would start them when they are first needed, and fail then if the system permits no more.

    Raises:
        RuntimeError: a thread cannot be started.
    """
    pool, together = futures.ThreadPoolExecutor(threads), threading.Barrier(threads)
    try:
        futures.wait([pool.submit(together.wait) for _ in range(threads)])
    except RuntimeError:
        together.abort()
        raise
    return pool


class _QueuedTooLongError(Exception):
    """A complete request has waited too long for a thread."""


class BufferingWorker(ThreadWorker):  # type: ignore[misc]
    """A worker whose threads never wait for a client to send. A subclass sets `limits`.

    Requests with a body have `uploads` separate threads, so that they never block other requests. A complete one waits
    at most `upload_wait` seconds for a thread: a burst is answered in order, a backlog that grows is rejected.

    Of those whose answer waits for something (`Prefer: wait=60`), `waits` have threads of their own. Beyond that, the
    preference is hidden from the application, which then answers at once.

    Additional threads wait for up to `slow_readers` clients to read their responses.
    """

    limits = ClientLimits()
    uploads = 16
    waits = 16
    slow_readers = 24
    upload_wait = 20.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # In the order in which their requests began.
        self._heads: dict[Connection, None] = {}
        self._bodies: dict[Connection, None] = {}
        self._lingering: dict[Connection, float] = {}
        self._waiting: set[Connection] = set()
        self._polled = self._swept = 0.0
        self._slow_readers = SlowReaders(self.slow_readers)

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Reject TLS, since encrypted bytes cannot be collected before decryption."""
        super().check_config(cfg, log)
        if cfg.is_ssl:
            raise ConfigError("this worker supports plain HTTP only; put a TLS proxy in front of it")

    def init_process(self) -> None:
        """Start the threads for requests with a body in addition to the others."""
        try:
            self._upload_threads = _started_pool(self.uploads)
            self._waiting_threads = _started_pool(max(1, self.waits))
            super().init_process()
        except RuntimeError as error:
            self.log.error("the process cannot start its threads: %s", error)
            # Not gunicorn's own status for a failed start, at which it would stop the other processes, too.
            sys.exit(1)

    def get_thread_pool(self) -> futures.ThreadPoolExecutor:
        """Start the threads for requests without a body, in addition to those that wait for slow readers."""
        return _started_pool(self.cfg.threads + self.slow_readers)

    def run(self) -> None:
        """Serve until the server stops this worker."""
        super().run()
        self._upload_threads.shutdown(wait=False)
        self._waiting_threads.shutdown(wait=False)

    def accept(self, listener: socket) -> None:
        """Accept a connection, and collect its first request."""
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_FILES:
                self._make_room()
            elif error.errno not in {errno.EAGAIN, errno.ECONNABORTED}:
                # Of this connection (accept(2) also reports errors of the network), or the machine lacks memory.
                self.log.warning("A connection cannot be accepted: %s", error)
                time.sleep(_PAUSE)
            return
        self.nr_conns += 1
        connection = Connection(self.cfg, accepted, address, listener.getsockname(), self.limits, self._slow_readers)
        self._collect(connection, connection.receive)
        if self.nr_conns >= self.worker_connections:
            self._make_room()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait until sockets are readable, and handle each of them."""
        self._polled = time.monotonic()
        registered = self.poller.get_map()
        for key, _ in self.poller.select(timeout):
            # The events before it may have closed its connection.
            if registered.get(key.fd) is key:
                key.data(key.fileobj)

    def on_client_socket_readable(self, conn: Connection, client: socket) -> None:
        """Start with the next request of a connection that was kept alive."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        conn.await_request()
        self._collect(conn, conn.receive)

    def enqueue_req(self, conn: Connection) -> None:
        """Give a complete request to a thread."""
        if conn.has_body and conn.prefers_to_wait and len(self._waiting) < self.waits:
            self._waiting.add(conn)
            answered = self._waiting_threads.submit(self.handle, conn)
        elif conn.has_body:
            conn.ignore_wait()
            answered = self._upload_threads.submit(self._handle_upload, conn, time.monotonic() + self.upload_wait)
        else:
            answered = self.tpool.submit(self.handle, conn)
        answered.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))

    def finish_request(self, conn: Connection, fs: Any) -> None:
        """Wait for the connection's next request, or close it, after a thread has answered the one before."""
        self._waiting.discard(conn)
        if conn.sock.fileno() < 0:  # gunicorn closes the socket when the application fails in the middle of a response
            self._close(conn)
            return
        error = None if fs.cancelled() else fs.exception()
        keep = not fs.cancelled() and error is None and fs.result()
        conn.await_request()
        if isinstance(error, _QueuedTooLongError):
            self._reject(conn, HTTPStatus.SERVICE_UNAVAILABLE, "too many uploads are waiting")
        elif not keep:
            self._linger(conn)
        elif not conn.silent:
            self._collect(conn, conn.look_for_head)
        else:
            conn.set_timeout()
            if not self.alive:
                conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
            self.keepalived_conns.append(conn)
            self._watch(conn, self.on_client_socket_readable)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close the connections that have been idle for too long, or all. gunicorn calls this as `murder_pending`."""
        while self.keepalived_conns and (force or self.keepalived_conns[0].timeout <= self._polled):
            self._close(self.keepalived_conns.popleft())

    def murder_pending(self) -> None:
        """Disconnect clients that are too slow. gunicorn calls this after each poll of its sockets."""
        if (now := time.monotonic()) < self._swept + _SWEEP:
            return
        self._swept = now
        for connection in [*self._heads, *self._bodies]:
            # What had arrived when the sockets were polled has been read, even if this process has stood still since:
            # its disk was busy, or its machine suspended.
            late = self._polled > connection.deadline
            if connection.silent and (late or not self.alive):
                self._close(connection)
            elif late:
                self._reject(connection, HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
        spooled = sum(connection.spooled for connection in self._bodies)
        for connection in [*self._bodies]:
            if spooled > self.limits.spool:
                spooled -= connection.spooled
                self._reject(connection, HTTPStatus.SERVICE_UNAVAILABLE, "too many uploads are in progress")
        for connection in [each for each, until in self._lingering.items() if now > until]:
            self._close(connection)

    def _handle_upload(self, conn: Connection, deadline: float) -> Any:
        if time.monotonic() > deadline:
            raise _QueuedTooLongError
        return self.handle(conn)

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Return whether the connection can be reused: its request has arrived, read by the application or not."""
        return keepalive and conn.complete

    def _collect(self, connection: Connection, receive: Callable[[], bool]) -> None:
        """Read what has arrived of a request, and give it to a thread when it is complete."""
        try:
            complete = receive()
        except ParseException as error:
            # gunicorn's own answers are HTML, without `nosniff`.
            reason = str(error)[:200]
            self.log.warning("Invalid request: %s", reason)
            status = _STATUSES.get(type(error), HTTPStatus.BAD_REQUEST)
            self._reject(connection, status, f"the request is not valid HTTP: {reason}")
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._reject(connection, HTTPStatus.SERVICE_UNAVAILABLE, "the server has no disk space for the upload")
            else:
                self._close(connection)
        except Exception:
            # Raised further, it would end the process with all its connections.
            self.log.exception("Error reading a request")
            self._close(connection)
        else:
            if complete:
                self._forget(connection)
                self.enqueue_req(connection)
                return
            if connection not in self._heads and connection not in self._bodies:
                self._watch(connection, lambda conn, _: self._collect(conn, conn.receive))
            if connection.has_body:
                self._heads.pop(connection, None)
            (self._bodies if connection.has_body else self._heads).setdefault(connection)

    def _watch(self, connection: Connection, on_readable: Callable[[Connection, socket], None]) -> None:
        self.poller.register(connection.sock, selectors.EVENT_READ, partial(on_readable, connection))

    def _forget(self, connection: Connection) -> None:
        with suppress(KeyError, ValueError):
            self.poller.unregister(connection.sock)
        for waiting in (self._heads, self._bodies, self._lingering):
            waiting.pop(connection, None)

    def _close(self, connection: Connection) -> None:
        self._forget(connection)
        if not connection.closed:
            self.nr_conns -= 1
            connection.close()

    def _reject(self, connection: Connection, status: HTTPStatus, message: str) -> None:
        """Respond without the application, if the client's buffer has room, and close the connection."""
        code = status.phrase.lower().replace(" ", "_")
        body = json.dumps({"error": {"code": code, "message": message, "parameter": None}, "status": None})
        retry = "Retry-After: 5\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else ""
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"X-Content-Type-Options: nosniff\r\n{retry}Content-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):
            connection.sock.sendall(f"{head}{body}".encode())
        self._linger(connection)

    def _linger(self, connection: Connection) -> None:
        """Close the sending side, and the connection when the client has closed its own (RFC 9112, section 9.6)."""
        self._forget(connection)
        try:
            connection.sock.settimeout(0)
            connection.sock.shutdown(SHUT_WR)
            self._watch(connection, self._discard)
        except (OSError, ValueError):
            self._close(connection)
        else:
            self._lingering[connection] = time.monotonic() + _LINGER

    def _discard(self, connection: Connection, client: socket) -> None:
        try:
            ended = not client.recv(_DISCARDED)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self._close(connection)

    def _make_room(self) -> None:
        """Close the connection that has been waiting longest, idle ones first."""
        if self.keepalived_conns and not self._lingering:
            connection = self.keepalived_conns.popleft()
        else:
            connection = next(itertools.chain(self._lingering, self._heads, self._bodies), None)
        if connection is not None:
            self._close(connection)
