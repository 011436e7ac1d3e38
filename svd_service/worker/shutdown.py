"""How a worker ends: by a signal, which lets the jobs in hand finish or hands them back, or for want of a model.

SIGTERM and SIGINT mean the same: Celery stops consuming, and its processes, which themselves ignore both (so that a
signal to the whole process group kills no job), learn of it through `shared.DEPARTURE`. The same signal once more means
that there is no time: jobs are handed back at their next step. SIGQUIT means that from the start.
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
from svd_service.worker.shared_memory import DEPARTURE, LOADS

logger = logging.getLogger(__name__)

#: Exit status of a process, and of a worker, that could not load the model (EX_UNAVAILABLE of sysexits.h).
LOAD_FAILED: Final = 69

#: Seconds within which a second signal is the first once more: one `stop` may signal the process and its group.
ECHO: Final = 1.0

#: Seconds between two looks at whether any process can still load the model.
LOOK: Final = 0.5


class _Heard:
    """When the worker was first told to go, on `time.monotonic`'s clock."""

    at: float | None = None


@worker_shutting_down.connect
def _leave(**_: Any) -> None:
    now = time.monotonic()
    if _Heard.at is None:
        _Heard.at = now
        DEPARTURE.ask(settings().drain_timeout)
    elif now - _Heard.at > ECHO:
        DEPARTURE.ask(0)


class DepartureStep(bootsteps.StartStopStep):
    """Hears the signals, and the children's despair; tells the children when the worker closes."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Begin, when Celery has set up its own handling of signals."""
        leave: Any = signal.getsignal(signal.SIGTERM)

        def hurry(*frame: Any) -> None:
            leave(*frame)
            DEPARTURE.ask(0)

        # Celery's second SIGINT, and its SIGQUIT, would terminate the processes and wait for them.
        signal.signal(signal.SIGINT, leave)
        signal.signal(signal.SIGQUIT, hurry)
        parent.timer.call_repeatedly(LOOK, self._give_up_if_hopeless)

    def close(self, parent: Any) -> None:
        """The worker closes, for whatever reason. Called when its pool starts no more processes."""
        if not DEPARTURE.asked:
            DEPARTURE.ask(settings().drain_timeout)
        for pid in parent.pool.info["processes"]:
            # Those that hold the model ignore it. Those that still load it would hold up the end for minutes.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _give_up_if_hopeless(self) -> None:
        celery: Any = state  # whose flags are untyped
        if celery.should_stop is None and LOADS.hopeless(len(settings().worker_devices)):
            logger.critical("no process of this worker can load the model; the worker ends")
            celery.should_stop = LOAD_FAILED


def ignore_signals() -> None:
    """For a process that holds the model: only its parent, `shared.DEPARTURE` and SIGKILL decide about its end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def heed_signals(status: int) -> None:
    """For a process that has said goodbye to its parent, which answers with SIGTERM: do not wait any longer."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(status))


def install(app: Celery) -> None:
    """Make the workers of `app` end so."""
    app.steps["worker"].add(DepartureStep)
