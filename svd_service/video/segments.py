"""The frames of a video: segments that continue from each other, and interpolated frames between the generated ones."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.parameters import Parameters
from svd_service.video.decoder import decoded, last_frame
from svd_service.video.interpolation import Interpolator
from svd_service.video.playback import scaled, unscaled
from svd_service.video.seam import joined
from svd_service.video.writer import Frame

if TYPE_CHECKING:
    from svd_service.video.loader import Generator as Model

OnProgress = Callable[[Progress], None]
Frames = Generator[Frame, None, None]


class Segments:
    """Generates the segments of one video, one after the other; no more than one of them is held in memory."""

    def __init__(
        self,
        model: "Model",
        parameters: Parameters,
        on_progress: OnProgress,
        on_preview: Callable[[Callable[[], bytes]], None] | None = None,
    ) -> None:
        self._model = model
        self._parameters = parameters
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._interpolator = Interpolator(parameters.interpolate)
        self._memory: list[dict[str, Any]] = []

    @property
    def memory(self) -> dict[str, Any]:
        """How memory was used so far: as in `Generator.memory`, over all segments."""
        parts = self._memory or [self._model.memory]
        if len(parts) == 1:
            return parts[0]
        attempts = [{**each, "segment": number} for number, part in enumerate(parts, 1) for each in part["attempts"]]
        chunk = min(part["decode_chunk_size"] for part in parts)
        return {**parts[-1], "decode_chunk_size": chunk, "attempts": attempts}

    def frames(self, start: Image.Image | bytes) -> Frames:
        """Generate a video that begins with an image, or extends the MP4 `start`: frames in RGB, uint8, (height, width,
        3), as `Generator.generate`. Those that extend a video have the size of the file.

        A segment continues from the last frame of the one before, which is not repeated (`video/seam.py`).

        Raises:
            BrokenInputError: the MP4 cannot be decoded.
        """
        return self._generated_from(start) if isinstance(start, Image.Image) else self._extended(start)

    def _extended(self, video: bytes) -> Frames:
        """Generate the continuation of `video`, behind its own frames if those are to be shown."""
        parameters = self._parameters
        last = unscaled(last_frame(video), (parameters.width, parameters.height), parameters.fit)
        # The frame itself is not shown again, but others lie between it and the next.
        for _ in self._interpolator.put(last):
            pass
        with closing(self._generated_from(Image.fromarray(last))) as frames:
            # First, since `render` writes the OOM fallbacks so far to the file with its first frame.
            first = next(frames)
            if parameters.extended_frames:
                yield from decoded(video)
            for frame in chain([first], frames):
                yield scaled(frame, parameters.output_size, parameters.fit)

    def _generated_from(self, image: Image.Image) -> Frames:
        for number in range(1, self._parameters.segments + 1):
            last: Frame | None = None
            with closing(self._segment(number, image)) as frames:
                for frame in frames:
                    last = frame
                    yield frame
            self._memory.append(self._model.memory)
            if last is not None:
                image = Image.fromarray(last)

    def _segment(self, number: int, image: Image.Image) -> Frames:
        """Generate segment `number`, from 1, which continues from `image`, with its interpolated frames."""
        with closing(self._generated(number, image)) as generated:
            if self._parameters.interpolate == 1:
                yield from generated
                return
            yield from self._interpolated(number, list(generated))

    def _generated(self, number: int, image: Image.Image) -> Frames:
        parameters = replace(self._parameters, seed=self._parameters.seeds[number - 1])
        with closing(
            self._model.generate(image, parameters, lambda progress: self._report(progress, number), self._on_preview)
        ) as frames:
            continues = number > 1 or parameters.extend is not None
            yield from joined(np.asarray(image), frames) if continues else frames

    def _interpolated(self, number: int, frames: list[Frame]) -> Frames:
        for done, frame in enumerate(frames):
            self._report(Progress(Phase.INTERPOLATING, done, len(frames)), number)
            yield from self._interpolator.put(frame)
        self._report(Progress(Phase.INTERPOLATING, len(frames), len(frames)), number)

    def _report(self, progress: Progress, number: int) -> None:
        self._on_progress(replace(progress, segment=number, segments=self._parameters.segments))
