"""What a worker's parent and its processes know of each other without a message: memory that every fork inherits."""

import mmap
import time
from typing import Final

#: Worker processes that there is room for; more devices than any host has.
MOST_PROCESSES: Final = 256


def _numbers(count: int) -> "memoryview[float]":
    """So many floats, 0 at first, that this process and all that it will fork read and write."""
    return memoryview(mmap.mmap(-1, 8 * count)).cast("d")


class Departure:
    """Until when the worker's processes may go on with the jobs in hand: for ever, unless the worker is to go."""

    def __init__(self) -> None:
        # One clock for all of them: `time.monotonic` is the system's.
        self._deadline = _numbers(1)

    def ask(self, grace: float) -> None:
        """The worker is to go: no new job is begun, and after `grace` seconds what runs is handed back."""
        self._deadline[0] = time.monotonic() + grace

    @property
    def asked(self) -> bool:
        """Whether the worker is to go."""
        return self._deadline[0] > 0

    @property
    def due(self) -> bool:
        """Whether the job in hand is to be handed back now."""
        return self.asked and time.monotonic() >= self._deadline[0]


class Loads:
    """How loading the model went in each of the worker's processes, by process index."""

    def __init__(self) -> None:
        # 1: it is loaded. Below 0: so often in a row it could not be.
        self._results = _numbers(MOST_PROCESSES)

    def begin(self, index: int) -> None:
        """A process starts in this place; the one before it is gone."""
        self._results[index] = min(self._results[index], 0)

    def succeed(self, index: int) -> None:
        """The model is loaded."""
        self._results[index] = 1

    def fail(self, index: int) -> int:
        """The model could not be loaded; returns how often in a row by now."""
        self._results[index] -= 1
        return -int(self._results[index])

    def hopeless(self, processes: int) -> bool:
        """Whether none of the worker's so many processes has the model, and each has tried."""
        return all(result < 0 for result in self._results[:processes])


#: Made in the parent, when its modules are imported, and inherited by every process that it forks.
DEPARTURE: Final = Departure()
LOADS: Final = Loads()
