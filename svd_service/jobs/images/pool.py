"""Decoder processes of this process: a few, started when they are first needed and kept.

The kernel ends a decoder that exceeds its limits; this module ends one that hangs. The next image gets a new one.
Uploads wait a few seconds for a free decoder. How many wait is bounded by the threads for uploads.
"""

import atexit
import contextlib
import functools
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from svd_service import errors
from svd_service.errors import BrokenImageError, ImageTooLargeError, UnavailableError

logger = logging.getLogger(__name__)

#: Seconds that an upload waits for a decoder, and that a decoder may take in all on a machine that is overloaded.
_WAIT: Final = 10.0
_DEADLINE: Final = 40.0

#: Images of more pixels than this are decoded one at a time in each process: such need up to 1 GB.
LARGE: Final = 16_000_000

#: Bytes of an upload that are copied at once.
_COPIED: Final = 1_048_576

#: The request to free an image.
CLOSE: Final = b'{"do": "close"}\n'

#: Requests about the image that the process has open: another process does not have it.
OF_OPEN_IMAGE: Final = frozenset({"fit", "credentials"})

#: What a decoder runs. It inherits neither the environment (secrets) nor open files other than its socket and its two
#: files.
_PROGRAM: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from svd_service.jobs.images.process import main
main()
"""

#: Signals that end a process at its limits of processor time.
_TOO_LONG: Final = frozenset({-signal.SIGPROF, -signal.SIGXCPU, -signal.SIGVTALRM})
#: Statuses of which the image is not the cause: SIGKILL, of the kernel when the machine is out of memory, SIGKILL and
#: SIGTERM of operators, and 0 of a decoder that ended itself after an earlier image, because it had grown.
_FROM_OUTSIDE: Final = frozenset({-signal.SIGKILL, -signal.SIGTERM, 0})


class DecoderEndedError(Exception):
    """The decoder process ended before it answered. `status` is its exit status, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the decoder ended with status {status}")
        self.status = status

    def rejection(self) -> Exception:
        """The error for the caller if a second decoder ended the same way too, or the first one at its limit."""
        if self.exceeded_time:
            return ImageTooLargeError("the image needs too much processor time to decode; save it again as JPEG or PNG")
        if self.is_from_outside:
            return UnavailableError("the image decoder was stopped; retry in a few seconds")
        return BrokenImageError("the image crashes the decoder; save it again as JPEG or PNG")

    @property
    def is_from_outside(self) -> bool:
        """Whether the file is not the cause: somebody stopped the process, or the machine is out of memory."""
        return self.status in _FROM_OUTSIDE

    @property
    def exceeded_time(self) -> bool:
        """Whether the kernel ended the decoder at its limit of processor time."""
        return self.status in _TOO_LONG


