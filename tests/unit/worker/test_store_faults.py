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

from svd_service.artifacts.base import ArtifactsUnavailableError
from svd_service.artifacts.local import LocalArtifacts
from svd_service.bootstrap import use_cases
from svd_service.jobs import maintenance
from svd_service.jobs.job import Job, Phase, Progress, Still
from svd_service.jobs.job_files import file_name
from svd_service.ledger.attempts import Stop
from svd_service.parameters import Format
from svd_service.video import Rendering
from svd_service.worker import attempt as run
from svd_service.worker.attempt import run_job
from svd_service.worker.interruptions import DeviceLostError
from svd_service.worker.process import Slot
from svd_service.worker.shared_memory import Loads
from tests.unit.worker.samples import Render, raising, rendering

pytestmark = pytest.mark.enable_socket


class OutOfMemoryError(RuntimeError):
    """By its name torch's, which takes seconds to import."""


class AcceleratorError(RuntimeError):
    """Likewise."""


def saying(say: Callable[[], object]) -> Render:
    """As usual, but `say()` comes before the second step."""

    def act(picture: Any, parameters: Any, path: Path, on_progress: Callable[[Progress], None], **_: Any) -> Rendering:
        on_progress(Progress(Phase.SAMPLING, 0, 2))
        say()
        return rendering(picture, parameters, path, on_progress)

    return act


@pytest.fixture
def job_id(job: Job) -> str:
    return job.id


def attempted(slot: Slot, job_id: str, render: Render) -> Job:
    """The job after one attempt with this way to make a video."""
    run_job(job_id, replace(slot, render=render))
    return slot.jobs.queries.find(job_id)


def outcomes(job: Job) -> list[str | None]:
    return [attempt.outcome for attempt in job.attempts]


def files(slot: Slot) -> set[str]:
    root = slot.settings.data_dir
    return {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()}


def code(job: Job) -> str:
    assert job.failure is not None
    return job.failure.code


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can be written, as where the disk is full: a limit on their size fails in the same way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_job_that_went_well_leaves_its_video_and_nothing_else(slot: Slot, job_id: str) -> None:
    job = attempted(slot, job_id, rendering)
    assert (job.state, outcomes(job), files(slot)) == ("finished", ["finished"], {"results"})


def test_when_the_worker_is_to_go_the_job_goes_on_until_the_time_is_over(slot: Slot, job_id: str) -> None:
    job = attempted(slot, job_id, saying(lambda: slot.drain.begin(60)))
    assert outcomes(job) == ["finished"]


def test_a_job_that_is_handed_back_is_published_for_others_and_the_attempt_does_not_count(
    slot: Slot, job_id: str, published: list[str], redis_client: Any
) -> None:
    job = attempted(slot, job_id, saying(lambda: slot.drain.begin(0)))
    assert (job.state, outcomes(job), published) == ("queued", ["released"], [job_id, job_id])
    assert redis_client.hget(f"svd:job:{job_id}", "tries") == "0"
    assert files(slot) == {"inputs"}


def test_a_job_whose_last_step_is_done_is_not_handed_back(slot: Slot, job_id: str) -> None:
    def leave_at_the_end(*arguments: Any, **_: Any) -> Rendering:
        made = rendering(*arguments)
        slot.drain.begin(0)
        return made

    assert outcomes(attempted(slot, job_id, leave_at_the_end)) == ["finished"]


def test_a_cancelled_job_of_a_worker_that_goes_is_cancelled(slot: Slot, job_id: str) -> None:
    def both() -> None:
        slot.jobs.removal.cancel(job_id)
        slot.drain.begin(0)

    assert attempted(slot, job_id, saying(both)).state == "cancelled"


def test_an_attempt_past_its_time_fails_at_its_next_step(slot: Slot, job_id: str) -> None:
    late = replace(slot, settings=msgspec.structs.replace(slot.settings, job_timeout=0.05))
    job = attempted(late, job_id, saying(lambda: time.sleep(0.1)))
    assert (job.state, code(job), files(slot)) == ("failed", "time_limit", set())


