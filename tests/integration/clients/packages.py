"""Third-party packages that tests use unmodified, each installed once into its own folder in pytest's cache."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tools.harness.local import CI


def installed(request: pytest.FixtureRequest, name: str, command: Callable[[Path], Sequence[str]]) -> Path:
    """Return the folder of the package `name`, after installing it with `command(folder)` if it is not cached."""
    cache = request.config.cache
    assert cache is not None
    folder = cache.mkdir(re.sub("[=@/]", "-", name))
    done = folder / ".installed"
    if not done.exists():
        try:
            subprocess.run(command(folder), env={**os.environ}, check=True, capture_output=True, text=True, timeout=180)
        except (OSError, subprocess.SubprocessError) as error:
            output = getattr(error, "stderr", "") or ""
            (pytest.fail if CI else pytest.skip)(f"{name} cannot be installed: {error} {output[-2000:]}")
        done.touch()
    return folder


def installed_by_pip(request: pytest.FixtureRequest, requirement: str) -> Path:
    """Return the folder of a package from PyPI with its dependencies."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    return installed(request, requirement, lambda folder: (*pip, "--target", str(folder), requirement))
