"""(c) The cost of the service itself: requests with 10, 1,000 and 100,000 queued jobs, and Redis' memory per job."""

import http.client
import io
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import redis
from PIL import Image

from svd_service.cli.up.processes import redis_program
from svd_service.config import CPU_MODEL, Settings
from svd_service.jobs.job import Holder, Result
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import VideoRequest
from svd_service.jobs.submission import Submission
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.connection import connect
from svd_service.ledger.workers import WorkerStatus
from tools.benchmark import machine, photo
from tools.benchmark.own_service import free_port
from tools.benchmark.report import BenchmarkError, bar, ratio, show, show_bars, summary

#: Maximum ratio of a request's time with the longest queue to that with the shortest; maximum bytes per queued job.
MOST: Final = 1.2
BYTES: Final = 2048

#: Parameters of the queued jobs, chosen at random: estimates for a queue of equal jobs would be cheaper.
KINDS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"num_inference_steps": 10},
    {"width": 128, "height": 64},
    {"num_frames": 25, "seed": 1},
)

#: The requests that have targets; the others, of the ledger only, exclude HTTP and images.
BARRED: Final = ("submit", "status", "position")

#: Client processes for measuring requests per second.
CLIENTS: Final = 2

#: A registered stand-in worker that takes no jobs, so that there are estimates.
_STAND_IN: Final = WorkerStatus(
    worker="stand-in/0",
    device="stand-in",
    instance="0" * 32,
    pid=os.getpid(),
    model="nano",
    trained=True,
    ready_since=time.time(),
    load_seconds=1.0,
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--levels", type=int, nargs="+", default=[10, 1_000, 100_000], help="numbers of queued jobs")
    parser.add_argument("--rounds", type=int, default=200, help="rounds, each with all requests at all levels (200)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="duration of the status requests without a pause (5)"
    )


def run(options: Namespace, result: dict[str, Any]) -> bool:
    """Measure; return whether the targets are met."""
    result["machine"] = machine.describe()
    print(machine.in_words(result["machine"]))
    with tempfile.TemporaryDirectory(prefix="svd-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        url = stack.enter_context(run_redis(folder))
        queues = [stack.enter_context(run_api(folder, url, length)) for length in sorted(options.levels)]
        for queue in queues:
            queue.fill()
        result["bytes_a_job"] = {str(queue.length): round(queue.bytes_a_job) for queue in queues}
        seconds = _alternate(queues, options.rounds)
        rate = _rate(queues[-1], options.seconds)
    return _report(result, queues, seconds, rate)


@dataclass
class Queue:
    """A number of queued jobs in a namespace of their own, and an API that serves them."""

    length: int
    ledger: Ledger
    api: str
    http: httpx2.Client
    memory: Callable[[], int]
    model: Model
    image: bytes
    bytes_a_job: float = 0.0

    def fill(self) -> None:
        """Submit the jobs like the API but without images, and finish one, so that the throughput model has data."""
        began = time.monotonic()
        chance = random.Random(3)  # noqa: S311 - the same queue every time
        kinds = [VideoRequest(**kind).resolve(self.model, photo.SIZE) for kind in KINDS]
        parameters = kinds[0]
        self.beat()
        before = self.memory()
        self.ids = []
        for _ in range(self.length + 1):
            job_id = str(uuid.uuid4())
            self.ledger.jobs.submit(
                Submission(
                    job_id,
                    parameters=chance.choice(kinds),
                    model=self.model.summary(),
                    input=f"inputs/{job_id}.png",
                )
            )
            self.ids.append(job_id)
        self.bytes_a_job = (self.memory() - before) / (self.length + 1)
        claim = self.ledger.attempts.claim(self.ids.pop(0), Holder("stand-in/0", "stand-in", "0" * 32, os.getpid()))
        if claim is None:
            raise BenchmarkError("a queued job could not be claimed")
        phases = {"preparing": 0.1, "sampling": 2.0, "decoding": 1.0}
        made = Result("results/none.mp4", 1, "0" * 64, parameters.width, parameters.height, parameters.num_frames)
        self.ledger.attempts.finish(claim, made, device="stand-in", seconds=phases, steps=2)
        self.ledger.maintenance.dispatch()
        print(f"  {self.length:,} jobs queued after {time.monotonic() - began:.1f} s", flush=True)

    def beat(self) -> None:
        """Send a heartbeat of the stand-in worker."""
        self.ledger.workers.heartbeat(_STAND_IN)

    def submit(self) -> str:
        """POST a small image."""
        answer = self.http.post("/generate", files={"image": ("image", self.image)})
        if answer.status_code != 202:
            raise BenchmarkError(f"a submission got the status {answer.status_code}: {answer.text}")
        return str(answer.json()["task_id"])

    def status(self, job_id: str, place: int | None = None) -> None:
        """GET a job's status, which has its place in the queue."""
        values = self.http.get(f"/status/{job_id}").json()
        if values["status"] != "queued" or not values["position"] or values["eta_seconds"] is None:
            raise BenchmarkError(f"a queued job's status is {values}")
        if place is not None and values["position"] != place:
            raise BenchmarkError(f"the job in place {place} was reported in place {values['position']}")

    def withdraw(self, job_id: str) -> None:
        """Cancel and delete a job, which restores the queue's length."""
        self.http.delete(f"/jobs/{job_id}")
        self.http.delete(f"/jobs/{job_id}")

    def ledger_submit(self, job_id: str) -> None:
        """Make only the ledger's part of a submission."""
        parameters = VideoRequest().resolve(self.model, photo.SIZE)
        self.ledger.jobs.submit(
            Submission(job_id, parameters=parameters, model=self.model.summary(), input=f"inputs/{job_id}.png")
        )

    def ledger_position(self, job_id: str) -> None:
        """Make only the ledger's part of a status request."""
        self.ledger.estimates.estimate([self.ledger.jobs.find(job_id)])


def _alternate(queues: list[Queue], rounds: int) -> dict[str, dict[int, list[float]]]:
    """Measure the seconds of each request, by the queue's length, in alternating order."""
    chance = random.Random(5)  # noqa: S311 - the same order every time
    seconds: dict[str, dict[int, list[float]]] = {}

    def timed(name: str, queue: Queue, act: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        answer = act()
        seconds.setdefault(name, {}).setdefault(queue.length, []).append(time.perf_counter() - began)
        return answer

    def one(queue: Queue) -> None:
        # The first job is already enqueued with Celery, and next to start.
        timed("status", queue, lambda: queue.status(queue.ids[0], 1))
        anywhere = chance.randrange(queue.length)
        timed("position", queue, lambda: queue.status(queue.ids[anywhere], anywhere + 1))
        timed("ledger: position", queue, lambda: queue.ledger_position(queue.ids[anywhere]))
        queue.withdraw(timed("submit", queue, queue.submit))
        new = str(uuid.uuid4())
        timed("ledger: submit", queue, lambda: queue.ledger_submit(new))
        queue.ledger.jobs.forget(new, insist=True)

    for number in range(rounds + 3):
        if number == 3:
            seconds.clear()  # the first rounds are the warm-up
        for queue in chance.sample(queues, len(queues)):
            queue.beat()
            one(queue)
    return seconds


def _rate(queue: Queue, seconds: float) -> dict[str, Any]:
    """Measure status requests per second, for jobs anywhere in the queue."""
    queue.beat()
    with multiprocessing.get_context("spawn").Pool(CLIENTS) as pool:
        ids = queue.ids[:: max(1, queue.length // 50)]
        counts = pool.starmap(_request_status, [(queue.api, ids, seconds)] * CLIENTS)
    return {"clients": CLIENTS, "seconds": seconds, "requests_a_second": round(sum(counts) / seconds, 1)}


def _request_status(address: str, ids: list[str], seconds: float) -> int:
    """Request statuses for `seconds`; return the number of responses."""
    connection = http.client.HTTPConnection(address)
    number, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        connection.request("GET", f"/status/{ids[number % len(ids)]}")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise BenchmarkError(f"a status request got the status {answer.status}")
        number += 1
    connection.close()
    return number


def _report(
    result: dict[str, Any], queues: list[Queue], seconds: dict[str, dict[int, list[float]]], rate: dict[str, Any]
) -> bool:
    shortest, longest = queues[0].length, queues[-1].length
    ratios = {name: ratio(took[longest], took[shortest]) for name, took in seconds.items()}
    result |= {
        "summaries": {
            name: {str(length): summary(values) for length, values in took.items()} for name, took in seconds.items()
        },
        "ratios": ratios,
        "status_rate": rate,
    }
    lengths = [queue.length for queue in queues]
    show(
        f"Milliseconds (median) by number of queued jobs, {len(seconds['submit'][shortest])} of each, alternating",
        ("", *(f"{length:,}" for length in lengths), f"{longest:,} / {shortest:,}"),
        [
            (name, *(1000 * statistics.median(took[length]) for length in lengths), ratios[name]["of_medians"])
            for name, took in seconds.items()
        ],
    )
    show(
        "Bytes in Redis per queued job; status requests per second",
        ("", *(f"{length:,}" for length in lengths)),
        [
            ("bytes", *(result["bytes_a_job"][str(length)] for length in lengths)),
            ("requests per second", *(None for _ in lengths[1:]), rate["requests_a_second"]),
        ],
    )
    bars = [
        bar(f"{name} with {longest:,} queued / with {shortest:,}", float(ratios[name]["of_medians"]), MOST)
        for name in BARRED
    ]
    bars.append(bar("bytes in Redis per queued job", queues[-1].bytes_a_job, BYTES))
    result["bars"] = bars
    return show_bars(bars)


@contextmanager
def run_redis(folder: Path) -> Iterator[str]:
    """Run a Redis with the service's own settings until the block ends; yield its URL."""
    port = free_port()
    options = ("--bind", "127.0.0.1", "--port", str(port), "--appendonly", "yes", "--save", "")
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([redis_program(), *options], cwd=folder, stdout=log, stderr=log)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        with redis.Redis.from_url(url) as client:
            _wait(client.ping, redis.RedisError)
        yield url
    finally:
        process.terminate()
        process.wait()


@contextmanager
def run_api(folder: Path, url: str, length: int) -> Iterator[Queue]:
    """Run an API with an empty queue until the block ends."""
    namespace, port = f"queue-{length}", free_port()
    variables = {
        "REDIS_URL": url,
        "SVD_NAMESPACE": namespace,
        "SVD_MODEL": CPU_MODEL,
        "SVD_DEVICES": "cpu",
        "SVD_DATA_DIR": str(folder / namespace),
        "SVD_MAX_QUEUED": str(length + 100),
        "SVD_BIND": f"127.0.0.1:{port}",
    }
    settings = Settings.from_mapping(variables)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SVD_", "VIDEO_", "REDIS_"))
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:svd_service.gunicorn", "svd_service.wsgi:application"]
    with (folder / f"{namespace}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment | variables, cwd=folder, stdout=log, stderr=log)
    try:
        with (
            connect(settings, timeout=10) as client,
            httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client_of_api,
        ):
            _wait(lambda: client_of_api.get("/health"), httpx2.RequestError)
            yield Queue(
                length,
                open_ledger(client, settings),
                f"127.0.0.1:{port}",
                client_of_api,
                lambda: int(client.info("memory")["used_memory"]),
                Model.of(settings),
                _image(),
            )
    finally:
        process.terminate()
        process.wait()


def _image() -> bytes:
    """Return a small image, since the cost of decoding is not the subject."""
    buffer = io.BytesIO()
    with Image.open(photo.SOURCE) as source:
        source.resize((256, 144)).save(buffer, "JPEG")
    return buffer.getvalue()


def _wait(act: Callable[[], object], error: type[Exception]) -> None:
    """Wait until `act()` no longer raises `error`."""
    deadline = time.monotonic() + 60
    while True:
        try:
            act()
            return
        except error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
