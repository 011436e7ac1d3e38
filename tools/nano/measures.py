"""Measures of a video of the nano model: its first frame, its motion, its flicker.

`evaluate.py` and the tests of the bundled model (`tests/unit/video/test_nano.py`) use them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tools.nano import motion

BUCKETS = (1, 127, 255)
CONTROL_SHIFT = 8
PATCH = 8
"""Pixels along a side of what the autoencoder makes one latent of."""
Frames = NDArray[np.uint8]
"""uint8 (frames, height, width, 3)"""
Pixels = NDArray[Any]
"""(height, width, 3) or a part of it, in 0..255"""


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of two arrays in 0..255."""
    error = np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def moved(image: Pixels, pixels: float) -> Pixels:
    """Return the camera's view of an image (height, width, 3) after moving `pixels` to the right."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    seen = motion.pan(x, torch.tensor([[float(pixels)]]))[0, 0]
    return ((seen + 1) * 127.5).permute(1, 2, 0).numpy()


def last_frame_psnr(frames: Frames, image: Pixels, bucket: int) -> float:
    """PSNR of the last frame against the image moved as the camera moved, without the strip beyond the edge."""
    distance = float(motion.displacement(float(bucket), torch.tensor([len(frames) - 1]))[0])
    visible = slice(0, image.shape[1] - int(np.ceil(distance)) - 1)
    return psnr(frames[-1][:, visible], moved(image, distance)[:, visible])


def pixels_moved(frame: Pixels, image: Pixels, reach: float = 20, step: float = 0.25) -> float:
    """Return how far the camera has moved to the right, by matching the middle of the frame with the moved image."""
    margin = int(reach) + 1
    middle = slice(margin, image.shape[1] - margin)
    candidates = np.arange(-reach, reach + step, step)
    scores = [psnr(frame[:, middle].mean(-1), moved(image, d)[:, middle].mean(-1)) for d in candidates]
    return float(candidates[int(np.argmax(scores))])


def flicker(frames: Frames) -> float:
    """Mean absolute difference of successive frames, in grey levels."""
    return float(np.abs(np.diff(frames.astype(float), axis=0)).mean())


def patch_pattern(error: torch.Tensor) -> torch.Tensor:
    """The mean of the patches of (batch, channels, height, width), less its own mean: (batch, channels, 8, 8)."""
    patches = error.unflatten(-1, (-1, PATCH)).unflatten(-3, (-1, PATCH))
    mean: torch.Tensor = patches.mean((-4, -2))
    return mean - mean.mean((-2, -1), keepdim=True)


def strongest_patch_wave(error: Pixels) -> float:
    """Return the amplitude, in grey levels, of the strongest wave that all 8x8 patches of (height, width, 3) share.

    The autoencoder works on such patches; where the image is smooth, one sees them as a weave of lines.
    """
    pattern = patch_pattern(torch.from_numpy(np.array(error, float)).permute(2, 0, 1)[None])
    return float(torch.fft.fft2(pattern).abs().max() * 2 / PATCH**2)
