"""Small files that take a parser minutes or gigabytes, each modelled on a public bug report about one."""

import io
import struct
from collections.abc import Iterator

from PIL import Image


def hostile_images(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Yield names and files of 2 to 19 MB, derived from a small `image`."""
    jpeg, png, gif, webp = (_stored(image, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP"))
    table = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    yield "jpeg of exif", jpeg[:2] + segments(0xE1, b"Exif\0\0AAAAAAAAAA", 400_000) + jpeg[2:]
    yield "jpeg of empty segments", jpeg[:2] + segments(0xE5, b"", 4_700_000) + jpeg[2:]
    yield "jpeg of tables", jpeg[:2] + segments(0xDB, bytes(65), 250_000) + jpeg[2:]
    yield "jpeg of passes", jpeg[:-2] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 1_500_000
    yield "jpeg of nothing", b"\xff\xd8\xff" + bytes(19_000_000)
    yield "tiff of tiles", tiff_of_tiles(3080 * 3080, 3080)
    yield "png of chunks", png[:33] + b"\0\0\0\0teXt\0\0\0\0" * 1_600_000 + png[33:]
    yield "png of pixels' chunks", png[:33] + b"\0\0\0\0IDAT\0\0\0\0" * 1_600_000 + png[33:]
    yield "gif of comments", gif[:table] + b"!\xfe\1a\0" * 3_800_000 + gif[table:]
    yield "gif of one comment", gif[:table] + b"!\xfe" + b"\1a" * 9_500_000 + b"\0" + gif[table:]
    yield "gif of blocks", gif[: table + 11] + b"\1a" * 9_500_000 + b"\0;"
    yield "webp of chunks", webp + b"????\0\0\0\0" * 2_300_000
    yield "tiff of tags", b"II*\0\x08\0\0\0\xff\xff" + b"\0\1\4\0\1\0\0\0\1\0\0\0" * 65_535
    yield "avif of items", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0\0\0\x08free" * 2_000_000
    yield "heic of items", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x08free" * 2_000_000


def segments(marker: int, payload: bytes, count: int) -> bytes:
    """Return a JPEG segment, repeated `count` times."""
    return (bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload) * count


def tiff_of_tiles(count: int, side: int) -> bytes:
    """Return a TIFF of `count` tiles of one pixel each."""
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 3, 1, 1), (323, 3, 1, 1), (324, 3, count, 1000), (325, 4, 1, 1)]
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return head.ljust(1000, b"\0") + b"\x00\x02" * count


def run_length_bmp(size: int) -> bytes:
    """Return a BMP with `size` bytes of run-length codes that end the row again and again."""
    header = struct.pack("<IiiHHIIiiII", 40, 1000, 1000, 1, 8, 1, size, 0, 0, 256, 0) + bytes(1024)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + size, 0, 0, 14 + len(header)) + header + bytes(size)


def _stored(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
