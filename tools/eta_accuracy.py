#!/usr/bin/env python3
"""Accuracy of `eta_seconds`: run a mix of jobs on a service, and compare the estimates with the actual times.

usage: python -m tools.eta_accuracy IMAGE [--server URL] [--jobs 50] [--every 1.0] [--clips]

The jobs are of three sizes, with `--clips` also of one to three segments, and with or without interpolated frames.
All jobs are sent at once, to a service without other callers; the target is for two workers. Once ten have finished,
each status of an unfinished job is one estimate. Prints the median absolute error, as a share of the time that was
actually left.
"""

import argparse
import random
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from svd_service.client import Client, JobStatus

SIZES = ({"width": 128, "height": 64}, {"width": 192, "height": 112}, {"width": 256, "height": 144})
CLIPS: tuple[dict[str, int], ...] = (
    {},
    {"segments": 2},
    {"segments": 3},
    {"interpolate": 2},
    {"interpolate": 4},
    {"segments": 2, "interpolate": 4},
)


def main() -> None:
    """Submit the jobs, poll their statuses, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two polls")
    parser.add_argument("--clips", action="store_true", help="segments and interpolation, too")
    options = parser.parse_args()
    chance = random.Random(5)  # noqa: S311 - the same order every time
    with Client(options.server) as client:
        print(f"{client.health()['workers_ready']} workers are ready")
        kinds: list[dict[str, Any]] = [
            chance.choice(SIZES) | (chance.choice(CLIPS) if options.clips else {}) for _ in range(options.jobs)
        ]
        ids = [client.submit(options.image, num_frames=4, **kind).id for kind in kinds]
        estimates, ends = poll(client, ids, options.every)
    report(estimates, ends)


def poll(client: Client, ids: list[str], every: float) -> tuple[list[tuple[str, float, float]], dict[str, float]]:
    """Return estimates as (job, time, seconds) from the tenth finished job on, and the time at which each job ended."""
    estimates: list[tuple[str, float, float]] = []
    ends: dict[str, float] = {}
    while len(ends) < len(ids):
        for job_id in ids:
            if job_id in ends:
                continue
            now, job = time.time(), client.status(job_id)
            if job.ended:
                ends[job_id] = ended_at(job)
            elif len(ends) >= 10 and job.raw["eta_seconds"] is not None:
                estimates.append((job_id, now, job.raw["eta_seconds"]))
        time.sleep(every)
    return estimates, ends


def ended_at(job: JobStatus) -> float:
    """Return the job's end in seconds since the epoch."""
    return datetime.fromisoformat(job.raw["ended_at"]).timestamp()


def report(estimates: list[tuple[str, float, float]], ends: dict[str, float]) -> None:
    """Print the errors of all estimates, and of each job's first estimate."""
    first: dict[str, float] = {}
    errors = []
    for job_id, when, seconds in estimates:
        left = ends[job_id] - when
        if left < 0.5:  # the job ended within one polling interval
            continue
        error = abs(seconds - left) / left
        errors.append(error)
        first.setdefault(job_id, error)
    for name, found in (("first estimates", list(first.values())), ("all estimates", errors)):
        tenths = statistics.quantiles(found, n=10)
        print(f"{name}: {len(found)}, median error {statistics.median(found):.1%}, 90th percentile {tenths[-1]:.1%}")


if __name__ == "__main__":
    main()
