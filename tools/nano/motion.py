"""The camera: the seed chooses one of 32 moves, `motion_bucket_id` how far it goes.

Over 25 frames the camera eases in, moves and eases out. The moves are of eleven kinds: a pan in one of eight
directions, a push-in, a pull-out, and an arc with parallax, in which what is low in the picture (and usually near) goes
one way and what is high the other way. Which one it is depends only on the sampler's first noise, so the same seed
gives the same move on every picture of one size: the noise of five latent channels is averaged, and the five signs are
the number of the move.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PIXELS = 16.0
"""How far a pan goes at bucket 255."""
FRAMES = 25
ZOOM_RADIUS, ARC_RADIUS = 256.0, 192.0
"""How far from the center, in pixels, a zoom and an arc move the picture as far as a pan does."""
LATENT_PIXELS = 8
"""Pixels along a side of what the autoencoder makes one latent of."""
CHANNELS = (29, 8, 28, 26, 24)
"""The channels of the noise whose means choose the move: with these, every kind has 5 or more of the first 64 seeds."""
BITS = len(CHANNELS)


@dataclass(frozen=True)
class Move:
    """A camera movement: to the right and down, outwards (away from the center), and of an arc, each in -1..1."""

    kind: str
    right: float = 0.0
    down: float = 0.0
    out: float = 0.0
    arc: float = 0.0

    @property
    def vector(self) -> tuple[float, float, float, float]:
        """(right, down, out, arc)."""
        return self.right, self.down, self.out, self.arc


_DIAGONAL = 0.5**0.5
PANS = (
    Move("pan right", 1, 0),
    Move("pan down right", _DIAGONAL, _DIAGONAL),
    Move("pan down", 0, 1),
    Move("pan down left", -_DIAGONAL, _DIAGONAL),
    Move("pan left", -1, 0),
    Move("pan up left", -_DIAGONAL, -_DIAGONAL),
    Move("pan up", 0, -1),
    Move("pan up right", _DIAGONAL, -_DIAGONAL),
)
PUSH_IN, PULL_OUT = Move("push in", out=-1), Move("pull out", out=1)
ARCS = Move("arc", arc=1), Move("arc", arc=-1)
MOVES = (*PANS, *PANS, *PANS, PUSH_IN, PUSH_IN, PUSH_IN, PULL_OUT, PULL_OUT, ARCS[0], ARCS[1], ARCS[0])
"""By number: one for each combination of signs."""


def vectors(device: torch.device | None = None) -> Tensor:
    """The moves' vectors, (32, 4)."""
    return torch.tensor([move.vector for move in MOVES], device=device)


def signs(numbers: Tensor) -> Tensor:
    """The five signs of moves (count,): -1 or 1, (count, 5). The first is the most significant bit."""
    places = torch.arange(BITS - 1, -1, -1, device=numbers.device)
    return (numbers[:, None] >> places & 1) * 2.0 - 1


def chosen(noise: Tensor) -> Move:
    """The move that noise of shape (frames, channels, height, width) chooses.

    Each frame's noise is added up over 8x8 latents, and the mean of the sums is divided by their root mean square.
    """
    height, width = noise.shape[-2:]
    padded = F.pad(noise[:, CHANNELS].double(), (0, -width % 8, 0, -height % 8))
    sums = F.avg_pool2d(padded, 8).flatten(2)
    means = (sums.mean(2) / sums.square().mean(2).sqrt()).mean(0)
    return MOVES[sum(1 << place for place, mean in enumerate(reversed(means.tolist())) if mean > 0)]


def of_seed(seed: int, width: int, height: int, frames: int = FRAMES, latent_channels: int = 32) -> Move:
    """The move of a seed, for videos of a size in pixels.

    The pipeline draws the noise that it adds to the image first, and then the noise that decides.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.randn((1, 3, height, width), generator=generator)
    shape = (1, frames, latent_channels, height // LATENT_PIXELS, width // LATENT_PIXELS)
    return chosen(torch.randn(shape, generator=generator)[0])


def first_seeds(moves: Collection[Move], width: int, height: int) -> dict[Move, int]:
    """The first seed of each of the moves, for videos of a size in pixels."""
    found: dict[Move, int] = {}
    seed = 0
    while not set(moves) <= set(found):
        found.setdefault(of_seed(seed, width, height), seed)
        seed += 1
    return {move: found[move] for move in moves}


def ease(frames: Tensor) -> Tensor:
    """The share of the move that is done at the frames of these numbers, from 0 to 1: 3t² - 2t³."""
    t = (frames / (FRAMES - 1)).clamp(max=1)
    return t * t * (3 - 2 * t)


def centered(count: int, step: float, device: torch.device | None = None) -> Tensor:
    """Positions, in pixels from their center, of `count` things that are `step` pixels apart, (count,)."""
    return (torch.arange(count, device=device) - (count - 1) / 2) * step


def field(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Where to look, relative to a pixel, for a pan of one pixel: (count, 2, height, width), to the right and down.

    `vector` has shape (count, 4); the pixels are at x (width,) and y (height,), from the center.
    """
    right, down, out, arc = (part[:, None, None] for part in vector.unbind(1))
    x, y = x[None, None], y[None, :, None]
    across = right + out * x / ZOOM_RADIUS + arc * y / ARC_RADIUS
    along = down + out * y / ZOOM_RADIUS
    return torch.stack(torch.broadcast_tensors(across, along + 0 * x), 1)


def warp(images: Tensor, displacement: Tensor) -> Tensor:
    """Images (count, 3, height, width) as seen through `displacement` (count, 2, height, width), in pixels.

    Beyond its edges an image is mirrored.
    """
    height, width = images.shape[-2:]
    x = (torch.arange(width, device=images.device) + 0.5 + displacement[:, 0]) * 2 / width - 1
    y = (torch.arange(height, device=images.device)[:, None] + 0.5 + displacement[:, 1]) * 2 / height - 1
    grid = torch.stack([x, y], -1)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return F.grid_sample(images, grid, "bicubic", "reflection", align_corners=False).clamp(low, high)


def pixels(bucket: Tensor | float, frames: Tensor) -> Tensor:
    """How far a pan has gone, in pixels, at the frames of these numbers, (frames,)."""
    return torch.as_tensor(bucket, device=frames.device) / 255 * MAX_PIXELS * ease(frames)
