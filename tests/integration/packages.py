"""Packages of other people's that tests use as they are, in folders of their own; installed once in pytest's cache."""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tools.harness.local import CI


def installed(request: pytest.FixtureRequest, name: str, command: Callable[[Path], Sequence[str]]) -> Path:
    """A folder in which `command(folder)` has put the package `name`; it is run if that was not done before."""
    cache = request.config.cache
    assert cache is not None
    folder = cache.mkdir(re.sub("[=@/]", "-", name))
    done = folder / ".installed"
    if not done.exists():
        try:
            subprocess.run(command(folder), env={**os.environ}, check=True, capture_output=True, text=True, timeout=180)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", "") or ""
            (pytest.fail if CI else pytest.skip)(f"{name} cannot be installed: {error} {said[-2000:]}")
        done.touch()
    return folder
