"""TIFF (6.0, and BigTIFF): directories of tags, of which the first stays, with the tags that describe pixels.

The magic bytes are also those of most cameras' raw photos, whose first directory is a thumbnail: they are rejected,
rather than the thumbnail taken for the photo.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from svd_service.errors import AnimatedImageError, BrokenImageError, ImageTooLargeError, NotAnImageError
from svd_service.jobs.images.scan.result import MAX_PROFILE, Scanned, truncated

#: Strips or tiles. Rows are at most 65,535, and tiles of 256 x 256 of the largest image some 800; Pillow takes 300
#: bytes and more for each.
_MAX_PARTS: Final = 70_000

#: Tags of a directory: there are some 500 kinds in all standards and cameras together.
_MAX_TAGS: Final = 4_096

#: Values of any other tag that stays: a palette of 16 bits has the most.
_MAX_VALUES: Final = 3 * 65_536

#: Fax compressions are left out: libtiff writes a line to stderr for each bad row, gigabytes for one upload.
_COMPRESSIONS: Final = frozenset({1, 5, 7, 8, 32773, 32946})

_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 259, 262
_SUB_DIRECTORIES, _PROFILE, _DNG_VERSION = 330, 34675, 50706
_PARTS: Final = frozenset({273, 279, 324, 325})
#: Size, bits, compression, photometric interpretation, fill order, orientation, samples, rows, planes, predictor,
#: palette, tile size, inks, extra samples and their kind, JPEG tables, YCbCr's coefficients, positions, reference.
_KEPT: Final = _PARTS | {256, 257, 258, 259, 262, 266, 274, 277, 278, 284, 317, 320, 322, 323, 332, 338, 339, 347}
_KEPT_YCBCR: Final = frozenset({529, 530, 531, 532})

#: What only raw photos have: color filter arrays, linear raw; compressions of Nikon, Sony, Pentax, Samsung, Kodak, DNG.
_RAW_PHOTOMETRIC: Final = frozenset({32803, 34892})
_RAW_COMPRESSIONS: Final = frozenset({34713, 32767, 32769, 32770, 32867, 65000, 65535, 34892, 52546})

#: Maximum number of directories examined to detect a raw photo.
_MAX_DIRECTORIES: Final = 16

#: Bytes of each type's values, by number.
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


@dataclass(frozen=True)
class _Entry:
    """A tag as it is stored."""

    raw: bytes
    kind: int
    count: int
    at: int  # where its values are

    def values(self, tiff: "_Tiff", limit: int) -> tuple[int, ...]:
        """Its first values, where they are whole numbers."""
        letter = _INTEGERS.get(self.kind)
        count = min(self.count, limit)
        if letter is None or self.at + count * _SIZES[self.kind] > len(tiff.content):
            return ()
        return struct.unpack_from(f"{tiff.order}{count}{letter}", tiff.content, self.at)


class _Tiff:
    """How numbers are written in one file, and its directories."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.order = "<" if content[:2] == b"II" else ">"
        self.big = content[2:4] in {b"+\0", b"\0+"}
        self._counter, self._offset, self._entry = ("Q", "Q", "HHQ") if self.big else ("H", "I", "HHI")
        self.first = self.number(self._offset, 8 if self.big else 4)

    def number(self, letter: str, at: int) -> int:
        """The number at a place."""
        return int(struct.unpack_from(self.order + letter, self.content, at)[0])

    def directory(self, at: int) -> tuple[dict[int, _Entry], int]:
        """The tags of the directory there, and where the next one is, or 0."""
        count = self.number(self._counter, at)
        at += struct.calcsize(f"={self._counter}")
        head, inline = struct.calcsize(f"={self._entry}"), struct.calcsize(f"={self._offset}")
        if count * (head + inline) > len(self.content) - at:
            raise truncated()
        if count > _MAX_TAGS:
            raise ImageTooLargeError(f"the TIFF has more than {_MAX_TAGS:,} tags")
        entries: dict[int, _Entry] = {}
        for _ in range(count):
            tag, kind, values = struct.unpack_from(self.order + self._entry, self.content, at)
            fits = values * _SIZES.get(kind, 1) <= inline
            place = at + head if fits else self.number(self._offset, at + head)
            entries.setdefault(tag, _Entry(self.content[at : at + head + inline], kind, values, place))
            at += head + inline
        following = self.content[at : at + inline]
        return entries, int.from_bytes(following, "little" if self.order == "<" else "big")

    def reduced_to(self, entries: list[_Entry]) -> bytes:
        """The file with only a first directory of these entries, in the first one's place."""
        counter = struct.pack(self.order + self._counter, len(entries))
        directory = counter + b"".join(entry.raw for entry in entries) + struct.pack(self.order + self._offset, 0)
        return self.content[: self.first] + directory + self.content[self.first + len(directory) :]

    def value(self, entries: Mapping[int, _Entry], tag: int) -> int | None:
        """A tag's first value."""
        entry = entries.get(tag)
        return next(iter(entry.values(self, 1)), None) if entry else None


