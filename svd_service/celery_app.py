"""The Celery app and the enqueueing of job ids. Imports neither Flask nor the tasks."""

from typing import Final

from celery import Celery
from kombu.exceptions import OperationalError

from svd_service.config import Settings
from svd_service.errors import UnavailableError
from svd_service.ledger.connection import broker_options

#: The tasks' names. The only content of either is the Celery task id: the job's id, or that of the message to deliver.
GENERATE: Final = "svd_service.generate"
DELIVER: Final = "svd_service.deliver"

app = Celery("svd_service", config_source="svd_service.celeryconfig", set_as_current=True)


def webhook_queue(settings: Settings) -> str:
    """Return the name of the webhook queue, separate so that no webhook waits for a busy GPU worker."""
    return f"{settings.namespace}-webhooks"


class Enqueuer:
    """Enqueues ids with Celery: those of jobs, or of another task.

    It has its own app without a result backend: with one, each call would subscribe to a result that is never read, and
    wait for an unavailable Redis for much longer than a caller would.
    """

    def __init__(self, settings: Settings, *, timeout: float = 1.0, task: str = GENERATE) -> None:
        self._app = Celery("svd_service.enqueuer", config_source="svd_service.celeryconfig", set_as_current=False)
        self._app.conf.update(
            broker_url=settings.redis_address.broker,
            broker_use_ssl=settings.redis_address.tls,
            result_backend="disabled://",
            broker_transport_options={
                **self._app.conf.broker_transport_options,
                **broker_options(settings, timeout=timeout / 2),
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
            },
        )
        self._task = task

    def __call__(self, task_id: str, queue: str) -> None:
        """Enqueue one id on one of Celery's queues.

        Raises:
            UnavailableError: Celery's broker cannot be reached, or did not answer in time; the message may have been
                sent nevertheless.
        """
        try:
            self._app.send_task(
                self._task,
                task_id=task_id,
                queue=queue,
                retry=True,  # once: a connection that Redis closed in the meantime
                retry_policy={"max_retries": 1, "interval_start": 0, "interval_max": 0},
            )
        except (OperationalError, OSError) as error:
            raise UnavailableError(f"the broker cannot be reached: {error}") from error
