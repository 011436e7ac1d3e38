#!/usr/bin/env python3
"""Does the ledger limit throughput? Jobs per second with 1, 2 and 4 worker processes, and the capacity of one Redis.

usage: python -m tools.throughput [--workers 1,2,4] [--rounds 3] [--simulated 32] [--json FILE]

First, real worker processes with a stand-in for the model whose steps only sleep, so that they can only be delayed by
the ledger, Celery and each other: throughput by number of processes against that of one, from medians over interleaved
rounds, and the gap between two jobs of a process.

Then simulated workers, which make the same requests to the ledger as real ones (heartbeats, claim, a report at every
step, the end) but neither sleep nor use Celery: jobs per second and Redis' CPU. From that the tool computes how many
workers one Redis, which runs scripts on one core, can serve. Everything runs on this machine, in a temporary folder.
"""

import argparse
import itertools
import json
import logging
import math
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import redis
from PIL import Image

from svd_service import bootstrap
from svd_service.bootstrap import UseCases, use_cases
from svd_service.config import Settings
from svd_service.errors import UnavailableError
from svd_service.jobs.job import Holder, Job, Phase, Progress, Result, State
from svd_service.jobs.parameters import VideoRequest
from svd_service.jobs.submission import Submission
from svd_service.jobs.submit import Order
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.connection import connect
from svd_service.ledger.workers import WorkerStatus
from svd_service.worker.lease import Lease
from svd_service.worker.shared_memory import Drain
from tools.harness.stack import Stack

#: Steps of a job, SVD's default, and seconds per step of the stand-in for the model.
STEPS = 25
STEP = 0.1

#: Processes that share the simulated workers, which are threads.
SIMULATORS = 4

#: The Redis list that replaces Celery in the simulation.
IDS = "simulated:ids"

#: Maximum share of Redis' core in production; beyond it, requests wait for each other.
MAXIMUM_LOAD = 0.6


@dataclass
class Round:
    """One measurement with `workers` processes: jobs per second, gaps in seconds, seconds of Redis' CPU per job."""

    workers: int
    rate: float
    gaps: list[float]
    cpu: float


@dataclass
class Outcome:
    """All figures: those by number of processes, and those of the simulation."""

    rounds: list[Round] = field(default_factory=list)
    simulated: dict[str, float] = field(default_factory=dict)
    idle_cpu: float = 0.0
    status_cpu: dict[int, tuple[float, float]] = field(default_factory=dict)


def main() -> int:
    """Measure and print; return 1 if the throughput of any number of processes is below 0.95 × linear."""
    options = _options()
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="svd-throughput-", ignore_cleanup_errors=True) as folder:
        for number in range(options.rounds):
            for workers in options.workers:
                part = Path(folder) / f"{number}-{workers}"
                part.mkdir()
                outcome.rounds.append(real(part, workers, options.jobs, options.rest, outcome))
                say(f"round {number + 1}, {workers} processes: {outcome.rounds[-1].rate:.3f} jobs/s")
        if options.simulated:
            part = Path(folder) / "simulated"
            part.mkdir()
            outcome.simulated = simulation(part, options.simulated, options.seconds, outcome)
    good = show(outcome)
    if options.json:
        options.json.write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return 0 if good else 1


# Real worker processes


