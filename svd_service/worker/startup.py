"""Reports to the ledger what a worker process does before it is ready, so that it is not considered lost."""

import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from svd_service.errors import UnavailableError
from svd_service.ledger.workers import HEARTBEAT, Preparing, Workers

logger = logging.getLogger(__name__)


class Preparation:
    """Context manager that reports periodically what `worker` is doing. The worker's first heartbeat ends the report.

    A library that holds the GIL may delay the reports; nothing depends on them.
    """

    def __init__(self, workers: Workers, worker: str) -> None:
        self._workers = workers
        self._worker = worker
        self._now: Preparing | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preparation", daemon=True)

    def doing(self, words: str) -> None:
        """Report this activity from now on."""
        self._now = Preparing(self._worker, words, time.time())
        self._report()

    def download(self, progress: str) -> None:
        """Report the progress of the model's download, `""` at its end, within the loading of the model."""
        if self._now is not None:
            words = f"downloading the model ({progress})" if progress else "loading the model"
            self._now = replace(self._now, doing=words)

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
            self._report()

    def _report(self) -> None:
        if self._now is not None:
            with suppress(UnavailableError):
                self._workers.prepare(self._now)
