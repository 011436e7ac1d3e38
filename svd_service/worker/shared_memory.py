"""State that a worker's parent and its processes share in memory that every fork inherits, without messages."""

import mmap
import time
from typing import Final

#: Maximum number of processes of a worker; more than any host has devices.
MOST_PROCESSES: Final = 256


def _numbers(count: int) -> "memoryview[float]":
    """Return `count` floats, initially 0, that this process shares with all that it forks."""
    return memoryview(mmap.mmap(-1, 8 * count)).cast("d")


class Drain:
    """Deadline of running jobs while the worker shuts down; there is none before that."""

    def __init__(self) -> None:
        # One clock for all of them: `time.monotonic` is the system's.
        self._deadline = _numbers(1)

    def begin(self, grace: float) -> None:
        """Start the shutdown: no job starts any more, and those still running after `grace` seconds are released."""
        self._deadline[0] = time.monotonic() + grace

    @property
    def begun(self) -> bool:
        """Whether the worker shuts down."""
        return self._deadline[0] > 0

    @property
    def is_over(self) -> bool:
        """Whether jobs that still run are to be released now."""
        return self.begun and time.monotonic() >= self._deadline[0]


class LoadResults:
    """Outcome of loading the model in each of the worker's processes, by process index."""

    def __init__(self) -> None:
        # 1: loaded. Below 0: the number of consecutive failures.
        self._results = _numbers(MOST_PROCESSES)

    def begin(self, index: int) -> None:
        """Record that a process starts with this index; its predecessor has ended."""
        self._results[index] = min(self._results[index], 0)

    def succeed(self, index: int) -> None:
        """Record that the model is loaded."""
        self._results[index] = 1

    def fail(self, index: int) -> int:
        """Record that loading failed; returns the number of consecutive failures."""
        self._results[index] -= 1
        return -int(self._results[index])

    def hopeless(self, processes: int) -> bool:
        """Whether each of the worker's `processes` has failed to load the model."""
        return all(result < 0 for result in self._results[:processes])


#: Created when the parent imports this module, and inherited by every process that it forks.
DRAIN: Final = Drain()
LOAD_RESULTS: Final = LoadResults()
