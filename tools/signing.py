#!/usr/bin/env python3
"""Measure the cost of Content Credentials: the time to sign a file of about 5 MB in each format, and the added bytes.

usage: python -m tools.signing [--bytes 5000000] [--rounds 7] [--bars]

The video is moving noise, so that few frames make a large file. With `--bars` the exit status is 1 if signing any
format takes more than 100 ms of processor time for 5 MB, which is the wall-clock time on an idle machine.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from svd_service.jobs.marks import MARKS, Mark, library_type
from svd_service.marking import chain
from svd_service.marking.signer import Claims, Signer
from svd_service.parameters import Format
from svd_service.video import formats
from tools.benchmark.report import show

#: Maximum seconds for a file of the default size in bytes.
BAR: Final = (0.1, 5_000_000)

SIZE: Final = (1024, 576)
FPS: Final = 7


def main() -> int:
    """Measure and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=BAR[1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bars", action="store_true", help="exit with 1 if the target is missed")
    options = parser.parse_args()
    signer, rows, held = Signer(chain.make()), [], True
    with tempfile.TemporaryDirectory() as folder:
        for kind in (kind for kind in Format if MARKS[kind] is Mark.EMBEDDED):
            path = Path(folder) / f"video.{kind}"
            _write(kind, path, options.bytes)
            size = path.stat().st_size
            wall, processor, added = _measure(signer, kind, path, options.rounds)
            rows.append([str(kind), size / 1e6, wall * 1000, processor * 1000, added])
            held = held and processor <= BAR[0] * max(1, size / BAR[1])
    show("Signing", ["format", "MB", "ms", "processor ms", "bytes added"], rows)
    return int(options.bars and not held)


def _write(kind: Format, path: Path, size: int) -> None:
    """Write a video of at least `size` bytes, with as few frames as possible."""
    width, height = SIZE
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    frames = 1
    while not path.exists() or path.stat().st_size < size:
        path.unlink(missing_ok=True)
        with formats.writer(kind, path, SIZE, FPS, {}, {}) as writer:
            for number in range(frames):
                writer.put(np.ascontiguousarray(np.roll(noise, 7 * number * number, axis=(0, 1))))
        frames = max(frames + 1, int(frames * min(4.0, size / path.stat().st_size)))


def _measure(signer: Signer, kind: Format, path: Path, rounds: int) -> tuple[float, float, int]:
    """Return the minimum wall-clock and processor seconds of `rounds`, and the bytes that the signature adds."""
    walls, processors, added = [], [], 0
    for _ in range(rounds):
        copy = path.with_name(f"copy.{kind}")
        copy.write_bytes(path.read_bytes())
        wall, processor = time.perf_counter(), time.process_time()
        signer.sign_file(copy, library_type(kind), Claims("0" * 36, "nano", "1"))
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        added = copy.stat().st_size - path.stat().st_size
    return min(walls), min(processors), added


if __name__ == "__main__":
    sys.exit(main())
