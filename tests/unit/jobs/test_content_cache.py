"""A job that was made before is not made again: over a real Redis, and files on the local disk."""

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
from svd_service.jobs.parameters import Request
from svd_service.jobs.submission import Submission
from svd_service.jobs.submit import Order
from svd_service.ledger import open_ledger
from svd_service.ledger.client import connect
from svd_service.ledger.workers import WorkerStatus
from svd_service.parameters import Format
from svd_service.webhooks.outbox import Outbox

pytestmark = pytest.mark.enable_socket

DEVICE, OTHER_DEVICE = "cpu (fast)", "cpu (slow)"
ASKED = Request(seed=7, num_inference_steps=3, formats=(Format.GIF,))


def asked(**changes: Any) -> Request:
    return Request(**{**ASKED.values, **changes})


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


def submit(jobs: UseCases, request: Request = ASKED, colour: str = "red", **more: Any) -> Job:
    picture = io.BytesIO()
    Image.new("RGB", (256, 144), colour).save(picture, "PNG")
    picture.seek(0)
    return jobs.submit(picture, Order(request, **more))


def make_video(jobs: UseCases, job: Job, *, device: str = DEVICE, reusable: bool = True) -> None:
    """Take a worker's part."""
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
    """A job that is finished."""
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


def test_the_same_job_again_is_finished_at_once_with_files_of_its_own(jobs, made):
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
def test_deleting_one_leaves_the_other_and_a_copy_can_be_copied(jobs, made, first):
    pair = [made, submit(jobs)]
    gone, kept = pair[first], pair[1 - first]
    assert jobs.removal.cancel_or_delete(gone.id) is None
    assert files(jobs, gone) == []
    assert read(jobs, kept) == b"video"
    # The one that is deleted was the latest, or the other is.
    third = submit(jobs)
    assert third.state is (State.FINISHED if first == 0 else State.QUEUED)


def test_a_job_without_a_seed_is_made_anew_and_found_by_one_that_says_the_seed(jobs):
    drawn = submit(jobs, asked(seed=None))
    make_video(jobs, drawn)
    assert submit(jobs, asked(seed=None)).state is State.QUEUED
    assert lookups(jobs) == {}
    assert submit(jobs, asked(seed=drawn.parameters.seed)).cached_from == drawn.id


@pytest.mark.parametrize(
    "request_",
    [
        asked(seed=8),
        asked(num_inference_steps=4),
        asked(formats=()),
        asked(formats=(Format.GIF, Format.ZIP)),
        asked(fps=8),
        asked(decode_chunk_size=1),
    ],
    ids=["seed", "steps", "fewer formats", "more formats", "fps", "chunks"],
)
def test_other_settings_are_another_video(jobs, made, request_):
    assert submit(jobs, request_).state is State.QUEUED
    assert lookups(jobs) == {"miss": 2}


def test_another_picture_another_key_or_another_model_is_another_video(jobs, made, make, tmp_path):
    assert submit(jobs, colour="blue").state is State.QUEUED
    assert submit(jobs, owner="ben").state is State.QUEUED
    other = make(SVD_MODEL="someone/another-svd")
    ready(other, DEVICE)
    assert submit(other).state is State.QUEUED


def test_what_another_kind_of_device_made_is_not_copied(jobs, made, redis_client):
    redis_client.delete("svd:workers")
    assert submit(jobs).state is State.QUEUED  # who knows which device will be there
    ready(jobs, OTHER_DEVICE)
    assert submit(jobs).state is State.QUEUED
    ready(jobs, DEVICE)
    assert submit(jobs).cached_from == made.id


def test_unless_it_is_switched_on_nothing_is_looked_for(jobs, made, make):
    off = make(SVD_CONTENT_CACHE=False)
    assert submit(off).state is State.QUEUED
    assert lookups(jobs) == {"miss": 1}


def test_a_result_past_its_time_is_not_copied(jobs, made, redis_client):
    redis_client.hset(f"svd:job:{made.id}", "expires", "1")
    assert submit(jobs).state is State.QUEUED
    with pytest.raises(ExpiredError):
        read(jobs, made)


def test_a_result_that_vanished_from_the_store_is_made_anew(jobs, made):
    jobs.artifacts.delete(file_name(jobs.queries.find(made.id).result.artifact, Format.GIF))
    again = submit(jobs)
    assert again.state is State.QUEUED
    assert files(jobs, again) == [again.input]


def test_one_that_is_deleted_while_its_files_are_copied_is_made_anew(jobs, made, monkeypatch):
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


def test_a_copy_needs_no_room_in_the_queue(jobs, made, make):
    full = make(SVD_MAX_QUEUED=1)
    submit(full, colour="blue")
    assert submit(full).state is State.FINISHED
    with pytest.raises(QueueFullError):
        submit(full, colour="green")


def test_a_video_that_was_made_otherwise_than_asked_is_not_copied(jobs):
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


def test_retention_takes_a_copy_as_any_result(jobs, made, redis_client):
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


def test_the_end_of_a_job_that_was_made_before_is_told_as_any_other(jobs: UseCases, made: Job, redis_url: str) -> None:
    again = submit(jobs, webhook="https://example.com/")
    assert again.cached_from == made.id
    with connect(jobs.settings) as client:
        outbox = Outbox(client, jobs.settings)
        assert outbox.post() == [again.id]
        told = outbox.claim(again.id)
    assert told is not None
    assert isinstance(told.job, Job)
    assert (told.type, told.job.result) == ("job.finished", again.result)
