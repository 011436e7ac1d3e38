"""Arrange a video's frames for playback: as a loop, and scaled to the size of the file."""

import tempfile
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from svd_service.jobs.clip import Clip
from svd_service.parameters import Fit, Loop
from svd_service.video.writer import Frame

Frames = Generator[Frame, None, None]


def looped(frames: Frames, clip: Clip, folder: Path) -> Frames:
    """Yield the `clip.frames` frames of the whole video, made of the `clip.played` from its first to its last.

    To play them backwards, they are kept in an unnamed file in `folder`, not in memory.
    """
    if clip.loop is Loop.PINGPONG:
        return _forth_and_back(frames, folder)
    if clip.loop is Loop.CROSSFADE:
        return _crossfaded(frames, clip)
    return frames


def _forth_and_back(frames: Frames, folder: Path) -> Frames:
    count, shape = 0, (0, 0, 3)
    with tempfile.TemporaryFile(dir=folder) as file, closing(frames):
        for frame in frames:
            count, shape = count + 1, frame.shape
            file.write(frame.tobytes())
            yield frame
        size = int(np.prod(shape))
        # Without both ends: the last frame was just shown, the first one follows when the loop restarts.
        for index in range(count - 2, 0, -1):
            file.seek(index * size)
            yield np.frombuffer(file.read(size), np.uint8).reshape(shape)


def _crossfaded(frames: Frames, clip: Clip) -> Frames:
    """Blend the end into the beginning, which is omitted at the start: so the last frame leads to the first."""
    beginning: list[Frame] = []
    fade = clip.faded
    with closing(frames):
        for index, frame in enumerate(frames):
            place = index - (clip.played - fade)
            if index < fade:
                beginning.append(frame)
            elif place < 0:
                yield frame
            else:
                share = (place + 1) / (fade + 1)
                yield np.asarray(cv2.addWeighted(frame, 1 - share, beginning[place], share, 0), np.uint8)


def unscaled(frame: Frame, size: tuple[int, int], fit: Fit) -> Frame:
    """The inverse of `scaled`: `frame` at the `size` that it was generated at.

    What `scaled` cut is filled with the edges' colors, so that the rest has its place; bars that it added are cut.
    """
    height, width = frame.shape[:2]
    if (width, height) == size:
        return frame
    if fit is Fit.PAD:
        return np.asarray(ImageOps.fit(Image.fromarray(frame), size, Image.Resampling.LANCZOS))
    scale = min(size[0] / width, size[1] / height)
    inner = min(size[0], round(width * scale)), min(size[1], round(height * scale))
    shrunk = np.asarray(Image.fromarray(frame).resize(inner, Image.Resampling.LANCZOS))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    borders = (top, size[1] - inner[1] - top), (left, size[0] - inner[0] - left), (0, 0)
    return np.pad(shrunk, borders, mode="edge")


def scaled(frame: Frame, size: tuple[int, int], fit: Fit) -> Frame:
    """`frame` at `size` (width, height in pixels), by Lanczos' filter.

    Where the aspect ratios differ, `fit` decides as for images: excess is cut, or black bars are added.
    """
    if frame.shape[1::-1] == size:
        return frame
    resize = ImageOps.pad if fit is Fit.PAD else ImageOps.fit
    return np.asarray(resize(Image.fromarray(frame), size, Image.Resampling.LANCZOS))
