import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from svd_service.artifacts.base import ArtifactsUnavailableError
from svd_service.artifacts.local import LocalArtifacts
from svd_service.bootstrap import use_cases
from svd_service.errors import InvalidOutputError
from svd_service.jobs import maintenance
from svd_service.jobs.job import Job, Phase, Progress, Still
from svd_service.jobs.job_files import file_name
from svd_service.ledger.attempts import StopReason
from svd_service.parameters import Format
from svd_service.video import Rendering
from svd_service.worker import attempt as run
from svd_service.worker.attempt import run_job
from svd_service.worker.interruptions import DeviceLostError
from svd_service.worker.process import WorkerContext
from svd_service.worker.shared_memory import LoadResults
from tests.unit.worker.samples import Render, raising, rendering

pytestmark = pytest.mark.enable_socket


class OutOfMemoryError(RuntimeError):
    """Stands for torch's class of this name, whose import takes seconds."""


class AcceleratorError(RuntimeError):
    """Likewise."""


def rendering_with(call: Callable[[], object]) -> Render:
    """A normal rendering that calls `call()` before the second step."""

    def act(image: Any, parameters: Any, path: Path, on_progress: Callable[[Progress], None], **_: Any) -> Rendering:
        on_progress(Progress(Phase.SAMPLING, 0, 2))
        call()
        return rendering(image, parameters, path, on_progress)

    return act


@pytest.fixture
def job_id(job: Job) -> str:
    return job.id


def attempted(worker_context: WorkerContext, job_id: str, render: Render) -> Job:
    """The job after one attempt with this renderer."""
    run_job(job_id, replace(worker_context, render=render))
    return worker_context.jobs.queries.find(job_id)


def outcomes(job: Job) -> list[str | None]:
    return [attempt.outcome for attempt in job.attempts]


def files(worker_context: WorkerContext) -> set[str]:
    root = worker_context.settings.data_dir
    return {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()}


def code(job: Job) -> str:
    assert job.failure is not None
    return job.failure.code


