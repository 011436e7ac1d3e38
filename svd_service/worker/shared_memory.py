"""State that a worker's parent and its processes share in memory that every fork inherits, without messages."""

import mmap
import time
from typing import Final

#: Maximum number of processes of a worker; more than any host has devices.
MOST_PROCESSES: Final = 256


def _numbers(count: int) -> "memoryview[float]":
    """So many floats, initially 0, that this process and all that it forks read and write."""
    return memoryview(mmap.mmap(-1, 8 * count)).cast("d")


class Drain:
    """The deadline of the jobs that run while the worker shuts down; there is none before that."""

    def __init__(self) -> None:
        # One clock for all of them: `time.monotonic` is the system's.
        self._deadline = _numbers(1)

    def begin(self, grace: float) -> None:
        """Shut down: no job is started any more, and those that still run after `grace` seconds are released."""
        self._deadline[0] = time.monotonic() + grace

    @property
    def begun(self) -> bool:
        """Whether the worker shuts down."""
        return self._deadline[0] > 0

    @property
    def is_over(self) -> bool:
        """Whether jobs that still run are to be released now."""
        return self.begun and time.monotonic() >= self._deadline[0]


class Loads:
    """How loading the model went in each of the worker's processes, by process index."""

    def __init__(self) -> None:
        # 1: loaded. Below 0: the number of failures in a row.
        self._results = _numbers(MOST_PROCESSES)

    def begin(self, index: int) -> None:
        """A process starts with this index; its predecessor has ended."""
        self._results[index] = min(self._results[index], 0)

    def succeed(self, index: int) -> None:
        """The model is loaded."""
        self._results[index] = 1

    def fail(self, index: int) -> int:
        """The model could not be loaded; returns the number of failures in a row."""
        self._results[index] -= 1
        return -int(self._results[index])

    def hopeless(self, processes: int) -> bool:
        """Whether each of the worker's `processes` has failed to load the model."""
        return all(result < 0 for result in self._results[:processes])


#: Created when the parent imports this module, and inherited by every process that it forks.
DRAIN: Final = Drain()
LOADS: Final = Loads()
