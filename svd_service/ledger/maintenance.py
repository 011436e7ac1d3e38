"""Maintenance of the ledger: enqueue jobs with Celery, requeue lost ones (`lua/reap.lua`), apply retention."""

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

import redis

from svd_service.config import Settings
from svd_service.jobs.routing import celery_queue
from svd_service.ledger.birth import birth
from svd_service.ledger.check import check, log_findings
from svd_service.ledger.record import paired
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import WORKER_TIMEOUT

logger = logging.getLogger(__name__)

#: An enqueued id is enqueued again after so many seconds beside an idle worker, or when the message of one that was
#: enqueued so many seconds later has arrived (`lua/lib/lost.lua`).
ENQUEUE_AGAIN_AFTER: Final = 5.0

#: Maximum number of consecutive re-enqueues of an id before its job moves to the back of the queue.
MAX_REFUSALS: Final = 3

#: Minimum seconds between two repairs of a damaged ledger by one process.
REPAIR_AFTER: Final = 60.0


@dataclass(frozen=True)
class Reaped:
    """Jobs whose lease expired (`lost`), and ids to be enqueued again with Celery, each with its queue."""

    lost: list[str]
    overdue: dict[str, str]


class Maintenance:
    """The periodic work of one namespace. Any number of processes may run it in parallel."""

    def __init__(self, scripts: Scripts, settings: Settings) -> None:
        self._scripts = scripts
        self._settings = settings
        self._next_repair = 0.0

    def dispatch(self) -> dict[str, str]:
        """Choose the jobs whose ids are to be enqueued now; the caller sends each to the Celery queue beside it."""
        return self._celery_queues(
            self._run("dispatch", worker_timeout=WORKER_TIMEOUT, record_ttl=self._settings.record_ttl)
        )

    def reap(self) -> Reaped:
        """Requeue or end the jobs whose lease expired, and find enqueued ids whose message was lost."""
        lost, overdue, dropped = self._run(
            "reap",
            max_attempts=self._settings.max_attempts,
            record_ttl=self._settings.record_ttl,
            enqueue_again_after=ENQUEUE_AGAIN_AFTER,
            worker_timeout=WORKER_TIMEOUT,
            max_refusals=MAX_REFUSALS,
        )
        for job_id in dropped:
            logger.error("job %s: its record in Redis is missing or damaged; dropped", job_id)
        return Reaped(list(lost), self._celery_queues(overdue))

    def expire(self, limit: int = 100) -> list[str]:
        """Apply retention to at most `limit` jobs; returns those whose artifacts are to be deleted."""
        return list(self._run("expire", record_ttl=self._settings.record_ttl, limit=limit))

    def birth(self) -> float:
        """When the ledger began, in seconds since the epoch: of artifacts older than that it knows nothing."""
        return birth(self._scripts)

    def _run(self, name: str, **arguments: object) -> Any:
        """Run a script; where it fails on damage that it does not handle itself, repair the ledger and run it again."""
        try:
            return self._scripts.run(name, **arguments)
        except redis.ResponseError as error:
            if time.monotonic() < self._next_repair:
                raise
            self._next_repair = time.monotonic() + REPAIR_AFTER
            logger.error("ledger: %s failed: %s", name, error)
            log_findings(check(self._scripts.redis, self._settings))
            return self._scripts.run(name, **arguments)

    def _celery_queues(self, chosen: list[str]) -> dict[str, str]:
        namespace = self._scripts.namespace
        return {job_id: celery_queue(namespace, queue) for job_id, queue in paired(chosen).items()}
