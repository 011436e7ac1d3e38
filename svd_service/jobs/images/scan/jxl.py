"""JPEG XL (ISO/IEC 18181): a codestream, bare or in boxes. Its size is read here: the decoder reports it too late."""

from typing import Final

from svd_service.errors import NotAnImageError
from svd_service.jobs.images.scan.result import Scanned, truncated

CONTAINER: Final = b"\0\0\0\x0cJXL \r\n\x87\n"

#: Boxes that are looked at for the codestream.
_MAX_BOXES: Final = 1_000

#: Shapes that a header names by number, as width / height.
_RATIOS: Final = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def scan(content: bytes) -> Scanned:
    """See the package."""
    size(content)
    return Scanned("JXL", content)


def size(content: bytes) -> tuple[int, int]:
    """Width and height as stored.

    Raises:
        BrokenImageError: the header is not there.
    """
    at = _codestream(content) if content.startswith(CONTAINER) else 0
    bits = int.from_bytes(content[at + 2 : at + 14], "little")
    if content[at : at + 2] != b"\xff\x0a" or len(content) < at + 14:
        raise truncated()
    reader = _Bits(bits)
    small = reader.take(1)
    height = reader.side(small)
    ratio = _RATIOS.get(reader.take(3))
    width = reader.side(small) if ratio is None else height * ratio[0] // ratio[1]
    return width, height


class _Bits:
    """Numbers of so many bits each, lowest first."""

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def take(self, count: int) -> int:
        """The next number."""
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        return value

    def side(self, small: int) -> int:
        """A width or height: a multiple of 8 up to 256, else of 9, 13, 18 or 30 bits."""
        return (self.take(5) + 1) * 8 if small else self.take((9, 13, 18, 30)[self.take(2)]) + 1


def _codestream(content: bytes) -> int:
    """Where the codestream begins: in a `jxlc` box, or the first `jxlp`, behind its number."""
    at = 0
    for _ in range(_MAX_BOXES):
        length, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        header = 16 if length == 1 else 8
        if length == 1:
            length = int.from_bytes(content[at + 8 : at + 16], "big")
        if name in {b"jxlc", b"jxlp"}:
            return at + header + (4 if name == b"jxlp" else 0)
        if length < header:
            break
        at += length
    raise NotAnImageError("the JPEG XL file has no image")
