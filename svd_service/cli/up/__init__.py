"""`svd-service up`: start, supervise and stop every part of the service on one machine.

processes.py defines the parts, process.py runs one of them, supervision.py restarts it when it has ended by itself,
stack.py does so for all of them, preflight.py checks the requirements. The data folder holds the logs and the
data of the Redis that `up` starts, so jobs survive a restart.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from svd_service.cli.up import processes
from svd_service.cli.up.preflight import StackError, only_one, private, require_free, require_packages
from svd_service.cli.up.stack import Stack
from svd_service.cli.up.stop import StopSignals
from svd_service.client import ClientError
from svd_service.config import ConfigurationError, Settings
from svd_service.errors import UnavailableError
from svd_service.jobs.model import Model

#: Permissions that new files do not get: other users of this machine must not read images, videos, logs or keys.
_UMASK: Final = 0o077


def up(*, flower: bool = False, port: int | None = None) -> int:
    """Start everything, and wait until it has ended; returns the exit status.

    0: it was stopped (Ctrl-C, SIGTERM, SIGHUP). 1: a part crashed before all were ready. 2: it could not be started.
    """
    console = Console(soft_wrap=True, highlight=False)
    before = os.umask(_UMASK)
    try:
        require_packages(flower=flower)
        settings = processes.chosen(Settings.load(), flower=flower, port=port)
        return _run(settings, Model.of(settings), console, flower=flower)
    except (ConfigurationError, StackError, UnavailableError, ClientError) as error:
        console.print(Text(f"svd-service up: {error}", style="red"))
        return 2
    finally:
        os.umask(before)


def _run(settings: Settings, model: Model, console: Console, *, flower: bool) -> int:
    try:
        private(settings.data_dir)
        with only_one(settings.data_dir), _scratch() as scratch, StopSignals() as stop:
            require_free(settings, flower=flower)
            return Stack(settings, model, scratch, console, stop).run(flower=flower)
    except OSError as error:  # for example, a full disk
        raise StackError(f"{error.filename or settings.data_dir}: {error.strerror or error}") from None


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Create a folder for temporary files, deleted on exit. Its path is short, as required for sockets."""
    with tempfile.TemporaryDirectory(prefix="svd-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
