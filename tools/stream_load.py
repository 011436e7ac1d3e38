#!/usr/bin/env python3
"""Open many event streams on one API while jobs run: count missing events, and measure the delay of other requests.

usage: python -m tools.stream_load IMAGE [--server URL] [--streams 1000] [--jobs 20] [--health-every 0.1]

Submits the same jobs twice, to a service on this machine without other callers: first without streams, then with the
streams spread over the jobs. Meanwhile another process polls /health; the 95th percentiles are compared. Every stream
must report all states after it was opened, with increasing versions, and end with the last version. The service must
allow that many streams: `SVD_API_STREAMS` and `SVD_STREAMS_PER_KEY` for each of its `SVD_API_PROCESSES`.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from svd_service.client import Client, Parameters

#: Maximum number of streams that are being opened at the same time, as real callers would not start all at once.
OPENING = 20

#: Parameters of the jobs: small, so that a round does not take an hour without a GPU.
SMALL: Parameters = {"width": 128, "height": 64, "num_frames": 4, "num_inference_steps": 12}


@dataclass
class Stream:
    """The events that one stream received."""

    job_id: str
    states: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    opened: float = 0.0
    ended: float = 0.0
    rejected: int = 0
    error: str = ""

    def fault(self, last_version: int) -> str:
        """Return what is wrong with the events, or an empty string."""
        if self.error:
            return self.error
        seen = list(dict.fromkeys(self.states))
        # A stream that was opened after the job's end starts with the end.
        if seen not in (["queued", "started", "finished"], ["started", "finished"], ["finished"]):
            return f"received {seen}"
        if self.versions != sorted(self.versions):
            return "versions decrease"
        return "" if self.versions[-1] == last_version else f"ended with version {self.versions[-1]} of {last_version}"


class Service:
    """Makes plain HTTP/1.0 requests to the service, with one connection per request."""

    def __init__(self, url: str) -> None:
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port or 80
        if self.host not in {"127.0.0.1", "localhost", "::1"}:
            sys.exit("this tool only sends load to services on this machine")

    async def get(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        """Send a GET; return the connection with the response's body unread, and the status."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {self.host}\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        return reader, writer, status


async def follow(service: Service, stream: Stream, opening: asyncio.Semaphore) -> None:
    """Open a stream and read it to its end."""
    async with opening:
        while True:
            reader, writer, status = await service.get(f"/jobs/{stream.job_id}/events")
            if status != 503:
                break
            stream.rejected += 1  # this process is full; the next attempt may reach another one
            writer.close()
            await asyncio.sleep(0.2)
    stream.opened = time.time()
    if status != 200:
        stream.error = f"got the status {status}"
    while line := await reader.readline():
        key, _, value = line.decode().strip().partition(": ")
        if key == "data":
            stream.states.append(json.loads(value)["status"])
        elif key == "id":
            stream.versions.append(int(value))
    stream.ended = time.time()
    writer.close()


def poll_health(server: str, every: float, stop: "Event", answers: "Queue[list[tuple[float, float]]]") -> None:
    """Poll /health in a separate process, so that nothing delays it; record time and duration of each request."""
    took = []
    with httpx2.Client(base_url=server, trust_env=False, timeout=60) as http:
        while not stop.is_set():
            requested, began = time.time(), time.perf_counter()
            http.get("/health").raise_for_status()
            took.append((requested, time.perf_counter() - began))
            time.sleep(every)
    answers.put(took)


@contextmanager
def health_of(options: Any, took: list[tuple[float, float]]) -> Iterator[None]:
    """Poll /health until the block ends; then extend `took` by the times and durations."""
    stop: Any = multiprocessing.Event()
    answers: Any = multiprocessing.Queue()
    process = multiprocessing.Process(target=poll_health, args=(options.server, options.health_every, stop, answers))
    process.start()
    try:
        yield
    finally:
        stop.set()
        took += answers.get()
        process.join()


async def round_of(
    service: Service, client: Client, options: Any, number: int
) -> tuple[list[Stream], float, list[Any]]:
    """Submit the jobs, open `number` streams, and wait until all have ended.

    Return the received events, the time at which all streams were open, and the durations of /health.
    """
    took: list[tuple[float, float]] = []
    began = time.time()
    with health_of(options, took):
        ids = [(await asyncio.to_thread(client.submit, options.image, **SMALL)).id for _ in range(options.jobs)]
        # The last jobs have the longest streams.
        streams = [Stream(ids[-1 - n % len(ids)]) for n in range(number)]
        opening = asyncio.Semaphore(OPENING)
        await asyncio.gather(*(follow(service, stream, opening) for stream in streams))
        for job_id in ids:
            await asyncio.to_thread(client.wait, job_id)
    opened = max((stream.opened for stream in streams), default=began)
    ended = sum(stream.ended < opened for stream in streams)
    print(
        f"{number} streams: {len(ids)} jobs took {time.time() - began:.1f} s; all streams were open after "
        f"{opened - began:.1f} s, when {ended} had ended"
    )
    return streams, opened, took


async def measure(options: Any) -> int:
    """Run both rounds; return the number of streams with a fault."""
    service = Service(options.server)
    with Client(options.server) as client:
        _, _, before = await round_of(service, client, options, 0)
        streams, opened, during = await round_of(service, client, options, options.streams)
    versions: dict[str, int] = {}
    for stream in streams:
        versions[stream.job_id] = max(versions.get(stream.job_id, 0), *stream.versions, 0)
    faults = [fault for stream in streams if (fault := stream.fault(versions[stream.job_id]))]
    print(f"streams with a fault: {len(faults)} of {len(streams)} {sorted(set(faults))[:3]}")
    print(f"events received: {sum(len(s.versions) for s in streams)}; rejected: {sum(s.rejected for s in streams)}")
    base = percentile("without streams", [took for _, took in before])
    percentile("while streams are being opened", [took for requested, took in during if requested < opened])
    ratio = percentile("with all streams open", [took for requested, took in during if requested >= opened]) / base
    print(f"ratio of the 95th percentiles: {ratio:.2f}")
    return len(faults)


def percentile(name: str, took: list[float]) -> float:
    """Print and return the 95th percentile."""
    most = statistics.quantiles(took, n=20)[-1]
    print(
        f"/health {name}: {len(took)} answers, median {statistics.median(took) * 1000:.0f} ms, "
        f"95th percentile {most * 1000:.0f} ms"
    )
    return most


def main() -> None:
    """Read the command line and measure; exit with 1 if a stream missed an event."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--health-every", type=float, default=0.1)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.exit(int(asyncio.run(measure(options)) > 0))


if __name__ == "__main__":
    main()
