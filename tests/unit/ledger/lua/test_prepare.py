import pytest

from svd_service.ledger.workers import WORKER_TIMEOUT, Preparing
from tests.unit.ledger.samples import ready

pytestmark = pytest.mark.enable_socket


def test_a_preparing_worker_is_listed_until_it_is_ready(ledger, clock):
    preparing = Preparing("w/0", "loading", clock.now)
    ledger.workers.prepare(preparing)
    assert (ledger.workers.preparing(), ledger.workers.ready()) == ([preparing], [])
    ready(ledger, "w/0")
    assert ledger.workers.preparing() == []
    assert [worker.worker for worker in ledger.workers.ready()] == ["w/0"]


def test_a_preparing_worker_without_heartbeats_is_not_listed(ledger, clock):
    ledger.workers.prepare(Preparing("w/0", "loading", clock.now))
    clock.advance(WORKER_TIMEOUT + 1)
    assert ledger.workers.preparing() == []
