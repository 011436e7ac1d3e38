import pytest

from svd_service.ledger.workers import WORKER_TIMEOUT
from tests.unit.ledger.samples import ready

pytestmark = pytest.mark.enable_socket


def test_ready_workers_are_listed_by_name_with_their_last_heartbeat(ledger, clock):
    ready(ledger, "w/1")
    clock.advance(2)
    ready(ledger, "w/0")
    assert [(worker.worker, worker.seen_at) for worker in ledger.workers.ready()] == [
        ("w/0", clock.now),
        ("w/1", clock.now - 2),
    ]


def test_a_worker_whose_heartbeat_timed_out_is_not_listed(ledger, clock):
    ready(ledger, "w/0")
    clock.advance(WORKER_TIMEOUT)
    assert len(ledger.workers.ready()) == 1
    clock.advance(1)
    assert ledger.workers.ready() == []


def test_a_damaged_status_is_left_out(ledger, redis_client):
    ready(ledger, "w/0", "w/1")
    redis_client.hset("svd:worker_status", "w/0", "{")
    assert [worker.worker for worker in ledger.workers.ready()] == ["w/1"]
