import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tools import gpu_day, gpu_table

STEP = """
import json, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
for number in range(100):
    path.write_text(json.dumps({"cases": {str(each): {} for each in range(number + 1)}}))
    time.sleep(0.05)
"""


@pytest.fixture
def day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gpu_day.Day:
    """A day of six seconds, on a machine without sensors."""
    monkeypatch.setattr(gpu_day, "ENDING", 0.0)
    monkeypatch.setattr(gpu_day, "PAUSE", 0.05)
    return gpu_day.Day(
        argparse.Namespace(minutes=0.1, device="cpu", architecture="tiny", repeats=1, json=tmp_path / "day.json")
    )


def step(day: gpu_day.Day, tmp_path: Path, program: str, seconds: float) -> bool:
    path = tmp_path / "step.json"

    def measured() -> dict[str, Any]:
        return dict(json.loads(path.read_text() or "{}")) if path.exists() else {}

    with (tmp_path / "log").open("w") as output:
        return day._step("benchmark", (sys.executable, "-c", program, str(path)), seconds, output, measured)


def test_a_step_that_takes_too_long_is_stopped_and_its_measurements_are_kept(day: gpu_day.Day, tmp_path: Path) -> None:
    assert step(day, tmp_path, STEP, 1.0)
    result = json.loads((tmp_path / "day.json").read_text())["steps"]["benchmark"]
    assert result["timed_out"]
    assert result["status"] == -signal.SIGTERM
    assert "0" in result["cases"]
    assert result["seconds"] < 10


def test_a_failed_step_is_recorded_with_its_status(day: gpu_day.Day, tmp_path: Path) -> None:
    assert not step(day, tmp_path, "raise SystemExit(3)", 60)
    result = json.loads((tmp_path / "day.json").read_text())["steps"]["benchmark"]
    assert (result["status"], result["timed_out"]) == (3, False)


def test_a_day_is_complete_if_every_case_was_measured_and_no_step_timed_out(day: gpu_day.Day) -> None:
    def is_complete(tests: dict[str, Any], benchmark: dict[str, Any]) -> bool:
        day._result["steps"] = {"tests": {"timed_out": False} | tests, "benchmark": {"timed_out": False} | benchmark}
        return day._is_complete()

    whole = {"planned": ["plain"], "cases": {"plain": {}}}
    assert is_complete({}, whole)
    assert is_complete({}, {"planned": ["plain", "FP8"], "cases": {"plain": {}}, "failed": {"FP8": "no"}})
    assert not is_complete({"timed_out": True}, whole)
    assert not is_complete({}, {"planned": ["plain", "draft"], "cases": {"plain": {}}})
    assert not is_complete({}, {})


