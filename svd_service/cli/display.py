"""Display of jobs' progress: a bar for each on a terminal, else a line for each change."""

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from svd_service.client.errors import ClientError, InvalidKeyError, UnauthorizedError, UnreachableError
from svd_service.client.status import JobStatus

#: Without a terminal, seconds between two lines of a job within one phase.
_LINE_EVERY = 5.0


def print_table(table: Table) -> None:
    """Print a table on the standard output, its texts unchanged."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 240  # do not wrap what another program reads
    console.print(table)


def describe(job: JobStatus) -> str:
    """Describe the job's state in a few words: `queued, number 2`, `sampling 3/25, 40 s left`, `finished, pinned`."""
    left = "" if job.eta_seconds is None else f", {_duration(job.eta_seconds)} left"
    if job.state == "queued" and job.position:
        return ("queued, next" if job.position == 1 else f"queued, number {job.position}") + left
    if job.state == "started" and job.progress:
        counted = f" {job.progress.step}/{job.progress.steps}" if job.progress.steps else ""
        again = f" (attempt {job.attempt})" if job.attempt > 1 else ""
        return f"{job.progress.phase}{counted}{again}{left}"
    if job.pinned:
        return f"{job.state}, pinned"
    return f"{job.state}: {job.error_message}" if job.error_message else job.state


def explained(error: ClientError) -> str:
    """Return the message for an error, with a remedy if one is known."""
    if isinstance(error, UnreachableError):
        return f"Cannot connect to {error}\nIs the service running? `svd-service up` starts it."
    if isinstance(error, (InvalidKeyError, UnauthorizedError)):
        return f"{error}: set --api-key or SVD_API_KEY"
    return str(error)


def _duration(seconds: float) -> str:
    """Format a duration, rounded: `40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Display(Protocol):
    """Shows the progress of several images."""

    def show(self, index: int, fraction: float, words: str, *, ended: bool = False) -> None:
        """Show `fraction` (0 to 1) and `words` for the image at `index`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ProgressBars:
    """A bar for each image, on a terminal."""

    def __init__(self, console: Console, names: list[str]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            console=console,
        )
        self._tasks = [self._progress.add_task(name, total=1.0, words="waiting to be sent") for name in names]

    def show(self, index: int, fraction: float, words: str, *, ended: bool = False) -> None:
        """Update the image's bar; stop it if the job ended."""
        task = self._tasks[index]
        self._progress.update(task, completed=fraction, words=words)
        if ended:
            self._progress.stop_task(task)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class ProgressLines:
    """A line for each change, without a terminal; steps within one phase are limited."""

    def __init__(self, console: Console, names: list[str]) -> None:
        self._console = console
        self._names = names
        self._last: dict[int, tuple[str, float]] = {}

    def show(self, index: int, fraction: float, words: str, *, ended: bool = False) -> None:
        """Write a line if the state changed."""
        shown, when = self._last.get(index, ("", 0.0))
        same_phase = shown.partition(" ")[0] == words.partition(" ")[0]
        if words == shown or (same_phase and not ended and time.monotonic() - when < _LINE_EVERY):
            return
        self._last[index] = (words, time.monotonic())
        self._console.print(Text(f"{self._names[index]}: {words} ({fraction:.0%})"), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def display_on(console: Console, names: list[str]) -> Display:
    """Progress bars on a terminal, lines elsewhere."""
    return ProgressBars(console, names) if console.is_terminal else ProgressLines(console, names)
