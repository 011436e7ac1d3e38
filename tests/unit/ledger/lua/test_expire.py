import math

import pytest

from svd_service.errors import (
    UnknownJobError,
)
from svd_service.jobs.job import State
from tests.unit.ledger.samples import (
    HOLDER,
    finish,
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_a_result_expires_and_its_record_is_deleted_later(ledger, clock):
    submit(ledger)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    assert ledger.maintenance.expire() == []
    clock.advance(86_401)
    assert ledger.maintenance.expire() == ["a"]
    job = ledger.jobs.find("a")
    assert (job.state, job.result) == (State.EXPIRED, None)
    assert ledger.maintenance.expire() == []
    clock.advance(604_801)
    assert ledger.maintenance.expire() == ["a"]
    with pytest.raises(UnknownJobError):
        ledger.jobs.find("a")


def test_the_artifacts_of_a_job_that_retention_only_puts_in_its_place_are_kept(ledger, redis_client):
    for job_id in ("queued", "started", "pinned", "lost"):
        submit(ledger, job_id)
    ledger.attempts.claim("started", HOLDER)
    finish(ledger, ledger.attempts.claim("pinned", HOLDER))
    ledger.jobs.pin("pinned", on=True)
    redis_client.delete("svd:job:lost")
    redis_client.zadd("svd:ended", dict.fromkeys(("queued", "started", "pinned", "lost"), 1))
    assert ledger.maintenance.expire() == ["lost"]
    assert redis_client.zrange("svd:ended", 0, -1, withscores=True) == [("pinned", math.inf)]
