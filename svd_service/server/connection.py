"""A client's connection while its request arrives: first the head, then the body, without a thread waiting for either.

gunicorn's parser gets a head only when it is complete, and so does the application a body. Bodies beyond a few
kilobytes are kept in a temporary file.
"""

import errno
import re
import tempfile
import time
from contextlib import suppress
from socket import socket
from typing import IO, Any, Final

from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import InvalidHeader, LimitRequestHeaders
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import Unreader
from gunicorn.workers.gthread import TConn

from svd_service.server.chunks import ChunkDecoder
from svd_service.server.pacing import ClientLimits, ClientSocket, SlowReaders

#: Maximum bytes per read from a socket, and of a body in memory.
_READ: Final = 262_144
_IN_MEMORY: Final = 65_536

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
#: The header with a request's preferences, as gunicorn's parser writes it, and the one that delays the answer.
_PREFER: Final = "PREFER"
_WAIT: Final = re.compile(r"\bwait\s*=", re.IGNORECASE)
_HEAD_END: Final = b"\r\n\r\n"


class Inbox(Unreader):  # type: ignore[misc]
    """The received bytes. It never waits: a read beyond them returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._body: IO[bytes] | None = None

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes of the body."""
        # Less than `size_hint` at a time: gunicorn copies its unused bytes at each read.
        return self._body.read(min(size_hint or _IN_MEMORY, _IN_MEMORY)) if self._body else b""

    def store(self, payload: bytes) -> None:
        """Append a piece of the body."""
        if self._body is None:
            self._body = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by `drop_body`
        self._body.write(payload)

    def rewind(self) -> None:
        """Go back to the beginning of the body."""
        if self._body:
            self._body.seek(0)

    def drop_body(self) -> None:
        """Discard the unread part of the body."""
        self.take_buffered()
        body, self._body = self._body, None
        if body:
            with suppress(OSError):  # the disk is full: closing writes what is left in the file's buffer
                body.close()


class Parser(RequestParser):  # type: ignore[misc]
    """gunicorn's parser on an inbox. It parses a request as soon as its head has arrived; a thread handles it later."""

    def __init__(self, cfg: Any, client: Any) -> None:
        super().__init__(cfg, (), client)
        self.unreader = Inbox()
        self._parsed: Any = None

    def parse_head(self) -> Request:
        """Parse the head in the inbox; returns the request."""
        self._parsed = super().__next__()
        return self._parsed

    @property
    def parsed(self) -> Request:
        """The request whose head was parsed last, until it is handled."""
        return self._parsed

    def __next__(self) -> Request:
        request, self._parsed = self._parsed, None
        if request is None:
            raise StopIteration
        return request


class Connection(TConn):  # type: ignore[misc]
    """One client's connection. `has_body`, `spooled` and `complete` describe the request that is arriving."""

    def __init__(
        self, cfg: Any, accepted: socket, client: Any, server: Any, limits: ClientLimits, slow_readers: SlowReaders
    ) -> None:
        super().__init__(cfg, ClientSocket.of(accepted, limits, slow_readers), client, server)
        self._limits = limits
        self._rest = b""
        self.parser = Parser(cfg, client)
        self.data_ready = True
        self.closed = False
        self.await_request()

    def await_request(self) -> None:
        """Prepare for the next request. Its bytes that have already arrived are kept."""
        self.sock.settimeout(0)
        self.sock.restart()
        if self.parser.mesg:
            self.parser.mesg.body = Body(LengthReader(self._inbox, 0))
        self._inbox.drop_body()
        self._head = bytearray(self._rest)
        self._rest = b""
        self._decoder: ChunkDecoder | None = None
        self._missing = 0
        self._began = time.monotonic()
        self.has_body = self.complete = False
        self.spooled = 0

    def close(self, graceful: bool = False) -> None:
        """Close the connection and the file of its body. `graceful` is ignored: the worker lingers itself."""
        self.closed = True
        self._inbox.drop_body()
        super().close()

    @property
    def _inbox(self) -> Inbox:
        inbox: Inbox = self.parser.unreader
        return inbox

    @property
    def silent(self) -> bool:
        """Whether nothing of a request has arrived."""
        return not self.has_body and not self._head

    @property
    def deadline(self) -> float:
        """Time on the monotonic clock after which the client is too slow."""
        if self.has_body:
            return self._began + self._limits.seconds(self.spooled)
        return self._began + self._limits.timeout

    @property
    def prefers_to_wait(self) -> bool:
        """Whether the request that has arrived asks for an answer that waits (`Prefer: wait=60`, RFC 7240)."""
        headers = self.parser.parsed.headers
        return any(name == _PREFER and _WAIT.search(value) for name, value in headers)

    def ignore_wait(self) -> None:
        """Rename that preference, so that the application does not see it."""
        request = self.parser.parsed
        request.headers = [
            (name, _WAIT.sub("ignored=", value) if name == _PREFER else value) for name, value in request.headers
        ]

    def receive(self) -> bool:
        """Read what has arrived; returns whether the request can be handled now.

        Raises:
            ConnectionResetError: the client has closed the connection.
            gunicorn.http.errors.ParseException: it is not a valid request.
            OSError: the disk has no space for the body.
        """
        try:
            data = self.sock.recv(_READ)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed by the client")
        if self.has_body:
            return self._take_body(data)
        self._head += data
        return self.look_for_head()

    def look_for_head(self) -> bool:
        """As `receive`, for bytes that were read before."""
        if _HEAD_END not in self._head:
            if len(self._head) > self._limits.head:
                raise LimitRequestHeaders("the request's head is too large")
            if self._head.count(b"\n") != self._head.count(b"\r\n"):
                raise InvalidHeader("bare LF as line terminator")
            return False
        self._inbox.unread(bytes(self._head))
        self._head.clear()
        return self._begin_body(self.parser.parse_head())

    def _begin_body(self, request: Request) -> bool:
        # gunicorn would send it when a thread takes the request, which here is when the body has come, and wait without
        # limit for a client that does not read.
        expected, request._expected_100_continue = request._expected_100_continue, False  # noqa: SLF001
        arrived, reader = self._inbox.take_buffered(), request.body.reader
        self._missing = getattr(reader, "length", 0)
        if isinstance(reader, ChunkedReader):
            self._decoder = ChunkDecoder()
        elif not self._missing:
            self._rest, self.complete = arrived, True
            return True
        self.has_body, self._began = True, time.monotonic()
        ready = self._take_body(arrived)
        if expected and not ready:
            self.sock.send(_CONTINUE)
        return ready

    def _take_body(self, data: bytes) -> bool:
        """Store a piece of the body; returns whether it is complete, or too large to be collected."""
        if self._decoder:
            payload, self.complete = self._decoder.feed(data), self._decoder.done
            rest = self._decoder.rest
        else:
            payload, rest = data[: self._missing], data[self._missing :]
            self._missing -= len(payload)
            self.complete = self._missing == 0
        self._inbox.store(payload)
        self.spooled += len(payload)
        if not self.complete and self.spooled + self._missing <= self._limits.body:
            return False
        self._rest = rest
        self._inbox.rewind()
        if self._decoder:
            self.parser.mesg.body = Body(LengthReader(self._inbox, self.spooled))
        return True
