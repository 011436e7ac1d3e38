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
