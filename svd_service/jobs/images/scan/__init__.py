"""What a file is and what it consists of, before Pillow sees it: one module per format.

Each `scan` walks the file's structure in a bounded number of steps and returns a file of the same pixels without
metadata, and the orientation and color information of the metadata. Only color profiles are unpacked, up to a limit.
It runs in a decoder process, under that process's limits on time and memory: see the package `jobs.images`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from svd_service.errors import NotAnImageError
from svd_service.jobs.images.scan import bmp, gif, isobmff, jpeg, jxl, png, tiff, webp
from svd_service.jobs.images.scan.result import Scanned

#: What is read everywhere. JPEG XL is read where its decoder is installed (extra `jxl`).
FORMATS: Final = ("JPEG", "PNG", "WEBP", "AVIF", "HEIC", "GIF", "BMP", "TIFF")

#: Scanners by how a file begins.
_BEGINNINGS: Final[Mapping[bytes, Callable[[bytes], Scanned]]] = {
    b"\xff\xd8\xff": jpeg.scan,
    b"\x89PNG\r\n\x1a\n": png.scan,
    b"GIF87a": gif.scan,
    b"GIF89a": gif.scan,
    b"BM": bmp.scan,
    b"II*\0": tiff.scan,
    b"MM\0*": tiff.scan,
    b"II+\0": tiff.scan,
    b"MM\0+": tiff.scan,
    b"\xff\x0a": jxl.scan,
    jxl.CONTAINER: jxl.scan,
}

#: Raw photos whose files are not TIFFs: Fujifilm, Olympus, Panasonic, Sigma, Minolta.
_RAW: Final = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")


def scan(content: bytes) -> Scanned:
    """The image in `content`, reduced to what affects its pixels.

    Raises:
        NotAnImageError: the bytes are not an image of a supported format.
        AnimatedImageError: it has several frames or pages.
        BrokenImageError: its structure is damaged.
        ImageTooLargeError: it has more parts than any camera or editor writes.
    """
    for beginning, scanner in _BEGINNINGS.items():
        if content.startswith(beginning):
            return scanner(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return webp.scan(content)
    if content[4:8] == b"ftyp":
        return isobmff.scan(content)
    if content.startswith(_RAW):
        raise NotAnImageError("this is a raw photo; export it as JPEG or PNG first")
    raise NotAnImageError(f"the file is not an image of a supported format ({', '.join(FORMATS)})")
