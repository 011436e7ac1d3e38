"""A repeated job gets a copy of the earlier video: over a real Redis, with files on the local disk."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from svd_service.artifacts.local import LocalArtifacts
from svd_service.bootstrap import UseCases, use_cases
from svd_service.config import Settings
from svd_service.errors import ExpiredError, IdempotencyConflictError, QueueFullError, UnknownJobError
from svd_service.jobs.job import File, Holder, Job, Result, ResultFile, State, Still
from svd_service.jobs.job_files import file_name, result_name
from svd_service.jobs.parameters import VideoRequest
from svd_service.jobs.submission import Submission
from svd_service.jobs.submit import Order
from svd_service.ledger import open_ledger
from svd_service.ledger.connection import connect
from svd_service.ledger.workers import WorkerStatus
from svd_service.parameters import Format
from svd_service.webhooks.outbox import Outbox

pytestmark = pytest.mark.enable_socket

DEVICE, OTHER_DEVICE = "cpu (fast)", "cpu (slow)"
REQUEST = VideoRequest(seed=7, num_inference_steps=3, formats=(Format.GIF,))


def request_with(**changes: Any) -> VideoRequest:
    return VideoRequest(**{**REQUEST.values, **changes})


@pytest.fixture
def make(redis_url: str, make_settings: Callable[..., Settings]) -> Callable[..., UseCases]:
    def service(**variables: object) -> UseCases:
        settings = make_settings(**{"REDIS_URL": redis_url, "SVD_CONTENT_CACHE": True, **variables})
        ledger = open_ledger(connect(settings), settings)
        return use_cases(ledger, LocalArtifacts(settings.data_dir), settings, lambda *_: None)

    return service


@pytest.fixture
def jobs(make: Callable[..., UseCases]) -> UseCases:
    service = make()
    ready(service, DEVICE)
    return service


def ready(jobs: UseCases, device: str) -> None:
    jobs.ledger.workers.heartbeat(
        WorkerStatus(f"host/{device}", device, "instance", 1, jobs.model.name, True, 0.0, 1.0)
    )


def submit(jobs: UseCases, request: VideoRequest = REQUEST, colour: str = "red", **more: Any) -> Job:
    image = io.BytesIO()
    Image.new("RGB", (256, 144), colour).save(image, "PNG")
    image.seek(0)
    return jobs.submit(image, Order(request, **more))


def make_video(jobs: UseCases, job: Job, *, device: str = DEVICE, reusable: bool = True) -> None:
    """Finish a job as a worker does."""
    claim = jobs.ledger.attempts.claim(job.id, Holder(f"host/{device}", device, "instance", 1))
    assert claim is not None
    name = result_name(job.id, claim.token)
    further = {kind: File(3, "cd" * 32) for kind in job.parameters.formats}
    result = Result(name, 5, "ab" * 32, 256, 144, 8, {"device": device, "seed": job.parameters.seed}, further)
    for kind in result.kinds:
        jobs.artifacts.put(file_name(name, kind), b"video" if kind is Format.MP4 else kind.encode())
    jobs.ledger.attempts.finish(claim, result, device=device, seconds={}, steps=3, reusable=reusable)
    jobs.artifacts.delete(job.input)


@pytest.fixture
def made(jobs: UseCases) -> Job:
    """A finished job."""
    job = submit(jobs)
    make_video(jobs, job)
    return job


def read(jobs: UseCases, job: Job, kind: ResultFile = Format.MP4, **more: Any) -> bytes:
    opened = jobs.results.open(job.id, kind=kind, **more)
    with opened.file:
        return opened.file.read()


def files(jobs: UseCases, job: Job) -> list[str]:
    return [name for name, _ in jobs.artifacts.names() if job.id in name]


def lookups(jobs: UseCases) -> dict[str, int]:
    return jobs.ledger.stats.figures().cache


def test_a_repeated_job_is_finished_at_once_with_its_own_files(jobs, made):
    again = submit(jobs)
    assert (again.state, again.cached_from, again.attempts) == (State.FINISHED, made.id, ())
    assert again.id != made.id
    for kind, content in ((Format.MP4, b"video"), (Format.GIF, b"gif"), (Still.THUMBNAIL, b"thumbnail")):
        assert read(jobs, again, kind) == content
    assert len(files(jobs, again)) == len(files(jobs, made)) == 4
    assert again.result is not None
    assert again.result.provenance == {"device": DEVICE, "seed": 7}
    assert (again.expires_at or 0) > again.created_at
    figures = jobs.ledger.stats.figures()
    assert (figures.cache, figures.jobs["finished"], figures.jobs["queued"]) == ({"miss": 1, "hit": 1}, 2, 0)
    assert figures.ended == {"finished": 2}


@pytest.mark.parametrize("first", [0, 1], ids=["the original", "the copy"])
def test_deleting_one_job_keeps_the_other_and_a_copy_can_be_copied(jobs, made, first):
    pair = [made, submit(jobs)]
    gone, kept = pair[first], pair[1 - first]
    assert jobs.removal.cancel_or_delete(gone.id) is None
    assert files(jobs, gone) == []
    assert read(jobs, kept) == b"video"
    # The deleted job was the latest, or the other one is.
    third = submit(jobs)
    assert third.state is (State.FINISHED if first == 0 else State.QUEUED)


def test_a_job_without_a_seed_is_generated_anew_and_found_by_one_with_its_seed(jobs):
    drawn = submit(jobs, request_with(seed=None))
    make_video(jobs, drawn)
    assert submit(jobs, request_with(seed=None)).state is State.QUEUED
    assert lookups(jobs) == {}
    assert submit(jobs, request_with(seed=drawn.parameters.seed)).cached_from == drawn.id


@pytest.mark.parametrize(
    "request_",
    [
        request_with(seed=8),
        request_with(num_inference_steps=4),
        request_with(formats=()),
        request_with(formats=(Format.GIF, Format.ZIP)),
        request_with(fps=8),
        request_with(decode_chunk_size=1),
    ],
    ids=["seed", "steps", "fewer formats", "more formats", "fps", "chunks"],
)
def test_other_settings_are_another_video(jobs, made, request_):
    assert submit(jobs, request_).state is State.QUEUED
    assert lookups(jobs) == {"miss": 2}


def test_another_image_key_or_model_is_another_video(jobs, made, make, tmp_path):
    assert submit(jobs, colour="blue").state is State.QUEUED
    assert submit(jobs, owner="ben").state is State.QUEUED
    other = make(SVD_MODEL="someone/another-svd")
    ready(other, DEVICE)
    assert submit(other).state is State.QUEUED


def test_a_video_of_another_kind_of_device_is_not_copied(jobs, made, redis_client):
    redis_client.delete("svd:workers")
    assert submit(jobs).state is State.QUEUED  # without workers, the next device is unknown
    ready(jobs, OTHER_DEVICE)
    assert submit(jobs).state is State.QUEUED
    ready(jobs, DEVICE)
    assert submit(jobs).cached_from == made.id


def test_without_the_setting_no_lookup_is_made(jobs, made, make):
    off = make(SVD_CONTENT_CACHE=False)
    assert submit(off).state is State.QUEUED
    assert lookups(jobs) == {"miss": 1}


def test_an_expired_result_is_not_copied(jobs, made, redis_client):
    redis_client.hset(f"svd:job:{made.id}", "expires", "1")
    assert submit(jobs).state is State.QUEUED
    with pytest.raises(ExpiredError):
        read(jobs, made)


def test_a_result_missing_from_the_store_is_generated_anew(jobs, made):
    jobs.artifacts.delete(file_name(jobs.queries.find(made.id).result.artifact, Format.GIF))
    again = submit(jobs)
    assert again.state is State.QUEUED
    assert files(jobs, again) == [again.input]


def test_a_job_deleted_while_its_files_are_copied_is_generated_anew(jobs, made, monkeypatch):
    accept = jobs.ledger.jobs.submit

    def too_late(submission: Submission) -> str:
        assert submission.cached is not None
        jobs.ledger.jobs.forget(made.id)
        return str(accept(submission))

    monkeypatch.setattr(jobs.ledger.jobs, "submit", too_late)
    again = submit(jobs)
    assert (again.state, again.position) == (State.QUEUED, 1)
    assert files(jobs, again) == [again.input]
    assert lookups(jobs) == {"miss": 2}


def test_a_copy_is_accepted_with_a_full_queue(jobs, made, make):
    full = make(SVD_MAX_QUEUED=1)
    submit(full, colour="blue")
    assert submit(full).state is State.FINISHED
    with pytest.raises(QueueFullError):
        submit(full, colour="green")


def test_a_video_made_with_other_values_than_requested_is_not_copied(jobs):
    make_video(jobs, submit(jobs), reusable=False)
    assert submit(jobs).state is State.QUEUED


def test_with_an_idempotency_key_the_same_request_is_the_same_copy(jobs, made, tmp_path):
    first = submit(jobs, idempotency_key="k")
    assert first.cached_from == made.id
    assert submit(jobs, idempotency_key="k").id == first.id
    with pytest.raises(IdempotencyConflictError):
        submit(jobs, colour="blue", idempotency_key="k")
    kept = {name.split("/")[1] for name, _ in jobs.artifacts.names()}
    assert kept == {made.id, first.id}


def test_the_script_that_accepts_a_copy_may_be_repeated(jobs, made, monkeypatch):
    accept = jobs.ledger.jobs.submit

    def twice(submission: Submission) -> str:
        assert accept(submission) == accept(submission)
        return submission.job_id

    monkeypatch.setattr(jobs.ledger.jobs, "submit", twice)
    assert read(jobs, submit(jobs)) == b"video"
    assert lookups(jobs) == {"miss": 1, "hit": 1}


def test_retention_deletes_a_copy_like_any_result(jobs, made, redis_client):
    again = submit(jobs)
    redis_client.zadd("svd:ended", {again.id: 1})
    assert jobs.maintenance.expire() == 1
    assert files(jobs, again) == []
    assert jobs.queries.find(again.id).state is State.EXPIRED
    redis_client.zadd("svd:ended", {again.id: 1})
    jobs.maintenance.expire()
    with pytest.raises(UnknownJobError):
        jobs.queries.find(again.id)
    assert read(jobs, made) == b"video"


def test_the_end_of_a_copied_job_is_delivered_to_its_webhook_like_any_other(
    jobs: UseCases, made: Job, redis_url: str
) -> None:
    again = submit(jobs, webhook="https://example.com/")
    assert again.cached_from == made.id
    with connect(jobs.settings) as client:
        outbox = Outbox(client, jobs.settings)
        assert outbox.choose_due() == [again.id]
        delivery = outbox.claim(again.id)
    assert delivery is not None
    assert isinstance(delivery.job, Job)
    assert (delivery.type, delivery.job.result) == ("job.finished", again.result)
