"""`svd-service up` and `models pull` print one line of error if the hub denies access, fails or does not answer.

The line for each status: tests/unit/video/test_weights.py.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.video.loopback_hub import Hub
from tools.harness.local import LONG, ROOT, free_port

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(200)]

FAULTS = {
    401: "The hub denies access to someone/svd",
    403: "The hub denies access to someone/svd",
    404: "The hub has no model someone/svd",
    503: "someone/svd is not in this machine's cache, and the hub cannot be reached",
    None: "someone/svd is not in this machine's cache, and the hub cannot be reached",
}

#: `X-Error-Code` of the hub's answers.
ERROR_CODES = {403: "GatedRepo", 404: "RepoNotFound"}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run `svd-service` in a folder whose `.env` names a hub that answers with `status`, or not at all (None)."""

    def run(status: int | None, *command: str) -> tuple[int, str]:
        hub = Hub(tmp_path, status or 404, ERROR_CODES.get(status or 0, ""))
        (tmp_path / ".env").write_text(f"HF_TOKEN=hf_test\nHF_ENDPOINT={hub.url}\nHF_HOME={tmp_path / 'cache'}\n")
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "SVD_MODEL": "someone/svd",
            "SVD_DEVICES": "cpu",
            "SVD_BIND": f"127.0.0.1:{free_port()}",
            "SVD_EXPORTER_BIND": f"127.0.0.1:{free_port()}",
        }
        program = [sys.executable, "-m", "svd_service", *command]
        if status is None:
            hub.server_close()
            done = subprocess.run(program, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
        else:
            with hub.running():
                done = subprocess.run(program, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert hub.requests
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.thorough
@pytest.mark.parametrize("status", [status for status in FAULTS if LONG or status in {403, None}])
def test_up_exits_with_one_line_of_error(run: Callable[..., tuple[int, str]], status: int | None) -> None:
    code, output = run(status, "up")
    assert code == 1, output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("svd-service up:")]
    assert len(lines) == 1, output
    assert lines[0].startswith(f"svd-service up: {FAULTS[status]}")


@pytest.mark.thorough
@pytest.mark.parametrize("status", [403, 503] if LONG else [403])
def test_pull_exits_with_one_line_of_error(run: Callable[..., tuple[int, str]], status: int) -> None:
    code, output = run(status, "models", "pull")
    assert (code, "Traceback" in output) == (1, False), output
    assert FAULTS[status] in output.splitlines()[-1]