def scan(content: bytes) -> Scanned:
    """See the package."""
    try:
        return _scanned(_Tiff(content))
    except struct.error:
        raise truncated() from None


def _scanned(tiff: _Tiff) -> Scanned:
    entries, following = tiff.directory(tiff.first)
    _require_no_raw_photo(tiff, entries)
    if following:
        _require_one_page(tiff, following)
    if tiff.value(entries, _COMPRESSION) not in {None, *_COMPRESSIONS}:
        raise NotAnImageError("this is a TIFF with a compression that is not supported; save it with LZW or Deflate")
    kept = [entry for tag, entry in entries.items() if tag in _KEPT or tag in _KEPT_YCBCR]
    for tag, entry in entries.items():
        if tag in _PARTS and entry.count > _MAX_PARTS:
            raise ImageTooLargeError(f"the TIFF has more than {_MAX_PARTS:,} strips or tiles")
        if tag in _KEPT and entry.count > _MAX_VALUES:
            raise BrokenImageError("the TIFF is damaged: a tag has too many values")
    return Scanned("TIFF", tiff.reduced_to(kept), profiles=_profiles(tiff, entries))


def _require_no_raw_photo(tiff: _Tiff, first: Mapping[int, _Entry]) -> None:
    """Raw photos: DNG and CR2 declare it; the others keep their pixels in a sub-directory, unlike any other TIFF."""
    directories = [first]
    places = first[_SUB_DIRECTORIES].values(tiff, _MAX_DIRECTORIES) if _SUB_DIRECTORIES in first else ()
    for place in places:
        try:
            directories.append(tiff.directory(place)[0])
        except (struct.error, BrokenImageError):
            continue
    raw = _DNG_VERSION in first or tiff.content[8:10] == b"CR" or any(_is_raw(tiff, each) for each in directories)
    # A first directory that calls itself a smaller version of another.
    if raw or ((tiff.value(first, _SUBFILE) or 0) & 1 and places):
        raise NotAnImageError("this is a raw photo; export it as JPEG or PNG first")


def _is_raw(tiff: _Tiff, directory: Mapping[int, _Entry]) -> bool:
    return (
        tiff.value(directory, _PHOTOMETRIC) in _RAW_PHOTOMETRIC
        or tiff.value(directory, _COMPRESSION) in _RAW_COMPRESSIONS
    )


def _require_one_page(tiff: _Tiff, place: int) -> None:
    """What follows may be a thumbnail of the first page, not another page."""
    following, _ = tiff.directory(place)
    if not (tiff.value(following, _SUBFILE) or 0) & 1:
        raise AnimatedImageError("the image has several pages; send one of them")


def _profiles(tiff: _Tiff, entries: Mapping[int, _Entry]) -> tuple[bytes, ...]:
    entry = entries.get(_PROFILE)
    if entry is None or entry.count > MAX_PROFILE:
        return ()
    profile = tiff.content[entry.at : entry.at + entry.count]
    return (profile,) if profile else ()
