"""`python -m tools.chaos_hosts`: a short run, its cleanup, and how the run is judged."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tools.chaos.caller import Sighting
from tools.chaos.hosts import NoNetworksError, enter
from tools.chaos.links import Cut, _figures, passed, table
from tools.chaos.run import Outcome

COMMAND = (sys.executable, "-m", "tools.chaos_hosts")

BEGAN = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.fixture(scope="module")
def networks() -> None:
    try:
        enter(())
    except NoNetworksError as error:
        # Skip in CI, too, where the privilege may be missing and impossible to get.
        pytest.skip(f"cannot create network namespaces: {error}")


def left_of(folder: Path) -> list[int]:
    """Ids of the processes whose environment or command line contains `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if str(folder).encode() in words and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder)}


@pytest.mark.thorough
@pytest.mark.enable_socket
@pytest.mark.timeout(600)
def test_network_cuts_lose_no_job_and_commit_no_result_twice(networks: None, tmp_path: Path) -> None:
    figures_file = tmp_path / "figures.json"
    options = ("--jobs", "10", "--cut", "6", "--lease", "3", "--json", figures_file)
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=False, env=environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(figures_file.read_text())
    assert (figures["lost"], figures["committed_twice"], figures["rejected"]) == ({}, {}, [])
    assert figures["finished"] > 0
    assert [cut["host"] for cut in figures["cuts"]] == ["worker1", "redis", "store"]
    # The worker was running a job.
    assert figures["cuts"][0]["hit"] >= 1
    assert figures["files_on_hosts"] == []
    assert left_of(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.thorough
@pytest.mark.enable_socket
def test_an_interrupted_run_leaves_no_processes_or_files(networks: None, tmp_path: Path) -> None:
    process = subprocess.Popen([*COMMAND, "--cut", "60"], stderr=subprocess.PIPE, text=True, env=environment(tmp_path))
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert next(line for line in lines if "cut off" in line)
    time.sleep(1)
    assert len(left_of(tmp_path)) > 5
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    process.stderr.close()
    assert left_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_privilege_is_reported_by_name(tmp_path: Path) -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 3
    assert "CAP_NET_ADMIN" in done.stderr


def at(seconds: float) -> str:
    return f"2026-01-01T00:00:{seconds:06.3f}+00:00"


class Attempt(NamedTuple):
    """From when to when it ran, in seconds."""

    start: float
    end: float
    outcome: str


def sighting_of(state: str, *attempts: Attempt, ended: float = 0.0) -> Sighting:
    sighting = Sighting(0, None)
    sighting.see(
        {
            "status": state,
            "result": {"sha256": "a"} if state == "finished" else None,
            "provenance": {"attempt": len(attempts)},
            "created_at": at(0),
            "ended_at": at(ended),
            "attempts": [
                {"started_at": at(each.start), "ended_at": at(each.end), "outcome": each.outcome} for each in attempts
            ],
            "error": None,
        }
    )
    return sighting


Judge = Callable[..., dict]


@pytest.fixture
def judge() -> Judge:
    """Return the figures of a run with these jobs, in which worker1 was cut off for 20 s during the first of them."""

    def figures(*jobs: Sighting, files: tuple[str, ...] = (), whole: float | None = 1.0) -> dict:
        outcome = Outcome(1, 20.0, seen={str(number): job for number, job in enumerate(jobs)}, created=len(jobs))
        outcome.counted_finished = sum(job.last["status"] == "finished" for job in jobs)
        return _figures(
            outcome, [Cut("worker1", at=BEGAN + 5, seconds=20.0, hit=[("0", 1)], whole=whole)], 10.0, list(files)
        )

    return figures


def test_the_figures_have_the_recovery_times_of_a_job_that_was_cut_off(judge: Judge) -> None:
    hit = sighting_of("finished", Attempt(3, 16, "lost"), Attempt(17, 22, "finished"), ended=22)
    later = sighting_of("finished", Attempt(26, 27, "finished"), ended=27)
    figures = judge(hit, later)
    assert passed(figures)
    (cut,) = figures["cuts"]
    assert (cut["hit"], cut["repeated"], cut["taken_back"], cut["restarted"]) == (1, 1, 11.0, 12.0)
    assert (cut["finished_meanwhile"], cut["finished_again"]) == (1, 2.0)
    assert "worker1" in table(figures)


def test_a_run_that_breaks_a_guarantee_fails(judge: Judge) -> None:
    fine = sighting_of("finished", Attempt(3, 16, "lost"), Attempt(17, 22, "finished"), ended=22)
    assert passed(judge(fine))
    assert not passed(judge(sighting_of("started", Attempt(3, 16, "lost"), Attempt(17, 22, ""))))
    assert not passed(judge(sighting_of("finished", Attempt(3, 16, "finished"), Attempt(17, 22, "finished"), ended=22)))
    assert not passed(judge(fine, files=("worker1/data/results/x.mp4",)))
    assert not passed(judge(fine, whole=None))
