"""One part of the stack: a process in a session of its own, with a log file, that dies when we do."""

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

#: Bytes of a log beyond which it begins anew.
LOG_SIZE: Final = 10_000_000


@dataclass(frozen=True)
class Part:
    """What is to be started.

    Attributes:
        name: also its log file's.
        command: program and arguments.
        environment: all of it.
        where: its address, for a person.
        grace: seconds that it gets to end when it is asked to.
        folder: where it runs; default: the data folder, where nobody's `wsgi.py` or `celeryconfig.py` hides ours.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    where: str = ""
    grace: float = 10.0
    folder: Path | None = None


class Running:
    """A part that was started. Its log begins anew, as it does when it grows long; the one before is `NAME.log.1`."""

    def __init__(self, part: Part, data_dir: Path) -> None:
        self.name = part.name
        self.where = part.where
        self.grace = part.grace
        self.log = data_dir / "logs" / f"{part.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with self.log.open("ab") as log:  # whoever appends goes on at the new end of a file that was cut
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
        """Of the process, its group and its session."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    @property
    def status(self) -> str:
        """How it ended: its exit status, or the signal's name."""
        code = self._process.poll()
        if code is None:
            return "running"
        return signal.Signals(-code).name if code < 0 else str(code)

    def cut_log(self) -> None:
        """Let a log that has grown long begin anew. The process keeps its file, so it is the file that is emptied."""
        with contextlib.suppress(FileNotFoundError):  # somebody tidied up
            if self.log.stat().st_size > LOG_SIZE:
                with contextlib.suppress(OSError):  # on a full disk, emptying it is all the more urgent
                    shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
                os.truncate(self.log, 0)

    def ask_to_end(self) -> None:
        """SIGTERM to the process itself, which ends its own children."""
        if not self.ended:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to the process and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def load_error(self) -> str:
        """Why the worker could not load its model, as its log gives it; empty if that is not why it ended."""
        lines = self.last_words(200).splitlines()
        reasons = [line.partition(LOAD_ERROR)[2] for line in lines if LOAD_ERROR in line]
        # Behind the message stands its context: (worker=…).
        return reasons[-1].rpartition(" (worker=")[0] or reasons[-1] if reasons else ""

    def last_words(self, lines: int = 20) -> str:
        """The last lines of the log."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 200 * lines))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def dying_with_us() -> Callable[[], None] | None:
    """What a child does between fork and exec so that SIGKILL for us is SIGKILL for it as well (Linux only)."""
    if _LIBC is None:
        return None
    libc, parent = _LIBC, os.getpid()

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # we died before the child got here
            os._exit(1)

    return tie