@contextmanager
def full_disk() -> Iterator[None]:
    """Makes every write to a file fail, as on a full disk: a limit of file sizes fails in the same way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_finished_job_leaves_its_video_and_nothing_else(worker_context: WorkerContext, job_id: str) -> None:
    job = attempted(worker_context, job_id, rendering)
    assert (job.state, outcomes(job), files(worker_context)) == ("finished", ["finished"], {"results"})


def test_during_the_drain_period_a_job_continues(worker_context: WorkerContext, job_id: str) -> None:
    job = attempted(worker_context, job_id, rendering_with(lambda: worker_context.drain.begin(60)))
    assert outcomes(job) == ["finished"]


def test_a_released_job_is_requeued_and_enqueued_and_the_attempt_does_not_count(
    worker_context: WorkerContext, job_id: str, published: list[str], redis_client: Any
) -> None:
    job = attempted(worker_context, job_id, rendering_with(lambda: worker_context.drain.begin(0)))
    assert (job.state, outcomes(job), published) == ("queued", ["released"], [job_id, job_id])
    assert redis_client.hget(f"svd:job:{job_id}", "tries") == "0"
    assert files(worker_context) == {"inputs"}


def test_a_job_whose_last_step_is_done_is_not_released(worker_context: WorkerContext, job_id: str) -> None:
    def drain_at_the_end(*arguments: Any, **_: Any) -> Rendering:
        made = rendering(*arguments)
        worker_context.drain.begin(0)
        return made

    assert outcomes(attempted(worker_context, job_id, drain_at_the_end)) == ["finished"]


def test_a_job_cancelled_during_a_shutdown_is_cancelled(worker_context: WorkerContext, job_id: str) -> None:
    def both() -> None:
        worker_context.jobs.removal.cancel(job_id)
        worker_context.drain.begin(0)

    assert attempted(worker_context, job_id, rendering_with(both)).state == "cancelled"


def test_an_attempt_past_its_time_limit_fails_at_its_next_step(worker_context: WorkerContext, job_id: str) -> None:
    late = replace(worker_context, settings=msgspec.structs.replace(worker_context.settings, job_timeout=0.05))
    job = attempted(late, job_id, rendering_with(lambda: time.sleep(0.1)))
    assert (job.state, code(job), files(worker_context)) == ("failed", "time_limit", set())


def test_out_of_memory_that_reaches_the_attempt_fails_the_job_at_once(
    worker_context: WorkerContext, job_id: str
) -> None:
    job = attempted(worker_context, job_id, raising(OutOfMemoryError("CUDA out of memory.")))
    assert (job.state, code(job), files(worker_context)) == ("failed", "out_of_memory", set())


@pytest.mark.parametrize("what", ["latents", "pixels"])
def test_a_video_of_nan_fails_the_job_with_what_to_do(worker_context: WorkerContext, job_id: str, what: str) -> None:
    job = attempted(worker_context, job_id, raising(InvalidOutputError(what)))
    assert (job.state, code(job), files(worker_context)) == ("failed", "invalid_output", set())
    assert outcomes(job) == ["failed"], "the same seed would give the same numbers again"
    assert job.failure is not None
    assert "Try another seed or size" in job.failure.message


@pytest.mark.parametrize(
    "error",
    [AcceleratorError("CUDA error: unspecified launch failure\nSearch for it."), RuntimeError("CUDA error: no")],
    ids=["by its type", "by its message"],
)
def test_a_lost_device_costs_attempts_and_ends_the_process(
    worker_context: WorkerContext, job_id: str, error: Exception
) -> None:
    for number in (1, 2, 3):
        assert worker_context.jobs.queries.find(job_id).state == "queued"
        with pytest.raises(DeviceLostError):
            attempted(worker_context, job_id, raising(error))
        assert outcomes(worker_context.jobs.queries.find(job_id)) == ["retried"] * number
    assert code(worker_context.jobs.queries.find(job_id)) == "device_lost"


def test_a_lost_device_ends_the_process_although_the_claim_is_lost_too(
    worker_context: WorkerContext, job_id: str, redis_client: "redis.Redis"
) -> None:
    def render(*_: object, **__: object) -> Rendering:
        redis_client.zadd("svd:leases", {job_id: 0})
        assert worker_context.jobs.maintenance.reap() == [job_id]
        raise AcceleratorError("CUDA error: unspecified launch failure")

    with pytest.raises(DeviceLostError):
        attempted(worker_context, job_id, render)
    assert outcomes(worker_context.jobs.queries.find(job_id)) == ["lost"]


def test_a_full_disk_costs_attempts_and_leaves_no_partial_file(
    worker_context: WorkerContext, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        with full_disk():
            attempted(worker_context, job_id, rendering)
        assert outcomes(worker_context.jobs.queries.find(job_id)) == ["retried"] * number
        assert files(worker_context) == {"inputs"}
    job = worker_context.jobs.queries.find(job_id)
    assert (job.state, code(job)) == ("failed", "artifacts_unavailable")

    # The image of the failed job is an orphan, which the sweep deletes when it is old enough.
    monkeypatch.setattr(maintenance, "ORPHAN_AGE", -1.0)
    assert worker_context.jobs.maintenance.sweep_orphans() == 1
    assert files(worker_context) == set()


def test_the_next_attempt_succeeds_once_the_disk_has_space_again(worker_context: WorkerContext, job_id: str) -> None:
    with full_disk():
        attempted(worker_context, job_id, rendering)
    assert outcomes(attempted(worker_context, job_id, rendering)) == ["retried", "finished"]


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\nbut no more"], ids=str)
def test_a_missing_or_unreadable_image_fails_the_job_at_once(
    worker_context: WorkerContext, job_id: str, content: bytes | None
) -> None:
    path = worker_context.settings.data_dir / "inputs" / f"{job_id}.png"
    path.unlink() if content is None else path.write_bytes(content)
    job = attempted(worker_context, job_id, rendering)
    assert (job.state, code(job), outcomes(job)) == ("failed", "broken_input", ["failed"])
    assert files(worker_context) == set()


class UnreadableStore(LocalArtifacts):
    """A store whose first `times` reads fail."""

    def __init__(self, root: Path, times: int) -> None:
        super().__init__(root)
        self.times = times

    def open(self, name: str) -> Any:
        self.times -= 1
        # An I/O error from the real `open`, like that of a network file system whose server is unreachable.
        return super().open(name if self.times < 0 else f"{'x' * 200}/{'x' * 200}")


def with_unreadable_store(worker_context: WorkerContext, times: int, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    monkeypatch.setattr(run, "STORE_PAUSE", 0.01)
    root = worker_context.settings.data_dir
    (root / ("x" * 200)).symlink_to("x" * 200)  # a loop: ELOOP for every user, root included
    artifacts = UnreadableStore(root, times)
    jobs = use_cases(worker_context.jobs.ledger, artifacts, worker_context.settings, lambda *_: None)
    return replace(worker_context, jobs=jobs)


def test_a_store_that_is_unavailable_briefly_costs_no_attempt(
    worker_context: WorkerContext, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcomes(attempted(with_unreadable_store(worker_context, 3, monkeypatch), job_id, rendering)) == ["finished"]


def test_a_store_that_stays_unavailable_costs_the_attempt(
    worker_context: WorkerContext, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STORE_PATIENCE", 0.05)
    job = attempted(with_unreadable_store(worker_context, 1_000_000, monkeypatch), job_id, rendering)
    assert (job.state, outcomes(job)) == ("queued", ["retried"])


class UnwritableStore(LocalArtifacts):
    """A store whose first `times` commits fail; `on_failure()` is called each time."""

    def __init__(self, root: Path, times: int, on_failure: Callable[[], object] = lambda: None) -> None:
        super().__init__(root)
        self.times = times
        self.on_failure = on_failure

    def _commit(self, staged: Path, target: Path) -> None:
        self.times -= 1
        if self.times >= 0:
            self.on_failure()
            raise ArtifactsUnavailableError("the link is cut")
        super()._commit(staged, target)


def with_unwritable_store(
    worker_context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    on_failure: Callable[[], object] = lambda: None,
) -> WorkerContext:
    monkeypatch.setattr(run, "STORE_PAUSE", 0.01)
    artifacts = UnwritableStore(worker_context.settings.data_dir, times, on_failure)
    jobs = use_cases(worker_context.jobs.ledger, artifacts, worker_context.settings, lambda *_: None)
    return replace(worker_context, jobs=jobs)


def test_a_finished_video_waits_for_an_unavailable_store(
    worker_context: WorkerContext, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def once(*arguments: Any, **_: Any) -> Rendering:
        made.append("video")
        return rendering(*arguments)

    assert outcomes(attempted(with_unwritable_store(worker_context, monkeypatch, 5), job_id, once)) == ["finished"]
    assert made == ["video"]
    assert files(worker_context) == {"results"}


def test_a_video_that_cannot_be_stored_costs_attempts_and_then_fails_the_job(
    worker_context: WorkerContext, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STORE_PATIENCE", 0.05)
    worker_context = with_unwritable_store(worker_context, monkeypatch, 1_000_000)
    for number in (1, 2, 3):
        assert outcomes(attempted(worker_context, job_id, rendering)) == ["retried"] * number
    job = worker_context.jobs.queries.find(job_id)
    assert (job.state, code(job)) == ("failed", "artifacts_unavailable")
    assert job.failure is not None
    assert "the link is cut" in job.failure.message
    assert files(worker_context) == {"inputs"}


def test_a_worker_that_shuts_down_does_not_wait_for_the_store(
    worker_context: WorkerContext, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_context = with_unwritable_store(
        worker_context, monkeypatch, 1_000_000, lambda: worker_context.drain.begin(0)
    )
    job = attempted(worker_context, job_id, rendering)
    assert (job.state, outcomes(job)) == ("queued", ["released"])


def test_while_a_video_waits_for_the_store_the_job_can_be_cancelled(
    worker_context: WorkerContext, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "REPORT_INTERVAL", 0.0)
    worker_context = with_unwritable_store(
        worker_context, monkeypatch, 1_000_000, lambda: worker_context.jobs.ledger.jobs.cancel(job_id)
    )
    assert attempted(worker_context, job_id, rendering).state == "cancelled"


def test_while_the_store_is_unavailable_a_job_can_be_cancelled(
    worker_context: WorkerContext, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_context = with_unreadable_store(worker_context, 1_000_000, monkeypatch)
    report = worker_context.jobs.ledger.attempts.report

    def cancel_first(*arguments: Any) -> StopReason | None:
        worker_context.jobs.ledger.jobs.cancel(job_id)
        return report(*arguments)

    monkeypatch.setattr(worker_context.jobs.ledger.attempts, "report", cancel_first)
    assert attempted(worker_context, job_id, rendering).state == "cancelled"


def test_files_of_dead_workers_are_swept_and_the_result_stays(worker_context: WorkerContext, job_id: str) -> None:
    root = worker_context.settings.data_dir
    attempted(worker_context, job_id, rendering)
    half, unpublished = root / ".staging" / "half.mp4", root / "results" / job_id / "of-a-lost-attempt.mp4"
    for left in (half, unpublished):
        left.write_bytes(b"half a vid")
    for path in (half, *unpublished.parent.iterdir()):
        os.utime(path, (0, 0))
    assert worker_context.jobs.maintenance.sweep_orphans() == 2
    assert not half.exists()
    result = worker_context.jobs.queries.find(job_id).result
    assert result is not None
    kept = {file_name(Path(result.artifact).name, variant) for variant in (Format.MP4, *Still)}
    assert {path.name for path in unpublished.parent.iterdir()} == kept


def test_a_worker_gives_up_when_every_process_failed_to_load_the_model() -> None:
    loads = LoadResults()
    assert not loads.hopeless(2)
    assert [loads.fail(0), loads.fail(0)] == [1, 2]
    assert not loads.hopeless(2)  # the other process is still loading
    loads.succeed(1)
    assert not loads.hopeless(2)
    loads.begin(1)  # the process died
    loads.fail(1)
    assert loads.hopeless(2)
    loads.begin(0)
    loads.succeed(0)
    assert not loads.hopeless(2)
