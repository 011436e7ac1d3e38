"""One part of the stack: a process in its own session, with a log file, that is killed when `up` dies."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from svd_service.worker.shutdown import LOAD_ERROR

#: prctl(2): the signal that the kernel sends to a process when its parent has died.
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None

#: Bytes of a log above which it is rotated.
LOG_SIZE: Final = 10_000_000


@dataclass(frozen=True)
class Part:
    """A process to be started.

    Attributes:
        name: name of the part and its log file.
        command: program and arguments.
        environment: its complete environment.
        where: its address, for display.
        grace: seconds that it has to end after SIGTERM.
        folder: its working directory; default: the data folder, which has no other `wsgi.py` or `celeryconfig.py`.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    where: str = ""
    grace: float = 10.0
    folder: Path | None = None


class RunningPart:
    """A part that was started. Its log is rotated at the start and when full; the previous one is `NAME.log.1`."""

    def __init__(self, part: Part, data_dir: Path) -> None:
        self.name = part.name
        self.where = part.where
        self.grace = part.grace
        self.log = data_dir / "logs" / f"{part.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with self.log.open("ab") as log:  # in append mode, writes continue at the new end of a truncated file
            self._process = subprocess.Popen(
                part.command,
                env=dict(part.environment),
                cwd=part.folder or data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dying_with_us(),  # noqa: PLW1509 - we have no threads that could hold a lock across the fork
            )

    @property
    def pid(self) -> int:
        """Id of the process, its group and its session."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    @property
    def status(self) -> str:
        """How it ended: its exit status, or the signal's name."""
        code = self._process.poll()
        if code is None:
            return "running"
        return signal.Signals(-code).name if code < 0 else str(code)

    def cut_log(self) -> None:
        """Rotate a log that is full. The process keeps its file open, so the file is copied and truncated."""
        with contextlib.suppress(FileNotFoundError):  # the log was deleted
            if self.log.stat().st_size > LOG_SIZE:
                with contextlib.suppress(OSError):  # on a full disk, truncate it nevertheless
                    shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
                os.truncate(self.log, 0)

    def ask_to_end(self) -> None:
        """Send SIGTERM to the process, which ends its own children."""
        if not self.ended:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to the process and its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def load_error(self) -> str:
        """Return from the log why the worker could not load its model; empty if it ended for another reason."""
        lines = self.last_words(200).splitlines()
        reasons = [line.partition(LOAD_ERROR)[2] for line in lines if LOAD_ERROR in line]
        # The message is followed by its context: (worker=…).
        return reasons[-1].rpartition(" (worker=")[0] or reasons[-1] if reasons else ""

    def last_words(self, lines: int = 20) -> str:
        """Return the last lines of the log."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 200 * lines))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def dying_with_us() -> Callable[[], None] | None:
    """Return a function for between fork and exec that has the kernel kill the child when `up` dies (Linux only)."""
    if _LIBC is None:
        return None
    libc, parent = _LIBC, os.getpid()

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before this point
            os._exit(1)

    return tie
