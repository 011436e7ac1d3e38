import io
import math

import numpy as np
import pytest
from PIL import Image

from svd_service.video.stills import THUMBNAIL_SIDE, TILE_SIDE, Stills

COLOURS = [(40 * index, 250 - 40 * index, 128) for index in range(7)]


def made_of(width: int, height: int, count: int) -> tuple[Image.Image, Image.Image]:
    stills = Stills(width, height, count)
    for colour in COLOURS[:count]:
        stills.put(np.full((height, width, 3), colour, np.uint8))
    return Image.open(io.BytesIO(stills.thumbnail())), Image.open(io.BytesIO(stills.spritesheet()))


def close(pixel: object, colour: tuple[int, int, int]) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(one - other) < 8 for one, other in zip(pixel, colour, strict=True))


def test_the_thumbnail_is_the_frame_halfway_through() -> None:
    thumbnail, _ = made_of(64, 48, 7)
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (64, 48))
    assert close(thumbnail.convert("RGB").getpixel((32, 24)), COLOURS[3])


@pytest.mark.parametrize("count", [2, 5, 7])
def test_the_sheet_shows_every_frame_in_its_order(count: int) -> None:
    _, sheet = made_of(64, 48, count)
    columns = math.ceil(math.sqrt(count))
    assert (sheet.format, sheet.size) == ("JPEG", (64 * columns, 48 * math.ceil(count / columns)))
    for index, colour in enumerate(COLOURS[:count]):
        row, column = divmod(index, columns)
        assert close(sheet.getpixel((64 * column + 32, 48 * row + 24)), colour)


def test_large_frames_are_scaled_down_and_keep_their_shape() -> None:
    thumbnail, sheet = made_of(576, 1024, 2)
    assert thumbnail.size == (THUMBNAIL_SIDE * 576 // 1024, THUMBNAIL_SIDE)
    assert sheet.size == (2 * TILE_SIDE * 576 // 1024, TILE_SIDE)
