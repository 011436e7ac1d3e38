"""The benchmark at toy size: it runs, reports its results, and rejects implausible ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools.benchmark import calls, costs, photo, report
from tools.harness.local import ROOT


def benchmark(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools.benchmark", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def job(start: str, end: str, **seconds: float) -> dict:
    return {
        "attempts": [{"started_at": f"2026-01-01T00:00:{start}+00:00", "ended_at": f"2026-01-01T00:00:{end}+00:00"}],
        "provenance": {"seconds": {"preparing": 0.5, "sampling": 3.0, "decoding": 1.0, "encoding": 0.2} | seconds},
    }


def test_idle_time_is_the_time_without_preparing_sampling_and_decoding():
    result = calls.idle([job("00.00", "05.00"), job("05.10", "10.00", sampling=3.3)])
    assert result["seconds_a_job"] == pytest.approx(5.0)
    assert result["idle_a_job"] == pytest.approx((10 - 4.5 - 4.8) / 2)
    assert result["idle_share"] == pytest.approx(0.07)


def test_jobs_that_overlap_leave_no_idle_time():
    result = calls.idle([job("00.00", "05.00"), job("04.40", "09.00")])
    assert result["idle_share"] == 0


def test_a_ratio_is_computed_of_the_medians_and_of_each_pair():
    result = report.ratio([1.0, 2.0, 9.0], [2.0, 2.0, 3.0])
    assert (result["of_medians"], result["least"], result["median"], result["greatest"]) == (1.0, 0.5, 1.0, 3.0)


def test_a_summary_has_the_spread():
    result = report.summary([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (result["n"], result["median"], result["lower_quartile"], result["upper_quartile"]) == (5, 3.0, 2.0, 4.0)
    assert result["spread"] == pytest.approx(2 / 3, abs=1e-4)


def test_a_missed_bar_is_reported_as_failed(capsys: pytest.CaptureFixture[str]):
    assert report.show_bars([report.bar("speed", 0.9, 0.9)])
    assert not report.show_bars([report.bar("speed", 0.9, 0.9), report.bar("memory", 2.1, 2.0)])
    assert "MISSED" in capsys.readouterr().out


def test_different_frames_are_detected():
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert calls.psnr(frames, frames) == 100
    assert calls.psnr(frames, 255 - frames) < 10
    with pytest.raises(report.BenchmarkError, match="videos of"):
        calls.psnr(frames, frames[:1])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5, (0.1, 0.5, 0.9)])
def test_a_video_with_non_finite_values_or_of_one_colour_is_rejected(value: float | tuple[float, ...]):
    video = np.random.default_rng(0).random((3, 8, 8, 3))
    calls.check(video, "fine")
    video[1] = value
    with pytest.raises(report.BenchmarkError, match="broken"):
        calls.check(video, "broken")


def test_the_photo_is_reproducible_and_has_12_megapixels(tmp_path: Path):
    one = photo.make(tmp_path / "one.jpg", (400, 300)).read_bytes()
    assert photo.make(tmp_path / "two.jpg", (400, 300)).read_bytes() == one
    assert photo.SIZE[0] * photo.SIZE[1] == 12_000_000


def test_results_are_kept_when_something_fails(tmp_path: Path):
    result = {"seconds": 1.0}
    with pytest.raises(report.BenchmarkError), report.kept(tmp_path / "new" / "kept.json", result):
        raise report.BenchmarkError("it broke")
    result = json.loads((tmp_path / "new" / "kept.json").read_text())
    assert result == {"seconds": 1.0, "error": "BenchmarkError: it broke"}


@pytest.mark.thorough
def test_the_service_costs_are_measured_over_real_processes(tmp_path: Path):
    done = benchmark("costs", "--levels", "2", "20", "--rounds", "2", "--seconds", "0.2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "benchmark-costs.json").read_text())
    assert set(result["summaries"]) == {"submit", "status", "position", "ledger: submit", "ledger: position"}
    assert all(
        {level: one["n"] for level, one in by.items()} == {"2": 2, "20": 2} for by in result["summaries"].values()
    )
    assert [bar["at_most"] for bar in result["bars"]] == [costs.MOST] * 3 + [costs.BYTES]
    assert result["status_rate"]["requests_a_second"] > 0
    assert result["machine"]["cores"] >= 1
    assert "| position" in done.stdout


def test_an_unknown_benchmark_lists_the_available_ones(tmp_path: Path):
    done = benchmark("sunshine", cwd=tmp_path)
    assert done.returncode == 2
    assert "calls" in done.stderr
