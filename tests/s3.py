"""A real S3 server of our own, for tests: moto, as a process (`python -m tests.s3 ADDRESS PORT`).

It believes every signature, and forgets everything when it ends.
"""

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

BUCKET = "svd-test"
REGION = "eu-central-1"
ACCESS_KEY_ID = "test-key"
SECRET_ACCESS_KEY = "test-secret"


def start(address: str, port: int, log: Path) -> "subprocess.Popen[bytes]":
    """Start the server; it does not answer yet when this returns."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command(address, port), env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def command(address: str, port: int) -> tuple[str, ...]:
    """What the server's process runs."""
    return (sys.executable, "-m", "tests.s3", address, str(port))


def environment() -> dict[str, str]:
    """What the server's process sees."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(Path(__file__).parents[1])}


def make_bucket(endpoint: str, name: str, server: "subprocess.Popen[bytes]") -> None:
    """Make a bucket, as soon as `server` answers; it knows no signatures."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    deadline = time.monotonic() + 60
    while True:
        try:
            opener.open(request, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline or server.poll() is not None:
                raise
            time.sleep(0.1)


def variables(endpoint: str, place: str) -> dict[str, str]:
    """Settings for `place` (`s3://…`) on that server."""
    return {
        "SVD_ARTIFACTS": place,
        "SVD_S3_ENDPOINT": endpoint,
        "SVD_S3_REGION": REGION,
        "SVD_S3_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "SVD_S3_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    }


def serve(address: str, port: int) -> None:
    """Serve until the process is ended."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    moto = DomainDispatcherApplication(create_backend_app)
    # Two that replace one object at the same time are more than moto bears: one closes the other's buffer.
    lock = threading.Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> Any:
        with lock:
            return moto(environ, start_response)

    run_simple(address, port, one_at_a_time, threaded=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
