"""A photo of twelve megapixels, as a phone takes it: made of a small one, always the same, where none is given."""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

#: What it is made of; 600 x 400 pixels.
SOURCE: Final = Path(__file__).resolve().parents[2] / "scripts" / "sample.jpg"

#: Width and height in pixels.
SIZE: Final = (4000, 3000)

#: Standard deviation of the grain in levels of 255, and JPEG's quality. Enlarged, the photo alone would be smooth, and
#: faster to decode than any that a camera takes; like this it has some 3.5 MB.
GRAIN: Final = 5.0
QUALITY: Final = 92


def make(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Write the photo to `path`, unless it is there."""
    if path.exists():
        return path
    with Image.open(SOURCE) as source:
        width = source.height * size[0] / size[1]
        box = ((source.width - width) / 2, 0, (source.width + width) / 2, source.height)
        enlarged = source.convert("RGB").resize(size, Image.Resampling.BICUBIC, box)
    grain = np.random.default_rng(0).normal(0, GRAIN, (size[1], size[0], 1))
    pixels = (np.asarray(enlarged, dtype=np.float32) + grain.astype(np.float32)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, "JPEG", quality=QUALITY)
    return path
