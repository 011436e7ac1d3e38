#!/usr/bin/env python3
"""Run the GPU tests and the device's benchmark within a time limit, and write one JSON.

usage: scripts/gpu_day.sh (see there)

The tests get at most a quarter of the time, and the benchmark the rest; it starts no case that would not end in time.
The JSON is updated continuously, so that even after SIGKILL it has everything measured so far; `complete` says whether
all cases were measured. Exit status: 0 if everything was done or the time was over, 1 if a step failed.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from tools.benchmark import machine
from tools.benchmark.report import save
from tools.harness.local import ROOT

#: Maximum share of the time for the tests.
TESTS_SHARE: Final = 0.25

#: Seconds of the limit that are reserved for stopping and writing.
ENDING: Final = 10.0

#: Seconds between two polls of a step's state and measurements.
PAUSE: Final = 1.0

#: The fields queried from nvidia-smi twice a second, and their names in the JSON.
SENSORS: Final = {
    "power.draw": "watts",
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "temperature.gpu": "celsius",
    "utilization.gpu": "busy_percent",
}


class StoppedError(Exception):
    """A signal terminates this process."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--device", default="0", help="a CUDA device's number, or `cpu`")
    parser.add_argument("--architecture", default="svd-xt", help="`svd-xt`, or `tiny`")
    parser.add_argument("--repeats", type=int, default=2, help="measured videos of each case")
    parser.add_argument("--json", type=Path, default=Path("gpu-day.json"))
    chosen = parser.parse_args(arguments)
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, _stop)
    return Day(chosen).run()


def _stop(number: int, _: object) -> None:
    raise StoppedError(signal.Signals(number).name)


class Day:
    """Runs the steps and writes the JSON."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        self._began = time.monotonic()
        self._limit: float = 60 * chosen.minutes - ENDING
        self._result: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "minutes": chosen.minutes,
            "device": chosen.device,
            "architecture": chosen.architecture,
            "machine": machine.describe(),
            "complete": False,
            "steps": {},
        }

    def run(self) -> int:
        """Run all steps; return the exit status."""
        log = self._chosen.json.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        status = 0
        try:
            with log.open("w", encoding="utf-8") as output, self._sensors():
                tests = self._tests(output)
                benchmark = self._benchmark(output)
                failed = self._result["steps"]["benchmark"].get("failed")
                status = int(not (tests and benchmark) or bool(failed))
            self._result["complete"] = self._is_complete()
        except StoppedError as error:
            self._result["stopped"] = str(error)
            status = 1
        finally:
            self._save()
        print(f"{self._chosen.json} ({log} has the output); {time.monotonic() - self._began:.0f} s")
        return status

    def _is_complete(self) -> bool:
        steps = self._result["steps"]
        planned = steps["benchmark"].get("planned")
        done = {*steps["benchmark"].get("cases", ()), *steps["benchmark"].get("failed", ())}
        measured = planned is not None and set(planned) == done
        return measured and not any(step["timed_out"] for step in steps.values())

    def _left(self) -> float:
        return max(1.0, self._limit - (time.monotonic() - self._began))

    def _save(self) -> None:
        self._result["seconds"] = round(time.monotonic() - self._began, 1)
        save(self._chosen.json, self._result)

    def _tests(self, output: IO[str]) -> bool:
        report = self._chosen.json.with_suffix(".tests.xml")
        report.unlink(missing_ok=True)
        command = (sys.executable, "-m", "pytest", "-m", "gpu", "tests/unit/video", f"--junitxml={report}")

        def counted() -> dict[str, Any]:
            with suppress(OSError, ET.ParseError):
                suite = next(ET.parse(report).getroot().iter("testsuite"))  # noqa: S314 - pytest has written it
                return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
            return {}

        return self._step("tests", command, self._left() * TESTS_SHARE, output, counted)

    def _benchmark(self, output: IO[str]) -> bool:
        chosen, seconds = self._chosen, self._left()
        path = chosen.json.with_suffix(".benchmark.json")
        path.unlink(missing_ok=True)
        what = ("--architecture", chosen.architecture, "--random-weights", "--device", chosen.device)
        how = ("--repeats", str(chosen.repeats), "--seconds", f"{seconds:.0f}", "--json", str(path))
        command = (sys.executable, "-m", "tools.benchmark", "device", *what, *how)

        def measured() -> dict[str, Any]:
            with suppress(OSError, ValueError):
                return dict(json.loads(path.read_text(encoding="utf-8")))
            return {}

        return self._step("benchmark", command, seconds, output, measured)

    def _step(
        self,
        name: str,
        command: tuple[str, ...],
        seconds: float,
        output: IO[str],
        measured: Callable[[], dict[str, Any]],
    ) -> bool:
        """Run a command for at most `seconds`, save what it has measured meanwhile, and return whether it succeeded."""
        began = time.monotonic()
        print(f"{name}: at most {seconds:.0f} s", flush=True)
        step: dict[str, Any] = {"command": " ".join(command[1:]), "status": None}
        self._result["steps"][name] = step
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            while process.poll() is None and time.monotonic() < began + seconds:
                time.sleep(PAUSE)
                step.update(measured())
                self._save()
        finally:
            step["timed_out"] = process.poll() is None
            _end(process)
            step.update(measured(), status=process.returncode, seconds=round(time.monotonic() - began, 1))
            self._save()
        return process.returncode == 0 or bool(step["timed_out"])

    @contextmanager
    def _sensors(self) -> Iterator[None]:
        """Read the device's sensors until the block ends, and add a summary to the result."""
        readings = self._chosen.json.with_suffix(".sensors.csv")
        command = ("nvidia-smi", f"--query-gpu={','.join(SENSORS)}", "--format=csv,noheader,nounits", "-lms", "500")
        try:
            with readings.open("w", encoding="utf-8") as file:
                process = subprocess.Popen(
                    (*command, "-i", self._chosen.device), stdout=file, stderr=subprocess.DEVNULL
                )
        except OSError as error:
            self._result["sensors"] = {"reason": f"nvidia-smi: {error.strerror}"}
            yield
            return
        try:
            yield
        finally:
            _end(process)
            self._result["sensors"] = summarized(readings.read_text(encoding="utf-8"))


def summarized(readings: str) -> dict[str, Any]:
    """Return minimum, median and maximum of each sensor from nvidia-smi's lines, without sensors the device lacks."""
    columns: dict[str, list[float]] = {name: [] for name in SENSORS.values()}
    for line in readings.splitlines():
        for name, value in zip(columns, line.split(","), strict=False):
            with suppress(ValueError):  # `[N/A]`, or an incomplete line
                columns[name].append(float(value))
    return {
        name: {"least": min(values), "median": statistics.median(values), "greatest": max(values), "n": len(values)}
        for name, values in columns.items()
        if values
    }


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Terminate a process; kill it if it has not exited after five seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
