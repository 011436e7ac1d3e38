"""The thread that renews, in the ledger, a worker process' readiness and the lease of its claim."""

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
from svd_service.worker.shared_memory import Drain

logger = logging.getLogger(__name__)

#: Seconds between two checks of whether the worker shuts down, after which it must not get jobs.
CHECK: Final = 0.2


class Lease:
    """Sends heartbeats and renews the lease of the current claim, several times before they expire.

    It runs concurrently with the model, so that a long step does not lose the lease; a process that is frozen or dead
    stops renewing, as intended. While the worker shuts down the process is not ready, but renews its claim.
    `memory` is called for each heartbeat; `introduce` when the ledger has lost the description of the process' model,
    which it stores.
    """

    def __init__(
        self,
        ledger: Ledger,
        status: WorkerStatus,
        lease: float,
        drain: Drain,
        memory: Callable[[], DeviceMemory | None] = lambda: None,
        introduce: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._status = status
        self._drain = drain
        self._memory = memory
        self._introduce = introduce
        self._interval = min(HEARTBEAT, lease / 4)
        self._claim: Claim | None = None
        self._left = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Report this process as ready, from now on."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Report that this process ends."""
        self._stopped.set()
        self._leave()

    @contextmanager
    def kept(self, claim: Claim) -> Iterator[None]:
        """Renew the lease of `claim` while the block runs."""
        self._claim = claim
        try:
            yield
        finally:
            self._claim = None

    def _run(self) -> None:
        waited = 0.0
        while not self._stopped.wait(CHECK):
            waited += CHECK
            if self._drain.begun and not self._left:
                self._leave()
            if waited >= self._interval:
                waited = 0.0
                try:
                    self._beat()
                except Exception:
                    # An unexpected error must not end this thread: the process would take jobs and lose each lease.
                    logger.exception("no heartbeat")

    def _leave(self) -> None:
        self._left = True
        with suppress(UnavailableError):
            self._ledger.workers.leave(self._status.worker)

    def _beat(self) -> None:
        claim = self._claim
        try:
            known = self._left or self._ledger.workers.heartbeat(replace(self._status, device_memory=self._memory()))
            if claim is not None:
                self._ledger.attempts.report(claim)
            if not known:
                self._introduce()
        except UnavailableError as error:
            logger.warning("no heartbeat: %s", error)
        except StaleAttemptError:
            # The attempt gets the same error when it next reports, and stops.
            job_id = claim.job_id if claim else ""
            with logs.context(job_id=job_id):
                logger.warning("the lease of job %s is lost", job_id)
