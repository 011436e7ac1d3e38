import pytest

from svd_service.jobs.job import AttemptOutcome, State
from svd_service.ledger.attempts import StopReason
from tests.unit.ledger.samples import (
    HOLDER,
    RESULT,
    finish,
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_a_queued_job_is_cancelled_at_once(ledger):
    submit(ledger)
    assert ledger.jobs.cancel("a") is State.CANCELLED
    assert ledger.jobs.find("a").position is None
    assert list(ledger.maintenance.dispatch()) == []
    assert ledger.attempts.claim("a", HOLDER) is None
    assert ledger.jobs.cancel("a") is State.CANCELLED


def test_cancelled_jobs_that_never_ran_take_nothing_of_their_owners_share(ledger):
    submit(ledger, "first", owner="other")
    for number in range(4):
        submit(ledger, f"cancelled{number}", owner="one")
    for number in range(4):
        submit(ledger, f"other{number}", owner="other")
        ledger.jobs.cancel(f"cancelled{number}")
    submit(ledger, "last", owner="one")
    order = sorted(["first", "last", *(f"other{n}" for n in range(4))], key=lambda one: ledger.jobs.find(one).position)
    assert order[:2] == ["first", "last"]


def test_a_started_job_is_cancelled_by_its_worker(ledger):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    assert ledger.jobs.cancel("a") is State.STARTED
    assert ledger.jobs.find("a").cancel_requested
    assert ledger.attempts.report(claim) is StopReason.CANCEL
    ledger.attempts.end_attempt(claim, AttemptOutcome.CANCELLED)
    assert ledger.jobs.find("a").state is State.CANCELLED


def test_a_cancel_after_the_end_changes_nothing(ledger):
    submit(ledger)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    assert ledger.jobs.cancel("a") is State.FINISHED
    assert ledger.jobs.find("a").result == RESULT
