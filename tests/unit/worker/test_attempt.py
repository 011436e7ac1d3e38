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
from svd_service.jobs.parameters import Parameters, Request
from svd_service.jobs.submit import Order
from svd_service.parameters import Format
from svd_service.video import Rendering
from svd_service.worker import attempt as run
from svd_service.worker.attempt import run_job
from svd_service.worker.process import Slot
from svd_service.worker.shared_memory import Drain
from tests.unit.worker.samples import VIDEO, raising, rendering, submitted


def left(slot: Slot) -> list[str]:
    return sorted(name.partition("/")[0] for name, _ in slot.jobs.artifacts.names())


def test_an_attempt_stores_its_video_and_deletes_the_image(slot, job):
    assert run_job(job.id, slot) == "finished"
    opened = slot.jobs.results.open(job.id)
    with opened.file:
        assert opened.file.read() == VIDEO
    credentials = {"state": "off", "unsigned_sha256": hashlib.sha256(VIDEO).hexdigest()}
    assert opened.result.provenance == {"seed": 1, "attempt": 1, "worker": "host/0", "content_credentials": credentials}
    for kind, content in ((Still.THUMBNAIL, b"one"), (Still.SPRITESHEET, b"all")):
        opened = slot.jobs.results.open(job.id, kind=kind)
        with opened.file:
            assert (opened.file.read(), opened.size) == (content, 3)
    assert left(slot) == ["results"] * 3


@pytest.fixture
def many(slot: Slot) -> Job:
    """A job with two further formats."""
    return submitted(slot.jobs, formats=(Format.ZIP, Format.MP4, Format.GIF, Format.GIF))


def in_formats(
    image: Image.Image, parameters: Parameters, path: Path, report: Any, *, further: Any, **_: Any
) -> Rendering:
    for kind, target in further.items():
        target.write_bytes(f"a {kind}".encode())
    return rendering(image, parameters, path, report)


