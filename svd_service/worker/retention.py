"""Retention in a worker process, beside the model's work: expire results and records, delete orphaned artifacts.

A thread of the process and not, like maintenance, a timer of its parent: an unavailable store may take seconds to
fail, which would block Celery's loop, and an S3 client must not exist before a fork. Every process does it,
which is safe: the ledger's script gives each job to one of them, and deleting twice does no harm.
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
    """One round after the other, with `maintenance`."""

    def __init__(self, maintenance: Maintenance) -> None:
        self._maintenance = maintenance
        self._next_orphans = time.monotonic() + ORPHAN_ROUND

    def start(self) -> None:
        """Begin, and go on for as long as the process lives."""
        threading.Thread(target=self._run, name="retention", daemon=True).start()

    def round(self) -> None:
        """Do what is due. What Redis or the store did not take is due again next time, or the sweep's."""
        try:
            if expired := self._maintenance.expire():
                logger.info("retention: %d results or records", expired)
            if time.monotonic() >= self._next_orphans:
                self._next_orphans = time.monotonic() + ORPHAN_ROUND
                if swept := self._maintenance.sweep_orphans():
                    logger.warning("%d orphaned artifacts deleted", swept)
        except UnavailableError as error:
            logger.warning("retention is put off: %s", error)

    def _run(self) -> None:
        while True:
            try:
                self.round()
            except Exception:
                # An unexpected error must not end this thread: results would pile up for as long as the process lives.
                logger.exception("a round of retention failed")
            time.sleep(ROUND)
