"""The courier: a Celery worker that delivers webhooks and knows nothing of videos, so it is light and never busy long.

    celery -A svd_service.webhooks.app worker -n courier@%h

It takes the messages of a queue of its own, with threads, since all it does is wait for receivers. delivery.py is one
try without Celery, dispatch.py gives out what is due.
"""

from typing import Any, Final

from celery import Celery
from celery.signals import setup_logging

from svd_service import bootstrap
from svd_service.broker import control
from svd_service.celery_app import DELIVER, webhook_queue
from svd_service.config import settings
from svd_service.telemetry import logs
from svd_service.webhooks import dispatch
from svd_service.webhooks.signing import job_id_of

#: Deliveries that are tried at once: half of those that may be given out, so that none of the threads runs dry.
THREADS: Final = 32

app = Celery("svd_service.webhooks.app", config_source="svd_service.celeryconfig")
app.conf.update(
    imports=(),  # nothing of the worker's: its tasks would bring its signal handlers
    task_default_queue=webhook_queue(settings()),
    worker_pool="threads",
    worker_concurrency=THREADS,
    # The outbox knows what became of a delivery; threads know no limits of time, and a try has its own.
    result_backend="disabled://",
    task_ignore_result=True,
    task_time_limit=None,
)


@app.task(name=DELIVER, bind=True, Request="svd_service.broker.request:DeliveryRequest")
def deliver(self: Any) -> None:
    """Try the delivery of the message whose id is this task's."""
    bootstrap.courier(settings()).deliver(job_id_of(self.request.id))


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    logs.configure(settings())


dispatch.install(app, lambda: bootstrap.poster(settings()))
control.install(lambda _: "left to the worker: a webhook is delivered until it is acknowledged or given up")
