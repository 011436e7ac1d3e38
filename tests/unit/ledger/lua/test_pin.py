import math

import pytest

from svd_service.errors import PinLimitError, UnknownJobError
from svd_service.jobs.job import State
from svd_service.ledger.jobs import UNPIN_GRACE
from tests.unit.ledger.samples import HOLDER, finish, submit

pytestmark = pytest.mark.enable_socket


def finished(ledger, job_id="a", **more):
    submit(ledger, job_id, **more)
    finish(ledger, ledger.attempts.claim(job_id, HOLDER))


def test_a_pinned_job_has_no_end_and_an_unpinned_one_its_own_or_a_grace_period(ledger, redis_client):
    finished(ledger)
    end = ledger.jobs.find("a").expires_at
    for _ in range(2):  # repeated: no change
        assert ledger.jobs.pin("a", on=True)
    job = ledger.jobs.find("a")
    assert (job.pinned, job.expires_at) == (True, None)
    assert redis_client.zscore("svd:ended", "a") == math.inf
    for _ in range(2):
        assert ledger.jobs.pin("a", on=False)
    assert (ledger.jobs.find("a").pinned, ledger.jobs.find("a").expires_at) == (False, end)

    ledger.jobs.pin("a", on=True)
    redis_client.hset("svd:job:a", "expires", "1")
    ledger.jobs.pin("a", on=False)
    job = ledger.jobs.find("a")
    assert job.expires_at == pytest.approx(job.observed_at + UNPIN_GRACE, abs=30)


def test_each_owner_has_a_limit_and_a_deleted_job_no_longer_counts(ledger, redis_client, make_settings):
    limit = make_settings().max_pinned_per_key
    redis_client.zadd("svd:pinned:me", {f"other-{number}": 1 for number in range(limit - 1)})
    for job_id in ("a", "b"):
        finished(ledger, job_id, owner="me")
    finished(ledger, "c", owner="you")
    assert ledger.jobs.pin("a", on=True)
    with pytest.raises(PinLimitError, match=str(limit)):
        ledger.jobs.pin("b", on=True)
    assert ledger.jobs.pin("c", on=True)
    ledger.jobs.forget("a")
    assert ledger.jobs.pin("b", on=True)


def test_only_a_result_that_exists_can_be_pinned(ledger, redis_client):
    with pytest.raises(UnknownJobError):
        ledger.jobs.pin("a", on=True)
    submit(ledger)
    assert not ledger.jobs.pin("a", on=True)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    redis_client.hset("svd:job:a", "expires", "1")
    assert not ledger.jobs.pin("a", on=True)


def test_retention_restores_the_place_of_a_pinned_job(ledger, redis_client):
    finished(ledger)
    ledger.jobs.pin("a", on=True)
    redis_client.zadd("svd:ended", {"a": 1})
    ledger.maintenance.expire()
    assert ledger.jobs.find("a").state is State.FINISHED
    assert redis_client.zscore("svd:ended", "a") == math.inf
