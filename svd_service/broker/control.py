"""Celery's remote control (`celery control`, Flower's buttons), kept from parting ways with the ledger.

The ledger decides which jobs are given to which queue, by what each worker has registered. A worker that gets more or
fewer processes, another queue or a rate limit by remote control would no longer be what it registered, and jobs would
wait for it forever. Such commands are rejected, with the setting or signal to use instead.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from billiard.common import TERM_SIGNAME
from celery.platforms import signals
from celery.utils.functional import maybe_list
from celery.worker import state as worker_state
from celery.worker.control import Panel

_PROCESSES: Final = "a worker has one process per device: set SVD_DEVICES and restart the worker"
_QUEUES: Final = "a worker takes the jobs of its own model and profiles; to stop a worker, send it SIGTERM"

#: Commands that are rejected: why, and what to do instead.
REJECTED: Final = {
    "pool_grow": _PROCESSES,
    "pool_shrink": _PROCESSES,
    "pool_restart": "restart the worker: after SIGTERM it finishes its job first",
    "autoscale": _PROCESSES,
    "add_consumer": _QUEUES,
    "cancel_consumer": _QUEUES,
    "rate_limit": "jobs are limited by SVD_MAX_QUEUED and requests by SVD_RATE_LIMIT, not by task",
    "time_limit": "set SVD_JOB_TIMEOUT and restart the worker",
}

#: Revokes the tasks of the given ids, and returns the outcomes.
Revoke = Callable[[Sequence[str]], str]


def install(revoke: Revoke) -> None:
    """Replace commands of Celery's in this process: `revoke` and `terminate` call `revoke`, others are rejected."""
    for name, reason in REJECTED.items():
        Panel.data[name] = _rejection(name, reason)

    def revoke_command(
        state: Any, task_id: Any, terminate: bool = False, signal: str | None = None, **_: Any
    ) -> dict[str, str]:
        ids = [str(each) for each in maybe_list(task_id) or ()]
        outcome = revoke(ids)
        if terminate:
            _terminate(state.consumer.pool, ids, signals.signum(signal or TERM_SIGNAME))
        return {"ok": outcome}

    def terminate_command(state: Any, signal: str, task_id: Any, **_: Any) -> dict[str, str]:
        return revoke_command(state, task_id, terminate=True, signal=signal)

    Panel.data.update(revoke=revoke_command, terminate=terminate_command)


def _rejection(name: str, reason: str) -> Callable[..., dict[str, str]]:
    def command(*_: Any, **__: Any) -> dict[str, str]:
        return {"error": f"{name} is rejected: {reason}"}

    return command


def _terminate(pool: Any, ids: Sequence[str], signum: int) -> None:
    for task_id in ids:
        if request := worker_state.requests.get(task_id):
            request.terminate(pool, signal=signum)
