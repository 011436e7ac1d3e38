"""A separate service to measure: all of its processes, on free ports, with its data in a temporary folder."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from svd_service.client import Client, ClientError
from tools.benchmark.report import BenchmarkError

#: Maximum seconds for the service to load the model and, on a GPU, to compile it, since a new folder has no cache.
START = 1_800.0


@contextmanager
def running(folder: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Run `svd-service up` with the environment `variables` until the block ends; yield its URL.

    Raises:
        BenchmarkError: the service did not become ready.
    """
    port = free_port()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SVD_", "VIDEO_", "REDIS_"))
    }
    environment |= {"SVD_DATA_DIR": str(folder / "data"), "SVD_EXPORTER_BIND": f"127.0.0.1:{free_port()}", **variables}
    log = folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "svd_service", "up", "--port", str(port)],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def free_port() -> int:
    """Return a port that is currently free."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START
    with Client(url, patience=0, timeout=5) as client:
        while True:
            try:
                if client.health().get("workers_ready"):
                    return
            except ClientError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"the service did not become ready:\n{log.read_text(errors='replace')}")
            time.sleep(0.2)
