import pytest

from svd_service.jobs.job import AttemptOutcome, Failure
from tests.unit.ledger.samples import HOLDER, cancelled, submit

pytestmark = pytest.mark.enable_socket


def test_the_figures_count_jobs_and_events(ledger, clock):
    for job_id in "abc":
        submit(ledger, job_id)
    ledger.attempts.end_attempt(
        ledger.attempts.claim("a", HOLDER), AttemptOutcome.FAILED, Failure("time_limit", "too long")
    )
    ledger.jobs.cancel("b")
    ledger.stats.count_rejected("not_an_image")
    figures = ledger.stats.figures()
    there = {state: number for state, number in figures.jobs.items() if number}
    assert there == {"queued": 1, "failed": 1, "cancelled": 1}
    assert figures.created == 3
    assert figures.rejected == {"not_an_image": 1}
    assert figures.failed == {"time_limit": 1}
    assert figures.attempts == {"started": 1, "failed": 1}
    queues = figures.queues
    assert {route: queue.length for route, queue in queues.items()} == {("tiny", "exact"): 1, ("tiny", "draft"): 0}
    assert 0 <= queues["tiny", "exact"].oldest < 5
    assert queues["tiny", "draft"].oldest == 0


def test_the_figures_count_pending_and_ended_deliveries(ledger, outbox, clock):
    for job_id in "abc":
        cancelled(ledger, job_id)
    assert ledger.stats.figures().webhooks_pending == 3
    assert ledger.stats.figures().webhook_overdue < 60
    clock.advance(100)
    assert ledger.stats.figures().webhook_overdue == 100
    outbox.post()
    outbox.deliver(outbox.claim("a"), 200)
    outbox.give_up(outbox.claim("b"), 410, "")
    outbox.fail(outbox.claim("c"), 500, "", pause=500)
    figures = ledger.stats.figures()
    assert figures.webhooks == {"delivered": 1, "given_up": 1}
    assert figures.webhook_tries == {"delivered": 1, "failed": 2}
    assert (figures.webhooks_pending, figures.webhook_overdue) == (1, 0)
