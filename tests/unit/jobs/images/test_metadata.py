"""Metadata never affect the pixels, whether large, numerous, damaged or truncated."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from svd_service.errors import AnimatedImageError, BrokenImageError, NotAnImageError
from tests.unit.jobs.images.image_files import (
    DISPLAY_P3,
    PHOTO,
    RED,
    difference,
    fitted,
    is_about,
    orientation,
    pixel,
    png_chunks,
    png_of,
    rgb_profile,
    stored,
)
from tools.harness.hostile_images import segments

SMALL = PHOTO.resize((160, 120))
Chunk = tuple[bytes, bytes]


def text(size: int) -> bytes:
    return b"workflow\0\0" + zlib.compress(b"{" + b" " * size + b"}")


def png_with(*extra: Chunk, behind: bool = False) -> bytes:
    chunks = png_chunks(stored(SMALL, "png"))
    at = len(chunks) - 1 if behind else 1
    return png_of([*chunks[:at], *extra, *chunks[at:]])


PADDED_PROFILE = rgb_profile(DISPLAY_P3) + bytes(1_300_000)


@pytest.mark.parametrize(
    ("extra", "behind"),
    [
        ([(b"zTXt", text(1_300_000))], False),
        ([(b"zTXt", text(1_300_000))], True),
        ([(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(bytes(1_300_000)))], False),
        ([(b"zTXt", text(1_000_000))] * 70, False),
        ([(b"tEXt", b"a\0b")] * 20_000, True),
        ([(b"iCCP", b"bomb\0\0" + zlib.compress(bytes(100_000_000)))], False),
        ([(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + b"\x0f\x01\x02\0\xff\xff\xff\0\0\0\0\0" * 5_000)], False),
        ([(b"tIME", b"")], False),
        ([(b"acTL", bytes(8))], False),
    ],
    ids=["ztxt", "ztxt behind", "itxt", "70 ztxt", "20,000 text", "icc bomb", "exif bomb", "empty time", "no frames"],
)
def test_ancillary_chunks_of_a_png_change_nothing(extra: list[Chunk], behind: bool) -> None:
    assert difference(fitted(png_with(*extra, behind=behind)), fitted(stored(SMALL, "png"))) == 0


def test_a_large_profile_of_a_png_is_applied() -> None:
    plain = Image.new("RGB", (64, 48), (180, 120, 90))
    chunks = png_chunks(stored(plain, "png"))
    chunks.insert(1, (b"iCCP", b"p3\0\0" + zlib.compress(PADDED_PROFILE)))
    assert is_about(pixel(fitted(png_of(chunks))), (190, 117, 84), 5)


@pytest.mark.parametrize("name", [b"tEXt", b"gAMA", b"tIME", b"iCCP", b"eXIf"])
def test_a_wrong_checksum_of_an_ancillary_chunk_is_ignored(name: bytes) -> None:
    data = png_with((name, struct.pack(">I", 100_000)))
    at = data.index(name) + 8
    assert difference(fitted(data[:at] + b"????" + data[at + 4 :]), fitted(stored(SMALL, "png"))) == 0


def test_a_wrong_checksum_of_the_header_is_an_error() -> None:
    data = stored(SMALL, "png")
    with pytest.raises(BrokenImageError, match="IHDR"):
        fitted(data[:29] + b"????" + data[33:])


def test_a_png_truncated_after_its_pixels_is_read() -> None:
    data = stored(SMALL, "png")
    assert difference(fitted(data[:-12]), fitted(data)) == 0


@pytest.mark.parametrize(
    "extra",
    [
        segments(0xE1, b"Exif\0\0" + bytes(60_000), 100),
        segments(0xE1, b"Exif\0\0AAAAAAAAAA", 4_000),
        segments(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(60_000), 100),
        segments(0xE2, b"MPF\0" + b"\xff" * 100, 3),
        segments(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(60_000), 255),
        segments(0xFE, b"a comment", 2_000),
        segments(0xED, b"Photoshop 3.0\0" + bytes(60_000), 50),
        b"\xff" * 100_000,
    ],
    ids=["exif", "many exif", "xmp", "mpf", "icc", "comments", "photoshop", "fill"],
)
def test_metadata_segments_of_a_jpeg_change_nothing(extra: bytes) -> None:
    data = stored(SMALL, "jpeg")
    assert difference(fitted(data[:2] + extra + data[2:]), fitted(data)) == 0


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_marker_is_read(kind: str, mode: str) -> None:
    data = stored(SMALL.convert(mode), kind)
    assert data.endswith(b"\xff\xd9")
    assert difference(fitted(data[:-2]), fitted(data)) == 0
    assert difference(fitted(data[:-1]), fitted(data)) == 0


def test_a_jpeg_may_lack_a_row_of_blocks_and_no_more() -> None:
    tall = stored(PHOTO.resize((640, 2000)), "jpeg")
    assert difference(fitted(tall[:-20], 320, 1000), fitted(tall, 320, 1000)) < 4
    with pytest.raises(BrokenImageError, match="truncated"):
        fitted(tall[: int(len(tall) * 0.95)], 320, 1000)


def test_a_progressive_jpeg_that_lacks_its_last_passes_is_truncated() -> None:
    data = stored(SMALL, "progressive jpeg")
    last = data.rindex(b"\xff\xda")
    with pytest.raises(BrokenImageError, match="truncated"):
        fitted(data[: data.rindex(b"\xff\xc4", 0, last)])


def test_a_large_comment_of_a_gif_is_skipped() -> None:
    data = stored(SMALL, "gif")
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    comment = b"!\xfe" + b"\x01a" * 300_000 + b"\0"
    assert difference(fitted(data[:at] + comment + data[at:]), fitted(data)) == 0
    assert difference(fitted(data[:-1]), fitted(data)) == 0  # without its trailer


def test_metadata_chunks_of_a_webp_change_nothing() -> None:
    data = stored(SMALL, "webp", exif=orientation(1), icc_profile=rgb_profile(DISPLAY_P3))
    extra = b"XMP " + struct.pack("<I", 1_000_000) + bytes(1_000_000) + b"????\0\0\0\0" * 5_000
    longer = data[:4] + struct.pack("<I", len(data) + len(extra) - 8) + data[8:] + extra
    assert difference(fitted(longer), fitted(data)) == 0


# TIFF, and formats that resemble it


def tiff(*directories: dict[int, tuple[int, int]], magic: bytes = b"") -> bytes:
    """Tags as (type, value), which fits into four bytes; 273 is set to where 100 x 80 grey pixels are."""
    pixels = b"\x80" * 8_000
    at = 8 + len(magic) + len(pixels)
    data = b"II*\0" + struct.pack("<I", at) + magic + pixels
    for number, given in enumerate(directories, 1):
        tags = {**given, 273: (4, 8 + len(magic))}
        data += struct.pack("<H", len(tags))
        data += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items()))
        at += 6 + 12 * len(tags)
        data += struct.pack("<I", at if number < len(directories) else 0)
    return data


GREY = {256: (4, 100), 257: (4, 80), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1), 278: (4, 80), 279: (4, 8_000)}


def after(first: dict[int, tuple[int, int]]) -> int:
    """Offset of the directory that follows the first one."""
    return 8 + 8_000 + 6 + 12 * (len(first) + 1)


def raw_photos() -> Iterator[tuple[str, bytes]]:
    thumbnail = GREY | {254: (4, 1)}
    sub = thumbnail | {330: (4, 0)}
    sub[330] = (4, after(sub))
    yield "dng", tiff(GREY | {50706: (1, 0x401)})
    yield "dng with a thumbnail", tiff(thumbnail | {50706: (1, 0x401)})
    yield "nef", tiff(sub, GREY | {259: (3, 34713), 262: (3, 32803)})
    yield "arw", tiff(sub, GREY | {259: (3, 32767), 262: (3, 32803)})
    yield "pef", tiff(GREY | {259: (3, 65535), 262: (3, 32803)})
    yield "linear", tiff(sub, GREY | {262: (3, 34892)})
    yield "cr2", tiff(GREY, magic=b"CR\x02\0\0\0\0\0")
    yield "cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100)
    yield "raf", b"FUJIFILMCCD-RAW 0201" + bytes(100)
    yield "rw2", b"IIU\0\x18\0\0\0" + bytes(100)
    yield "orf", b"IIRO\x08\0\0\0" + bytes(100)


RAW_PHOTOS = dict(raw_photos())


@pytest.mark.parametrize(("name", "data"), RAW_PHOTOS.items(), ids=RAW_PHOTOS)
def test_a_raw_photo_is_rejected_instead_of_its_thumbnail(name: str, data: bytes) -> None:
    with pytest.raises(NotAnImageError, match="raw photo"):
        fitted(data)


def test_a_tiff_may_have_a_thumbnail_but_no_second_page() -> None:
    assert pixel(fitted(tiff(GREY, GREY | {254: (4, 1)}))) == (128, 128, 128)
    with pytest.raises(AnimatedImageError):
        fitted(tiff(GREY, GREY))


@pytest.mark.parametrize("tag", [700, 33723, 34377, 34665, 37724, 50255])
def test_metadata_of_a_tiff_are_not_read(tag: int) -> None:
    data = bytearray(tiff(GREY | {tag: (7, 0xFFFFFF)}))
    at = data.rindex(struct.pack("<HHI", tag, 7, 1))
    data[at + 4 : at + 8] = struct.pack("<I", 0x7FFFFFFF)  # number of values
    assert pixel(fitted(bytes(data))) == (128, 128, 128)


def test_big_tiffs_are_read() -> None:
    levels = np.full((48, 64), 77, np.uint8)
    assert pixel(fitted(stored(Image.fromarray(levels), "TIFF", big_tiff=True))) == (77, 77, 77)


@pytest.mark.parametrize("kind", ["heic", "jxl"])
def test_heic_and_jpeg_xl_are_read(kind: str) -> None:
    assert is_about(pixel(fitted(stored(Image.new("RGB", (64, 48), RED), kind))), RED, 12)
