from typing import Any

import pytest

from svd_service.errors import (
    IdempotencyConflictError,
    QueueFullError,
    UnknownJobError,
)
from svd_service.jobs.job import AttemptOutcome, State
from svd_service.ledger import Ledger
from svd_service.ledger.queue_limit import UNKNOWN_RETRY_AFTER
from svd_service.ledger.record import NOTE_LENGTH
from svd_service.parameters import Profile
from tests.unit.ledger.samples import HOLDER, MODEL, PARAMETERS, RESULT, pass_time, ready, submit

pytestmark = pytest.mark.enable_socket


def test_a_submitted_job_is_found_as_it_was_submitted(ledger, clock):
    submit(ledger, owner="key-1")
    job = ledger.jobs.find("a")
    assert job.state is State.QUEUED
    assert job.parameters == PARAMETERS
    assert job.model == MODEL
    assert job.owner == "key-1"
    assert job.input == "inputs/a.png"
    assert job.created_at == clock.now
    assert job.position == 1
    assert (job.started_at, job.ended_at, job.attempts, job.result, job.failure) == (None, None, (), None, None)


def test_an_idempotency_key_makes_one_job(ledger):
    assert submit(ledger, "a", idempotency_key="k", fingerprint="f") == "a"
    assert submit(ledger, "b", idempotency_key="k", fingerprint="f") == "a"
    assert submit(ledger, "c", idempotency_key="k", fingerprint="f", owner="other") == "c"
    with pytest.raises(IdempotencyConflictError):
        submit(ledger, "d", idempotency_key="k", fingerprint="g")
    with pytest.raises(UnknownJobError):
        ledger.jobs.find("b")


def test_an_idempotency_key_is_free_again_when_its_job_is_deleted(ledger):
    submit(ledger, "a", idempotency_key="k", fingerprint="f")
    ledger.jobs.cancel("a")
    ledger.jobs.forget("a")
    assert submit(ledger, "b", idempotency_key="k", fingerprint="g") == "b"


def test_the_idempotency_key_of_a_deleted_started_job_is_free_again(ledger):
    submit(ledger, idempotency_key="k", fingerprint="f")
    ledger.attempts.claim("a", HOLDER)
    ledger.jobs.forget("a", insist=True)
    assert submit(ledger, "b", idempotency_key="k", fingerprint="g") == "b"


def test_notes_are_stored_with_the_job(ledger):
    submit(ledger, notes={"prompt": "a cat, \ud83d"})
    assert ledger.jobs.find("a").notes == {"prompt": "a cat, \ud83d"}
    assert submit(ledger, "b") == "b"
    assert ledger.jobs.find("b").notes == {}


def test_long_notes_are_cut(ledger):
    submit(ledger, notes={"prompt": "x" * 32_000, "model": "sora"})
    assert ledger.jobs.find("a").notes == {"prompt": "x" * (NOTE_LENGTH - 1) + "…", "model": "sora"}


def full(ledger: Ledger, job_id: str, **more: Any) -> QueueFullError:
    with pytest.raises(QueueFullError) as raised:
        submit(ledger, job_id, **more)
    with pytest.raises(QueueFullError):
        ledger.queue_limit.require_room(more.get("owner", ""), "tiny", Profile.EXACT)
    with pytest.raises(UnknownJobError):
        ledger.jobs.find(job_id)
    return raised.value


def test_the_queue_has_a_limit_in_total_and_one_for_each_key(ledger_of, make_settings):
    ledger = ledger_of(make_settings(SVD_MAX_QUEUED=3, SVD_MAX_QUEUED_PER_KEY=2))
    submit(ledger, "a", owner="one")
    submit(ledger, "b", owner="one")
    assert full(ledger, "c", owner="one").code == "queue_full"
    submit(ledger, "d", owner="two")
    full(ledger, "e", owner="three")
    assert submit(ledger, "a", owner="one") == "a"
    assert ledger.attempts.claim("a", HOLDER)
    ledger.queue_limit.require_room("one", "tiny", Profile.EXACT)
    submit(ledger, "e", owner="one")


def test_without_keys_only_the_total_limit_counts(ledger_of, make_settings):
    ledger = ledger_of(make_settings(SVD_MAX_QUEUED=3, SVD_MAX_QUEUED_PER_KEY=1))
    for job_id in "abc":
        submit(ledger, job_id)
    full(ledger, "d")


def test_a_job_that_leaves_the_queue_makes_room(redis_client, ledger, clock):
    for job_id in "abcd":
        submit(ledger, job_id, owner="one")
    ledger.jobs.cancel("a")
    claim = ledger.attempts.claim("b", HOLDER)
    assert claim
    ledger.attempts.end_attempt(claim, AttemptOutcome.RELEASED)
    assert redis_client.hgetall("svd:queued_of") == {"one": "3"}
    assert ledger.attempts.claim("b", HOLDER)
    pass_time(ledger, clock, 60)
    ledger.maintenance.reap()
    assert redis_client.hgetall("svd:queued_of") == {"one": "3"}
    for job_id in "bcd":
        ledger.jobs.cancel(job_id)
    assert redis_client.hgetall("svd:queued_of") == {}


def test_a_full_queue_estimates_when_a_place_is_free(ledger_of, make_settings):
    ledger = ledger_of(make_settings(SVD_MAX_QUEUED=2, SVD_MAX_QUEUED_PER_KEY=1))
    submit(ledger, "first")
    assert full(ledger_of(make_settings(SVD_MAX_QUEUED=1)), "x").retry_after == UNKNOWN_RETRY_AFTER
    claim = ledger.attempts.claim("first", HOLDER)
    assert claim
    ledger.attempts.finish(claim, RESULT, device="cpu", seconds={"sampling": 50.0, "decoding": 10.0}, steps=4)
    ready(ledger, "host/0")
    submit(ledger, "second")
    assert ledger.attempts.claim("second", HOLDER)
    for owner in ("one", "two"):
        submit(ledger, owner, owner=owner)
    # The running job takes a minute; then one of these runs, and then the other.
    assert full(ledger, "x", owner="three").retry_after == pytest.approx(60, abs=3)
    roomy = ledger_of(make_settings(SVD_MAX_QUEUED=9, SVD_MAX_QUEUED_PER_KEY=1))
    assert full(roomy, "x", owner="one").retry_after == pytest.approx(120, abs=3)


def test_a_queued_job_takes_at_most_two_kilobytes(ledger_of, make_settings, redis_client):
    ledger = ledger_of(make_settings(SVD_MAX_QUEUED=2_000))
    for number in range(200):
        submit(ledger, f"00000000-0000-0000-0000-{number:012}")
    before = redis_client.info("memory")["used_memory"]
    for number in range(200, 1200):
        submit(ledger, f"00000000-0000-0000-0000-{number:012}")
    assert (redis_client.info("memory")["used_memory"] - before) / 1000 <= 2048
