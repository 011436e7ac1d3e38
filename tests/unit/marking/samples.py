"""A file of each kind, and the boxes of an MP4."""

import io
import itertools
from pathlib import Path

import numpy as np

from svd_service.jobs.job import ResultFile, Still
from svd_service.parameters import Format
from svd_service.video import formats
from svd_service.video.stills import Stills

SIZE = (128, 96)
FRAMES = 5


def make_files(folder: Path) -> dict[ResultFile, bytes]:
    """A video of noise that moves, in every format, and its stills."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1] + FRAMES, SIZE[0], 3), np.uint8)
    frames = [np.ascontiguousarray(noise[number : SIZE[1] + number]) for number in range(FRAMES)]
    stills = Stills(*SIZE, FRAMES)
    found: dict[ResultFile, bytes] = {}
    for kind in Format:
        path = folder / f"video.{kind}"
        with formats.writer(kind, path, SIZE, 7, {"title": "noise"}, {"seed": 1}) as writer:
            for frame in frames:
                writer.put(frame)
        found[kind] = path.read_bytes()
    for frame in frames:
        stills.put(frame)
    return {**found, Still.THUMBNAIL: stills.thumbnail(), Still.SPRITESHEET: stills.spritesheet()}


def boxes(mp4: bytes) -> list[str]:
    """Types of the top-level boxes of an MP4, in order."""
    file = io.BytesIO(mp4)
    found: list[str] = []
    for _ in itertools.count():
        header = file.read(8)
        if len(header) < 8:
            return found
        found.append(header[4:].decode())
        file.seek(int.from_bytes(header[:4]) - 8, io.SEEK_CUR)
    raise AssertionError("unreachable")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