def real(folder: Path, workers: int, jobs_each: int, rest: float, outcome: Outcome) -> Round:
    """Measure a worker of `workers` processes, with `jobs_each` jobs for each."""
    with serving(folder, SVD_DEVICES=",".join(["cpu"] * workers), SVD_MAX_QUEUED="100000") as (stack, service):
        stack.start_stand_in(step=STEP)
        stack.wait(lambda: len(service.ledger.workers.ready()) == workers, 90)
        at_rest = idle(stack.redis, rest)
        outcome.idle_cpu = at_rest / workers
        ids = [submit(service) for _ in range(workers * jobs_each)]
        began, before = time.monotonic(), cpu(stack.redis)
        patience = 60 + 3 * jobs_each * STEPS * STEP
        while ended(service.ledger) < len(ids):
            # Poll rarely, so that polling does not add to Redis' load.
            time.sleep(0.5)
            if time.monotonic() - began > patience:
                raise SystemExit(f"the jobs take longer than {patience:.0f} s:\n{stack.logs()}")
        spent = cpu(stack.redis) - before - at_rest * (time.monotonic() - began)
        done = [service.ledger.jobs.find(job_id).attempts for job_id in ids]
    attempts = [attempt for each in done for attempt in each]
    first = min(attempt.started_at for attempt in attempts)
    last = max(attempt.ended_at or 0.0 for attempt in attempts)
    return Round(workers, len(ids) / (last - first), list(gaps(attempts)), spent / len(ids))


def gaps(attempts: list[Any]) -> Iterator[float]:
    """Yield the seconds between the end of an attempt and the start of the same process' next one."""
    of_worker: dict[str, list[Any]] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.started_at):
        of_worker.setdefault(attempt.worker, []).append(attempt)
    for one_after_the_other in of_worker.values():
        for earlier, later in itertools.pairwise(one_after_the_other):
            yield later.started_at - earlier.ended_at


def submit(service: UseCases) -> str:
    """Submit a small job of `STEPS` steps; return its id."""
    image = BytesIO()
    Image.new("RGB", (64, 64)).save(image, "PNG")
    image.seek(0)
    return service.submit(image, Order(VideoRequest(width=64, height=64, num_inference_steps=STEPS))).id


# Simulated workers


