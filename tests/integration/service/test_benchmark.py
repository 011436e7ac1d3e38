import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.samples import IMAGES
from tools.harness.local import ROOT


@pytest.mark.thorough
def test_the_calls_benchmark_alternates_jobs_and_bare_calls(tiny_model: Path, tmp_path: Path):
    command = [sys.executable, "-m", "tools.benchmark", "calls", "--model", str(tiny_model), "--photo"]
    done = subprocess.run(
        [*command, str(IMAGES / "chelsea.jpg"), "--pairs", "2", "--jobs", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SVD_CPU_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "benchmark-calls.json").read_text())
    assert {name: len(seconds) for name, seconds in figures["seconds"].items()} == {
        "documented": 2,
        "resized": 2,
        "best": 2,
        "service": 2,
    }
    assert set(figures["ratios"]) == {"documented", "resized", "best"}
    assert figures["likeness_db"]["same chunk"] > 35
    assert figures["parameters"]["seed"] == 7
    assert 0 <= figures["back_to_back"]["idle_share"] < 1
    assert [bar["at_most"] for bar in figures["bars"]] == [0.9, 1.05, 0.03]
    assert "| service" in done.stdout
