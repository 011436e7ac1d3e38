"""PNG (W3C, third edition): a list of chunks, of which only a few affect pixels.

What else an upload meets, and in which order: the docstring of `jobs.images`. Text, time, histograms and the like are
skipped without decompression; ancillary chunks with a wrong check sum are left out, as libpng does. The check sums
(CRC) of the pixels' chunks are not verified: the zlib stream has its own.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from svd_service.errors import AnimatedImageError, BrokenImageError, ImageTooLargeError
from svd_service.jobs.images import color
from svd_service.jobs.images.scan import exif
from svd_service.jobs.images.scan.result import MAX_PROFILE, Scanned, truncated

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

#: Chunks of a file. Encoders write IDATs of 4 KB and more: 5,000 in the largest upload.
_MAX_CHUNKS: Final = 32_768

#: Chunks that affect pixels; the first of each kind counts.
_CRITICAL: Final = frozenset({b"IHDR", b"PLTE"})
_ANCILLARY: Final = frozenset({b"tRNS", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf", b"acTL"})


def scan(content: bytes) -> Scanned:
    """See the package."""
    found: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    behind = False
    view = memoryview(content)
    for name, start, end in _chunks(content):
        if name == b"IDAT":
            # IDATs after a different chunk are no part of the image.
            if not behind:
                pixels.append(view[start:end])
            continue
        behind = bool(pixels)
        if (name in _CRITICAL or name in _ANCILLARY) and name not in found:
            intact = zlib.crc32(view[start - 4 : end]) == int.from_bytes(content[end : end + 4], "big")
            if intact:
                found[name] = content[start:end]
            elif name in _CRITICAL:
                raise BrokenImageError(f"the PNG is damaged: its {name.decode()} chunk has a wrong check sum")
    if len(found.get(b"IHDR", b"")) != 13:
        raise BrokenImageError("the PNG is damaged: it has no header")
    if not pixels:
        raise truncated()
    _require_one_frame(found.get(b"acTL", b""))
    kept = [_chunk(name, found[name]) for name in (b"IHDR", b"PLTE", b"tRNS") if name in found]
    return Scanned(
        "PNG",
        b"".join((SIGNATURE, *kept, _chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b""))),
        orientation=exif.orientation(found.get(b"eXIf", b"")),
        profiles=tuple(_profiles(found)),
    )


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Names of chunks, and where their contents begin and end; the last may be cut off."""
    at = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(content):
            return
        length, name = struct.unpack_from(">I4s", content, at)
        if name == b"IEND" or not name.isalpha():
            return
        yield name, at + 8, min(at + 8 + length, len(content))
        at += 12 + length
    raise ImageTooLargeError(f"the PNG has more than {_MAX_CHUNKS:,} chunks")


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I4s", len(content), name) + content + struct.pack(">I", check)


def _require_one_frame(animation: bytes) -> None:
    frames = int.from_bytes(animation[:4], "big")
    # More than 2^31 - 1 is no number of frames; browsers show the image that is there.
    if 1 < frames < 2**31:
        raise AnimatedImageError("the image has several frames; send one of them")


def _profiles(found: dict[bytes, bytes]) -> Iterator[bytes]:
    """As the standard ranks them: cICP, iCCP, sRGB, then gAMA and cHRM."""
    if len(coded := found.get(b"cICP", b"")) == 4:
        numbers, transfer, matrix, full_range = coded
        if matrix == 0 and (profile := color.coded(numbers, transfer, full_range=full_range == 1)) is not None:
            yield profile
    if profile := _unpacked(found.get(b"iCCP", b"")):
        yield profile
    if b"sRGB" in found:
        yield b""
        return
    gamma, primaries = found.get(b"gAMA", b""), found.get(b"cHRM", b"")
    if (len(gamma), len(primaries)) != (0, 0):
        exponent = struct.unpack(">I", gamma)[0] / 100_000 if len(gamma) == 4 else 0.0
        points = [value / 100_000 for value in struct.unpack(">8I", primaries)] if len(primaries) == 32 else []
        if (profile := color.calibrated(points, exponent)) is not None:
            yield profile


def _unpacked(chunk: bytes) -> bytes:
    """An iCCP chunk's profile: a name, a zero, the method, and the profile as zlib's; nothing if it is too large."""
    _, _, packed = chunk.partition(b"\0")
    try:
        unpacking = zlib.decompressobj()
        profile = unpacking.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return b""
    return b"" if unpacking.unconsumed_tail else profile
