"""Image files for tests, including kinds that Pillow does not write, and ways to read and compare them."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
import pillow_jxl  # noqa: F401 - registers itself
from PIL import ExifTags, Image

from svd_service.config import Settings
from svd_service.jobs.images.opening import open_image
from svd_service.parameters import Fit
from tests.samples import IMAGES

pillow_heif.register_heif_opener()

SETTINGS = Settings.from_mapping({"SVD_DEVICES": "cpu"})

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

PHOTO = Image.open(IMAGES / "chelsea.jpg").convert("RGB")

#: Ways to store an image, each with Pillow's options.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 95}),
    "progressive jpeg": ("JPEG", {"quality": 95, "progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 95}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "avif": ("AVIF", {"quality": 95, "speed": 10}),
    "heic": ("HEIF", {"quality": 95}),
    "jxl": ("JXL", {"quality": 95, "effort": 1}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "raw tiff": ("TIFF", {}),
    "deflated tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "jpeg tiff": ("TIFF", {"compression": "jpeg"}),
}
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")


# Primaries as columns of XYZ under D50 (ICC profiles of Apple, Adobe and the ICC).
DISPLAY_P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
GAMMA = 2 + 51 / 256


def fitted(data: bytes, width: int = 64, height: int = 48, how: Fit = Fit.CROP) -> Image.Image:
    with open_image(data, SETTINGS) as image:
        return image.fitted(width, height, how)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    name, defaults = KINDS.get(kind, (kind, {}))
    buffer = io.BytesIO()
    image.save(buffer, name, **{**defaults, **options})
    return buffer.getvalue()


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif.tobytes()


def pixel(image: Image.Image, at: tuple[int, int] = (8, 8)) -> tuple[int, ...]:
    found = image.getpixel(at)
    assert isinstance(found, tuple)
    return found


def difference(one: Image.Image, other: Image.Image) -> float:
    """Root mean square difference, in levels of 255."""
    return float(np.sqrt(((np.asarray(one, float) - np.asarray(other, float)) ** 2).mean()))


def is_about(found: tuple[int, ...], wanted: tuple[int, ...], within: int = 12) -> bool:
    return max(abs(one - other) for one, other in zip(found, wanted, strict=True)) <= within


def specimens(image: Image.Image) -> list[bytes]:
    extras = {"exif": orientation(6), "icc_profile": rgb_profile(DISPLAY_P3)}
    still = [stored(image, kind, **({} if KINDS[kind][0] in {"GIF", "BMP"} else extras)) for kind in KINDS]
    modes = [("CMYK", "jpeg"), ("RGBA", "png"), ("LA", "png"), ("P", "png"), ("1", "png"), ("I;16", "png")]
    modes += [("P", "bmp"), ("F", "raw tiff"), ("LAB", "raw tiff"), ("RGBA", "lossless webp"), ("RGBA", "avif")]
    still += [
        stored(image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode), kind)
        for mode, kind in modes
    ]
    moving = [stored(image, kind, save_all=True, append_images=[image.rotate(90)]) for kind in (*ANIMATED, "MPO")]
    return still + moving


def damaged(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    # Damage to headers has the most effect.
    end = min(len(found), 400) if chance.random() < 0.7 else len(found)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        found[chance.randrange(end)] = chance.choice((0, 127, 128, 255, chance.randrange(256)))
    at = chance.randrange(len(found))
    match chance.randrange(12):
        case 0:
            del found[at:]
        case 1:
            del found[at : at + chance.randrange(40)]
        case 2:
            found[at:at] = chance.randbytes(40)
        case 3:
            found += found[at:]
    # The checksums of a PNG would reveal any other damage.
    return png_of(png_chunks(bytes(found))) if found.startswith(b"\x89PNG") and chance.random() < 0.8 else bytes(found)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def with_size(png: bytes, width: int, height: int) -> bytes:
    chunks = png_chunks(png)
    return png_of([(b"IHDR", struct.pack(">II", width, height) + chunks[0][1][8:]), *chunks[1:]])


def tiff_of_strips(width: int, height: int, strips: int) -> bytes:
    """A black image whose strips, each half its height, all begin at the same offset."""
    pixels = bytes(width * height)
    offsets, counts = (
        struct.pack(f"<{strips}I", *[8] * strips),
        struct.pack(f"<{strips}I", *[len(pixels) // 2] * strips),
    )
    first = 8 + len(pixels)
    second, directory = first + len(offsets), first + len(offsets) + len(counts)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, strips, first), (277, 3, 1, 1), (278, 4, 1, height // 2), (279, 4, strips, second)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = b"II*\0" + struct.pack("<I", directory)
    return header + pixels + offsets + counts + struct.pack("<H", len(tags)) + entries + bytes(4)


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + fixed(*values)


def profile_of(space: bytes, connection: bytes, tags: dict[bytes, bytes], device: bytes = b"mntr") -> bytes:
    """An ICC profile, version 2.4 (ICC.1:2001-04: a header of 128 bytes, a table of tags, their contents)."""
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        padded = content + b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += padded
    header = struct.pack(">I4xI", at + len(body), 0x02400000) + device + space + connection
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + table + body


def rgb_profile(primaries: npt.NDArray[np.float64]) -> bytes:
    curve = b"curv" + struct.pack(">4xIH", 1, round(GAMMA * 256))
    tags = {b"wtpt": xyz(0.9642, 1, 0.8249), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    colors = {name: xyz(*column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True)}
    return profile_of(b"RGB ", b"XYZ ", tags | colors)


def ink_profile() -> bytes:
    """CMYK whose cyan, magenta and yellow are all the same light grey."""
    identity = bytes(range(256))
    nodes = [(c + m + y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = b"".join(bytes((0 if k else 255 - 64 * inks, 128, 128)) for inks, k in nodes)
    lut = b"mft1" + bytes((0, 0, 0, 0, 4, 3, 2, 0)) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut += identity * 4 + table + identity * 3
    return profile_of(b"CMYK", b"Lab ", {b"wtpt": xyz(0.9642, 1, 0.8249), b"A2B0": lut}, device=b"prtr")
