"""What the parent does about an attempt that is past Celery's hard time limit, before Celery kills its process."""

import logging
from functools import cache

from celery.worker.request import Request

from svd_service.config import settings
from svd_service.errors import StaleAttemptError, UnavailableError
from svd_service.jobs.job import AttemptOutcome, Failure
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.client import connect
from svd_service.telemetry import logs
from svd_service.worker.attempt import TimeLimitError
from svd_service.worker.process import INSTANCE

logger = logging.getLogger(__name__)


class JobRequest(Request):
    """Celery's view of a job in the parent; it settles the ledger for a process that cannot do so itself."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """The attempt is past its limit. Called before its process is killed."""
        if not soft:
            with logs.context(job_id=self.id):
                fail_attempt(_ledger(), self.id, int(self.worker_pid or 0))
        super().on_timeout(soft, timeout)


def fail_attempt(ledger: Ledger, job_id: str, pid: int) -> None:
    """Fail the job if it is process `pid` of this worker that holds it.

    When Redis does not answer, nobody is told: the killed process' lease lapses, and the job gets another attempt.
    """
    try:
        held = ledger.attempts.current(job_id)
        if held is None or (held.holder.instance, held.holder.pid) != (INSTANCE, pid):
            return
        ledger.attempts.end_attempt(
            held.claim, AttemptOutcome.FAILED, Failure(TimeLimitError.code, str(TimeLimitError()))
        )
    except (UnavailableError, StaleAttemptError) as error:
        logger.warning("job %s: the ledger does not hear of its time limit: %s", job_id, error)
    else:
        logger.error("job %s: process %d is past the time limit and is killed", job_id, pid)


@cache
def _ledger() -> Ledger:
    return open_ledger(connect(settings(), timeout=3.0), settings())
