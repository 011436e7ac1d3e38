"""Redis' clock jumps: it was ahead, and is corrected."""

import pytest

from tests.unit.ledger.samples import HOLDER, cancelled, ready, submit


@pytest.mark.parametrize("jump", [60, 3_600, 365 * 86_400])
def test_what_happened_while_the_clock_was_ahead_does_not_wait_until_time_has_caught_up(
    ledger, outbox, clock, redis_client, jump
):
    clock.advance(jump)
    ready(ledger, "host/0", "host/1")
    submit(ledger, "running")
    ledger.maintenance.dispatch()
    assert ledger.attempts.claim("running", HOLDER)  # its worker dies
    submit(ledger, "enqueued")
    assert list(ledger.maintenance.dispatch()) == ["enqueued"]  # the message is lost
    cancelled(ledger, "hook")
    assert outbox.choose_due() == ["hook"]  # so is this one

    clock.advance(-jump)
    overdue, due = set(), set()
    for _ in range(60):
        clock.advance(2)
        ready(ledger, "host/1")
        overdue |= set(ledger.maintenance.reap().overdue)
        ledger.maintenance.dispatch()
        due |= set(outbox.choose_due())
    assert ledger.jobs.find("running").state == "queued"
    assert "enqueued" in overdue
    assert due == {"hook"}
    assert [worker.worker for worker in ledger.workers.ready()] == ["host/1"]
