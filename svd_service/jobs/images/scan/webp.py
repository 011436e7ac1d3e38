"""WebP (RFC 9649): a RIFF file, of whose chunks only the first frame's stay."""

import struct
from collections.abc import Iterator
from typing import Final

from svd_service.errors import AnimatedImageError, ImageTooLargeError
from svd_service.jobs.images.scan import exif
from svd_service.jobs.images.scan.result import MAX_PROFILE, Scanned, truncated

#: Chunks of a file; one still image has at most six kinds of its own.
_MAX_CHUNKS: Final = 10_000

_KEPT: Final = frozenset({b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"})

#: A side of a frame (RFC 6386, section 9.1; RFC 9649, section 3.4).
_14_BITS: Final = 0x3FFF

#: Flags of `VP8X`: alpha and animation stay; there is neither profile, EXIF nor XMP any more.
_ALPHA_OR_ANIMATION: Final = 0x12


def scan(content: bytes) -> Scanned:
    """See the package."""
    found: dict[bytes, bytes] = {}
    kept = []
    for name, start, end in _chunks(content):
        if name in found:
            if name == b"ANMF":
                raise AnimatedImageError("the image has several frames; send one of them")
            continue
        chunk = found[name] = content[start:end]
        if name == b"VP8X" and chunk:
            chunk = bytes((chunk[0] & _ALPHA_OR_ANIMATION,)) + chunk[1:]
        if name in _KEPT:
            kept.append(name + struct.pack("<I", len(chunk)) + chunk + b"\0" * (len(chunk) % 2))
    body = b"WEBP" + b"".join(kept)
    profile = found.get(b"ICCP", b"")
    return Scanned(
        "WEBP",
        b"RIFF" + struct.pack("<I", len(body)) + body,
        orientation=exif.orientation(found.get(b"EXIF", b"")),
        profiles=(profile,) if profile and len(profile) <= MAX_PROFILE else (),
    )


def size(content: bytes) -> tuple[int, int]:
    """Width and height of the canvas.

    Raises:
        BrokenImageError: the header is not there.
    """
    for name, start, end in _chunks(content):
        header = content[start:end][:10]
        if name == b"VP8X" and len(header) == 10:
            return int.from_bytes(header[4:7], "little") + 1, int.from_bytes(header[7:10], "little") + 1
        if name == b"VP8L" and len(header) >= 5:
            bits = int.from_bytes(header[1:5], "little")
            return (bits & _14_BITS) + 1, (bits >> 14 & _14_BITS) + 1
        if name == b"VP8 " and len(header) == 10:
            width, height = struct.unpack_from("<HH", header, 6)
            return width & _14_BITS, height & _14_BITS  # the two other bits ask for scaling when it is shown
    raise truncated()


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(content):
            return
        name, length = struct.unpack_from("<4sI", content, at)
        if at + 8 + length > len(content):
            if name in _KEPT:
                raise truncated()
            return
        yield name, at + 8, at + 8 + length
        at += 8 + length + length % 2
    raise ImageTooLargeError(f"the WebP has more than {_MAX_CHUNKS:,} chunks")
