import pytest

from svd_service.errors import (
    StaleAttemptError,
)
from svd_service.jobs.job import AttemptOutcome, Failure, Holder, State
from svd_service.ledger.attempts import HeldClaim
from tests.unit.ledger.samples import (
    HOLDER,
    finish,
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_the_claims_of_a_worker_are_listed_and_can_be_ended_as_lost(ledger):
    for job_id in "abc":
        submit(ledger, job_id)
    mine, others = ledger.attempts.claim("a", HOLDER), ledger.attempts.claim("b", Holder("host/2", "cpu", "another", 1))
    assert ledger.attempts.held_by("instance") == [HeldClaim(mine, HOLDER)]
    ledger.attempts.end_attempt(mine, AttemptOutcome.LOST)
    assert ledger.attempts.held_by("instance") == []
    assert ledger.jobs.find("a").attempts[0].outcome == "lost"
    assert ledger.jobs.find("a").position == 1
    with pytest.raises(StaleAttemptError):
        ledger.attempts.report(mine)
    ledger.attempts.report(others)


def test_a_released_attempt_does_not_count_and_its_job_is_next(ledger):
    for job_id in "abc":
        submit(ledger, job_id)
    for _ in range(5):
        claim = ledger.attempts.claim("a", HOLDER)
        ledger.attempts.end_attempt(claim, AttemptOutcome.RELEASED)
        assert ledger.jobs.find("a").position == 1
    assert [attempt.outcome for attempt in ledger.jobs.find("a").attempts] == ["released"] * 5


def test_a_retried_attempt_counts(ledger):
    submit(ledger)
    for _ in range(3):
        ledger.attempts.end_attempt(
            ledger.attempts.claim("a", HOLDER), AttemptOutcome.RETRIED, Failure("unavailable", "the store was away")
        )
    job = ledger.jobs.find("a")
    assert (job.state, job.failure) == (State.FAILED, Failure("unavailable", "the store was away"))


def test_records_of_an_owners_failed_and_cancelled_jobs_are_bounded(ledger_of, settings, redis_client, clock):
    ledger = ledger_of(settings, max_ended_per_owner=3)
    submit(ledger, "kept", owner="one")
    kept = ledger.attempts.claim("kept", HOLDER)
    assert kept
    finish(ledger, kept)
    submit(ledger, "other", owner="two")
    ledger.jobs.cancel("other")
    for number in range(6):
        clock.advance(1)
        submit(ledger, f"cancelled-{number}", owner="one")
        ledger.jobs.cancel(f"cancelled-{number}")
    assert [job.id for job in ledger.jobs.page("one").jobs] == ["cancelled-5", "cancelled-4", "cancelled-3", "kept"]
    assert sorted(ledger.maintenance.expire()) == ["cancelled-0", "cancelled-1", "cancelled-2"]
    assert ledger.jobs.find("other").state is State.CANCELLED
    assert redis_client.zcard("svd:ended_of:one") == 3
