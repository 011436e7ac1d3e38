import pytest

from svd_service.jobs.job import AttemptOutcome, Failure, Phase, Progress
from svd_service.ledger.attempts import StopReason
from svd_service.ledger.maintenance import Reaped
from tests.unit.ledger.samples import HOLDER, pass_time, submit

pytestmark = pytest.mark.enable_socket


def test_progress_is_stored_and_a_new_attempt_begins_without_it(ledger, clock):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    assert ledger.attempts.report(claim, Progress(Phase.SAMPLING, 2, 4)) is None
    assert ledger.jobs.find("a").progress == Progress(Phase.SAMPLING, 2, 4)
    pass_time(ledger, clock, 11)
    ledger.maintenance.reap()
    assert ledger.jobs.find("a").progress is None


def test_a_renewed_lease_does_not_expire(ledger, clock):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    pass_time(ledger, clock, 9)
    ledger.attempts.report(claim)
    pass_time(ledger, clock, 9)
    assert ledger.maintenance.reap() == Reaped([], {})


def test_the_worker_of_a_job_past_its_deadline_must_stop(ledger, clock):
    submit(ledger, "a", cancel_after=60)
    claim = ledger.attempts.claim("a", HOLDER)
    assert ledger.attempts.report(claim) is None
    clock.advance(60)
    assert ledger.attempts.report(claim) is StopReason.DEADLINE
    ledger.attempts.end_attempt(claim, AttemptOutcome.RETRIED, Failure("unavailable", "Why."))
    assert ledger.jobs.find("a").failure.code == "deadline_exceeded"
