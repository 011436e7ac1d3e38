"""Enqueueing: `ledger/lua/dispatch.lua` chooses jobs and their queues, this hands their ids to Celery."""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from svd_service.errors import UnavailableError

if TYPE_CHECKING:
    from svd_service.ledger import Ledger

logger = logging.getLogger(__name__)

#: Enqueues a job's id on one of Celery's queues. It may raise `UnavailableError`: the job is already in the ledger, and
#: maintenance enqueues it again.
Enqueue = Callable[[str, str], None]


class Dispatch:
    """Enqueues as many jobs as the workers need."""

    def __init__(self, ledger: "Ledger", enqueue: Enqueue) -> None:
        self._ledger = ledger
        self._enqueue = enqueue

    def __call__(self) -> None:
        """Enqueue the jobs that are next. Never raises: maintenance retries what fails here."""
        try:
            self.enqueue(self._ledger.maintenance.dispatch())
        except UnavailableError as error:
            logger.warning("enqueueing is postponed until the next maintenance: %s", error)
        except Exception:
            # Among the callers are workers that have just claimed a job.
            logger.exception("enqueueing failed")

    def enqueue(self, chosen: Mapping[str, str]) -> None:
        """Enqueue jobs, given by id with their queues.

        Raises:
            UnavailableError: the broker cannot be reached.
        """
        for job_id, queue in chosen.items():
            self._enqueue(job_id, queue)
