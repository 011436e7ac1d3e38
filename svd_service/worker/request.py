"""Celery's view of a job in the worker's parent: a revoked job is cancelled, one past the hard time limit fails."""

import signal as signals
from typing import Any

from celery.platforms import signals as celery_signals

from svd_service.broker.request import NonExpiringRequest
from svd_service.telemetry import logs
from svd_service.worker import time_limit
from svd_service.worker.celery_revokes import revocations


class JobRequest(NonExpiringRequest):
    """The request of one job; it updates the ledger for a process that cannot do so itself."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Fail the job. Called before its process is killed."""
        if not soft:
            with logs.context(job_id=self.id):
                time_limit.fail_attempt(time_limit.ledger(), self.id, int(self.worker_pid or 0))
        super().on_timeout(soft, timeout)

    def terminate(self, pool: Any, signal: int | None = None) -> None:
        """Cancel the job. Only SIGKILL ends its process, since the next one has to load the model again."""
        revocations().revoke([self.id])
        if celery_signals.signum(signal or signals.SIGTERM) == signals.SIGKILL:
            super().terminate(pool, signals.SIGKILL)

    def _announce_revoked(self, reason: str, terminated: bool, signum: int | None, expired: bool) -> None:
        # Also for ids and stamped headers that were revoked elsewhere, such as on a worker of an earlier version.
        revocations().revoke([self.id])
        celerys: Any = super()
        celerys._announce_revoked(reason, terminated, signum, expired)  # noqa: SLF001
