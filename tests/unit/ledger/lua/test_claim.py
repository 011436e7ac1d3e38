import pytest

from svd_service.jobs.job import State
from svd_service.ledger.attempts import HeldClaim
from tests.unit.ledger.samples import (
    HOLDER,
    OTHER,
    holder,
    join,
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_a_claim_is_granted_once(ledger):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    assert claim is not None
    assert claim.attempt == 1
    assert ledger.attempts.claim("a", OTHER) is None
    job = ledger.jobs.find("a")
    assert job.state is State.STARTED
    assert (job.attempts[0].worker, job.attempts[0].outcome) == ("host/0", None)
    assert ledger.attempts.current("a") == HeldClaim(claim, HOLDER)


def test_a_claim_whose_holder_is_dead_is_replaced_at_once(ledger):
    submit(ledger)
    first = ledger.attempts.claim("a", HOLDER)
    second = ledger.attempts.claim("a", OTHER, dead=first.token)
    assert second.attempt == 2
    assert ledger.attempts.claim("a", HOLDER, dead=first.token) is None


def test_a_worker_cannot_claim_a_job_of_another_model_or_profile(ledger):
    join(ledger, "w/0")
    join(ledger, "drafts/0", "draft")
    join(ledger, "other/0", model="other")
    submit(ledger, "a")
    assert ledger.attempts.claim("a", holder("drafts/0")) is None
    assert ledger.attempts.claim("a", holder("other/0")) is None
    assert ledger.attempts.claim("a", holder("w/0")) is not None


def test_a_job_past_its_deadline_is_not_claimed(ledger, clock):
    submit(ledger, "a", cancel_after=60)
    clock.advance(60)
    assert ledger.attempts.claim("a", HOLDER) is None
    assert ledger.jobs.find("a").state is State.FAILED
