"""A decoder process: reads requests as lines of JSON from a socket, and answers each with another.

The upload lies in one anonymous file (`source`), and the fitted pixels go into another (`target`), which the process
inherits. It ends when its parent closes the socket or ends.

Requests and answers:
    {"do": "open", "bytes": 1234, "max_pixels": 50000000}       {"size": [640, 480]}
    {"do": "fit", "width": 256, "height": 144, "pad": false}    {"bytes": 110592}
    {"do": "credentials"}                                       {"bytes": 8500, "manifest_id": "urn:c2pa:…"}
    {"do": "verify", "bytes": 1234, "certificates": "PEM…"}     {"credentials": {"state": "valid", …}}
    {"do": "close"}                                             (no answer)
    any that is rejected                                        {"error": "BrokenImageError", "message": "…"}
"""

import io
import json
import os
import signal
import socket
import sys
from dataclasses import asdict
from typing import Any, Final

from svd_service.errors import BrokenImageError, RejectedError
from svd_service.jobs.images import limits
from svd_service.jobs.images.decoding import Decoded, opened
from svd_service.marking.c2pa_library import may_have_credentials

#: A process whose idle address space has grown by so many bytes makes room for a new one.
_MAX_GROWTH: Final = 256_000_000


class Decoder:
    """At most one open image."""

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        self._image: Decoded | None = None
        self._file_bytes = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        try:
            match request.pop("do"):
                case "open":
                    return self.open(**request)
                case "fit":
                    return self.fit(**request)
                case "credentials":
                    return self.credentials()
                case "verify":
                    return self.verify(**request)
                case unknown:
                    raise BrokenImageError(f"there is no request {unknown}")
        except RejectedError as error:
            self.close()
            return {"error": type(error).__name__, "message": str(error), "cause": repr(error.__cause__)[:200]}

    def open(self, *, bytes: int, max_pixels: int) -> dict[str, Any]:  # noqa: A002 - the request's own word
        """Look at the header of an image."""
        self.close()
        self._file_bytes = bytes
        limits.allow(pixels=0, file_bytes=bytes)
        content = _read(self._source, bytes)
        self._image = opened(content, max_pixels, lambda pixels: limits.allow(pixels=pixels, file_bytes=bytes))
        return {"size": self._image.size}

    def fit(self, *, width: int, height: int, pad: bool) -> dict[str, Any]:
        """Decode the open image, and write its pixels (RGB, 8 bits each) to the target."""
        if self._image is None:
            raise BrokenImageError("no image is open")
        stored_width, stored_height = self._image.stored_size
        limits.allow(pixels=stored_width * stored_height + width * height, file_bytes=self._file_bytes)
        pixels = self._image.fitted(width, height, pad=pad).tobytes()
        _write(self._target, pixels)
        return {"bytes": len(pixels)}

    def credentials(self) -> dict[str, Any]:
        """Write the Content Credentials of the open image to the target; no bytes if it has none."""
        nothing = {"bytes": 0, "manifest_id": ""}
        if self._image is None:
            raise BrokenImageError("no image is open")
        with io.FileIO(self._source, closefd=False) as file:
            if not may_have_credentials(file):
                return nothing
            from svd_service.marking import ingredients, reader  # noqa: PLC0415 - few images have some

            reader.load()
            limits.allow(pixels=0, file_bytes=self._file_bytes, seconds=limits.SECONDS_PER_BYTE * self._file_bytes)
            found = ingredients.source_of(file, self._image.media_type, "image")
        if found is None:
            return nothing
        _write(self._target, found.archive)
        return {"bytes": len(found.archive), "manifest_id": found.manifest_id}

    def verify(self, *, bytes: int, certificates: str) -> dict[str, Any]:  # noqa: A002 - the request's own word
        """Read the Content Credentials of a file of any kind."""
        from svd_service.marking import reader  # noqa: PLC0415 - most processes never need it

        reader.load()  # before the limits, which are for the file
        limits.allow(pixels=0, file_bytes=bytes, seconds=limits.SECONDS_PER_BYTE * bytes)
        try:
            with io.FileIO(self._source, closefd=False) as file:
                found = reader.read(file, certificates)
        finally:
            limits.lift()
        return {"credentials": None if found is None else asdict(found)}

    def close(self) -> None:
        """Free the image."""
        if self._image is not None:
            self._image.close()
            self._image = None
        limits.lift()


def _read(file: int, size: int) -> bytes:
    content = os.pread(file, size, 0)
    while len(content) < size and (more := os.pread(file, size - len(content), len(content))):
        content += more
    return content


def _write(file: int, content: bytes) -> None:
    at, view = 0, memoryview(content)
    while at < len(content):
        at += os.pwrite(file, view[at:], at)


def main() -> None:
    """Serve until the parent closes the socket. Arguments: the descriptors of the socket, the source and the target."""
    # The terminal's Ctrl-C is for the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel, source, target = map(int, sys.argv[1:4])
    decoder = Decoder(source, target)
    idle = limits.address_space() or 0
    # libtiff writes a line for each flaw it finds.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    with socket.socket(fileno=channel) as connection, connection.makefile("rb") as requests:
        for line in requests:
            request = json.loads(line)
            if request["do"] != "close":
                connection.sendall(json.dumps(decoder.answer(request)).encode() + b"\n")
                continue
            decoder.close()
            if (limits.address_space() or 0) - idle > _MAX_GROWTH:
                return
