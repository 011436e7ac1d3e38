"""A stand-in that makes videos of a few bytes, and jobs for it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from svd_service.bootstrap import UseCases
from svd_service.jobs.job import Job, Phase, Progress
from svd_service.jobs.parameters import VideoRequest
from svd_service.jobs.submit import Order
from svd_service.video import Rendering

VIDEO = b"a video"

Render = Callable[..., Rendering]


def rendering(image: Any, parameters: Any, path: Path, on_progress: Callable[[Progress], None], **_: Any) -> Rendering:
    """Writes a video of a few bytes and returns its description, after reporting the first of two steps."""
    on_progress(Progress(Phase.SAMPLING, 1, 2))
    path.write_bytes(VIDEO)
    provenance: dict[str, Any] = {"seed": parameters.seed}
    width, height = image.size
    frames = parameters.num_frames
    return Rendering(width, height, frames, {"sampling": 1.0}, provenance, thumbnail=b"one", spritesheet=b"all")


def raising(error: Exception) -> Render:
    def render(*_: Any, **__: Any) -> Rendering:
        raise error

    return render


def submitted(jobs: UseCases, **values: Any) -> Job:
    """A queued job; keywords are the caller's values."""
    buffer = io.BytesIO()
    Image.new("RGB", (256, 144), "red").save(buffer, "PNG")
    buffer.seek(0)
    return jobs.submit(buffer, Order(VideoRequest(**{"seed": 1} | values)))