def test_out_of_memory_fails_the_job_since_all_that_helps_was_tried(slot: Slot, job_id: str) -> None:
    job = attempted(slot, job_id, raising(OutOfMemoryError("CUDA out of memory.")))
    assert (job.state, code(job), files(slot)) == ("failed", "out_of_memory", set())


@pytest.mark.parametrize(
    "error",
    [AcceleratorError("CUDA error: unspecified launch failure\nSearch for it."), RuntimeError("CUDA error: no")],
    ids=["by its type", "by its words"],
)
def test_a_device_that_is_lost_costs_attempts_and_the_process(slot: Slot, job_id: str, error: Exception) -> None:
    for number in (1, 2, 3):
        assert slot.jobs.queries.find(job_id).state == "queued"
        with pytest.raises(DeviceLostError):
            attempted(slot, job_id, raising(error))
        assert outcomes(slot.jobs.queries.find(job_id)) == ["retried"] * number
    assert code(slot.jobs.queries.find(job_id)) == "device_lost"


def test_a_full_disk_costs_attempts_and_leaves_nothing_half_written(
    slot: Slot, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        with full_disk():
            attempted(slot, job_id, rendering)
        assert outcomes(slot.jobs.queries.find(job_id)) == ["retried"] * number
        assert files(slot) == {"inputs"}
    job = slot.jobs.queries.find(job_id)
    assert (job.state, code(job)) == ("failed", "artifacts_unavailable")

    # The picture of a job that failed so is an orphan, which the sweep gets when it is old enough.
    monkeypatch.setattr(maintenance, "ORPHAN_AGE", -1.0)
    assert slot.jobs.maintenance.sweep_orphans() == 1
    assert files(slot) == set()


def test_a_disk_that_has_room_again_makes_the_next_attempt_a_success(slot: Slot, job_id: str) -> None:
    with full_disk():
        attempted(slot, job_id, rendering)
    assert outcomes(attempted(slot, job_id, rendering)) == ["retried", "finished"]


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\x89PNG\r\n\x1a\nbut no more"], ids=str)
def test_a_picture_that_is_gone_or_unreadable_fails_the_job_at_once(
    slot: Slot, job_id: str, content: bytes | None
) -> None:
    path = slot.settings.data_dir / "inputs" / f"{job_id}.png"
    path.unlink() if content is None else path.write_bytes(content)
    job = attempted(slot, job_id, rendering)
    assert (job.state, code(job), outcomes(job)) == ("failed", "broken_input", ["failed"])
    assert files(slot) == set()


class Away(LocalArtifacts):
    """A store that cannot be read for the first so many times."""

    def __init__(self, root: Path, times: int) -> None:
        super().__init__(root)
        self.times = times

    def open(self, name: str) -> Any:
        self.times -= 1
        # An I/O error as of a network file system whose server is away, from the real `open`.
        return super().open(name if self.times < 0 else f"{'x' * 200}/{'x' * 200}")


def away(slot: Slot, times: int, monkeypatch: pytest.MonkeyPatch) -> Slot:
    monkeypatch.setattr(run, "STORE_PAUSE", 0.01)
    root = slot.settings.data_dir
    (root / ("x" * 200)).symlink_to("x" * 200)  # a loop: ELOOP, whoever asks, root included
    artifacts = Away(root, times)
    jobs = use_cases(slot.jobs.ledger, artifacts, slot.settings, lambda *_: None)
    return replace(slot, jobs=jobs)


def test_a_store_that_is_away_for_a_moment_costs_no_attempt(
    slot: Slot, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcomes(attempted(away(slot, 3, monkeypatch), job_id, rendering)) == ["finished"]


def test_a_store_that_stays_away_costs_the_attempt(slot: Slot, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "STORE_PATIENCE", 0.05)
    job = attempted(away(slot, 1_000_000, monkeypatch), job_id, rendering)
    assert (job.state, outcomes(job)) == ("queued", ["retried"])


class Elsewhere(LocalArtifacts):
    """A store that takes no video for the first so many times. `said()` is called each time."""

    def __init__(self, root: Path, times: int, said: Callable[[], object] = lambda: None) -> None:
        super().__init__(root)
        self.times = times
        self.said = said

    def _commit(self, staged: Path, target: Path) -> None:
        self.times -= 1
        if self.times >= 0:
            self.said()
            raise ArtifactsUnavailableError("the link is cut")
        super()._commit(staged, target)


def elsewhere(
    slot: Slot, monkeypatch: pytest.MonkeyPatch, times: int, said: Callable[[], object] = lambda: None
) -> Slot:
    monkeypatch.setattr(run, "STORE_PAUSE", 0.01)
    artifacts = Elsewhere(slot.settings.data_dir, times, said)
    jobs = use_cases(slot.jobs.ledger, artifacts, slot.settings, lambda *_: None)
    return replace(slot, jobs=jobs)


def test_a_video_that_is_ready_waits_for_a_store_that_is_away(
    slot: Slot, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def once(*arguments: Any, **_: Any) -> Rendering:
        made.append("video")
        return rendering(*arguments)

    assert outcomes(attempted(elsewhere(slot, monkeypatch, 5), job_id, once)) == ["finished"]
    assert made == ["video"]
    assert files(slot) == {"results"}


def test_a_video_that_cannot_be_stored_costs_attempts_and_then_the_job_has_failed(
    slot: Slot, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STORE_PATIENCE", 0.05)
    slot = elsewhere(slot, monkeypatch, 1_000_000)
    for number in (1, 2, 3):
        assert outcomes(attempted(slot, job_id, rendering)) == ["retried"] * number
    job = slot.jobs.queries.find(job_id)
    assert (job.state, code(job)) == ("failed", "artifacts_unavailable")
    assert job.failure is not None
    assert "the link is cut" in job.failure.message
    assert files(slot) == {"inputs"}


def test_who_is_to_go_does_not_wait_for_the_store(slot: Slot, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = elsewhere(slot, monkeypatch, 1_000_000, lambda: slot.drain.begin(0))
    job = attempted(slot, job_id, rendering)
    assert (job.state, outcomes(job)) == ("queued", ["released"])


def test_while_a_video_waits_for_the_store_the_job_can_be_cancelled(
    slot: Slot, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "REPORT_INTERVAL", 0.0)
    slot = elsewhere(slot, monkeypatch, 1_000_000, lambda: slot.jobs.ledger.jobs.cancel(job_id))
    assert attempted(slot, job_id, rendering).state == "cancelled"


def test_while_the_store_is_away_a_job_can_be_cancelled(
    slot: Slot, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = away(slot, 1_000_000, monkeypatch)
    report = slot.jobs.ledger.attempts.report

    def cancel_first(*arguments: Any) -> Stop | None:
        slot.jobs.ledger.jobs.cancel(job_id)
        return report(*arguments)

    monkeypatch.setattr(slot.jobs.ledger.attempts, "report", cancel_first)
    assert attempted(slot, job_id, rendering).state == "cancelled"


def test_what_dead_workers_left_behind_is_swept_and_the_result_stays(slot: Slot, job_id: str) -> None:
    root = slot.settings.data_dir
    attempted(slot, job_id, rendering)
    half, unpublished = root / ".staging" / "half.mp4", root / "results" / job_id / "of-a-lost-attempt.mp4"
    for left in (half, unpublished):
        left.write_bytes(b"half a vid")
    for path in (half, *unpublished.parent.iterdir()):
        os.utime(path, (0, 0))
    assert slot.jobs.maintenance.sweep_orphans() == 2
    assert not half.exists()
    result = slot.jobs.queries.find(job_id).result
    assert result is not None
    kept = {file_name(Path(result.artifact).name, variant) for variant in (Format.MP4, *Still)}
    assert {path.name for path in unpublished.parent.iterdir()} == kept


def test_a_worker_gives_up_when_every_process_has_failed_to_load_and_none_has_the_model() -> None:
    loads = Loads()
    assert not loads.hopeless(2)
    assert [loads.fail(0), loads.fail(0)] == [1, 2]
    assert not loads.hopeless(2)  # the other one still tries
    loads.succeed(1)
    assert not loads.hopeless(2)
    loads.begin(1)  # it died
    loads.fail(1)
    assert loads.hopeless(2)
    loads.begin(0)
    loads.succeed(0)
    assert not loads.hopeless(2)
