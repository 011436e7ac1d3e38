"""Supervision of one part of the stack: restart it after it has ended by itself."""

import time
from pathlib import Path
from typing import Final

from svd_service.cli.up.process import Part, RunningPart

#: Seconds between the end of a part and its restart: after the first consecutive failure, and maximum.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0

#: Seconds of running after which the count of consecutive failures is reset.
STEADY: Final = 60.0


class SupervisedPart:
    """A part, its process, and the time of its restart. Raises `OSError` if its first start fails."""

    def __init__(self, part: Part, data_dir: Path) -> None:
        self.part = part
        self._data_dir = data_dir
        self._failures = 0
        self._start()

    def _start(self) -> None:
        self.running = RunningPart(self.part, self._data_dir)
        self._started = time.monotonic()
        self._due: float | None = None

    @property
    def name(self) -> str:
        """Name of the part."""
        return self.part.name

    @property
    def seconds_until_start(self) -> float:
        """Seconds until it is restarted; 0 while it runs."""
        return 0.0 if self._due is None else max(0.0, self._due - time.monotonic())

    def supervise(self) -> str | None:
        """Restart the part when it is due; returns a message if something happened."""
        now = time.monotonic()
        if self._due is not None:
            return self._restart() if now >= self._due else None
        if not self.running.ended:
            self.running.cut_log()
            return None
        if now - self._started > STEADY:
            self._failures = 0
        self.running.kill()  # what it may have left behind
        pause = self._postpone()
        return (
            f"{self.name} ended by itself (status {self.running.status}): restarting in {pause:.0f} s. "
            f"Its log: {self.running.log}"
        )

    def _restart(self) -> str | None:
        try:
            self._start()
        except OSError as error:  # for example, no new log on a full disk
            pause = self._postpone()
            return f"{self.name} cannot be started ({error.strerror}): retrying in {pause:.0f} s"
        return None

    def _postpone(self) -> float:
        """Choose the time of the next start; returns the seconds until then."""
        pause = min(FIRST_PAUSE * 2.0**self._failures, LONGEST_PAUSE)
        self._failures += 1
        self._due = time.monotonic() + pause
        return pause
