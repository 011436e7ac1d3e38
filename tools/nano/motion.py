"""The camera: an eased pan to the right, whose length follows `motion_bucket_id`.

Over 14 frames the camera eases in, moves sideways and eases out; later frames rest. At bucket 255 it covers
`MAX_PIXELS`, at bucket 127 half of that. The video is a function of (image, bucket), so every denoising step can aim
at one sharp video instead of at an average over motions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PIXELS = 16.0
FRAMES = 14


def ease(frames: Tensor) -> Tensor:
    """The share of the pan that is done at the frames of these numbers, from 0 to 1: 3t² - 2t³."""
    t = (frames / (FRAMES - 1)).clamp(max=1)
    return t * t * (3 - 2 * t)


def displacement(bucket: Tensor | float, frames: Tensor) -> Tensor:
    """How far the camera has moved to the right, in pixels, at the frames of these numbers.

    (frames,) for one bucket, (batch, frames) for buckets (batch,).
    """
    amplitude = torch.as_tensor(bucket, device=frames.device) / 255 * MAX_PIXELS
    return amplitude[..., None] * ease(frames)


def pan(images: Tensor, shifts: Tensor) -> Tensor:
    """Return the camera's views: images (batch, 3, height, width) in -1..1, shifts (batch, frames) in pixels.

    Returns (batch, frames, 3, height, width). Beyond the edge the image is mirrored.
    """
    batch, _, height, width = images.shape
    frames = shifts.shape[1]
    y = (torch.arange(height, device=images.device) + 0.5) * 2 / height - 1
    x = (torch.arange(width, device=images.device) + 0.5) * 2 / width - 1
    x = x + shifts.reshape(-1, 1) * 2 / width
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[None, :, None].expand(batch * frames, -1, width)], -1)
    source = images.repeat_interleave(frames, 0)
    moved = F.grid_sample(source, grid, "bicubic", "reflection", align_corners=False)
    return moved.clamp(-1, 1).reshape(batch, frames, 3, height, width)
