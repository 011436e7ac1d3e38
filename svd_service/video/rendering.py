"""One video from picture to file: the generator's frames go to the encoder as they come."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from svd_service import __version__
from svd_service.jobs.job import Progress
from svd_service.jobs.request import Parameters
from svd_service.video.encoder import Encoder
from svd_service.video.previews import Previews

if TYPE_CHECKING:
    from svd_service.video.pipeline import Generator

#: What comes after the last frame was decoded: the encoder's last frames, and the file's index.
ENCODING: Final = "encoding"

#: Libraries that have a say in the pixels or in the file.
LIBRARIES: Final = ("av", "diffusers", "torch", "transformers")


@dataclass(frozen=True)
class Rendering:
    """A video that was made. Sizes in pixels; `seconds` by phase, which sum up to the whole.

    `provenance` is what JSON knows: `parameters` (with the seed), `model` (name, source, revision, trained), `device`,
    `precision`, `versions`, `memory` (the `decode_chunk_size` in effect, and what else was done for want of memory: see
    `memory.Thrift`) and `seconds`. The file's `comment` tag holds the same without `seconds`, which are never the same
    twice, and with `memory` as it was at the first frame. `thumbnail` is a WebP of one frame, `spritesheet` a JPEG of
    all.
    """

    width: int
    height: int
    frames: int
    seconds: dict[str, float]
    provenance: dict[str, Any]
    thumbnail: bytes
    spritesheet: bytes


def render(
    generator: "Generator",
    picture: Image.Image,
    parameters: Parameters,
    path: Path,
    on_progress: Callable[[Progress], None],
) -> Rendering:
    """Make the video of `picture`, which is RGB and of the size asked for, as a new MP4 at `path`.

    `on_progress` hears of PREPARING, of SAMPLING before the first and after each step, and of DECODING before the
    first frame and after each chunk, in frames. What it raises ends the work at once and comes out of here as it is;
    `path` then holds no video, and the generator can be used again.

    Raises:
        OSError: the file cannot be written.
        torch.OutOfMemoryError: the device's memory does not suffice; the generator can be used again.
    """
    stopwatch = _Stopwatch(on_progress)
    origin = {"parameters": parameters.to_dict(), **generator.origin, "versions": _versions()}
    previews = Previews(parameters.width, parameters.height, parameters.num_frames)
    with closing(generator.generate(picture, parameters, stopwatch)) as frames:
        first = next(frames)
        # By now it is known how the steps and the first frames got along with the memory there is.
        tags = _tags({**origin, "memory": generator.memory})
        with Encoder(path, parameters.width, parameters.height, parameters.fps, tags) as encoder:
            for frame in chain([first], frames):
                encoder.put(frame)
                previews.put(frame)
            stopwatch.turn(ENCODING)
    thumbnail, spritesheet = previews.thumbnail(), previews.spritesheet()
    seconds = stopwatch.stop()
    provenance = {**origin, "memory": generator.memory, "seconds": seconds}
    size = parameters.width, parameters.height
    return Rendering(*size, parameters.num_frames, seconds, provenance, thumbnail, spritesheet)


class _Stopwatch:
    """Passes progress on, and takes the time from the first word of one phase to the first of the next."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._phase: str | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        self.turn(progress.phase.value)
        self._on_progress(progress)

    def turn(self, phase: str | None) -> None:
        """`phase` begins, unless it has already; the one before has ended."""
        if phase == self._phase:
            return
        now = time.monotonic()
        if self._phase is not None:
            self._seconds[self._phase] = round(now - self._since, 4)
        self._phase, self._since = phase, now

    def stop(self) -> dict[str, float]:
        """Seconds of each phase there was."""
        self.turn(None)
        return dict(self._seconds)


def _versions() -> dict[str, str]:
    return {"svd_service": __version__, **{name: version(name) for name in LIBRARIES}}


def _tags(origin: dict[str, Any]) -> dict[str, str]:
    return {
        "title": f"{origin['model']['name']}, seed {origin['parameters']['seed']}",
        "comment": json.dumps(origin, sort_keys=True),
        "encoding_tool": f"svd-service {__version__} (PyAV {origin['versions']['av']}, libx264)",
    }
