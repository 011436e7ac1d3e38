"""AVIF and HEIC (ISO/IEC 23008-12): boxes, which libavif and libheif read themselves.

EXIF is made unreadable: orientation is a box of its own (`irot`, `imir`), and EXIF's must not be applied too.
"""

import struct
from typing import Final

from svd_service.errors import ImageTooLargeError, NotAnImageError
from svd_service.jobs.images import color
from svd_service.jobs.images.scan.result import Scanned, truncated

_AVIF: Final = frozenset({b"avif", b"avis"})
_HEIC: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_RAW: Final = b"crx "

#: Brands of a file that are looked at, and bytes from its beginning that hold its description.
_MAX_BRANDS: Final = 32
_DESCRIPTION: Final = 1_000_000

#: Boxes at the top of a file; images have fewer than ten, and decoders look at each.
_MAX_BOXES: Final = 1_000

#: A `colr` box of coded values: primaries, transfer, matrix; what follows is the range of YUV, which decoders apply.
_CODED_COLOR: Final = b"colrnclx"


def scan(content: bytes) -> Scanned:
    """See the package."""
    end = min(int.from_bytes(content[:4], "big"), 8 + 4 * _MAX_BRANDS)
    brands = {content[8:12], *(content[at : at + 4] for at in range(16, end, 4))}
    if _RAW in brands:
        raise NotAnImageError("this is a raw photo; export it as JPEG or PNG first")
    if not brands & (_AVIF | _HEIC):
        raise NotAnImageError("this is a video or audio file, or an image of a format that is not supported")
    if len(content) < 32:
        raise truncated()
    _require_few_boxes(content)
    description = content[:_DESCRIPTION]
    return Scanned(
        "AVIF" if brands & _AVIF else "HEIF",
        description.replace(b"Exif", b"free") + content[_DESCRIPTION:],
        profiles=_profiles(description),
    )


def _require_few_boxes(content: bytes) -> None:
    at = 0
    for _ in range(_MAX_BOXES):
        size = int.from_bytes(content[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16], "big")
        at += size
        if size < 8 or at >= len(content):  # the last box, or what the decoder rejects
            return
    raise ImageTooLargeError(f"the image has more than {_MAX_BOXES:,} boxes")


def _profiles(description: bytes) -> tuple[bytes, ...]:
    at = description.find(_CODED_COLOR)
    if at < 0 or at + 14 > len(description):
        return ()
    primaries, transfer, _ = struct.unpack_from(">3H", description, at + len(_CODED_COLOR))
    # Encoders write BT.709's transfer where they mean sRGB's, and browsers show it so.
    profile = color.coded(primaries, color.SRGB_TRANSFER if transfer in color.BT709_LIKE else transfer)
    return () if profile is None else (profile,)
