import math

import pytest

from svd_service.jobs.job import AttemptOutcome, Failure, State
from tests.unit.ledger.samples import (
    HOLDER,
    RESULT,
    finish,
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_a_finished_job_has_its_result_and_is_counted(ledger):
    submit(ledger)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    job = ledger.jobs.find("a")
    assert job.state is State.FINISHED
    assert job.result == RESULT
    assert job.expires_at == pytest.approx(job.ended_at + 86_400, abs=1)
    assert job.attempts[0].outcome == "finished"
    figures = ledger.stats.figures()
    assert figures.ended == {"finished": 1}
    assert figures.phases == {("cpu", "sampling"): (1, 2.0), ("cpu", "decoding"): (1, 1.0)}
    assert figures.steps["cpu"].seconds == 2.0
    assert dict(figures.steps["cpu"].buckets) | {0.3: 0, 0.5: 4, math.inf: 4} == dict(figures.steps["cpu"].buckets)


def test_the_end_of_an_attempt_is_counted_once_if_its_script_is_repeated(ledger):
    submit(ledger)
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    finish(ledger, claim)
    finish(ledger, claim)
    submit(ledger, "b")
    claim = ledger.attempts.claim("b", HOLDER)
    ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, Failure("x", "y"))
    ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, Failure("x", "y"))
    figures = ledger.stats.figures()
    assert (figures.created, figures.ended, figures.failed) == (2, {"finished": 1, "failed": 1}, {"x": 1})
