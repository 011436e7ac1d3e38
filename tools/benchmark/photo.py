"""The default photo: a reproducible one of twelve megapixels, like a phone's, enlarged from a small one."""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

#: The photo that is enlarged, of 600 x 400 pixels.
SOURCE: Final = Path(__file__).resolve().parents[2] / "scripts" / "sample.jpg"

#: Width and height in pixels.
SIZE: Final = (4000, 3000)

#: Standard deviation of the grain in levels of 255, and JPEG quality. Without grain the enlarged photo would be smooth
#: and faster to decode than a camera's; with it the file has some 3.5 MB.
GRAIN: Final = 5.0
QUALITY: Final = 92


def make(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Write the photo to `path` unless it exists."""
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
