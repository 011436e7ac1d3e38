"""`python -m tools.throughput`, a short run; on a shared machine its figures are not checked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "tools.throughput")


@pytest.mark.thorough
def test_the_script_measures_real_and_simulated_workers_and_prints_the_sizing(tmp_path: Path):
    figures = tmp_path / "figures.json"
    short = ("--workers", "1", "--rounds", "1", "--jobs", "2", "--rest", "1", "--simulated", "4", "--seconds", "2")
    done = subprocess.run([*COMMAND, *short, "--json", figures], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| Job duration | no polling |" in done.stdout
    found = json.loads(figures.read_text())
    (real,) = found["rounds"]
    # A job takes at least 25 steps of 0.1 s.
    assert 0 < real["rate"] < 1 / 2.5
    assert len(real["gaps"]) == 1
    assert found["simulated"]["jobs"] > 4
    assert found["simulated"]["cpu_a_job"] > 0
