import pytest

from svd_service.jobs.job import Job, Phase, Progress
from svd_service.ledger import Ledger
from svd_service.ledger.controls import Pausable
from tests.unit.ledger.samples import HOLDER, PARAMETERS, finish, ready, submit

pytestmark = pytest.mark.enable_socket

#: Seconds of a job as `finish` reports them.
SECONDS = 3


@pytest.fixture
def measured(ledger: Ledger) -> None:
    """One job has been finished, and its device's worker is ready."""
    submit(ledger, "measured")
    finish(ledger, ledger.attempts.claim("measured", HOLDER))
    ready(ledger, HOLDER.worker)


def estimated(ledger: Ledger, job_id: str) -> Job:
    (job,) = ledger.estimates.estimate([ledger.jobs.find(job_id)])
    return job


def eta(ledger: Ledger, job_id: str) -> float:
    seconds = estimated(ledger, job_id).eta_seconds
    assert seconds is not None
    return seconds


def test_without_finished_jobs_there_is_no_estimate(ledger):
    ready(ledger, "w/0")
    submit(ledger)
    assert estimated(ledger, "a").eta_seconds is None


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("model", ["tiny", ""])
def test_while_the_dispatch_is_paused_nothing_is_estimated_for_the_queue(ledger, model):
    submit(ledger)
    ledger.controls.pause(Pausable.DISPATCH, model, by="olga", reason="driver update")
    assert estimated(ledger, "a").eta_seconds is None
    assert ledger.estimates.until_end("ann", "tiny", PARAMETERS) is None
    ledger.controls.resume(Pausable.DISPATCH, model, by="olga")
    assert estimated(ledger, "a").eta_seconds is not None


@pytest.mark.usefixtures("measured")
def test_each_place_in_the_queue_adds_the_time_of_a_job(ledger):
    for job_id in "abc":
        submit(ledger, job_id)
    assert [eta(ledger, job_id) for job_id in "abc"] == pytest.approx([SECONDS, 2 * SECONDS, 3 * SECONDS], rel=0.1)


@pytest.mark.usefixtures("measured")
def test_a_started_jobs_estimate_falls_with_its_progress_and_the_queue_waits_for_it(ledger):
    submit(ledger)
    submit(ledger, "next")
    claim = ledger.attempts.claim("a", HOLDER)
    before, waiting = eta(ledger, "a"), eta(ledger, "next")
    ledger.attempts.report(claim, Progress(Phase.SAMPLING, 3, 4))
    assert eta(ledger, "a") < before
    assert eta(ledger, "next") < waiting


@pytest.mark.usefixtures("measured")
def test_the_queue_is_cached_for_two_seconds_beyond_its_near_end(ledger, redis_client, clock):
    for number in range(80):
        submit(ledger, f"job-{number}")
    eta(ledger, "job-79")
    first = redis_client.hget("svd:queue_sample:tiny", "at")
    clock.advance(1)
    eta(ledger, "job-78")
    assert redis_client.hget("svd:queue_sample:tiny", "at") == first
    clock.advance(2)
    eta(ledger, "job-78")
    assert redis_client.hget("svd:queue_sample:tiny", "at") != first
