"""The packages installed in an image, compared with the lock."""

import json
import re
import subprocess
import sys

import pytest

from tools.harness.local import ROOT
from tools.images.locked import EXTRAS, LISTING, compare, differences, requirements


def run(*command: str) -> str:
    """Runs the comparison as in an image with this Python."""
    assert command[:2] == ("python", "-c")
    return subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("image", EXTRAS)
def test_the_dockerfile_installs_the_extras_that_are_compared(image: str) -> None:
    text = (ROOT / "docker" / f"{image}.Dockerfile").read_text()
    (install,) = re.findall(r"pip install .*--no-deps --require-hashes(?: |\\\n)+(.*)", text)
    assert tuple(re.findall(r"-r (\w+)\.txt", install)) == EXTRAS[image]


def test_an_environment_is_compared_with_the_lock_by_the_python_in_it() -> None:
    found = json.loads(run("python", "-c", LISTING, json.dumps(["pytest==1 ; python_version < '3'", "Redis==7"])))
    assert found["locked"] == {"redis": "7"}
    assert {"redis", "pytest", "svd-service"} <= found["installed"].keys()
    number, lines = compare("api", run)
    assert number == len(found["installed"])
    assert any(line.startswith("pytest is") for line in lines)


def test_every_difference_is_named() -> None:
    lock, torch = {"a": "1", "b": "2"}, {"torch": "2.13.0", "triton": "3"}
    right = {"a": "1", "b": "2", "torch": "2.13.0+cpu", "svd-service": "0.1"}
    assert differences(lock, torch, right) == []
    assert differences(lock, torch, right | {"triton": "3"}) == []
    assert differences(lock, torch, right | {"triton": "4"}) == ["triton is 4, locked as 3"]
    assert differences(lock, {}, {"a": "2", "c": "3"}) == [
        "a is 2, locked as 1",
        "b is missing",
        "c is 3, locked as None",
    ]


def test_hashes_of_requirements_are_ignored() -> None:
    lines = requirements(["api"])
    assert all(re.match(r"[a-z0-9-]+==\S+( ; .+)?$", line) for line in lines), lines
    assert any(line.startswith("flask==") for line in lines)
