"""One part of the stack that is started again after it has ended by itself."""

import time
from pathlib import Path
from typing import Final

from svd_service.cli.up.process import Part, Running

#: Seconds between the end of a part and its next start: after the first end in a row, and at most.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0

#: Seconds after which a part that runs counts as well: its next end is the first in a row.
STEADY: Final = 60.0


class Supervised:
    """A part, its process, and when it is to be started again. Raises `OSError` if it cannot be started at first."""

    def __init__(self, part: Part, data_dir: Path) -> None:
        self.part = part
        self._data_dir = data_dir
        self._failures = 0
        self._start()

    def _start(self) -> None:
        self.running = Running(self.part, self._data_dir)
        self._started = time.monotonic()
        self._due: float | None = None

    @property
    def name(self) -> str:
        """The part's."""
        return self.part.name

    @property
    def seconds_until_start(self) -> float:
        """Seconds until it is started again; 0 while it runs."""
        return 0.0 if self._due is None else max(0.0, self._due - time.monotonic())

    def supervise(self) -> str | None:
        """Start the part again when it is time; returns what happened, for a person."""
        now = time.monotonic()
        if self._due is not None:
            return self._restart() if now >= self._due else None
        if not self.running.ended:
            self.running.cut_log()
            return None
        if now - self._started > STEADY:
            self._failures = 0
        self.running.kill()  # what it may have left behind
        pause = self._put_off()
        return (
            f"{self.name} ended by itself (status {self.running.status}): restarting in {pause:.0f} s. "
            f"Its log: {self.running.log}"
        )

    def _restart(self) -> str | None:
        try:
            self._start()
        except OSError as error:  # a full disk, for one, takes no new log
            pause = self._put_off()
            return f"{self.name} cannot be started ({error.strerror}): trying again in {pause:.0f} s"
        return None

    def _put_off(self) -> float:
        """Choose the time of the next start; returns the seconds until then."""
        pause = min(FIRST_PAUSE * 2.0**self._failures, LONGEST_PAUSE)
        self._failures += 1
        self._due = time.monotonic() + pause
        return pause
