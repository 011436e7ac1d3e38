"""Reports to the ledger what a worker process does before it is ready, so that it is not taken for lost."""

import logging
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from svd_service.errors import UnavailableError
from svd_service.ledger.workers import HEARTBEAT, Preparing, Workers

logger = logging.getLogger(__name__)


class Preparation:
    """As a context: says, and goes on saying, what `worker` is doing. Its first heartbeat then takes it from the list.

    A library that keeps the interpreter for itself may silence it for a while; nothing depends on it.
    """

    def __init__(self, workers: Workers, worker: str) -> None:
        self._workers = workers
        self._worker = worker
        self._now: Preparing | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preparation", daemon=True)

    def doing(self, words: str) -> None:
        """From now on it is doing this."""
        self._now = Preparing(self._worker, words, time.time())
        self._tell()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(HEARTBEAT):
            self._tell()

    def _tell(self) -> None:
        if self._now is not None:
            with suppress(UnavailableError):
                self._workers.prepare(self._now)
