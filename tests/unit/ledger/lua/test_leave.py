import pytest

from tests.unit.ledger.samples import holder, join, ready, submit

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


def worker_fields(redis_client, worker):
    hashes = ("worker_status", "worker_device", "worker_queue")
    return [name for name in hashes if redis_client.hget(f"svd:{name}", worker) is not None]


def test_a_worker_that_left_is_forgotten_and_its_queue_an_hour_later(ledger, redis_client, clock):
    ready(ledger, "w/0")
    assert worker_fields(redis_client, "w/0") == ["worker_status", "worker_device", "worker_queue"]
    ledger.workers.leave("w/0")
    ledger.maintenance.reap()
    assert worker_fields(redis_client, "w/0") == ["worker_queue"]
    clock.advance(3_601)
    ledger.maintenance.reap()
    assert worker_fields(redis_client, "w/0") == redis_client.zrange("svd:left", 0, -1) == []


def test_until_then_it_claims_no_job_of_other_profiles(ledger):
    join(ledger, "w/0", "draft")
    ledger.workers.leave("w/0")
    submit(ledger)
    assert ledger.attempts.claim("a", holder("w/0")) is None


def test_the_queue_of_a_worker_that_came_back_is_kept(ledger, redis_client, clock):
    ready(ledger, "w/0")
    ledger.workers.leave("w/0")
    clock.advance(3_601)
    ready(ledger, "w/0")
    ledger.maintenance.reap()
    assert worker_fields(redis_client, "w/0") == ["worker_status", "worker_device", "worker_queue"]
    assert redis_client.zrange("svd:left", 0, -1) == []


def test_a_name_that_never_joined_leaves_nothing(ledger, redis_client):
    ledger.workers.leave("w/0")
    assert redis_client.keys("*") == []
