import pytest

from svd_service.errors import (
    UnknownJobError,
)
from svd_service.jobs.job import AttemptOutcome, Failure
from svd_service.ledger.jobs import Page
from tests.unit.ledger.samples import (
    HOLDER,
    finish,
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_only_an_ended_job_is_deleted_and_leaves_nothing(ledger, redis_client):
    submit(ledger)
    assert ledger.jobs.forget("a") is False
    ledger.jobs.cancel("a")
    assert ledger.jobs.forget("a") is True
    # Usage and history outlive the jobs.
    left = {
        key.removeprefix("svd:") for key in redis_client.keys("*") if not key.startswith(("svd:usage", "svd:history"))
    }
    assert left <= {"states", "counters", "models", "finish_tags:tiny", "clock:tiny", "heard"}


def test_a_queued_job_is_deleted_only_with_insist(ledger):
    submit(ledger)
    assert not ledger.jobs.forget("a")
    assert ledger.jobs.forget("a", insist=True)
    with pytest.raises(UnknownJobError):
        ledger.jobs.find("a")
    figures = ledger.stats.figures()
    assert (figures.ended, figures.jobs["queued"], sum(figures.jobs.values())) == ({"cancelled": 1}, 0, 0)


def test_a_deleted_started_job_is_removed_when_its_attempt_has_ended(ledger, redis_client):
    for outcome in AttemptOutcome:
        submit(ledger, owner="me")
        claim = ledger.attempts.claim("a", HOLDER)
        for _ in range(2):
            assert not ledger.jobs.forget("a", insist=True)
        assert ledger.jobs.find("a").deleted
        assert ledger.jobs.page("me") == Page([], more=False)
        assert ledger.attempts.report(claim), "the worker is to stop"
        if outcome is AttemptOutcome.FINISHED:
            finish(ledger, claim)
        else:
            ledger.attempts.end_attempt(claim, outcome, Failure("x", "y"))
        assert ledger.maintenance.expire() == ["a"], outcome
        with pytest.raises(UnknownJobError):
            ledger.jobs.find("a")
    assert sum(ledger.stats.figures().jobs.values()) == 0
    assert redis_client.keys("svd:job:*") == redis_client.keys("svd:owner:*") == []