PROGRAM = """
import argparse, pathlib, sys
from tools import gpu_day
gpu_day.PAUSE = 0.05
gpu_day.Day._tests = lambda day, output: True
def benchmark(day, output):
    path = pathlib.Path(sys.argv[1]) / "step.json"
    measured = lambda: gpu_day.json.loads(path.read_text() or "{}") if path.exists() else {}
    return day._step("benchmark", (sys.executable, "-c", sys.argv[2], str(path)), 60, output, measured)
gpu_day.Day._benchmark = benchmark
sys.exit(gpu_day.main(["--device", "cpu", "--json", sys.argv[1] + "/day.json"]))
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_after_a_signal_the_json_has_the_measurements_so_far(tmp_path: Path, sign: signal.Signals) -> None:
    path = tmp_path / "day.json"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), STEP], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (path.exists() and json.loads(path.read_text())["steps"].get("benchmark", {}).get("cases")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sign)
    process.wait(timeout=30)
    result = json.loads(path.read_text())
    assert result["steps"]["benchmark"]["cases"]
    assert not result["complete"]
    assert result.get("stopped") == ("SIGTERM" if sign is signal.SIGTERM else None)


def test_the_sensors_are_summarized_without_what_the_device_lacks() -> None:
    readings = "100.5, 1980, 3201, 40, 0\n690.0, 1755, 3201, 61, 100\n[N/A], 1755, 3201, [N/A], 100\n300"
    assert gpu_day.summarized(readings) == {
        "watts": {"least": 100.5, "median": 300.0, "greatest": 690.0, "n": 3},
        "sm_mhz": {"least": 1755.0, "median": 1755.0, "greatest": 1980.0, "n": 3},
        "memory_mhz": {"least": 3201.0, "median": 3201.0, "greatest": 3201.0, "n": 3},
        "celsius": {"least": 40.0, "median": 50.5, "greatest": 61.0, "n": 2},
        "busy_percent": {"least": 0.0, "median": 100.0, "greatest": 100.0, "n": 3},
    }


@pytest.fixture
def measured() -> dict[str, Any]:
    """Sample measurements of a day on a GPU."""
    seconds = {name: {"median": 1.5} for name in ("preparing", "sampling", "decoding", "encoding")}
    case = {"seconds": {"median": 7.25}, "phases": seconds, "frames_a_second": 3.4, "mfu": {"whole": 0.71}}
    machine = {"processor": "CPU", "cores": 16, "memory_gib": 128, "system": "Linux", "python": "3.11"}
    machine |= {"versions": {"torch": "2.13.0"}, "load_average": [0.1]}
    return {
        "at": "2026-12-01T10:00:00Z",
        "architecture": "svd-xt",
        "device": "0",
        "machine": machine,
        "complete": False,
        "stopped": "SIGTERM",
        "sensors": {"watts": {"least": 90.0, "median": 650.0, "greatest": 700.0, "n": 9}},
        "steps": {
            "tests": {"tests": 12, "failures": 1, "errors": 0, "skipped": 2},
            "benchmark": {
                "machine": {**machine, "device": "NVIDIA H200"},
                "ceilings": {"tflops": 790.0, "gb_a_second": 4300.0},
                "cases": {"defaults": {**case, "peak_gb": 13.9, "first_seconds": 90.0}},
                "bars": [{"bar": "defaults, seconds", "measured": 7.25, "at_most": 8.0, "holds": True}],
                "failed": {"FP8": "RuntimeError: not on this device"},
                "planned": ["FP8", "defaults", "defaults, again"],
            },
        },
    }


def test_the_json_becomes_the_tables_of_the_page(measured: dict[str, Any]) -> None:
    text = gpu_table.tables(measured)
    assert "svd-xt with random weights on NVIDIA H200." in text
    assert any(line.split("|")[1:3] == [" defaults ", " 7.25    "] for line in text.splitlines())
    assert "| defaults, seconds | 7.25     | 8       | yes   |" in text
    assert "GPU tests: 12, of which 1 failed and 2 were skipped." in text
    assert "Not measured, for want of time: defaults, again." in text
    assert "FP8 failed: RuntimeError: not on this device" in text
    assert "watts 650 (90 to 700)" in text
    assert "The run was stopped (SIGTERM)." in text


def test_the_tables_replace_only_the_text_between_the_marks_of_the_page(measured: dict[str, Any]) -> None:
    page = gpu_table.PAGE.read_text()
    changed = gpu_table.inserted(page, gpu_table.tables(measured))
    assert "None of this has been measured on a GPU" in page
    assert "None of this has been measured on a GPU" not in changed
    assert gpu_table.inserted(changed, page.partition(gpu_table.BEGIN)[2].partition(gpu_table.END)[0]) == page
    with pytest.raises(ValueError, match="gpu-day"):
        gpu_table.inserted("no marks", "text")


def test_a_day_without_measurements_has_no_table(measured: dict[str, Any]) -> None:
    text = gpu_table.tables({**measured, "steps": {}, "sensors": {"reason": "nvidia-smi: No such file or directory"}})
    assert "|" not in text
    assert "The run was stopped" in text
