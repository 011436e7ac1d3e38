"""The scheduler in the webhook worker's main thread: once a second, it enqueues the deliveries that are due.

Several webhook workers may do so concurrently: each delivery is enqueued once.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from celery import Celery, bootsteps

from svd_service.broker.dropped import DROPPED
from svd_service.celery_app import Enqueuer
from svd_service.errors import UnavailableError
from svd_service.ledger.stats import Stats
from svd_service.webhooks.outbox import Outbox
from svd_service.webhooks.signing import message_id

logger = logging.getLogger(__name__)

#: Seconds between two rounds.
ROUND: Final = 1.0


class DeliveryScheduler:
    """Enqueues the deliveries that are due, once per round."""

    def __init__(self, outbox: Outbox, stats: Stats, enqueue: Enqueuer, queue: str) -> None:
        self._outbox = outbox
        self._stats = stats
        self._enqueue = enqueue
        self._queue = queue

    def round(self) -> None:
        """Enqueue what is due. Does not raise `UnavailableError`: what Redis did not accept is retried later."""
        try:
            DROPPED.report(self._stats.count_dropped_messages)
            for job_id in self._outbox.choose_due():
                self._enqueue(message_id(job_id), self._queue)
        except UnavailableError as error:
            logger.warning("enqueueing deliveries is postponed: %s", error)


class SchedulerStep(bootsteps.StartStopStep):
    """Runs the rounds on the consumer's timer while the webhook worker is connected."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    #: Creates the scheduler, after the worker has connected.
    make_scheduler: Callable[[], DeliveryScheduler]

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._scheduler: DeliveryScheduler | None = None
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Start, or restart after the connection was lost."""
        self._scheduler = self._scheduler or self.make_scheduler()
        self._timer = parent.timer.call_repeatedly(ROUND, self._scheduler.round)

    def stop(self, parent: Any) -> None:
        """Stop until the next start."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def install(app: Celery, make_scheduler: Callable[[], DeliveryScheduler]) -> None:
    """Make the workers of `app` run the rounds."""
    app.steps["consumer"].add(type("SchedulerStep", (SchedulerStep,), {"make_scheduler": staticmethod(make_scheduler)}))
