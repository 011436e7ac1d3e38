"""`python -m tools.throughput` itself, short; its figures are not judged on a shared machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "tools.throughput")


@pytest.mark.thorough
def test_the_script_measures_real_and_simulated_workers_and_works_out_the_size(tmp_path: Path):
    figures = tmp_path / "figures.json"
    short = ("--workers", "1", "--rounds", "1", "--jobs", "2", "--rest", "1", "--simulated", "4", "--seconds", "2")
    done = subprocess.run([*COMMAND, *short, "--json", figures], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| Job duration | no polling |" in done.stdout
    found = json.loads(figures.read_text())
    (real,) = found["rounds"]
    # 25 steps of a tenth of a second are what a job cannot go below.
    assert 0 < real["rate"] < 1 / 2.5
    assert len(real["gaps"]) == 1
    assert found["simulated"]["jobs"] > 4
    assert found["simulated"]["cpu_a_job"] > 0
