"""JPEG (ITU-T T.81): a list of segments up to the first scan, then entropy-coded data.

Of the segments only tables and frame headers stay, and the two that say how colors are coded (JFIF, Adobe). Phones'
MPO files (several JPEGs in one) become their first image that way.
"""

import re
from typing import Final

from svd_service.errors import BrokenImageError, ImageTooLargeError
from svd_service.jobs.images.scan import exif
from svd_service.jobs.images.scan.result import MAX_PROFILE, Scanned

#: Segments before the first scan. Photos have up to some hundred; each takes 2 µs here, and Pillow joins those of Exif
#: in quadratic time.
_MAX_SEGMENTS: Final = 5_000

#: Passes of a progressive JPEG. Cameras and editors write some 10; each takes 3 ms at 49 megapixels, though it may
#: have only 100 bytes, so that 20 MB of them would take ten minutes. By chance, the video within a "motion photo" of
#: 20 MB holds some 300 pairs of bytes that look like the beginning of a pass.
_MAX_SCANS: Final = 500

#: Any byte may be repeated as fill before a marker, and what is no marker is skipped.
_MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
_MARKERS: Final = frozenset(bytes((0xFF, marker)) for marker in range(1, 0xFF))

_SOS, _EOI, _SOI = 0xDA, 0xD9, 0xD8
_STANDALONE: Final = frozenset({0x01, _SOI, *range(0xD0, 0xD8)})
#: Frame headers, Huffman and arithmetic tables, quantization tables, restart interval.
_KEPT: Final = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD}) - {0xC8}
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_JFIF, _EXIF, _ICC, _ADOBE = (0xE0, b"JFIF\0"), (0xE1, b"Exif\0\0"), (0xE2, b"ICC_PROFILE\0"), (0xEE, b"Adobe")


class _Head:
    """What is kept of the segments before the first scan."""

    def __init__(self) -> None:
        self._tables = [b"\xff\xd8"]
        self._colors: dict[int, bytes] = {}
        self._profile: dict[int, bytes] = {}
        self._exif = b""

    def add(self, content: bytes, begin: int, at: int, end: int) -> None:
        """Look at one segment: it begins at its marker, and `at` is its length."""
        marker = content[at - 1]
        if marker in _KEPT:
            self._tables.append(content[begin:end])
        elif marker in {_JFIF[0], _ADOBE[0]} and marker not in self._colors:
            if content.startswith((_JFIF[1], _ADOBE[1]), at + 2):
                self._colors[marker] = content[begin:end]
        elif marker == _EXIF[0] and not self._exif and content.startswith(_EXIF[1], at + 2):
            self._exif = content[at + 2 : end]
        elif marker == _ICC[0] and content.startswith(_ICC[1], at + 2) and end > at + 16:
            self._profile.setdefault(content[at + 14], content[at + 16 : end])

    def followed_by(self, pixels: bytes) -> Scanned:
        """The image."""
        content = b"".join((*self._tables, *self._colors.values(), pixels))
        return Scanned("JPEG", content, exif.orientation(self._exif), _profiles(self._profile))


def scan(content: bytes) -> Scanned:
    """See the package."""
    head, at = _Head(), 2
    for _ in range(_MAX_SEGMENTS):
        # Mostly the next segment follows at once; looking for it would take ten times as long.
        begin, at = at, at + 2
        if content[begin:at] not in _MARKERS:
            found = _MARKER.search(content, begin)
            if found is None:
                raise BrokenImageError("the JPEG ends before its pixels")
            begin, at = found.span()
        marker = content[at - 1]
        if marker == _EOI:
            raise BrokenImageError("the JPEG ends before its pixels")
        if marker == _SOS:
            pixels = content[begin:]
            if pixels.count(b"\xff\xda") > _MAX_SCANS:
                raise ImageTooLargeError(f"the JPEG is stored in more than {_MAX_SCANS} passes")
            return head.followed_by(pixels)
        if marker not in _STANDALONE:
            end = max(at + int.from_bytes(content[at : at + 2], "big"), at + 2)
            if end > len(content):
                raise BrokenImageError("the JPEG ends before its pixels")
            head.add(content, begin, at, end)
            at = end
    raise ImageTooLargeError(f"the JPEG has more than {_MAX_SEGMENTS:,} segments before its pixels")


def has_all_scans(content: bytes) -> bool:
    """Whether the headers of scans promise all coefficients of all components: what a sequential JPEG does, and a
    progressive one whose file is not cut off between scans.
    """
    missing: dict[int, set[int]] = {}
    at = 2
    progressive = False
    while (found := _MARKER.search(content, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker in _STANDALONE or marker == _EOI:
            continue
        segment = content[at + 2 : at + int.from_bytes(content[at : at + 2], "big")]
        if marker in _FRAMES and len(segment) >= 6:
            progressive = marker in _PROGRESSIVE
            missing = {component: set(range(64)) for component in segment[6::3]}
        elif marker == _SOS and len(segment) >= 4:
            components = segment[1 : 1 + 2 * segment[0] : 2]
            first, last, bits = segment[-3:]
            for component in components:
                if not progressive:
                    missing.pop(component, None)
                elif bits & 15 == 0:
                    missing.get(component, set()).difference_update(range(first, last + 1))
        at += 2 + len(segment)
    return not any(missing.values())


def _profiles(parts: dict[int, bytes]) -> tuple[bytes, ...]:
    """The ICC profile, whose parts are numbered from 1."""
    profile = b"".join(parts[number] for number in sorted(parts))
    return (profile,) if profile and len(profile) <= MAX_PROFILE else ()
