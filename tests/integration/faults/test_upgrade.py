"""A rolling upgrade: processes of an older commit and of this one share Redis, the queue and the artifacts."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.harness.local import ROOT
from tools.harness.stack import FAULTS, Stack

#: Commit of the previous release; its tag, once there is one.
BEFORE = "bcc0042b494ba9b904c12acedacf96156538f2e8"

#: A step of the stand-in for a model takes 0.1 s.
SHORT = {"num_inference_steps": 2, "width": 64, "height": 64, "seed": 1}
LONG = SHORT | {"num_inference_steps": 100}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """PYTHONPATH for the processes of each release, with that release's own stand-in for the model."""
    folder = tmp_path_factory.mktemp("before")
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"commit {BEFORE[:7]} is not in this clone: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as opened:
        opened.extractall(folder, filter="data")
    (faults,) = folder.rglob("faults/sitecustomize.py")
    return {"before": _path(faults.parent, folder), "now": _path(FAULTS, ROOT)}


def _path(*folders: Path) -> str:
    return os.pathsep.join(map(str, folders))


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Only Redis; the lease is 3 s."""
    stack = Stack(tmp_path_factory.mktemp("stack"), {"SVD_LEASE": "3"})
    stack.start_redis()
    yield stack
    for name in [*stack.processes]:
        stack.stop(name, signal.SIGKILL)
    stack.close()


def start_api(stack: Stack, path: str) -> None:
    """Start the API of a release, in place of the running one."""
    if "api" in stack.processes:
        stack.stop("api")
    arguments = ("-c", "python:svd_service.gunicorn", "wsgi:application")
    stack.start("api", sys.executable, "-m", "gunicorn", *arguments, PYTHONPATH=path)
    stack.wait(lambda: stack.http.get("/health").status_code, 60)


def start_worker(stack: Stack, name: str, path: str) -> None:
    """Start a worker of a release, and wait until it is ready for jobs."""
    stack.start_worker(name, PYTHONPATH=path, TEST_FAULTS='{"stand_in": 0.1}')
    stack.wait(lambda: f"{name}@" in " ".join(stack.workers()), 60)


def finished_by(stack: Stack, job_id: str) -> list[str]:
    """Wait until the job is finished, and return the names of the workers of its attempts."""
    job = stack.wait_for(job_id, "finished", "failed")
    assert job["status"] == "finished", f"{job['error']}\n{stack.logs()}"
    assert stack.http.get(f"/results/{job_id}").status_code == 200
    return [attempt["worker"].partition("@")[0] for attempt in job["attempts"]]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("first", "second"), [("before", "now"), pytest.param("now", "before", marks=pytest.mark.thorough)]
)
def test_jobs_survive_while_workers_and_the_api_are_of_different_releases(
    stack: Stack, photo: bytes, releases: dict[str, str], first: str, second: str
):
    """The second release's worker takes over from the first one's, while the API is the first release's."""
    start_api(stack, releases[first])
    start_worker(stack, first, releases[first])
    in_progress = stack.submit(photo, **SHORT | {"num_inference_steps": 50})
    waiting = stack.submit(photo, **SHORT)
    stack.wait_until_started(in_progress)
    os.killpg(stack.processes[first].pid, signal.SIGKILL)
    start_worker(stack, second, releases[second])
    assert finished_by(stack, waiting) == [second]
    assert finished_by(stack, in_progress) == [first, second]
    # Use the first release's API after the second's worker has updated the throughput model.
    cancelled = stack.submit(photo, **LONG)
    stack.wait_until_started(cancelled)
    assert stack.http.delete(f"/jobs/{cancelled}").status_code in {200, 202}
    stack.wait_for(cancelled, "cancelled", seconds=20)
    start_api(stack, releases[second])
    assert finished_by(stack, in_progress) == [first, second]
    assert stack.status(cancelled)["status"] == "cancelled"
    assert finished_by(stack, stack.submit(photo, **SHORT | {"seed": 3})) == [second]
