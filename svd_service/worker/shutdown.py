"""Shutdown of a worker: by a signal, which drains its jobs, or because no process can load the model.

SIGTERM and SIGINT have the same effect: Celery stops consuming, and its processes, which ignore both signals (so that a
signal to the whole process group kills no job), see the deadline in `shared_memory.DRAIN`. A second signal sets the
deadline to now: jobs are released at their next step. SIGQUIT does so at once.
"""

import logging
import os
import signal
import time
from contextlib import suppress
from typing import Any, Final

from celery import Celery, bootsteps
from celery.signals import worker_shutting_down
from celery.worker import state

from svd_service.config import settings
from svd_service.worker.shared_memory import DRAIN, LOAD_RESULTS

logger = logging.getLogger(__name__)

#: Exit status of a process, and of a worker, that could not load the model (EX_UNAVAILABLE of sysexits.h).
LOAD_FAILED: Final = 69
#: Prefix of the log line with the reason.
LOAD_ERROR: Final = "the model could not be loaded: "

#: Seconds within which a second signal is a duplicate of the first: one `stop` may signal the process and its group.
ECHO: Final = 1.0

#: Seconds between two checks of whether any process can still load the model.
CHECK: Final = 0.5


class _FirstSignal:
    """When the worker received its first signal, on `time.monotonic`'s clock."""

    at: float | None = None


@worker_shutting_down.connect
def _shut_down(**_: Any) -> None:
    now = time.monotonic()
    if _FirstSignal.at is None:
        _FirstSignal.at = now
        DRAIN.begin(settings().drain_timeout)
    elif now - _FirstSignal.at > ECHO:
        DRAIN.begin(0)


class ShutdownStep(bootsteps.StartStopStep):
    """Handles the signals, ends a worker that cannot load its model, and starts the drain when the worker closes."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Install the handlers, after Celery has installed its own."""
        shut_down: Any = signal.getsignal(signal.SIGTERM)

        def hurry(*frame: Any) -> None:
            shut_down(*frame)
            DRAIN.begin(0)

        # Celery's second SIGINT, and its SIGQUIT, would terminate the processes and wait for them.
        signal.signal(signal.SIGINT, shut_down)
        signal.signal(signal.SIGQUIT, hurry)
        parent.timer.call_repeatedly(CHECK, self._give_up_if_hopeless)

    def close(self, parent: Any) -> None:
        """Start the drain when the worker closes for any reason. Called when its pool starts no more processes."""
        if not DRAIN.begun:
            DRAIN.begin(settings().drain_timeout)
        for pid in parent.pool.info["processes"]:
            # Processes that have loaded the model ignore it. Those still loading would delay the exit for minutes.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _give_up_if_hopeless(self) -> None:
        celery: Any = state  # whose flags are untyped
        if celery.should_stop is None and LOAD_RESULTS.hopeless(len(settings().worker_devices)):
            logger.critical("no process of this worker can load the model; the worker exits")
            celery.should_stop = LOAD_FAILED


def ignore_signals() -> None:
    """Ignore signals in a process with a loaded model: only its parent, `shared_memory.DRAIN` and SIGKILL end it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def heed_signals(status: int) -> None:
    """Exit on SIGTERM, for a process that has reported its end to its parent, which responds with SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(status))


def install(app: Celery) -> None:
    """Make the workers of `app` shut down this way."""
    app.steps["worker"].add(ShutdownStep)
