import hashlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from svd_service.artifacts.base import ArtifactsUnavailableError
from svd_service.config import Settings
from svd_service.errors import (
    ExpiredError,
    MissingFormatError,
    NoPreviewError,
    StaleAttemptError,
    UnavailableError,
    UnknownJobError,
)
from svd_service.jobs.job import DEADLINE_EXCEEDED, Job, Phase, Progress, State, Still
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.jobs.submit import Order
from svd_service.parameters import Format
from svd_service.video import Rendering
from svd_service.worker import attempt as run
from svd_service.worker.attempt import run_job
from svd_service.worker.process import WorkerContext
from svd_service.worker.shared_memory import Drain
from tests.unit.worker.samples import VIDEO, raising, rendering, submitted


def left(worker_context: WorkerContext) -> list[str]:
    return sorted(name.partition("/")[0] for name, _ in worker_context.jobs.artifacts.names())


def test_an_attempt_stores_its_video_and_deletes_the_image(worker_context, job):
    assert run_job(job.id, worker_context) == "finished"
    opened = worker_context.jobs.results.open(job.id)
    with opened.file:
        assert opened.file.read() == VIDEO
    credentials = {"state": "off", "unsigned_sha256": hashlib.sha256(VIDEO).hexdigest()}
    assert opened.result.provenance == {"seed": 1, "attempt": 1, "worker": "host/0", "content_credentials": credentials}
    for kind, content in ((Still.THUMBNAIL, b"one"), (Still.SPRITESHEET, b"all")):
        opened = worker_context.jobs.results.open(job.id, kind=kind)
        with opened.file:
            assert (opened.file.read(), opened.size) == (content, 3)
    assert left(worker_context) == ["results"] * 3


@pytest.fixture
def many(worker_context: WorkerContext) -> Job:
    """A job with two further formats."""
    return submitted(worker_context.jobs, formats=(Format.ZIP, Format.MP4, Format.GIF, Format.GIF))


def in_formats(
    image: Image.Image, parameters: Parameters, path: Path, report: Any, *, further: Any, **_: Any
) -> Rendering:
    for kind, target in further.items():
        target.write_bytes(f"a {kind}".encode())
    return rendering(image, parameters, path, report)