def test_an_attempt_stores_the_requested_formats(slot, many):
    slot = replace(slot, render=in_formats)
    assert many.parameters.formats == (Format.GIF, Format.ZIP)
    assert run_job(many.id, slot) == "finished"
    result = slot.jobs.queries.find(many.id).result
    assert list(result.files) == [Format.MP4, Format.GIF, Format.ZIP]
    for kind in (Format.GIF, Format.ZIP):
        opened = slot.jobs.results.open(many.id, kind=kind)
        with opened.file:
            content = opened.file.read()
        assert content == f"a {kind}".encode()
        assert (opened.size, opened.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    with pytest.raises(MissingFormatError, match="mp4, gif, zip"):
        slot.jobs.results.open(many.id, kind=Format.WEBM)
    assert left(slot) == ["results"] * 5
    slot.jobs.removal.cancel_or_delete(many.id)
    assert left(slot) == []


def test_an_extension_is_made_from_its_copy_of_the_extended_video_which_is_deleted_with_it(slot, job):
    run_job(job.id, slot)
    extension = slot.jobs.submit(None, Order(Request(extend=job.id)))
    starts = []

    def render(start: bytes, *arguments: Any, **more: Any) -> Rendering:
        starts.append(start)
        return rendering(Image.new("RGB", (256, 144)), *arguments, **more)

    assert run_job(extension.id, replace(slot, render=render)) == "finished"
    assert starts == [VIDEO]
    assert left(slot) == ["results"] * 6


def test_an_extension_whose_stored_video_is_missing_fails(slot, job):
    run_job(job.id, slot)
    extension = slot.jobs.submit(None, Order(Request(extend=job.id)))
    slot.jobs.artifacts.delete(extension.input)
    assert run_job(extension.id, slot) == "failed"
    failure = slot.jobs.queries.find(extension.id).failure
    assert (failure.code, failure.message) == ("broken_input", "The stored video is missing or cannot be read.")


def test_expired_results_are_deleted_in_all_formats(slot, many, redis_client):
    run_job(many.id, replace(slot, render=in_formats))
    redis_client.zadd("svd:ended", {many.id: 1})
    assert slot.jobs.maintenance.expire() == 1
    assert left(slot) == []
    with pytest.raises(ExpiredError):
        slot.jobs.results.open(many.id, kind=Format.GIF)


def test_if_one_file_cannot_be_made_none_is_left(slot, many):
    def render(image, parameters, path, report, *, further, **_):
        in_formats(image, parameters, path, report, further=further)
        further[Format.GIF].unlink()
        raise ValueError("no such codec")

    assert run_job(many.id, replace(slot, render=render)) == "failed"
    assert left(slot) == []


@pytest.mark.parametrize(
    ("less", "attempts", "reusable"),
    [(0, [], True), (1, [], False), (0, [{"phase": "sampling"}], False)],
)
def test_a_video_made_after_running_out_of_memory_is_not_reused(slot, job, monkeypatch, less, attempts, reusable):
    memory = {"decode_chunk_size": job.parameters.decode_chunk_size - less, "attempts": attempts}
    flags = []
    finish = slot.jobs.ledger.attempts.finish

    def record(*arguments: Any, **more: Any) -> None:
        flags.append(more["reusable"])
        finish(*arguments, **more)

    monkeypatch.setattr(slot.jobs.ledger.attempts, "finish", record)

    def render(*arguments: Any, **more: Any) -> Rendering:
        made = rendering(*arguments, **more)
        return replace(made, provenance={"memory": memory})

    assert run_job(job.id, replace(slot, render=render)) == "finished"
    assert flags == [reusable]


def test_a_stale_attempt_deletes_all_of_its_files(slot, many, redis_client):
    def render(image, parameters, path, report, *, further, **_):
        redis_client.zadd("svd:leases", {many.id: 0})
        slot.jobs.maintenance.reap()
        return in_formats(image, parameters, path, lambda progress: None, further=further)

    assert run_job(many.id, replace(slot, render=render)) == "stale"
    assert left(slot) == ["inputs"]


def test_a_job_deleted_while_it_runs_leaves_nothing(slot, job):
    def render(image, parameters, path, on_progress, **further):
        on_progress(Progress(Phase.SAMPLING, 1, 2))
        slot.jobs.removal.delete(job.id)
        return rendering(image, parameters, path, lambda progress: None, **further)

    assert run_job(job.id, replace(slot, render=render)) in {"finished", "cancelled"}
    with pytest.raises(UnknownJobError):
        slot.jobs.queries.find(job.id)
    assert slot.jobs.maintenance.expire() == 1
    assert left(slot) == []


def test_a_second_message_for_a_job_does_nothing(slot, job):
    run_job(job.id, slot)
    assert run_job(job.id, slot) == "nothing to do"
    assert run_job("00000000-0000-0000-0000-000000000000", slot) == "nothing to do"


def test_a_failure_has_a_message_and_leaves_nothing(slot, job):
    assert run_job(job.id, replace(slot, render=raising(ValueError("no such thing")))) == "failed"
    failed = slot.jobs.queries.find(job.id)
    assert failed.state is State.FAILED
    assert (failed.failure.code, failed.failure.message) == (
        "generation_failed",
        "Generation failed: ValueError: no such thing",
    )
    assert left(slot) == []


def test_a_missing_or_broken_image_fails_the_job(slot, job):
    slot.jobs.artifacts.put(job.input, b"no image")
    assert run_job(job.id, slot) == "failed"
    assert slot.jobs.queries.find(job.id).failure.code == "broken_input"


def test_a_cancelled_job_stops_at_its_next_step(slot, job):
    def render(image, parameters, path, on_progress, **further):
        slot.jobs.removal.cancel(job.id)
        return rendering(image, parameters, path, on_progress, **further)

    assert run_job(job.id, replace(slot, render=render)) == "cancelled"
    assert slot.jobs.queries.find(job.id).state is State.CANCELLED
    assert left(slot) == []


def test_a_job_past_its_deadline_stops_at_its_next_step(slot, job, redis_client):
    def render(image, parameters, path, on_progress, **further):
        redis_client.hset(f"svd:job:{job.id}", "deadline", 1)
        return rendering(image, parameters, path, on_progress, **further)

    assert run_job(job.id, replace(slot, render=render)) == "failed"
    assert slot.jobs.queries.find(job.id).failure == DEADLINE_EXCEEDED
    assert left(slot) == []


def test_a_stale_attempt_stores_nothing(slot, job, redis_client):
    def render(image, parameters, path, on_progress, **further):
        redis_client.zadd("svd:leases", {job.id: 0})
        slot.jobs.maintenance.reap()
        return rendering(image, parameters, path, lambda progress: None, **further)

    assert run_job(job.id, replace(slot, render=render)) == "stale"
    assert slot.jobs.queries.find(job.id).state is State.QUEUED
    assert left(slot) == ["inputs"]


def test_an_attempt_past_its_time_limit_fails_at_its_next_step(slot, job):
    impatient = replace(slot, settings=Settings.from_mapping({"SVD_JOB_TIMEOUT": 1}))

    def render(image, parameters, path, on_progress, **further):
        time.sleep(1.1)
        return rendering(image, parameters, path, on_progress, **further)

    assert run_job(job.id, replace(impatient, render=render)) == "failed"
    assert slot.jobs.queries.find(job.id).failure.code == "time_limit"


def test_an_unavailable_store_is_retried_and_then_fails_the_job(slot, job):
    away = replace(slot, render=raising(ArtifactsUnavailableError("no space left on device")))
    assert [run_job(job.id, away) for _ in range(3)] == ["retried"] * 3
    failed = slot.jobs.queries.find(job.id)
    assert (failed.state, failed.failure.code) == (State.FAILED, "artifacts_unavailable")
    assert [attempt.outcome for attempt in failed.attempts] == ["retried"] * 3


def test_the_end_of_a_job_is_reported_again_while_redis_is_away(slot, job, monkeypatch):
    finish, attempts_made = slot.jobs.ledger.attempts.finish, []

    def sometimes(*args: Any, **kwargs: Any) -> None:
        attempts_made.append(1)
        if len(attempts_made) < 3:
            raise UnavailableError("Redis is away")
        finish(*args, **kwargs)

    monkeypatch.setattr(slot.jobs.ledger.attempts, "finish", sometimes)
    assert run_job(job.id, slot) == "finished"
    assert slot.jobs.queries.find(job.id).state is State.FINISHED


def test_unreported_progress_does_not_stop_the_job(slot, job, monkeypatch):
    def away(*_: Any) -> bool:
        raise UnavailableError("Redis is away")

    monkeypatch.setattr(slot.jobs.ledger.attempts, "report", away)
    assert run_job(job.id, slot) == "finished"


def test_reports_are_throttled(slot, job):
    claim = slot.jobs.ledger.attempts.claim(job.id, slot.holder)
    report = run.Reporter(claim, slot.jobs.ledger, deadline=time.monotonic() + 60, drain=Drain())
    for step in range(100):
        report(Progress(Phase.SAMPLING, step, 100))
    assert slot.jobs.queries.find(job.id).version < 20


def test_the_job_of_a_dead_sibling_process_is_taken_over_and_that_of_a_live_one_is_not(slot, job):
    with subprocess.Popen(["sleep", "60"]) as sibling:
        holder = replace(slot.holder, pid=sibling.pid)
        slot.jobs.ledger.attempts.claim(job.id, holder)
        assert run_job(job.id, slot) == "nothing to do"
        sibling.kill()
    assert run_job(job.id, slot) == "finished"
    assert [attempt.outcome for attempt in slot.jobs.queries.find(job.id).attempts] == ["lost", "finished"]


def test_a_process_id_of_another_instance_is_not_taken_for_a_sibling(slot, job):
    with subprocess.Popen(["true"]) as gone:
        pass
    slot.jobs.ledger.attempts.claim(job.id, replace(slot.holder, instance="another", pid=gone.pid))
    assert run_job(job.id, slot) == "nothing to do"


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_preview_is_served_while_the_job_runs_and_deleted_when_it_has_ended(slot, job):
    versions: list[int] = []

    def render(image, parameters, path, report, *, on_preview, **_):
        with pytest.raises(NoPreviewError):
            slot.jobs.results.read_preview(job.id)
        for content in (b"first", b"second"):
            on_preview(partial(bytes, content))
            # The preview is in the store a moment before the ledger shows it.
            wait_until(partial(is_shown, content))
            wait_until(has_new_version)
            versions.append(slot.jobs.queries.find(job.id).preview.version)
        with pytest.raises(UnknownJobError):
            slot.jobs.results.read_preview(job.id, owner="another")
        return rendering(image, parameters, path, report)

    def is_shown(content: bytes) -> bool:
        try:
            return bool(slot.jobs.results.read_preview(job.id) == content)
        except NoPreviewError:
            return False

    def has_new_version() -> bool:
        preview = slot.jobs.queries.find(job.id).preview
        return preview is not None and preview.version not in versions

    assert run_job(job.id, replace(slot, render=render)) == "finished"
    assert versions[0] < versions[1]
    assert slot.jobs.queries.find(job.id).preview is None
    with pytest.raises(NoPreviewError, match="finished"):
        slot.jobs.results.read_preview(job.id)
    assert left(slot) == ["results"] * 3


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_a_failed_or_cancelled_job_leaves_no_preview(slot, job, outcome):
    def render(image, parameters, path, report, *, on_preview, **_):
        on_preview(lambda: b"a preview")
        wait_until(lambda: slot.jobs.queries.find(job.id).preview is not None)
        if outcome == "failed":
            raise ValueError("no such thing")
        slot.jobs.removal.cancel(job.id)
        return rendering(image, parameters, path, report)

    assert run_job(job.id, replace(slot, render=render)) == outcome
    assert slot.jobs.queries.find(job.id).preview is None
    assert left(slot) == []


def test_a_failing_preview_does_not_affect_the_job(slot, job, monkeypatch):
    tried = []

    def broken() -> bytes:
        tried.append("a preview")
        raise ValueError("no such colour")

    def render(image, parameters, path, report, *, on_preview, **_):
        on_preview(broken)
        wait_until(lambda: bool(tried))
        on_preview(broken)
        return rendering(image, parameters, path, report)

    assert run_job(job.id, replace(slot, render=render)) == "finished"


def test_a_stale_attempt_shows_no_preview(slot, job, redis_client):
    claim = slot.jobs.ledger.attempts.claim(job.id, slot.holder)
    redis_client.zadd("svd:leases", {job.id: 0})
    slot.jobs.maintenance.reap()
    with pytest.raises(StaleAttemptError):
        slot.jobs.ledger.attempts.show_preview(claim, "a preview")
    assert slot.jobs.queries.find(job.id).preview is None


def test_previews_can_be_switched_off(slot, job):
    callbacks = []

    def render(image, parameters, path, report, *, on_preview, **_):
        callbacks.append(on_preview)
        return rendering(image, parameters, path, report)

    settings = Settings.from_mapping({"SVD_PREVIEWS": "false"})
    assert run_job(job.id, replace(slot, render=render, settings=settings)) == "finished"
    assert callbacks == [None]
