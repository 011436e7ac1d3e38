import pytest

from svd_service.jobs.job import AttemptOutcome, Failure
from svd_service.jobs.submission import CachedVideo
from svd_service.ledger.histograms import JOB_BOUNDS, Histogram
from tests.unit.ledger.samples import HOLDER, RESULT, cancelled, finish, submit

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
    outbox.choose_due()
    outbox.deliver(outbox.claim("a"), 200)
    outbox.give_up(outbox.claim("b"), 410, "")
    outbox.fail(outbox.claim("c"), 500, "", pause=500)
    figures = ledger.stats.figures()
    assert figures.webhooks == {"delivered": 1, "given_up": 1}
    assert figures.webhook_tries == {"delivered": 1, "failed": 2}
    assert (figures.webhooks_pending, figures.webhook_overdue) == (1, 0)


def test_waits_and_durations_are_counted_once_per_job_in_their_buckets(ledger, clock):
    submit(ledger, "a")
    submit(ledger, "b")
    clock.advance(5)
    claim = ledger.attempts.claim("a", HOLDER)
    clock.advance(20)
    ledger.attempts.end_attempt(claim, AttemptOutcome.RETRIED, Failure("device_lost", ""))
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    ledger.jobs.cancel("b")
    figures = ledger.stats.figures()
    exact = ("tiny", "exact")
    assert figures.waits == {exact: Histogram.of({"5": 1}, 5.0, JOB_BOUNDS)}
    assert figures.durations == {
        (*exact, "finished"): Histogram.of({"30": 1}, 25.0, JOB_BOUNDS),
        (*exact, "cancelled"): Histogram.of({"30": 1}, 25.0, JOB_BOUNDS),
    }


def test_a_copy_of_an_earlier_video_has_no_duration_and_a_day_is_not_the_last_bucket(ledger, clock):
    submit(ledger, "a", content="same")
    clock.advance(86_401)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    submit(ledger, "b", content="same", looked_up=True, cached=CachedVideo("a", RESULT))
    assert ledger.stats.figures().ended == {"finished": 2}
    assert ledger.stats.figures().durations == {
        ("tiny", "exact", "finished"): Histogram.of({"+Inf": 1}, 86_401.0, JOB_BOUNDS)
    }


def test_steps_of_a_release_without_buckets_are_in_the_last_one_and_damaged_bounds_are_ignored(ledger, redis_client):
    redis_client.hset(
        "svd:counters",
        mapping={
            "step_count|cpu": 10,
            "step_seconds|cpu": 20,
            "step_bucket|cpu|0.5": 3,
            "step_bucket|cpu|nan": 8,
            "step_bucket|cpu|?": 8,
        },
    )
    steps = ledger.stats.figures().steps["cpu"]
    assert (steps.count, steps.seconds) == (10, 20.0)
    assert [number for bound, number in steps.buckets if bound in {0.3, 0.5, 60.0}] == [0, 3, 3]
