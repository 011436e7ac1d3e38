"""(d) The cost of expensive uploads for other callers: their requests with and without hostile uploads, alternating."""

import http.client
import multiprocessing
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

import httpx2
from PIL import Image

from tools.benchmark import machine
from tools.benchmark.costs import Queue, run_api, run_redis
from tools.benchmark.report import bar, quantile, show, show_bars
from tools.harness.hostile_images import hostile_images

#: Maximum ratio of a request's 95th percentile during hostile uploads to that without.
MOST: Final = 3.0

#: Seconds between two submissions of the ordinary caller.
_PAUSE: Final = 0.05

#: Queued jobs: enough for each status to have an estimate.
_QUEUED: Final = 10

Times = dict[str, list[float]]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=5, help="quiet and hostile rounds, alternating (5)")
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each round (8)")
    parser.add_argument("--clients", type=int, default=4, help="clients that upload hostile images concurrently (4)")


def run(options: Namespace, result: dict[str, Any]) -> bool:
    """Measure; return whether the targets are met."""
    result["machine"] = machine.describe()
    print(machine.in_words(result["machine"]))
    quiet, hostile, answers = Times(), Times(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="svd-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        queue = stack.enter_context(run_api(folder, stack.enter_context(run_redis(folder)), _QUEUED))
        queue.fill()
        _ordinary(queue, options.seconds, Times())  # warm-up
        for _ in range(options.rounds):
            _ordinary(queue, options.seconds, quiet)
            with _hostile(queue.api, options.clients, answers):
                _ordinary(queue, options.seconds, hostile)
    return _report(result, quiet, hostile, answers)


def _ordinary(queue: Queue, seconds: float, times: Times) -> None:
    """Repeatedly submit an image, request the job's status and `/health`, and delete the job."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        queue.beat()
        began = time.perf_counter()
        job_id = queue.submit()
        submitted = time.perf_counter()
        queue.status(job_id)
        seen = time.perf_counter()
        queue.http.get("/health")
        times.setdefault("submit", []).append(submitted - began)
        times.setdefault("status", []).append(seen - submitted)
        times.setdefault("health", []).append(time.perf_counter() - seen)
        queue.withdraw(job_id)
        time.sleep(_PAUSE)


@contextmanager
def _hostile(address: str, clients: int, answers: Counter[str]) -> Iterator[None]:
    """Run client processes that upload hostile images without a pause; `answers` counts the statuses."""
    context = multiprocessing.get_context("spawn")
    stop, ready = context.Event(), context.Barrier(clients + 1)
    counts: multiprocessing.Queue[Counter[str]] = context.Queue()
    processes = [
        context.Process(target=_upload, args=(address, number, ready, stop, counts), daemon=True)
        for number in range(clients)
    ]
    for process in processes:
        process.start()
    ready.wait(60)
    try:
        yield
    finally:
        stop.set()
        for _ in processes:
            answers.update(counts.get(timeout=120))
        for process in processes:
            process.join()


def _upload(address: str, number: int, ready: Any, stop: Event, counts: Any) -> None:
    # Encode the requests only once, since this process shares the machine with the service.
    small = Image.new("RGB", (64, 48), (9, 99, 9))
    requests = [
        httpx2.Request("POST", f"http://{address}/generate", files={"image": image})
        for _, image in hostile_images(small)
    ]
    bodies = [(request.headers["Content-Type"], request.read()) for request in requests]
    answers: Counter[str] = Counter()
    ready.wait(60)
    connection = http.client.HTTPConnection(address, timeout=60)
    while not stop.is_set():
        # Each client starts with another image.
        kind, body = bodies[number % len(bodies)]
        number += 4
        try:
            connection.request("POST", "/generate", body, {"Content-Type": kind})
            answer = connection.getresponse()
            answer.read()
            answers[str(answer.status)] += 1
        except (OSError, http.client.HTTPException):
            connection.close()
    counts.put(answers)


def _report(result: dict[str, Any], quiet: Times, hostile: Times, answers: Counter[str]) -> bool:
    rows, bars = [], []
    for name in quiet:
        before, beside = quiet[name], hostile[name]
        p50s = (quantile(before, 0.5), quantile(beside, 0.5))
        p95s = (quantile(before, 0.95), quantile(beside, 0.95))
        rows.append((name, len(before), len(beside), *(1000 * value for value in (*p50s, *p95s)), p95s[1] / p95s[0]))
        bars.append(bar(f"p95 of {name} during hostile uploads / quiet", p95s[1] / p95s[0], MOST))
    result |= {"quiet": quiet, "hostile": hostile, "answers": dict(answers), "bars": bars}
    head = ("", "quiet", "hostile", "p50 quiet, ms", "p50 hostile", "p95 quiet", "p95 hostile", "p95 ratio")
    show("Requests of an ordinary caller", head, rows)
    print("Hostile uploads: " + ", ".join(f"{count} with status {status}" for status, count in answers.items()))
    return show_bars(bars)