def test_an_attempt_stores_the_requested_formats(worker_context, many):
    worker_context = replace(worker_context, render=in_formats)
    assert many.parameters.formats == (Format.GIF, Format.ZIP)
    assert run_job(many.id, worker_context) == "finished"
    result = worker_context.jobs.queries.find(many.id).result
    assert list(result.files) == [Format.MP4, Format.GIF, Format.ZIP]
    for kind in (Format.GIF, Format.ZIP):
        opened = worker_context.jobs.results.open(many.id, kind=kind)
        with opened.file:
            content = opened.file.read()
        assert content == f"a {kind}".encode()
        assert (opened.size, opened.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    with pytest.raises(MissingFormatError, match="mp4, gif, zip"):
        worker_context.jobs.results.open(many.id, kind=Format.WEBM)
    assert left(worker_context) == ["results"] * 5
    worker_context.jobs.removal.cancel_or_delete(many.id)
    assert left(worker_context) == []


def test_an_extension_is_made_from_its_copy_of_the_extended_video_which_is_deleted_with_it(worker_context, job):
    run_job(job.id, worker_context)
    extension = worker_context.jobs.submit(None, Order(VideoRequest(extend=job.id)))
    starts = []

    def render(start: bytes, *arguments: Any, **more: Any) -> Rendering:
        starts.append(start)
        return rendering(Image.new("RGB", (256, 144)), *arguments, **more)

    assert run_job(extension.id, replace(worker_context, render=render)) == "finished"
    assert starts == [VIDEO]
    assert left(worker_context) == ["results"] * 6


def test_an_extension_whose_stored_video_is_missing_fails(worker_context, job):
    run_job(job.id, worker_context)
    extension = worker_context.jobs.submit(None, Order(VideoRequest(extend=job.id)))
    worker_context.jobs.artifacts.delete(extension.input)
    assert run_job(extension.id, worker_context) == "failed"
    failure = worker_context.jobs.queries.find(extension.id).failure
    assert (failure.code, failure.message) == ("broken_input", "The stored video is missing or cannot be read.")


def test_expired_results_are_deleted_in_all_formats(worker_context, many, redis_client):
    run_job(many.id, replace(worker_context, render=in_formats))
    redis_client.zadd("svd:ended", {many.id: 1})
    assert worker_context.jobs.maintenance.expire() == 1
    assert left(worker_context) == []
    with pytest.raises(ExpiredError):
        worker_context.jobs.results.open(many.id, kind=Format.GIF)


def test_if_one_file_cannot_be_made_none_is_left(worker_context, many):
    def render(image, parameters, path, report, *, further, **_):
        in_formats(image, parameters, path, report, further=further)
        further[Format.GIF].unlink()
        raise ValueError("no such codec")

    assert run_job(many.id, replace(worker_context, render=render)) == "failed"
    assert left(worker_context) == []


@pytest.mark.parametrize(
    ("less", "attempts", "reusable"),
    [(0, [], True), (1, [], False), (0, [{"phase": "sampling"}], False)],
)
def test_a_video_made_after_running_out_of_memory_is_not_reused(
    worker_context, job, monkeypatch, less, attempts, reusable
):
    memory = {"decode_chunk_size": job.parameters.decode_chunk_size - less, "attempts": attempts}
    flags = []
    finish = worker_context.jobs.ledger.attempts.finish

    def record(*arguments: Any, **more: Any) -> None:
        flags.append(more["reusable"])
        finish(*arguments, **more)

    monkeypatch.setattr(worker_context.jobs.ledger.attempts, "finish", record)

    def render(*arguments: Any, **more: Any) -> Rendering:
        made = rendering(*arguments, **more)
        return replace(made, provenance={"memory": memory})

    assert run_job(job.id, replace(worker_context, render=render)) == "finished"
    assert flags == [reusable]


def test_a_stale_attempt_deletes_all_of_its_files(worker_context, many, redis_client):
    def render(image, parameters, path, report, *, further, **_):
        redis_client.zadd("svd:leases", {many.id: 0})
        worker_context.jobs.maintenance.reap()
        return in_formats(image, parameters, path, lambda progress: None, further=further)

    assert run_job(many.id, replace(worker_context, render=render)) == "stale"
    assert left(worker_context) == ["inputs"]


def test_a_job_deleted_while_it_runs_leaves_nothing(worker_context, job):
    def render(image, parameters, path, on_progress, **further):
        on_progress(Progress(Phase.SAMPLING, 1, 2))
        worker_context.jobs.removal.delete(job.id)
        return rendering(image, parameters, path, lambda progress: None, **further)

    assert run_job(job.id, replace(worker_context, render=render)) in {"finished", "cancelled"}
    with pytest.raises(UnknownJobError):
        worker_context.jobs.queries.find(job.id)
    assert worker_context.jobs.maintenance.expire() == 1
    assert left(worker_context) == []


def test_a_second_message_for_a_job_does_nothing(worker_context, job):
    run_job(job.id, worker_context)
    assert run_job(job.id, worker_context) == "nothing to do"
    assert run_job("00000000-0000-0000-0000-000000000000", worker_context) == "nothing to do"


def test_a_failure_has_a_message_and_leaves_nothing(worker_context, job):
    assert run_job(job.id, replace(worker_context, render=raising(ValueError("no such thing")))) == "failed"
    failed = worker_context.jobs.queries.find(job.id)
    assert failed.state is State.FAILED
    assert (failed.failure.code, failed.failure.message) == (
        "generation_failed",
        "Generation failed: ValueError: no such thing",
    )
    assert left(worker_context) == []


def test_a_missing_or_broken_image_fails_the_job(worker_context, job):
    worker_context.jobs.artifacts.put(job.input, b"no image")
    assert run_job(job.id, worker_context) == "failed"
    assert worker_context.jobs.queries.find(job.id).failure.code == "broken_input"


def test_a_cancelled_job_stops_at_its_next_step(worker_context, job):
    def render(image, parameters, path, on_progress, **further):
        worker_context.jobs.removal.cancel(job.id)
        return rendering(image, parameters, path, on_progress, **further)

    assert run_job(job.id, replace(worker_context, render=render)) == "cancelled"
    assert worker_context.jobs.queries.find(job.id).state is State.CANCELLED
    assert left(worker_context) == []


def test_a_job_past_its_deadline_stops_at_its_next_step(worker_context, job, redis_client):
    def render(image, parameters, path, on_progress, **further):
        redis_client.hset(f"svd:job:{job.id}", "deadline", 1)
        return rendering(image, parameters, path, on_progress, **further)

    assert run_job(job.id, replace(worker_context, render=render)) == "failed"
    assert worker_context.jobs.queries.find(job.id).failure == DEADLINE_EXCEEDED
    assert left(worker_context) == []


def test_a_stale_attempt_stores_nothing(worker_context, job, redis_client):
    def render(image, parameters, path, on_progress, **further):
        redis_client.zadd("svd:leases", {job.id: 0})
        worker_context.jobs.maintenance.reap()
        return rendering(image, parameters, path, lambda progress: None, **further)

    assert run_job(job.id, replace(worker_context, render=render)) == "stale"
    assert worker_context.jobs.queries.find(job.id).state is State.QUEUED
    assert left(worker_context) == ["inputs"]


def test_an_attempt_past_its_time_limit_fails_at_its_next_step(worker_context, job):
    impatient = replace(worker_context, settings=Settings.from_mapping({"SVD_JOB_TIMEOUT": 1}))

    def render(image, parameters, path, on_progress, **further):
        time.sleep(1.1)
        return rendering(image, parameters, path, on_progress, **further)

    assert run_job(job.id, replace(impatient, render=render)) == "failed"
    assert worker_context.jobs.queries.find(job.id).failure.code == "time_limit"


def test_an_unavailable_store_is_retried_and_then_fails_the_job(worker_context, job):
    away = replace(worker_context, render=raising(ArtifactsUnavailableError("no space left on device")))
    assert [run_job(job.id, away) for _ in range(3)] == ["retried"] * 3
    failed = worker_context.jobs.queries.find(job.id)
    assert (failed.state, failed.failure.code) == (State.FAILED, "artifacts_unavailable")
    assert [attempt.outcome for attempt in failed.attempts] == ["retried"] * 3


def test_the_end_of_a_job_is_reported_again_while_redis_is_away(worker_context, job, monkeypatch):
    finish, attempts_made = worker_context.jobs.ledger.attempts.finish, []

    def sometimes(*args: Any, **kwargs: Any) -> None:
        attempts_made.append(1)
        if len(attempts_made) < 3:
            raise UnavailableError("Redis is away")
        finish(*args, **kwargs)

    monkeypatch.setattr(worker_context.jobs.ledger.attempts, "finish", sometimes)
    assert run_job(job.id, worker_context) == "finished"
    assert worker_context.jobs.queries.find(job.id).state is State.FINISHED


def test_unreported_progress_does_not_stop_the_job(worker_context, job, monkeypatch):
    def away(*_: Any) -> bool:
        raise UnavailableError("Redis is away")

    monkeypatch.setattr(worker_context.jobs.ledger.attempts, "report", away)
    assert run_job(job.id, worker_context) == "finished"


def test_reports_are_throttled(worker_context, job):
    claim = worker_context.jobs.ledger.attempts.claim(job.id, worker_context.holder)
    report = run.Reporter(claim, worker_context.jobs.ledger, deadline=time.monotonic() + 60, drain=Drain())
    for step in range(100):
        report(Progress(Phase.SAMPLING, step, 100))
    assert worker_context.jobs.queries.find(job.id).version < 20


def test_the_job_of_a_dead_sibling_process_is_taken_over_and_that_of_a_live_one_is_not(worker_context, job):
    with subprocess.Popen(["sleep", "60"]) as sibling:
        holder = replace(worker_context.holder, pid=sibling.pid)
        worker_context.jobs.ledger.attempts.claim(job.id, holder)
        assert run_job(job.id, worker_context) == "nothing to do"
        sibling.kill()
    assert run_job(job.id, worker_context) == "finished"
    assert [attempt.outcome for attempt in worker_context.jobs.queries.find(job.id).attempts] == ["lost", "finished"]


def test_a_process_id_of_another_instance_is_not_taken_for_a_sibling(worker_context, job):
    with subprocess.Popen(["true"]) as gone:
        pass
    worker_context.jobs.ledger.attempts.claim(job.id, replace(worker_context.holder, instance="another", pid=gone.pid))
    assert run_job(job.id, worker_context) == "nothing to do"


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_preview_is_served_while_the_job_runs_and_deleted_when_it_has_ended(worker_context, job):
    versions: list[int] = []

    def render(image, parameters, path, report, *, on_preview, **_):
        with pytest.raises(NoPreviewError):
            worker_context.jobs.results.read_preview(job.id)
        for content in (b"first", b"second"):
            on_preview(partial(bytes, content))
            # The preview is in the store a moment before the ledger shows it.
            wait_until(partial(is_shown, content))
            wait_until(has_new_version)
            versions.append(worker_context.jobs.queries.find(job.id).preview.version)
        with pytest.raises(UnknownJobError):
            worker_context.jobs.results.read_preview(job.id, owner="another")
        return rendering(image, parameters, path, report)

    def is_shown(content: bytes) -> bool:
        try:
            return bool(worker_context.jobs.results.read_preview(job.id) == content)
        except NoPreviewError:
            return False

    def has_new_version() -> bool:
        preview = worker_context.jobs.queries.find(job.id).preview
        return preview is not None and preview.version not in versions

    assert run_job(job.id, replace(worker_context, render=render)) == "finished"
    assert versions[0] < versions[1]
    assert worker_context.jobs.queries.find(job.id).preview is None
    with pytest.raises(NoPreviewError, match="finished"):
        worker_context.jobs.results.read_preview(job.id)
    assert left(worker_context) == ["results"] * 3


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_a_failed_or_cancelled_job_leaves_no_preview(worker_context, job, outcome):
    def render(image, parameters, path, report, *, on_preview, **_):
        on_preview(lambda: b"a preview")
        wait_until(lambda: worker_context.jobs.queries.find(job.id).preview is not None)
        if outcome == "failed":
            raise ValueError("no such thing")
        worker_context.jobs.removal.cancel(job.id)
        return rendering(image, parameters, path, report)

    assert run_job(job.id, replace(worker_context, render=render)) == outcome
    assert worker_context.jobs.queries.find(job.id).preview is None
    assert left(worker_context) == []


def test_a_failing_preview_does_not_affect_the_job(worker_context, job, monkeypatch):
    tried = []

    def broken() -> bytes:
        tried.append("a preview")
        raise ValueError("no such colour")

    def render(image, parameters, path, report, *, on_preview, **_):
        on_preview(broken)
        wait_until(lambda: bool(tried))
        on_preview(broken)
        return rendering(image, parameters, path, report)

    assert run_job(job.id, replace(worker_context, render=render)) == "finished"


def test_a_stale_attempt_shows_no_preview(worker_context, job, redis_client):
    claim = worker_context.jobs.ledger.attempts.claim(job.id, worker_context.holder)
    redis_client.zadd("svd:leases", {job.id: 0})
    worker_context.jobs.maintenance.reap()
    with pytest.raises(StaleAttemptError):
        worker_context.jobs.ledger.attempts.show_preview(claim, "a preview")
    assert worker_context.jobs.queries.find(job.id).preview is None


def test_previews_can_be_switched_off(worker_context, job):
    callbacks = []

    def render(image, parameters, path, report, *, on_preview, **_):
        callbacks.append(on_preview)
        return rendering(image, parameters, path, report)

    settings = Settings.from_mapping({"SVD_PREVIEWS": "false"})
    assert run_job(job.id, replace(worker_context, render=render, settings=settings)) == "finished"
    assert callbacks == [None]
