"""Make one video from image to files: the generator's frames go to the encoders as they come."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from svd_service import __version__
from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Format
from svd_service.video import formats
from svd_service.video.playback import looped, scaled
from svd_service.video.segments import Segments
from svd_service.video.stills import Stills
from svd_service.video.writer import Writer

if TYPE_CHECKING:
    from svd_service.video.loader import Generator

#: Time spent waiting for the encoders to take frames, most of it after the last one.
ENCODING: Final = "encoding"

#: Libraries that influence the pixels or the file.
LIBRARIES: Final = ("av", "diffusers", "opencv-python-headless", "pillow", "torch", "transformers")


@dataclass(frozen=True)
class Rendering:
    """A finished video. Sizes in pixels; `seconds` by phase, which sum up to the total.

    `provenance` has JSON values: `parameters`, `seeds` (one for each segment), `model` (name, source, revision,
    trained), `device`, `precision`, `versions`, `memory` (the `decode_chunk_size` in effect, and the OOM fallbacks
    used: see `oom_fallback`) and `seconds`. The file's `comment` tag holds the same without `seconds`, which
    always differ, with `memory` as it was at the first frame, and without `formats`: the MP4 is the same whatever other
    formats are made. `thumbnail` is a WebP of one frame, `spritesheet` a JPEG of many,
    `samples` are three frames unscaled.
    """

    width: int
    height: int
    frames: int
    seconds: dict[str, float]
    provenance: dict[str, Any]
    thumbnail: bytes
    spritesheet: bytes
    samples: tuple[Image.Image, ...] = ()


def render(
    generator: "Generator",
    start: Image.Image | bytes,
    parameters: Parameters,
    path: Path,
    on_progress: Callable[[Progress], None],
    *,
    further: Mapping[Format, Path] | None = None,
    on_preview: Callable[[Callable[[], bytes]], None] | None = None,
) -> Rendering:
    """Make a video as a new MP4 at `path`.

    `start` is the image that it begins with, RGB and of the size to be generated, or the MP4 of the video that it
    extends, which has the size of the file.

    The same frames go into the `further` files, each of its format. `on_progress` is called for each segment with
    PREPARING, with SAMPLING before the first and after each step, with DECODING before the first frame and after each
    chunk, in frames, and with INTERPOLATING around each generated frame; and with UPLOADING when only the files are to
    be closed. An exception that it raises stops the work at once and is passed on unchanged; the paths then hold no
    video, and the generator can be used again. `on_preview` is called about once a second, while the video is sampled,
    with a function that makes a preview (WebP); the files are the same without it.

    Raises:
        OSError: a file cannot be written.
        BrokenInputError: the MP4 to be extended cannot be decoded.
        InvalidOutputError: the model computed NaN or infinity.
        torch.OutOfMemoryError: the device's memory is not sufficient; the generator can be used again.
    """
    stopwatch = _Stopwatch(on_progress)
    origin = _origin(generator, parameters)
    size, clip = parameters.output_size, parameters.clip
    stills = Stills(*size, clip.frames)
    segments = Segments(generator, parameters, stopwatch, on_preview)
    with closing(looped(segments.frames(start), clip, path.parent)) as frames:
        first = next(frames)
        # By now the OOM fallbacks of sampling and of the first frames are known.
        writers = _writers({Format.MP4: path, **(further or {})}, parameters, {**origin, "memory": segments.memory})
        with ExitStack() as stack:
            for writer in writers:
                stack.enter_context(writer)
            for frame in chain([first], frames):
                # Waiting for an encoder that is slower than the device counts for no other phase.
                with stopwatch.interrupted(ENCODING):
                    shown = scaled(frame, size, parameters.fit)
                    for writer in writers:
                        writer.put(shown)
                    stills.put(shown)
            stopwatch.turn(ENCODING)
            on_progress(Progress(Phase.UPLOADING))
            for writer in writers:
                writer.end()
            # While the encoders finish.
            thumbnail, spritesheet = stills.thumbnail(), stills.spritesheet()
    seconds = stopwatch.stop()
    provenance = {**origin, "memory": segments.memory, "seconds": seconds}
    return Rendering(*size, clip.frames, seconds, provenance, thumbnail, spritesheet, tuple(stills.samples))


def _origin(generator: "Generator", parameters: Parameters) -> dict[str, Any]:
    """What is known of a video before it is made."""
    return {
        "parameters": parameters.to_dict(),
        "seeds": list(parameters.seeds),
        **generator.origin,
        "versions": _versions(),
    }


class _Stopwatch:
    """Passes progress on, and measures each phase, from its first report to the first of the next phase."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._phase: str | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        self.turn(progress.phase.value)
        self._on_progress(progress)

    def turn(self, phase: str | None) -> None:
        """Begin or resume `phase`, unless it is the current one; the previous one has ended, or is interrupted."""
        if phase == self._phase:
            return
        now = time.monotonic()
        if self._phase is not None:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    @contextmanager
    def interrupted(self, phase: str) -> Iterator[None]:
        """Within the block, `phase` interrupts the current one."""
        present = self._phase
        self.turn(phase)
        yield
        self.turn(present)

    def stop(self) -> dict[str, float]:
        """Seconds of each phase that occurred."""
        self.turn(None)
        return {phase: round(seconds, 4) for phase, seconds in self._seconds.items()}


def _versions() -> dict[str, str]:
    return {"svd_service": __version__, **{name: version(name) for name in LIBRARIES}}


def _writers(paths: Mapping[Format, Path], parameters: Parameters, origin: dict[str, Any]) -> list[Writer]:
    # Other formats do not influence the frames.
    recorded = {name: value for name, value in origin["parameters"].items() if name != "formats"}
    origin = {**origin, "parameters": recorded}
    size, fps = parameters.output_size, parameters.playback_fps
    return [formats.writer(kind, path, size, fps, _tags(origin), origin) for kind, path in paths.items()]


def _tags(origin: dict[str, Any]) -> dict[str, str]:
    return {
        "title": f"{origin['model']['name']}, seed {origin['parameters']['seed']}",
        "comment": json.dumps(origin, sort_keys=True),
        "encoding_tool": f"svd-service {__version__} (PyAV {origin['versions']['av']})",
    }
