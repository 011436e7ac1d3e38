"""Handling of an attempt that exceeds Celery's hard time limit: the parent fails it before Celery kills the process."""

import logging
from functools import cache

from svd_service import bootstrap
from svd_service.config import settings
from svd_service.errors import StaleAttemptError, UnavailableError
from svd_service.jobs.job import AttemptOutcome, Failure
from svd_service.ledger import Ledger
from svd_service.worker.interruptions import TimeLimitError
from svd_service.worker.process import INSTANCE

logger = logging.getLogger(__name__)


def fail_attempt(ledger: Ledger, job_id: str, pid: int) -> None:
    """Fail the job if process `pid` of this worker holds it.

    When Redis is unavailable, the lease of the killed process expires, and the job gets another attempt.
    """
    try:
        held = ledger.attempts.current(job_id)
        if held is None or (held.holder.instance, held.holder.pid) != (INSTANCE, pid):
            return
        ledger.attempts.end_attempt(
            held.claim, AttemptOutcome.FAILED, Failure(TimeLimitError.code, str(TimeLimitError()))
        )
    except (UnavailableError, StaleAttemptError) as error:
        logger.warning("job %s: its time limit could not be stored: %s", job_id, error)
    else:
        logger.error("job %s: process %d is past the time limit and is killed", job_id, pid)


@cache
def ledger() -> Ledger:
    """Return the ledger on the parent's own connection."""
    return bootstrap.ledger(settings(), timeout=bootstrap.BACKGROUND_TIMEOUT)
