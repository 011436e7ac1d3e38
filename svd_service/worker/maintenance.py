"""Maintenance by the worker's parent, once a second: cancel revoked jobs, requeue lost ones, enqueue the next.

It is a timer of Celery's consumer, not a separate process, so that every deployment with a worker has it. Several
workers may run it concurrently, since every script of the ledger is idempotent. It never calls the artifact store:
retention.py does.
"""

import logging
from contextlib import suppress
from typing import Any, Final

from celery import Celery, bootsteps

from svd_service import bootstrap
from svd_service.bootstrap import UseCases
from svd_service.broker.dropped import DROPPED
from svd_service.config import settings
from svd_service.errors import StaleAttemptError, UnavailableError, WriteRefusedError
from svd_service.jobs.job import AttemptOutcome
from svd_service.ledger.check import check_at_start
from svd_service.telemetry import logs
from svd_service.worker.celery_revokes import revocations
from svd_service.worker.process import INSTANCE, is_gone

logger = logging.getLogger(__name__)

#: Seconds between two rounds.
ROUND: Final = 1.0


class MaintenanceRounds:
    """Runs the maintenance rounds, with the use cases `jobs`."""

    def __init__(self, jobs: UseCases) -> None:
        self._jobs = jobs

    def round(self) -> None:
        """Run one round. Never raises: what fails is tried again in the next round, and no step depends on another."""
        for step in (
            revocations().flush,
            self._report_dropped_messages,
            self._requeue_jobs_of_dead_processes,
            self._requeue_jobs_of_lost_workers,
        ):
            try:
                step()
            except WriteRefusedError as error:
                # Redis accepts what frees its memory.
                logger.warning("maintenance is incomplete: %s", error)
            except UnavailableError as error:
                logger.warning("maintenance is postponed: %s", error)
                return
            except Exception:
                logger.exception("maintenance is incomplete")

    def _report_dropped_messages(self) -> None:
        DROPPED.report(self._jobs.ledger.stats.count_dropped_messages)

    def _requeue_jobs_of_dead_processes(self) -> None:
        # Celery gives a dead process' message to any worker. Another worker cannot know that the claim is void and
        # treats the message as a duplicate; only this parent can see that its process is gone.
        for held in self._jobs.ledger.attempts.held_by(INSTANCE):
            if is_gone(held.holder.pid):
                with logs.context(job_id=held.claim.job_id), suppress(StaleAttemptError):
                    self._jobs.ledger.attempts.end_attempt(held.claim, AttemptOutcome.LOST)
                    logger.warning("job %s: process %d is gone; requeued", held.claim.job_id, held.holder.pid)

    def _requeue_jobs_of_lost_workers(self) -> None:
        for job_id in self._jobs.maintenance.reap():
            with logs.context(job_id=job_id):
                logger.warning("job %s: the lease of its worker expired; requeued", job_id)


class MaintenanceStep(bootsteps.StartStopStep):
    """Runs the rounds on the consumer's timer while the worker is connected."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._timers: list[Any] = []
        self._maintenance: MaintenanceRounds | None = None

    def start(self, parent: Any) -> None:
        """Start, or restart after the connection was lost."""
        if self._maintenance is None:
            self._maintenance = MaintenanceRounds(bootstrap.worker(settings()))
            check_at_start(settings())
        # Celery itself checks for dead processes every 5 s, the whole time within which their jobs must restart.
        for work in (self._maintenance.round, parent.pool.maintain_pool):
            self._timers.append(parent.timer.call_repeatedly(ROUND, work))

    def stop(self, parent: Any) -> None:
        """Stop until the next start."""
        while self._timers:
            self._timers.pop().cancel()


def install(app: Celery) -> None:
    """Make the workers of `app` do maintenance."""
    app.steps["consumer"].add(MaintenanceStep)
