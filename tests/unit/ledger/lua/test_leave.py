import pytest

from tests.unit.ledger.samples import ready, submit

pytestmark = pytest.mark.enable_socket


def test_a_worker_that_leaves_gets_no_more_jobs(ledger):
    ready(ledger, "w/0", "w/1")
    for job_id in "abc":
        submit(ledger, job_id)
    ledger.workers.leave("w/1")
    assert [worker.worker for worker in ledger.workers.ready()] == ["w/0"]
    assert len(ledger.maintenance.dispatch()) == 1


def test_a_worker_that_leaves_twice_is_in_no_set(ledger, redis_client):
    ready(ledger, "w/0")
    ledger.workers.leave("w/0")
    ledger.workers.leave("w/0")
    assert ledger.workers.ready() == []
    assert redis_client.keys("svd:workers*") == redis_client.keys("svd:queues") == []
