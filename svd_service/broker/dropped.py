"""The messages that a worker dropped because they are none of ours, counted until the ledger takes the number."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from svd_service.errors import UnavailableError

logger = logging.getLogger(__name__)

#: Characters of a dropped message that are logged.
SHOWN: Final = 200


class DroppedMessages:
    """A counter for one process. Its methods may be called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, message: object, reason: object) -> None:
        """Count and log a message that was dropped."""
        logger.error("message dropped: %s: %.*s", reason, SHOWN, repr(message))
        self._add(1)

    def take(self) -> int:
        """Return how many were dropped since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return count

    def report(self, store: Callable[[int], None]) -> None:
        """Have `store` add the number to what it has; if that fails, it is reported the next time."""
        if count := self.take():
            try:
                store(count)
            except UnavailableError:
                self._add(count)
                raise

    def _add(self, count: int) -> None:
        with self._lock:
            self._count += count


#: This process' counter.
DROPPED: Final = DroppedMessages()
