"""This machine, as tests and tools need it: a free port, programs, and which tests to run."""

import os
import shutil
import socket
from pathlib import Path
from typing import Final

from svd_service.cli.up import processes

#: The root of this checkout.
ROOT: Final = Path(__file__).resolve().parents[2]

#: In CI a missing program fails the tests that need it; elsewhere they are skipped.
CI: Final = os.environ.get("CI", "").lower() in {"1", "true"}

#: With SVD_TEST_LONG=1, cases run that take long and resemble others. Read at import, since a fixture removes the
#: service's variables from the environment of tests.
LONG: Final = "SVD_TEST_LONG" in os.environ


def chromium_program() -> str | None:
    """Return the path of Chromium or of a browser made of it, or None if none is installed."""
    # The shell without a user interface takes a third less processor time.
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def free_port() -> int:
    """Return a TCP port of the loopback interface that is not in use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def redis_program() -> str:
    """Return the path of a Redis server, as `svd-service up` finds it.

    Raises:
        StackError: no Redis server is installed.
    """
    return processes.redis_program()
