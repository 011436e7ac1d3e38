"""The webhook worker: a Celery worker that delivers webhooks and imports nothing of the model, so it is light.

    celery -A svd_service.webhooks.app worker -n webhooks@%h

It consumes its own queue with threads, since it mostly waits for receivers. delivery.py is one delivery attempt
without Celery, scheduler.py enqueues the deliveries that are due.
"""

from typing import Any, Final

from celery import Celery
from celery.signals import setup_logging

from svd_service import bootstrap
from svd_service.broker import control
from svd_service.celery_app import DELIVER, webhook_queue
from svd_service.config import settings
from svd_service.telemetry import logs
from svd_service.webhooks import scheduler
from svd_service.webhooks.signing import job_id_of

#: Concurrent deliveries: half of those that may be enqueued, so that no thread runs out of work.
THREADS: Final = 32

app = Celery("svd_service.webhooks.app", config_source="svd_service.celeryconfig")
app.conf.update(
    imports=(),  # none of the GPU worker's tasks, whose modules install signal handlers
    task_default_queue=webhook_queue(settings()),
    worker_pool="threads",
    worker_concurrency=THREADS,
    # The outbox has the outcome of a delivery; threads support no time limit, and an attempt has its own.
    result_backend="disabled://",
    task_ignore_result=True,
    task_time_limit=None,
)


@app.task(name=DELIVER, bind=True, Request="svd_service.broker.request:DeliveryRequest")
def deliver(self: Any) -> None:
    """Attempt the delivery of the message whose id is this task's."""
    bootstrap.deliverer(settings()).deliver(job_id_of(self.request.id))


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    logs.configure(settings())


scheduler.install(app, lambda: bootstrap.delivery_scheduler(settings()))
control.install(lambda _: "left to the worker: a webhook is delivered until it is acknowledged or given up")
