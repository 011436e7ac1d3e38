"""A client's socket with a minimum rate for writing, and the limits for slow clients."""

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Self

#: Bytes per read from a file and per write.
_BLOCK: Final = 262_144

#: Seconds of one `poll`, whose argument is limited to 2^31 milliseconds.
_LONGEST_POLL: Final = 3_600.0


@dataclass(frozen=True)
class ClientLimits:
    """Limits for one client.

    Attributes:
        timeout: seconds for a request's head; also the time before the rate of a body or a response counts.
        min_rate: bytes per second below which a client is too slow.
        head: maximum bytes of a request's head.
        body: maximum bytes of a body that is collected.
        spool: maximum bytes of all bodies in one process.
    """

    timeout: float = 10.0
    min_rate: float = 2_000.0
    head: int = 65_536
    body: int = 27_000_000
    spool: int = 1_000_000_000

    def seconds(self, size: int) -> float:
        """Return the maximum seconds for `size` bytes."""
        return self.timeout + size / self.min_rate


class SlowReaders:
    """The clients for which threads wait until they read more: at most `number`, each of which occupies a thread."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, None] = {}

    @contextmanager
    def waiting(self, client: socket.socket) -> Iterator[None]:
        """Count `client` within the block. If there are too many, the one that has been waiting longest is cut off.

        Not the newcomer: otherwise a few clients that never read would end all large downloads.
        """
        with self._lock:
            if len(self._waiting) >= self._number:
                longest = next(iter(self._waiting))
                del self._waiting[longest]
                with suppress(OSError):
                    longest.shutdown(socket.SHUT_RDWR)
            self._waiting[client] = None
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(client, None)


class ClientSocket(socket.socket):
    """A connection to a client, which is closed if the client reads a response below the minimum rate."""

    limits = ClientLimits()
    slow_readers = SlowReaders(1)
    _sent = 0
    _waited = 0.0

    @classmethod
    def of(cls, accepted: socket.socket, limits: ClientLimits, slow_readers: SlowReaders) -> Self:
        """Wrap an accepted connection; `accepted` is detached from it."""
        made = cls(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        made.limits, made.slow_readers = limits, slow_readers
        return made

    def restart(self) -> None:
        """Measure the rate anew: a fast response is no credit for the next one."""
        self._sent, self._waited = 0, 0.0

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """Send all of `data`.

        Raises:
            ConnectionResetError: the client reads too slowly.
            BlockingIOError: the socket is non-blocking, and its buffer is full.
        """
        left = memoryview(data).cast("B")
        while left:
            try:
                sent = self.send(left, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if self.gettimeout() == 0:
                    raise
                self._wait()
            else:
                self._sent += sent
                left = left[sent:]

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send `count` bytes of `file`, at the same minimum rate; returns how many were sent."""
        sent = 0
        while count is None or sent < count:
            data = os.pread(file.fileno(), min(_BLOCK, _BLOCK if count is None else count - sent), offset + sent)
            if not data:
                break
            self.sendall(data)
            sent += len(data)
        return sent

    def _wait(self) -> None:
        allowed = self.limits.seconds(self._sent) - self._waited
        if allowed <= 0:
            raise ConnectionResetError(errno.ECONNRESET, "the client reads too slowly")
        began = time.monotonic()
        with self.slow_readers.waiting(self):
            poll = select.poll()
            poll.register(self.fileno(), select.POLLOUT)
            poll.poll(min(allowed, _LONGEST_POLL) * 1_000)
        self._waited += time.monotonic() - began