class DecoderProcess:
    """One decoder process, its two files, and the socket to it. Used by one thread at a time."""

    def __init__(self) -> None:
        self.source, self.target = _anonymous_file(), _anonymous_file()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def start(self) -> socket.socket:
        """Start the process unless it runs, and return the socket to it; it may not be ready yet."""
        if self._channel is not None and self._is_running:
            return self._channel
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs:
            numbers = (theirs.fileno(), self.source.fileno(), self.target.fileno())
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-c", _PROGRAM, *map(str, numbers), json.dumps(sys.path)],
                pass_fds=numbers,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        ours.settimeout(_DEADLINE)
        self._channel = ours
        return ours

    @property
    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def request(self, **request: Any) -> dict[str, Any]:
        """Send a request of `process`, and return the answer.

        Raises:
            RejectedError: as documented in `decoding`.
            DecoderEndedError: the process ended before it answered.
            UnavailableError: the answer took longer than `_DEADLINE`.
        """
        if request["do"] in OF_OPEN_IMAGE and not self._is_running:
            raise DecoderEndedError(self.stop())
        channel = self.start()
        try:
            channel.sendall(json.dumps(request).encode() + b"\n")
            answer = _line(channel)
        except TimeoutError:
            self.stop()
            raise UnavailableError("the image took too long to decode; retry when the service has less load") from None
        except OSError:
            raise DecoderEndedError(self.stop()) from None
        except BaseException:
            self.stop()  # else the next request would get the answer to this one
            raise
        if (kind := answer.get("error")) is not None:
            logger.debug("image rejected: %s", answer)
            raise getattr(errors, kind)(answer["message"])
        return answer

    def fill(self, upload: BinaryIO, limit: int, kind: str = "image") -> int:
        """Copy an upload to the source; its size. `kind` is what the error calls it.

        Raises:
            ImageTooLargeError: it has more than `limit` bytes.
        """
        self.source.seek(0)
        self.source.truncate()
        size = 0
        while chunk := upload.read(min(_COPIED, limit + 1 - size)):
            size += len(chunk)
            if size > limit:
                raise ImageTooLargeError(f"the {kind} has more than {limit:,} bytes")
            self.source.write(chunk)
        return size

    def written(self, size: int) -> bytes:
        """The first `size` bytes of the target: pixels, or credentials.

        Raises:
            BrokenImageError: there are fewer.
        """
        content = os.pread(self.target.fileno(), size, 0)
        if len(content) != size:
            raise BrokenImageError("the image could not be decoded")
        return content

    def release(self) -> None:
        """Discard the image, to be ready for another one."""
        if self._channel is not None:
            try:
                self._channel.sendall(CLOSE)  # it has no answer to wait for
            except OSError:
                self.stop()
        for file in (self.source, self.target):
            file.seek(0)
            file.truncate()

    def stop(self) -> int:
        """End the process; its exit status."""
        process, self._process = self._process, None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if process is None:
            return 0
        try:
            # It has a moment to end by the signal that is already sent; a hanging process is killed.
            return process.wait(0.2 if process.poll() is None else None)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def close(self) -> None:
        """End the process, and free the files."""
        self.stop()
        self.source.close()
        self.target.close()


class Pool:
    """`size` decoders; an upload waits at most `wait` seconds for one."""

    def __init__(self, size: int, wait: float = _WAIT) -> None:
        self._wait = wait
        self._decoders = [DecoderProcess() for _ in range(size)]
        # The most recently used decoder is reused first, so that the others need not be started.
        self._free: queue.LifoQueue[DecoderProcess] = queue.LifoQueue()
        for decoder in self._decoders:
            self._free.put(decoder)
        self.large = threading.Lock()

    def start(self) -> None:
        """Start a first process, while no upload waits for it."""
        decoder = self._free.get()
        try:
            decoder.start()
        finally:
            self._free.put(decoder)

    @contextlib.contextmanager
    def decoder(self) -> Iterator[DecoderProcess]:
        """A decoder for exclusive use within the block.

        Raises:
            UnavailableError: all are busy, and stay so.
        """
        with contextlib.ExitStack() as stack:
            try:
                decoder = self._free.get(timeout=self._wait)
            except queue.Empty:
                raise UnavailableError("all image decoders are busy; retry in a few seconds") from None
            stack.callback(self._free.put, decoder)
            stack.callback(decoder.release)
            try:
                yield decoder
            except OSError as error:  # no process, no file: the machine is at its limits
                raise UnavailableError(f"images cannot be decoded right now: {error.strerror}") from error

    def close(self) -> None:
        """End all processes."""
        for decoder in self._decoders:
            decoder.close()


def pool(size: int) -> Pool:
    """The pool of this process; after a fork, the child has its own."""
    return _pool(os.getpid(), size)


@functools.cache
def _pool(_: int, size: int) -> Pool:
    made = Pool(size)
    atexit.register(_close, made, os.getpid())
    return made


def _close(made: Pool, owner: int) -> None:
    if os.getpid() == owner:
        made.close()


def _line(channel: socket.socket) -> dict[str, Any]:
    received = b""
    while not received.endswith(b"\n"):
        more = channel.recv(65_536)
        if not more:
            raise ConnectionResetError
        received += more
    answer: dict[str, Any] = json.loads(received)
    return answer


def _anonymous_file() -> BinaryIO:
    """An unnamed file, in memory where the system supports it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("svd-image"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
