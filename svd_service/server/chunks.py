"""Decoding of `Transfer-Encoding: chunked` (RFC 9112, section 7.1) as the bytes arrive."""

import re
from typing import Final

from gunicorn.http.errors import ChunkMissingTerminator, InvalidChunkExtension, InvalidChunkSize

#: A chunk's first line: its size, and extensions, which are ignored.
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[^\r\n]*)?")

#: Maximum bytes of a line, and of the trailer section.
_LINE: Final = 4_096
_TRAILERS: Final = 16_384

#: Beyond this number, chunks must have this number of bytes on average: each takes time, whatever its size.
_CHUNKS: Final = 4_096
_AVERAGE: Final = 64

_END: Final = b"\r\n"


class ChunkDecoder:
    """The payload of a chunked body. `done` is true after its end was read; `rest` then holds the bytes after it."""

    def __init__(self) -> None:
        self._chunks = self._size = 0
        self.done = False
        self.rest = b""
        self._buffer = bytearray()
        #: Bytes of the current chunk that are missing; `None` before its first line.
        self._left: int | None = None
        self._trailers = -1

    def feed(self, data: bytes) -> bytes:
        """Return the payload in `data`.

        Raises:
            gunicorn.http.errors.ParseException: the framing is invalid.
        """
        self._buffer += data
        payload = bytearray()
        while not self.done and self._step(payload):
            pass
        if self.done:
            self.rest, self._buffer = bytes(self._buffer), bytearray()
        return bytes(payload)

    def _step(self, payload: bytearray) -> bool:
        """Decode one piece; returns false if its bytes are incomplete."""
        if self._trailers >= 0:
            return self._read_trailer()
        if self._left is None:
            return self._read_size()
        if self._left:
            taken = self._buffer[: self._left]
            del self._buffer[: len(taken)]
            payload += taken
            self._left -= len(taken)
            return bool(taken)
        return self._read_end()

    def _read_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        match = _SIZE.fullmatch(line)
        if match is None:
            raise (InvalidChunkExtension if b";" in line else InvalidChunkSize)(line[:40])
        self._left = int(match[1], 16)
        if self._left == 0:
            self._trailers = 0
        self._chunks, self._size = self._chunks + 1, self._size + self._left
        if self._chunks > _CHUNKS + self._size // _AVERAGE:
            raise InvalidChunkSize(b"chunks are too small")
        return True

    def _read_end(self) -> bool:
        if len(self._buffer) < len(_END):
            return False
        if not self._buffer.startswith(_END):
            raise ChunkMissingTerminator(bytes(self._buffer[: len(_END)]))
        del self._buffer[: len(_END)]
        self._left = None
        return True

    def _read_trailer(self) -> bool:
        """Discard a trailer field, as permitted (RFC 9112, section 7.1.2)."""
        line = self._line()
        if line is None:
            return False
        self._trailers += len(line)
        if self._trailers > _TRAILERS:
            raise InvalidChunkSize(b"trailers are too long")
        self.done = not line
        return True

    def _line(self) -> bytes | None:
        end = self._buffer.find(_END)
        bare = self._buffer.find(b"\n", 0, None if end < 0 else end) >= 0
        if bare or (len(self._buffer) if end < 0 else end) > _LINE:
            raise InvalidChunkSize(bytes(self._buffer[:40]))
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + len(_END)]
        return line
