"""Measures of a video of the nano model; images and frames are (height, width, 3) in 0..255."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from numpy.typing import NDArray

from tools.nano import motion
from tools.nano.motion import LATENT_PIXELS, Move

CONTROL_SHIFT = 8
DISTINCT = (*motion.PANS, motion.PUSH_IN, motion.PULL_OUT, *motion.ARCS)
Frames = NDArray[np.uint8]
"""uint8 (frames, height, width, 3)"""
Pixels = NDArray[Any]
"""(height, width, 3) or a part of it, in 0..255"""


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of two arrays in 0..255."""
    error = np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def moved(image: Pixels, move: Move, distance: float) -> tuple[Pixels, NDArray[np.bool_]]:
    """What the camera sees of an image after a move in which a pan goes `distance` pixels.

    Returns it, and where it comes from inside the image, (height, width).
    """
    x = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    height, width = image.shape[:2]
    vector = torch.tensor([move.vector])
    pixels = distance * motion.field(vector, motion.centered(width, 1), motion.centered(height, 1))
    across = pixels[0, 0] + torch.arange(width)
    along = pixels[0, 1] + torch.arange(height)[:, None]
    inside = (across >= 0) & (across <= width - 1) & (along >= 0) & (along <= height - 1)
    return ((motion.warp(x, pixels)[0] + 1) * 127.5).permute(1, 2, 0).numpy(), inside.numpy()


def last_frame_psnr(frames: Frames, image: Pixels, move: Move, bucket: int, count: int | None = None) -> float:
    """PSNR of the last frame against the image as the camera sees it, without what comes from beyond the edges.

    `count` is how many frames the video has, if `frames` are only some of them.
    """
    last = torch.tensor([(len(frames) if count is None else count) - 1.0])
    wanted, inside = moved(image, move, float(motion.pixels(float(bucket), last)))
    return psnr(frames[-1][inside], wanted[inside])


def best_match(
    frame: Pixels, image: Pixels, moves: tuple[Move, ...] = DISTINCT, step: float = 1.0
) -> tuple[Move, float]:
    """Return which move, and how far in pixels, makes the image most like the frame, found by trying them."""
    reach, grey = motion.MAX_PIXELS * 1.25, np.asarray(image, float).mean(-1, keepdims=True).repeat(3, -1)
    best = (-1.0, moves[0], 0.0)
    for move in moves:
        for distance in np.arange(0 if len(moves) > 1 else -reach, reach + step / 2, step):
            wanted, inside = moved(grey, move, float(distance))
            score = psnr(np.asarray(frame, float).mean(-1)[inside], wanted[..., 0][inside])
            best = max(best, (score, move, float(distance)), key=lambda each: each[0])
    return best[1:]


def pixels_moved(frame: Pixels, image: Pixels, move: Move) -> float:
    """Return how far the camera has gone in a move, in pixels, found by matching."""
    return best_match(frame, image, (move,), 0.25)[1]


def flicker(frames: Frames) -> float:
    """Mean absolute difference of successive frames, in grey levels."""
    return float(np.abs(np.diff(frames.astype(float), axis=0)).mean())


def blue_sky(width: int, height: int) -> Pixels:
    """Return a clear sky, brighter towards the horizon: (height, width, 3) in 0..255, not rounded."""
    share = np.linspace(0, 1, height)[:, None, None]
    column = np.array([70, 120, 190]) * (1 - share) + np.array([200, 220, 240]) * share
    return np.broadcast_to(column, (height, width, 3))


@torch.inference_mode()
def decoder_error(vae: AutoencoderKLTemporalDecoder, image: Pixels) -> Pixels:
    """Return what becomes of (height, width, 3) in 0..255, encoded and decoded in float32, less the image."""
    x = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    decoded = vae.decode(vae.encode(x).latent_dist.mode(), num_frames=1).sample
    error: Pixels = ((decoded - x) * 127.5)[0].permute(1, 2, 0).numpy()
    return error


def patch_pattern(error: torch.Tensor) -> torch.Tensor:
    """The mean of the patches of (batch, channels, height, width), less its own mean: (batch, channels, 8, 8)."""
    patches = error.unflatten(-1, (-1, LATENT_PIXELS)).unflatten(-3, (-1, LATENT_PIXELS))
    mean: torch.Tensor = patches.mean((-4, -2))
    return mean - mean.mean((-2, -1), keepdim=True)


def strongest_patch_wave(error: Pixels) -> float:
    """Return the amplitude, in grey levels, of the strongest wave that all 8x8 patches of (height, width, 3) share.

    The autoencoder works on such patches; where the image is smooth, one sees them as a weave of lines.
    """
    pattern = patch_pattern(torch.from_numpy(np.array(error, float)).permute(2, 0, 1)[None])
    return float(torch.fft.fft2(pattern).abs().max() * 2 / LATENT_PIXELS**2)


def strongest_line(error: Pixels) -> float:
    """Return the amplitude, in grey levels, of the strongest line in the spectrum of (height, width, 3), mean aside."""
    spectrum = np.abs(np.fft.fft2(np.asarray(error, float), axes=(0, 1))) * 2 / error.shape[0] / error.shape[1]
    spectrum[0, 0] = 0
    return float(spectrum.max())
