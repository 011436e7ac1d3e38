"""Retention in a worker process, beside the model's work: expire results and records, delete orphaned artifacts.

A thread of the process and not, like maintenance, a timer of its parent: an unavailable store may take seconds to
fail, which would block Celery's loop, and an S3 client must not exist before a fork. Every process runs it, which is
safe: the ledger's script gives each job to one of them, and deleting is idempotent.
"""

import logging
import threading
import time
from typing import Final

from svd_service.errors import UnavailableError
from svd_service.jobs.maintenance import Maintenance

logger = logging.getLogger(__name__)

#: Seconds between two rounds, and between two searches for orphaned artifacts.
ROUND: Final = 10.0
ORPHAN_ROUND: Final = 1_800.0


class Retention:
    """Runs the retention rounds, with `maintenance`."""

    def __init__(self, maintenance: Maintenance) -> None:
        self._maintenance = maintenance
        self._next_orphans = time.monotonic() + ORPHAN_ROUND

    def start(self) -> None:
        """Start the thread, which runs until the process ends."""
        threading.Thread(target=self._run, name="retention", daemon=True).start()

    def round(self) -> None:
        """Run one round. What Redis or the store did not accept is retried in the next round or left to the sweep."""
        try:
            if expired := self._maintenance.expire():
                logger.info("retention: %d results or records", expired)
            if time.monotonic() >= self._next_orphans:
                self._next_orphans = time.monotonic() + ORPHAN_ROUND
                if swept := self._maintenance.sweep_orphans():
                    logger.warning("%d orphaned artifacts deleted", swept)
        except UnavailableError as error:
            logger.warning("retention is postponed: %s", error)

    def _run(self) -> None:
        while True:
            try:
                self.round()
            except Exception:
                # An unexpected error must not end this thread: results would pile up for as long as the process lives.
                logger.exception("a round of retention failed")
            time.sleep(ROUND)
