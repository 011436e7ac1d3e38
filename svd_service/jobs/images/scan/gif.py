"""GIF (89a): a screen, then blocks, of which the first image and the control before it stay.

Pillow joins comments in quadratic time.
"""

from typing import Final

from svd_service.errors import AnimatedImageError, ImageTooLargeError
from svd_service.jobs.images.scan.result import Scanned, truncated

#: Sub-blocks of a file: the largest upload has 80,000 of the usual 255 bytes. Extensions: one image needs a control,
#: and has some comments and application data.
_MAX_BLOCKS: Final = 400_000
_MAX_EXTENSIONS: Final = 10_000

_EXTENSION, _IMAGE = 0x21, 0x2C
_CONTROL: Final = 0xF9


class _Walk:
    """A place in the file that only moves on."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 13 + _table(content[10])
        self._left = _MAX_BLOCKS

    def sub_blocks(self) -> None:
        """Go behind sub-blocks: each a length and so many bytes; the last has none."""
        content, at, size = self.content, self.at, len(self.content)
        for number in range(self._left):
            if at >= size:
                self.at = size
                return
            length = content[at]
            at += length + 1
            if not length:
                self.at = at
                self._left -= number
                return
        raise ImageTooLargeError(f"the GIF has more than {_MAX_BLOCKS:,} blocks")


def scan(content: bytes) -> Scanned:
    """See the package."""
    if len(content) < 13:
        raise truncated()
    walk = _Walk(content)
    head, control, image = content[: walk.at], b"", b""
    extensions = 0
    while walk.at + 1 < len(content):
        begin, kind = walk.at, content[walk.at]
        if kind == _EXTENSION:
            extensions += 1
            if extensions > _MAX_EXTENSIONS:
                raise ImageTooLargeError(f"the GIF has more than {_MAX_EXTENSIONS:,} extensions")
            walk.at += 2
            walk.sub_blocks()
            if content[begin + 1] == _CONTROL and not image:
                control = content[begin : walk.at]
        elif kind == _IMAGE:
            if image:
                raise AnimatedImageError("the image has several frames; send one of them")
            if begin + 11 > len(content):
                break
            walk.at += 11 + _table(content[begin + 9])  # with the codes' least size
            walk.sub_blocks()
            image = content[begin : walk.at]
        else:
            break  # the trailer, or nothing that belongs to a GIF
    if not image:
        raise truncated()
    return Scanned("GIF", b"".join((head, control, image, b";")))


def _table(flags: int) -> int:
    """Bytes of a color table."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