def simulation(folder: Path, workers: int, seconds: float, outcome: Outcome) -> dict[str, float]:
    """Measure simulated workers, which always have queued jobs, for `seconds`."""
    with serving(folder, SVD_MAX_QUEUED="1000000") as (stack, service):
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        each = [workers // SIMULATORS + (number < workers % SIMULATORS) for number in range(SIMULATORS)]
        simulators = [
            context.Process(target=simulate, args=(stack.environment, number, count, stop))
            for number, count in enumerate(each)
        ]
        for simulator in simulators:
            simulator.start()
        stack.wait(lambda: len(service.ledger.workers.ready()) == workers, 90)

        job = service.queries.find(submit(service))
        service.removal.cancel(job.id)
        filled = threading.Event()
        simulated = simulated_service(connect(service.settings, timeout=10.0), service.settings)

        def fill() -> None:
            while not filled.is_set():
                if service.ledger.stats.figures().jobs[State.QUEUED] > 10 * workers:
                    time.sleep(0.01)
                    continue
                for _ in range(workers):
                    service.ledger.jobs.submit(
                        Submission(str(uuid.uuid4()), parameters=job.parameters, model=job.model, input=job.input)
                    )
                simulated.dispatch()

        filler = threading.Thread(target=fill)
        filler.start()
        time.sleep(2)
        began, before, finished = time.monotonic(), cpu(stack.redis), ended(service.ledger)
        time.sleep(seconds)
        took, spent, finished = time.monotonic() - began, cpu(stack.redis) - before, ended(service.ledger) - finished
        filled.set()
        filler.join()
        stop.set()
        for simulator in simulators:
            simulator.join()
        for busy in (workers, 8 * workers):
            outcome.status_cpu[busy] = status(stack.redis, simulated, job, busy)
    return {
        "workers": workers,
        "jobs": finished,
        "jobs_a_second": finished / took,
        "redis_cpu": spent / took,
        "cpu_a_job": spent / finished,
    }


def simulate(environment: dict[str, str], number: int, workers: int, stop: Any) -> None:
    """Run `workers` simulated workers as threads of this process."""
    # Hide the warnings about leases whose jobs have just ended.
    logging.getLogger("svd_service").setLevel(logging.ERROR)
    settings = Settings.from_mapping(environment)
    threads = [
        threading.Thread(target=simulated_worker, args=(settings, f"simulated{number}/{index}", stop))
        for index in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def simulated_worker(settings: Settings, name: str, stop: Any) -> None:
    """Take ids from the list; for each, claim the job, report every step and finish it."""
    client = connect(settings, timeout=10.0)
    service = simulated_service(client, settings)
    ledger = service.ledger
    holder = Holder(name, "simulated", uuid.uuid4().hex, 1)
    model = service.model.name
    status = WorkerStatus(name, "simulated", holder.instance, 1, model, trained=True, ready_since=0.0, load_seconds=0)
    lease = Lease(ledger, status, settings.lease, Drain())
    lease.start()
    result = Result("none", 1, "none", 64, 64, 2, {})
    while not stop.is_set():
        message: Any = client.blpop([IDS], timeout=1)
        if message is None:
            continue
        try:
            claim = ledger.attempts.claim(message[1], holder)
            service.dispatch()
            if claim is None:
                continue
            with lease.kept(claim):
                ledger.jobs.find(claim.job_id)
                ledger.attempts.report(claim, Progress(Phase.PREPARING))
                for step in range(STEPS):
                    ledger.attempts.report(claim, Progress(Phase.SAMPLING, step + 1, STEPS))
                ledger.attempts.report(claim, Progress(Phase.DECODING))
                ledger.attempts.report(claim, Progress(Phase.UPLOADING))
                ledger.attempts.finish(claim, result, device="simulated", seconds={Phase.SAMPLING: 1.0}, steps=STEPS)
        except UnavailableError as error:
            say(f"{name}: {error}")
    lease.stop()


def status(client: "redis.Redis", service: UseCases, job: Job, workers: int) -> tuple[float, float]:
    """Measure Redis' CPU in seconds for the status of a started and of a queued job, both with an ETA, while `workers`
    workers run jobs.
    """
    ledger = service.ledger
    ids = [str(uuid.uuid4()) for _ in range(workers + 1)]
    for number, job_id in enumerate(ids):
        ledger.jobs.submit(Submission(job_id, parameters=job.parameters, model=job.model, input=job.input))
        if number == workers:
            break
        name = f"busy/{number}"
        model = str(job.model["name"])
        ledger.workers.heartbeat(
            WorkerStatus(name, "simulated", "busy", 1, model, trained=True, ready_since=0, load_seconds=0)
        )
        claim = ledger.attempts.claim(job_id, Holder(name, "simulated", "busy", 1))
        if claim is not None:
            ledger.attempts.report(claim, Progress(Phase.SAMPLING, 1, STEPS))
    spent = (cpu_of_status(client, service, ids[0]), cpu_of_status(client, service, ids[-1]))
    for job_id in ids:
        ledger.jobs.forget(job_id, insist=True)
    return spent


def cpu_of_status(client: "redis.Redis", service: UseCases, job_id: str, times: int = 500) -> float:
    """Measure Redis' CPU in seconds for one status request."""
    before = cpu(client)
    for _ in range(times):
        service.queries.find(job_id)
    return (cpu(client) - before) / times


def simulated_service(client: "redis.Redis", settings: Settings) -> UseCases:
    """Make use cases with a Redis list in place of Celery."""
    service = bootstrap.worker(settings)

    def enqueue(job_id: str, _: str) -> None:
        client.rpush(IDS, job_id)

    return use_cases(open_ledger(client, settings), service.artifacts, settings, enqueue)


# Shared


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[tuple[Stack, UseCases]]:
    """Run a Redis with an append-only file until the block ends; yield it with its use cases."""
    stack = Stack(folder, variables)
    stack.start_redis()
    try:
        settings = Settings.from_mapping(stack.environment)
        yield stack, bootstrap.worker(msgspec.structs.replace(settings, model=None, devices="cpu"))
    finally:
        stack.stop_all()


def cpu(client: "redis.Redis") -> float:
    """Return the CPU seconds of Redis' main thread, which runs the scripts."""
    info: Any = client.info("cpu")
    return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])


