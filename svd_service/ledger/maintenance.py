"""Periodic work on the ledger: enqueue jobs with Celery, requeue lost ones, apply retention."""

from dataclasses import dataclass
from typing import Final

from svd_service.config import Settings
from svd_service.jobs.routing import celery_queue
from svd_service.ledger.record import paired
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import WORKER_TIMEOUT

#: Seconds for which an enqueued id may stay unclaimed beside an idle worker before it is enqueued again.
REPUBLISH_AFTER: Final = 5.0


@dataclass(frozen=True)
class Reaped:
    """Jobs whose lease expired (`lost`), and ids to be enqueued again with Celery, each with its queue."""

    lost: list[str]
    overdue: dict[str, str]


class Maintenance:
    """The periodic work of one namespace. Any number of processes may do it side by side."""

    def __init__(self, scripts: Scripts, settings: Settings) -> None:
        self._scripts = scripts
        self._settings = settings

    def dispatch(self) -> dict[str, str]:
        """Choose the jobs whose ids are to be enqueued now; the caller sends each to the Celery queue beside it."""
        return self._celery_queues(self._scripts.run("dispatch", WORKER_TIMEOUT, self._settings.record_ttl))

    def reap(self) -> Reaped:
        """Requeue or end the jobs whose lease expired, and find the enqueued ids whose message was lost."""
        lost, overdue = self._scripts.run(
            "reap", self._settings.max_attempts, self._settings.record_ttl, REPUBLISH_AFTER, WORKER_TIMEOUT
        )
        return Reaped(list(lost), self._celery_queues(overdue))

    def expire(self, limit: int = 100) -> list[str]:
        """Apply retention to at most `limit` jobs; returns those whose artifacts are to be deleted."""
        return list(self._scripts.run("expire", self._settings.record_ttl, limit))

    def _celery_queues(self, chosen: list[str]) -> dict[str, str]:
        namespace = self._scripts.namespace
        return {job_id: celery_queue(namespace, queue) for job_id, queue in paired(chosen).items()}
