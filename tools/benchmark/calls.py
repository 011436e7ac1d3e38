"""(a) From the photo's file to the video's: the service over HTTP against bare calls of the pipeline, alternating."""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, cast

import av
import numpy as np
from numpy.typing import NDArray

from svd_service.client import Client, JobStatus
from svd_service.config import CPU_MODEL
from tools.benchmark import machine, photo
from tools.benchmark.own_service import running
from tools.benchmark.report import BenchmarkError, bar, ratio, show, show_bars, summary

#: The bare calls, in the order in which each round makes them, before the service.
BARE: Final = ("documented", "resized", "best")

#: Decode chunks that are tried for `best` before the measurement, and how often each.
CHUNKS: Final = (1, 2, 4, 14)
TRIES: Final = 2

#: Maximum ratio of the service's median time to that of the documented and of the best call.
OF_DOCUMENTED: Final = 0.9
OF_BEST: Final = 1.05

#: Maximum idle time of the worker between two jobs, as a share of a job.
IDLE: Final = 0.03

#: Minimum PSNR in decibels between the service's video and the best call's: with the same chunk their pixels are equal
#: up to rounding, of bfloat16 on some CPUs (with the nano model 55 dB, with the tests' random one 39); with another one
#: they differ a little (with a trained model: 57 dB).
ALIKE: Final = {"same chunk": 35.0, "other chunk": 20.0}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--photo", type=Path, help="default: a synthetic one of 12 megapixels")
    parser.add_argument("--against", nargs="+", choices=BARE, default=BARE, help="the bare calls to make (all)")
    parser.add_argument("--pairs", type=int, default=20, help="rounds of bare calls and service (20)")
    parser.add_argument("--jobs", type=int, default=20, help="queued jobs for the worker's idle time (20; 0: none)")
    parser.add_argument("--model", default=CPU_MODEL, help="a folder in diffusers' layout (the nano model)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the video")
    parser.add_argument(
        "--wait-policy", choices=("passive", "active"), default="passive", help="OpenMP's wait policy in bare calls"
    )


def run(options: Namespace, result: dict[str, Any]) -> bool:
    """Measure; return whether the targets are met."""
    result["machine"] = machine.describe()
    print(machine.in_words(result["machine"]))
    with tempfile.TemporaryDirectory(prefix="svd-bench-") as name:
        folder = Path(name)
        image = options.photo or photo.make(folder / "photo.jpg")
        # The same number of threads as in the bare calls.
        variables = {"SVD_MODEL": options.model, "SVD_CPU_THREADS": os.environ.get("OMP_NUM_THREADS", "0")}
        with running(folder, variables) as url, Client(url) as client:
            return _Comparison(options, result, folder, image, client).run()


