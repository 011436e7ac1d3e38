#!/usr/bin/env python3
"""Generate a video with a model of the real size and random weights, through the whole service on a CPU, and measure.

The model's folder is from `tools.full_size`. Generates two frames of 256x128 in one step and prints load time, peak
memory, `GET /models` and the provenance. Takes about three minutes on two idle cores, 12 GB of memory and 5 GB of disk;
with less, it exits immediately with the reason.

usage: python -m tools.try_full_size [--folder FOLDER] [--model svd|svd-xt|svd-xt-1.1]
"""

import argparse
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import av
from PIL import Image

from tools.full_size import DISK_BYTES, MODELS, write
from tools.harness.stack import Stack

#: Required memory in bytes: the weights in single precision (9.0 GB), their files in the page cache, everything else.
MEMORY_BYTES: Final = 16_000_000_000

#: Maximum seconds for loading and for the video; ten times what idle cores need.
PATIENCE: Final = 1800

VIDEO: Final = {"width": 256, "height": 128, "num_frames": 2, "num_inference_steps": 1, "seed": 7}


def main() -> int:
    """Generate the video and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="an existing model folder instead of a temporary one")
    parser.add_argument("--model", choices=tuple(MODELS), default="svd-xt")
    arguments = parser.parse_args()
    if reason := shortage(Path(tempfile.gettempdir()), written=arguments.folder is not None):
        print(f"try_full_size: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="svd-full-size-") as name:
        folder = arguments.folder or write(Path(name), arguments.model)
        print(json.dumps(try_out(folder.resolve(), Path(name)), indent=2))
    return 0


def shortage(folder: Path, *, written: bool = False) -> str:
    """Return which resource of this machine is insufficient, or an empty string."""
    available = _available_memory()
    if available < MEMORY_BYTES:
        return f"{available / 1e9:.1f} GB of memory are available; {MEMORY_BYTES / 1e9:.0f} GB are required"
    free = shutil.disk_usage(folder).free
    if not written and free < DISK_BYTES:
        return f"{free / 1e9:.1f} GB of disk are free in {folder}; {DISK_BYTES / 1e9:.0f} GB are required"
    return ""


def try_out(model: Path, folder: Path) -> dict[str, Any]:
    """Run a service with `model` and its data in `folder`, and generate one video; return the figures.

    Raises:
        RuntimeError: the job failed.
        AssertionError: the service does not answer.
    """
    with _service(folder, {"SVD_MODEL": str(model), "SVD_CPU_THREADS": "2"}) as stack:
        stack.wait(lambda: stack.http.get("/health").json()["workers_ready"], PATIENCE)
        (described,) = stack.http.get("/models").json()["models"]
        job_id = stack.submit(_photo(), **VIDEO)
        job = stack.wait_for(job_id, "finished", "failed", seconds=PATIENCE)
        if job["status"] == "failed":
            raise RuntimeError(job["error"])
        peak = _peak_memory(stack.holder(job_id))
        frames = _frames(stack.http.get(job["result"]["url"]).content)
    return {
        "model": described,
        "peak_gb": round(peak / 1e9, 2),
        "frames": frames,
        "provenance": job["provenance"],
        "log": [line for line in (folder / "worker.log").read_text().splitlines() if "loaded" in line],
    }


@contextmanager
def _service(folder: Path, variables: dict[str, str]) -> Iterator[Stack]:
    stack = Stack(folder, variables)
    try:
        stack.start_redis()
        stack.start_worker()
        stack.start_api()
        yield stack
    finally:
        stack.stop_all()


def _photo() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((256, 128), 60).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _frames(video: bytes) -> int:
    with av.open(io.BytesIO(video), "r") as container:
        return sum(1 for _ in container.decode(container.streams.video[0]))


def _available_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return MEMORY_BYTES  # unknown on other systems than Linux
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _peak_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.exit(main())
