import pytest

from tests.unit.ledger.samples import (
    ready,
)

pytestmark = pytest.mark.enable_socket


def test_a_worker_is_ready_until_its_heartbeat_times_out_or_it_leaves(ledger, clock):
    ready(ledger, "w/0", "w/1")
    assert [worker.worker for worker in ledger.workers.ready()] == ["w/0", "w/1"]
    ledger.workers.leave("w/1")
    assert [worker.worker for worker in ledger.workers.ready()] == ["w/0"]
    clock.advance(8)
    assert ledger.workers.ready() == []
