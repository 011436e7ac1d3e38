"""What the worker's parent does beside its processes, once a second: give out jobs, take back lost ones.

It is a timer of Celery's consumer, not a process of its own, so whoever runs a worker keeps the promise; with several
workers each does it, which is safe since every script of the ledger is. It never asks the store of artifacts for
anything: retention.py does.
"""

import logging
from contextlib import suppress
from typing import Any, Final

from celery import Celery, bootsteps

from svd_service.config import settings
from svd_service.errors import StaleAttemptError, UnavailableError
from svd_service.jobs.job import AttemptOutcome
from svd_service.jobs.service import JobService
from svd_service.telemetry import logs
from svd_service.worker.process import INSTANCE, is_gone, jobs

logger = logging.getLogger(__name__)

#: Seconds between two rounds.
ROUND: Final = 1.0


class Housekeeper:
    """One round after the other, over `service`."""

    def __init__(self, service: JobService) -> None:
        self._jobs = service

    def round(self) -> None:
        """Do what is due. Never raises: what Redis did not take is due again next time."""
        try:
            self._take_back_from_dead_children()
            self._reap()
        except UnavailableError as error:
            logger.warning("house-keeping is put off: %s", error)

    def _take_back_from_dead_children(self) -> None:
        # Celery gives a dead child's message to anybody. Another worker cannot know that the claim is void, and has to
        # take the message for a double; only we can see that our child is gone.
        for held in self._jobs.ledger.attempts.held_by(INSTANCE):
            if is_gone(held.holder.pid):
                with logs.context(job_id=held.claim.job_id), suppress(StaleAttemptError):
                    self._jobs.ledger.attempts.end_attempt(held.claim, AttemptOutcome.LOST)
                    logger.warning("job %s: process %d is gone; requeued", held.claim.job_id, held.holder.pid)

    def _reap(self) -> None:
        for job_id in self._jobs.reap():
            with logs.context(job_id=job_id):
                logger.warning("job %s: its worker fell silent; taken back", job_id)


class HousekeepingStep(bootsteps.StartStopStep):
    """Runs the rounds on the consumer's timer while the worker is connected."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._timers: list[Any] = []
        self._housekeeper: Housekeeper | None = None

    def start(self, parent: Any) -> None:
        """Begin, or begin anew after the connection was lost."""
        if self._housekeeper is None:
            self._housekeeper = Housekeeper(jobs(settings()))
        # Celery itself looks every 5 s for the jobs of processes that died: as long as they are to wait in all.
        for work in (self._housekeeper.round, parent.pool.maintain_pool):
            self._timers.append(parent.timer.call_repeatedly(ROUND, work))

    def stop(self, parent: Any) -> None:
        """Stop until the next start."""
        while self._timers:
            self._timers.pop().cancel()


def install(app: Celery) -> None:
    """Make the workers of `app` keep house."""
    app.steps["consumer"].add(HousekeepingStep)
