"""One image with the thumbnails of several videos, for a quick comparison."""

import io
import math
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

#: Size of a tile's image and of the caption below it, and the space between tiles, in pixels.
_TILE: Final = (320, 320)
_CAPTION: Final = 20
_GAP: Final = 8
_COLUMNS: Final = 4


def contact_sheet(tiles: Sequence[tuple[bytes, str]]) -> bytes:
    """A JPEG of the tiles in rows of up to four, or of two if there are four. Each is an encoded image and a caption.

    The images are the service's own thumbnails: they are not checked as uploads are.
    """
    thumbnails = [_fitted(content) for content, _ in tiles]
    width, height = (max(thumbnail.size[axis] for thumbnail in thumbnails) for axis in (0, 1))
    columns = math.ceil(len(tiles) / math.ceil(len(tiles) / _COLUMNS)) if len(tiles) != 4 else 2
    rows = math.ceil(len(tiles) / columns)
    step_x, step_y = width + _GAP, height + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), "black")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for index, (thumbnail, (_, caption)) in enumerate(zip(thumbnails, tiles, strict=True)):
        x, y = _GAP + index % columns * step_x, _GAP + index // columns * step_y
        sheet.paste(thumbnail, (x + (width - thumbnail.width) // 2, y + (height - thumbnail.height) // 2))
        draw.text((x + 4, y + height + 4), caption, fill="white", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _fitted(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
        thumbnail = image.convert("RGB")
    thumbnail.thumbnail(_TILE)
    return thumbnail
