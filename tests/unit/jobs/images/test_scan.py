"""The scanners alone, without decoders: their output has the same pixels, and damaged files do not crash them."""

import io
import random
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from svd_service.errors import ImageTooLargeError, RejectedError
from svd_service.jobs.images.scan import scan
from tests.unit.jobs.images.image_files import PHOTO, damaged, specimens
from tools.harness.hostile_images import hostile_images

SPECIMENS = specimens(PHOTO.resize((60, 40)))


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))


def stills() -> list[tuple[bytes, bytes]]:
    """Accepted files, and their scanned form."""
    found = []
    for data in SPECIMENS:
        with suppress(RejectedError):
            found.append((data, scan(data).content))
    return found


def test_a_scanned_file_has_the_same_pixels_and_a_second_scan_changes_nothing() -> None:
    compared = 0
    for data, left in stills():
        assert scan(left).content == left
        with suppress(OSError):  # formats that Pillow reads with a plugin only
            before = pixels(data)
            assert np.array_equal(pixels(left), before)
            compared += 1
    assert compared >= 12


@pytest.mark.parametrize("number", range(len(SPECIMENS)))
def test_a_file_truncated_or_damaged_anywhere_is_scanned_or_rejected(number: int) -> None:
    data, chance = SPECIMENS[number], random.Random(number)
    cut = [data[:end] for end in {*range(min(len(data), 200)), *chance.sample(range(len(data)), 100)}]
    for content in (*cut, *(damaged(data, chance) for _ in range(200))):
        with suppress(RejectedError):
            assert len(scan(content).content) <= 2 * len(content) + 1_000


@pytest.mark.parametrize(
    "name",
    [
        "jpeg of exif",
        "jpeg of passes",
        "png of chunks",
        "gif of comments",
        "gif of blocks",
        "webp of chunks",
        "tiff of tiles",
        "tiff of tags",
        "avif of items",
        "heic of items",
    ],
)
def test_a_file_of_too_many_parts_is_rejected_before_it_is_decoded(name: str) -> None:
    with pytest.raises(ImageTooLargeError, match="more than"):
        scan(dict(hostile_images(PHOTO.resize((64, 48))))[name])
