"""Jobs that Celery's remote control revoked (`celery control revoke`, Flower's button): a revoke is a cancel.

Every worker of the service receives the command, and each cancels the job in the ledger, which is idempotent. That also
works for a job that no worker has claimed yet, and does not need Celery's own list of revoked ids.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache

from svd_service.config import settings
from svd_service.errors import UnavailableError, UnknownJobError
from svd_service.jobs.job import State
from svd_service.ledger import open_ledger
from svd_service.ledger.connection import connect
from svd_service.telemetry import logs

logger = logging.getLogger(__name__)


class Revocations:
    """Revoked jobs whose cancellation is not in the ledger yet. `cancel` is the ledger's function."""

    def __init__(self, cancel: Callable[[str], State]) -> None:
        self._cancel = cancel
        self._pending: dict[str, None] = {}

    def revoke(self, job_ids: Sequence[str]) -> str:
        """Cancel jobs now, or as soon as Redis is available; returns the outcome of each as text."""
        self._pending.update(dict.fromkeys(job_ids))
        outcomes = self.flush()
        return "; ".join(f"{job_id}: {outcomes.get(job_id, 'pending')}" for job_id in job_ids)

    def flush(self) -> dict[str, str]:
        """Cancel what is pending; returns the state of each job that the ledger reported."""
        outcomes: dict[str, str] = {}
        for job_id in list(self._pending):
            with logs.context(job_id=job_id):
                try:
                    outcomes[job_id] = _shown(self._cancel(job_id))
                    logger.info("job %s: revoked, now %s", job_id, outcomes[job_id])
                except UnknownJobError:
                    outcomes[job_id] = "no such job"
                except UnavailableError as error:
                    logger.warning("job %s: revoked; its cancellation is postponed: %s", job_id, error)
                    break
                except Exception:
                    outcomes[job_id] = "failed"
                    logger.exception("a job could not be cancelled")
            del self._pending[job_id]
        return outcomes


def _shown(state: State) -> str:
    return "cancelled at its next step" if state is State.STARTED else state.value


@cache
def revocations() -> Revocations:
    """Return the revocations of this process."""
    return Revocations(open_ledger(connect(settings(), timeout=3.0), settings()).jobs.cancel)
