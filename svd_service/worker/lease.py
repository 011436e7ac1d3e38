"""The thread that keeps alive, in the ledger, what a worker process has: its readiness and the claim it works on."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

from svd_service.errors import StaleAttemptError, UnavailableError
from svd_service.jobs.job import Claim
from svd_service.ledger import Ledger
from svd_service.ledger.workers import HEARTBEAT, DeviceMemory, WorkerStatus
from svd_service.telemetry import logs
from svd_service.worker.shared_memory import Departure

logger = logging.getLogger(__name__)

#: Seconds between two looks at whether the worker is to go, so that it gets no more jobs soon after.
LOOK: Final = 0.2


class Lease:
    """Sends a heartbeat, and renews the claim in hand, several times within the time after which they lapse.

    It runs beside the model's work, so that a long step costs no lease; a process that is frozen or dead stops
    renewing, which is the point. When the worker is to go, the process is no longer ready, but renews its claim.
    `memory` is asked with each heartbeat.
    """

    def __init__(
        self,
        ledger: Ledger,
        status: WorkerStatus,
        lease: float,
        departure: Departure,
        memory: Callable[[], DeviceMemory | None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._status = status
        self._departure = departure
        self._memory = memory
        self._interval = min(HEARTBEAT, lease / 4)
        self._claim: Claim | None = None
        self._left = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Say that this process is ready, and go on saying so."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Say that this process is about to go."""
        self._stopped.set()
        self._leave()

    @contextmanager
    def kept(self, claim: Claim) -> Iterator[None]:
        """Keep the lease of `claim` while the block runs."""
        self._claim = claim
        try:
            yield
        finally:
            self._claim = None

    def _run(self) -> None:
        waited = 0.0
        while not self._stopped.wait(LOOK):
            waited += LOOK
            if self._departure.asked and not self._left:
                self._leave()
            if waited >= self._interval:
                waited = 0.0
                try:
                    self._beat()
                except Exception:
                    # What nobody foresaw must not end it: the process would take jobs, and keep none of them.
                    logger.exception("no heartbeat")

    def _leave(self) -> None:
        self._left = True
        with suppress(UnavailableError):
            self._ledger.workers.leave(self._status.worker)

    def _beat(self) -> None:
        claim = self._claim
        try:
            if not self._left:
                self._ledger.workers.heartbeat(replace(self._status, device_memory=self._memory()))
            if claim is not None:
                self._ledger.attempts.report(claim)
        except UnavailableError as error:
            logger.warning("no heartbeat: %s", error)
        except StaleAttemptError:
            # The attempt itself hears of it when it next reports, and stops.
            job_id = claim.job_id if claim else ""
            with logs.context(job_id=job_id):
                logger.warning("the lease of job %s is gone", job_id)
