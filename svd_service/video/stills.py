"""A video's thumbnail and sprite sheet, made from its frames as they come, so that it is not decoded again."""

import io
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Longest side in pixels of the thumbnail, and of each frame on the sheet.
THUMBNAIL_SIDE: Final = 512
TILE_SIDE: Final = 256

#: Maximum number of frames on the sheet. For a longer video, it has every second frame, or every third, and so on.
MAX_TILES: Final = 100

#: Pillow's own scale, 0 to 100.
QUALITY: Final = 85


class Stills:
    """Collects stills from the `frames` frames of a video of `width` x `height` pixels.

    `samples` are its first, middle and last frame, unscaled.
    """

    def __init__(self, width: int, height: int, frames: int) -> None:
        self._frames = frames
        self._next = 0
        self._sampled = {0, frames // 2, frames - 1}
        self.samples: list[Image.Image] = []
        self._every = math.ceil(frames / MAX_TILES)
        tiles = math.ceil(frames / self._every)
        self._columns = math.ceil(math.sqrt(tiles))
        self._tile = _within(width, height, TILE_SIDE)
        rows = math.ceil(tiles / self._columns)
        self._sheet = Image.new("RGB", (self._columns * self._tile[0], rows * self._tile[1]))
        self._thumbnail_size = _within(width, height, THUMBNAIL_SIDE)
        self._thumbnail = Image.new("RGB", self._thumbnail_size)

    def put(self, frame: NDArray[np.uint8]) -> None:
        """Take the next frame: RGB, 8 bits, shape (height, width, 3)."""
        image = Image.fromarray(frame)
        if self._next in self._sampled:
            self.samples.append(image)
        number, skipped = divmod(self._next, self._every)
        if not skipped:
            row, column = divmod(number, self._columns)
            place = (column * self._tile[0], row * self._tile[1])
            self._sheet.paste(image.resize(self._tile, Image.Resampling.BILINEAR, reducing_gap=2.0), place)
        # The first frame is the caller's own image; halfway, there is motion.
        if self._next == self._frames // 2:
            self._thumbnail = image.resize(self._thumbnail_size, Image.Resampling.LANCZOS)
        self._next += 1

    def thumbnail(self) -> bytes:
        """The frame halfway through, as WebP."""
        return _encoded(self._thumbnail, "WEBP")

    def spritesheet(self) -> bytes:
        """The frames in rows, left to right and top to bottom, as JPEG; the grid is as square as possible.

        At most `MAX_TILES` of them, at equal distances.
        """
        return _encoded(self._sheet, "JPEG")


def _within(width: int, height: int, side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=QUALITY)
    return buffer.getvalue()
