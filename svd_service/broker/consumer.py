"""Celery's consumer, which counts the messages that it drops, and pauses before it reconnects to a Redis in trouble."""

import logging
import time
from typing import Any, Final

from celery.worker.consumer import Consumer

from svd_service.broker.dropped import DROPPED

_LOGGER: Final = logging.getLogger(__name__)

#: Seconds between an error of Redis and the next connection. Celery itself pauses only while it cannot connect, and a
#: Redis that answers each command with an error can be connected to.
PAUSE: Final = 1.0


class CountingConsumer(Consumer):
    """The consumer of both kinds of worker (`worker_consumer` in celeryconfig.py)."""

    connection_errors: tuple[type[BaseException], ...]

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait; Celery then connects again."""
        super().on_connection_error_before_connected(exc)
        _pause_after(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the connection and wait; Celery then opens the next one."""
        super().on_connection_error_after_connected(exc)
        _pause_after(exc)

    def on_close(self) -> None:
        """Forget what the lost connection delivered. What fails here must not end the worker."""
        try:
            super().on_close()
        except Exception:
            # A process of the pool that has just ended makes its flush fail; the next round replaces it.
            _LOGGER.exception("cleaning up after a lost connection failed")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop a message whose body cannot be decoded."""
        DROPPED.add(message.body, exc)
        message.ack_log_error(_LOGGER, self.connection_errors)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Drop a message that names no task."""
        DROPPED.add(message.body, "no task")
        message.reject_log_error(_LOGGER, self.connection_errors)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a message of a task that this worker does not have."""
        DROPPED.add(message.headers, f"unknown task {exc}")
        message.reject_log_error(_LOGGER, self.connection_errors)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a message with another serializer than JSON, or with arguments that are none."""
        DROPPED.add(message.body, exc)
        message.reject_log_error(_LOGGER, self.connection_errors)


def _pause_after(error: Exception) -> None:
    if not isinstance(error, OSError):  # a connection that failed or was lost; Celery pauses before the next one
        time.sleep(PAUSE)
