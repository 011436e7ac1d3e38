"""A worker's process without a worker: jobs over a real Redis, and a stand-in that makes videos of a few bytes."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from svd_service.artifacts.local import LocalArtifacts
from svd_service.config import Settings
from svd_service.jobs.job import Holder, Job, Phase, Progress
from svd_service.jobs.ledger import Ledger, WorkerStatus, connect
from svd_service.jobs.model import Model
from svd_service.jobs.request import Request
from svd_service.jobs.service import JobService
from svd_service.video import Rendering
from svd_service.worker.lease import Lease
from svd_service.worker.lifecycle import Slot
from svd_service.worker.shared import Departure

VIDEO = b"a video"

Render = Callable[..., Rendering]


def rendering(
    picture: Any, parameters: Any, path: Path, on_progress: Callable[[Progress], None], **_: Any
) -> Rendering:
    """A video as a worker wants it, after the first of two steps."""
    on_progress(Progress(Phase.SAMPLING, 1, 2))
    path.write_bytes(VIDEO)
    provenance: dict[str, Any] = {"seed": parameters.seed}
    width, height = picture.size
    frames = parameters.num_frames
    return Rendering(width, height, frames, {"sampling": 1.0}, provenance, thumbnail=b"one", spritesheet=b"all")


def raising(error: Exception) -> Render:
    def render(*_: Any, **__: Any) -> Rendering:
        raise error

    return render


@pytest.fixture(name="settings")
def _settings(make_settings: Callable[..., Settings], redis_url: str) -> Settings:
    return make_settings(REDIS_URL=redis_url)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with connect(settings) as client:
        yield Ledger(client, settings)


@pytest.fixture
def published() -> list[str]:
    """The ids that were given to the queue."""
    return []


@pytest.fixture
def jobs(ledger: Ledger, settings: Settings, published: list[str]) -> JobService:
    artifacts = LocalArtifacts(settings.data_dir)
    return JobService(ledger, artifacts, Model.of(settings), settings, lambda job_id, _: published.append(job_id))


@pytest.fixture
def slot(jobs: JobService, settings: Settings) -> Slot:
    holder = Holder("host/0", "cpu", "instance", os.getpid())
    status = WorkerStatus("host/0", "cpu", "instance", os.getpid(), "nano", True, 0.0, 1.0)
    departure = Departure()
    return Slot(holder, rendering, jobs, Lease(jobs.ledger, status, settings.lease, departure), settings, departure)


@pytest.fixture
def job(jobs: JobService) -> Job:
    return submitted(jobs)


def submitted(jobs: JobService, **said: Any) -> Job:
    """A job that waits; keywords are what the caller said."""
    buffer = io.BytesIO()
    Image.new("RGB", (256, 144), "red").save(buffer, "PNG")
    buffer.seek(0)
    return jobs.submit(buffer, Request(**{"seed": 1} | said))