class _Bare:
    """The process of the bare calls."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.threads = int(self._answer()["threads"])

    def __call__(self, call: str, image: Path, video: Path, chunk: int = 0) -> float:
        """Make a call; return its seconds."""
        request = {"call": call, "photo": str(image), "video": str(video), "chunk": chunk}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        line = cast(IO[str], self._process.stdout).readline()
        if not line:
            raise BenchmarkError("the process of the bare calls has exited; see its output above")
        return dict(json.loads(line))


@contextmanager
def bare_calls(model: str, parameters: dict[str, Any], wait_policy: str) -> Iterator[_Bare]:
    """Run a process that has loaded the model and makes bare calls."""
    command = [sys.executable, "-m", "tools.benchmark.bare", model, json.dumps(parameters)]
    environment = {**os.environ, "OMP_WAIT_POLICY": wait_policy}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _Bare(process)
        finally:
            process.terminate()  # it may be busy if the benchmark was interrupted


class _Comparison:
    def __init__(self, options: Namespace, result: dict[str, Any], folder: Path, image: Path, client: Client) -> None:
        self._options = options
        self._result = result
        self._folder = folder
        self._image = image
        self._client = client
        self._against = [name for name in BARE if name in options.against]
        self._parameters: Any = {"seed": options.seed} | dict(word.split("=", 1) for word in options.set)

    def run(self) -> bool:
        parameters = self._through_the_service()[1]["parameters"]  # also warms up the service
        self._result |= {"parameters": parameters, "photo_bytes": self._image.stat().st_size}
        with bare_calls(self._options.model, parameters, self._options.wait_policy) as bare:
            self._result["bare"] = {"threads": bare.threads, "wait_policy": self._options.wait_policy}
            chunk = self._choose_chunk(bare, parameters["num_frames"])
            self._compare_frames(bare, chunk, parameters["decode_chunk_size"])
            seconds, jobs = self._alternate(bare, chunk)
        bars = self._report(seconds, jobs)
        if self._options.jobs:
            bars.append(self._idle())
        self._result["bars"] = bars
        return show_bars(bars)

    def _video(self, name: str) -> Path:
        return self._folder / f"{name}.mp4"

    def _through_the_service(self) -> tuple[float, dict[str, Any]]:
        """Generate a video with the client; return the seconds from the photo's file to the video's, and the job."""
        began = time.perf_counter()
        job = self._client.submit(self._image, **self._parameters)
        submitted = time.perf_counter()
        job = self._ended(job.id)
        noticed, noticed_at = time.perf_counter(), time.time()
        self._client.download(job.id, self._video("service"))
        ended = time.perf_counter()
        values = dict(job.raw)
        values["path"] = _path(values, submitted - began, noticed - began, noticed_at, ended - began)
        return ended - began, values

    def _ended(self, job_id: str) -> JobStatus:
        """Wait until the job's end is reported; return the job."""
        *_, last = self._client.watch(job_id)
        if last.state != "finished":
            raise BenchmarkError(f"a job {last.state}: {last.error_message}")
        return last

    def _choose_chunk(self, bare: _Bare, frames: int) -> int:
        """Return the decode chunk with which `best` is fastest."""
        tries: dict[int, list[float]] = {}
        for _ in range(TRIES):
            for chunk in sorted({min(chunk, frames) for chunk in CHUNKS}):
                tries.setdefault(chunk, []).append(bare("best", self._image, self._video("try"), chunk))
        self._result["chunks_tried"] = {
            str(chunk): [round(second, 3) for second in took] for chunk, took in tries.items()
        }
        return min(tries, key=lambda chunk: min(tries[chunk]))

    def _compare_frames(self, bare: _Bare, chunk: int, service_chunk: int) -> None:
        """Check that all videos have the same frames, so that the times are comparable."""
        bare("best", self._image, self._video("same"), service_chunk)
        bare("best", self._image, self._video("other"), chunk)
        ours = frames(self._video("service"))
        likeness = {
            "same chunk": psnr(ours, frames(self._video("same"))),
            "other chunk": psnr(ours, frames(self._video("other"))),
        }
        self._result["likeness_db"] = {name: round(value, 2) for name, value in likeness.items()}
        for name, value in likeness.items():
            if value < ALIKE[name]:
                raise BenchmarkError(f"the service's video differs from the best call's ({name}): {value:.1f} dB")

    def _alternate(self, bare: _Bare, chunk: int) -> tuple[dict[str, list[float]], list[dict[str, Any]]]:
        seconds: dict[str, list[float]] = {name: [] for name in (*self._against, "service")}
        self._result |= {"best_chunk": chunk, "seconds": seconds}  # saved even if the benchmark is interrupted
        jobs = []
        for number in range(self._options.pairs):
            for name in self._against:
                seconds[name].append(bare(name, self._image, self._video(name), chunk if name == "best" else 0))
            took, job = self._through_the_service()
            seconds["service"].append(took)
            jobs.append(job)
            line = "  ".join(f"{name} {values[-1]:.2f}" for name, values in seconds.items())
            print(f"  {number + 1:>3}: {line}", flush=True)
        for name in seconds:
            check(frames(self._video(name)), name)
        return seconds, jobs

    def _report(self, seconds: dict[str, list[float]], jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        summaries = {name: summary(values) for name, values in seconds.items()}
        ratios = {name: ratio(seconds["service"], seconds[name]) for name in self._against}
        path = {name: summary([job["path"][name] for job in jobs]) for name in jobs[0]["path"]}
        self._result |= {"summaries": summaries, "ratios": ratios, "path": path}
        show(
            f"From the photo's file to the video's, seconds, {self._options.pairs} alternating rounds",
            ("", "median", "quartiles", "minimum", "service / this: of medians", "quartiles of pairs"),
            [
                (
                    name,
                    values["median"],
                    f"{values['lower_quartile']:.3g} – {values['upper_quartile']:.3g}",
                    values["least"],
                    ratios[name]["of_medians"] if name in ratios else None,
                    f"{ratios[name]['lower_quartile']:.3f} – {ratios[name]['upper_quartile']:.3f}"
                    if name in ratios
                    else None,
                )
                for name, values in summaries.items()
            ],
        )
        show(
            "The service's time by part, seconds",
            ("", "median", "quartiles"),
            [
                (name, values["median"], f"{values['lower_quartile']:.3g} – {values['upper_quartile']:.3g}")
                for name, values in path.items()
            ],
        )
        return [
            bar(f"service / {name} bare call", float(ratios[name]["of_medians"]), most)
            for name, most in (("documented", OF_DOCUMENTED), ("best", OF_BEST))
            if name in ratios
        ]

    def _idle(self) -> dict[str, Any]:
        """Measure the share of the time from the first claim to the last end in which the model did not run."""
        ids = [self._client.submit(self._image, **self._parameters).id for _ in range(self._options.jobs)]
        values = idle([self._ended(job_id).raw for job_id in ids])
        self._result["back_to_back"] = values
        show(
            f"{self._options.jobs} queued jobs on one worker",
            ("", ""),
            [(name.replace("_", " "), value) for name, value in values.items()],
        )
        return bar("idle between two jobs, share of a job", values["idle_share"], IDLE)


def idle(jobs: list[dict[str, Any]]) -> dict[str, float]:
    """Compute the idle time of a worker from the times of jobs that ran on it one after the other.

    Idle is the time from the first claim to the last end in which the model did not run (prepare, sample, decode). It
    includes encoding and uploading the last video.
    """
    began = min(_moment(job["attempts"][-1]["started_at"]) for job in jobs)
    ended = max(_moment(job["attempts"][-1]["ended_at"]) for job in jobs)
    busy = sum(job["provenance"]["seconds"][phase] for job in jobs for phase in ("preparing", "sampling", "decoding"))
    span = ended - began
    return {
        "seconds": round(span, 4),
        "seconds_a_job": round(span / len(jobs), 4),
        "idle_a_job": round((span - busy) / len(jobs), 4),
        "idle_share": round(max(0.0, span - busy) / span, 5),
    }


def _path(job: dict[str, Any], submitted: float, noticed: float, noticed_at: float, ended: float) -> dict[str, float]:
    """Return the seconds of each part of a job. The ledger's clock and this process' are of the same machine."""
    attempt, phases = job["attempts"][-1], job["provenance"]["seconds"]
    created, claimed, done = (_moment(text) for text in (job["created_at"], attempt["started_at"], attempt["ended_at"]))
    return {
        "submit (upload, decode, fit, store)": submitted,
        "claim after acceptance": claimed - created,
        **{f"in the worker: {name}": seconds for name, seconds in phases.items()},
        "in the worker: other": done - claimed - sum(phases.values()),
        "end event received": noticed_at - done,
        "download": ended - noticed,
    }


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def frames(video: Path) -> NDArray[np.uint8]:
    """Decode a video's frames as (frames, height, width, 3)."""
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the PSNR of two videos in decibels; 100 if they are equal.

    Raises:
        BenchmarkError: their sizes differ.
    """
    if one.shape != other.shape:
        raise BenchmarkError(f"videos of {one.shape} and {other.shape}")
    error = float(np.mean((one.astype(np.float32) - other.astype(np.float32)) ** 2))
    return min(100.0, 10 * float(np.log10(255**2 / error))) if error else 100.0


def check(video: NDArray[Any], name: str) -> None:
    """Reject invalid output: values that are not finite, and frames of one color.

    Raises:
        BenchmarkError: the video has such values or frames.
    """
    if not np.isfinite(video).all():
        raise BenchmarkError(f"{name}: some values are not finite")
    if any(float(frame.std(axis=(0, 1)).max()) < 1e-3 for frame in video):
        raise BenchmarkError(f"{name}: a frame has only one color")
