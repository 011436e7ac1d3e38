"""What a scan finds, and what the scanners have in common."""

from dataclasses import dataclass
from typing import Final

from svd_service.errors import BrokenImageError

#: Largest ICC profile that is applied, in bytes, unpacked. Those of presses have some 3 MB.
MAX_PROFILE: Final = 8_000_000


@dataclass(frozen=True)
class Scanned:
    """An image without its metadata.

    `format` is Pillow's name of it. `orientation` is EXIF's (1 to 8), which is to be applied to the decoded pixels.
    `profiles` are ICC profiles of the pixels' colors, best first; an empty one stands for sRGB.
    """

    format: str
    content: bytes
    orientation: int = 1
    profiles: tuple[bytes, ...] = ()


def truncated() -> BrokenImageError:
    """The error for a file that ends too early."""
    return BrokenImageError("the image is truncated")