def idle(client: "redis.Redis", seconds: float) -> float:
    """Measure the share of a core that Redis uses while no job runs."""
    before, began = cpu(client), time.monotonic()
    time.sleep(seconds)
    return (cpu(client) - before) / (time.monotonic() - began)


def ended(ledger: Ledger) -> int:
    """Return the number of finished jobs."""
    return ledger.stats.figures().ended.get("finished", 0)


def show(outcome: Outcome) -> bool:
    """Print the tables; return whether the throughput of every number of processes is at least 0.95 × linear."""
    good = True
    rates: dict[int, float] = {}
    row(
        "Worker processes",
        "Jobs/s: median, range",
        "× linear",
        "Between two jobs, ms: median, 95 %",
        "Redis, ms per job",
    )
    row(*["---"] * 5)
    for workers in sorted({each.workers for each in outcome.rounds}):
        mine = [each for each in outcome.rounds if each.workers == workers]
        rates[workers] = statistics.median(each.rate for each in mine)
        least = min(rates)
        linear = rates[workers] / rates[least] * least / workers
        good = good and linear >= 0.95
        between = sorted(1000 * gap for each in mine for gap in each.gaps)
        row(
            workers,
            f"{rates[workers]:.3f}, {min(each.rate for each in mine):.3f}–{max(each.rate for each in mine):.3f}",
            f"{linear:.3f}",
            f"{statistics.median(between):.0f}, {between[int(0.95 * len(between))]:.0f}",
            f"{1000 * statistics.median(each.cpu for each in mine):.1f}",
        )
    if simulated := outcome.simulated:
        print()
        row("Simulated workers", "Jobs/s", "Redis' core in use", "Redis, ms per job", "an idle real process")
        row(*["---"] * 5)
        row(
            int(simulated["workers"]),
            f"{simulated['jobs_a_second']:.1f}",
            f"{simulated['redis_cpu']:.0%}",
            f"{1000 * simulated['cpu_a_job']:.2f}",
            f"{outcome.idle_cpu:.2%} of the core",
        )
        print()
        row("Busy workers", "Redis, ms for the status of a started job", "of a queued job")
        row(*["---"] * 3)
        for busy, (started, queued) in sorted(outcome.status_cpu.items()):
            row(busy, f"{1000 * started:.2f}", f"{1000 * queued:.2f}")
    if outcome.rounds and outcome.simulated:
        size(outcome)
    return good


def size(outcome: Outcome) -> None:
    """Print how many workers one Redis can serve, by the duration of jobs and the interval of polling."""
    most = max(each.workers for each in outcome.rounds)
    a_job = statistics.median(each.cpu for each in outcome.rounds if each.workers == most)
    (few, (started, least)), (many, (_, greatest)) = sorted(outcome.status_cpu.items())
    each_more = (greatest - least) / (many - few)
    print()
    row("Job duration", "no polling", "each caller polls every 10 s", "every second")
    row(*["---"] * 4)
    for seconds in (5, 30, 120):
        full = []
        for pause in (math.inf, 10, 1):
            # One running and one queued job per process, each with a polling caller, use n (a + b n) of the core.
            a = a_job / seconds + outcome.idle_cpu + (started + least - few * each_more) / pause
            b = each_more / pause
            full.append(MAXIMUM_LOAD / a if b <= 0 else (math.sqrt(a * a + 4 * b * MAXIMUM_LOAD) - a) / (2 * b))
        row(f"{seconds} s", *(f"{workers:.0f} ({workers / seconds:.1f} jobs/s)" for workers in full))


def row(*cells: object) -> None:
    """Print a row of a table in Markdown."""
    print("|", " | ".join(map(str, cells)), "|")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=8, help="jobs per process and round (8)")
    parser.add_argument("--rest", type=float, default=8.0, help="seconds of measuring the idle Redis (8)")
    parser.add_argument("--simulated", type=int, default=32, help="simulated workers (32)")
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of the simulation (15)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return parser.parse_args()


def say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
