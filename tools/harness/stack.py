"""A whole service of real processes on loopback, for tests: Redis, worker, API, exporter. Ends only what it started."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import redis

from tools.harness.local import free_port, redis_program

#: A folder for PYTHONPATH: its sitecustomize.py does to a worker what the environment variable TEST_FAULTS says.
FAULTS = Path(__file__).parent / "faults"

#: Processes that the others need until they have ended.
NEEDED = {"redis", "replica", "sentinel", "store", "tls"}


@dataclass
class Stack:
    """`folder` holds data and logs; `variables` are environment variables for every process."""

    folder: Path
    variables: Mapping[str, str]
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.redis_port, self.api_port, self.exporter_port = free_port(), free_port(), free_port()
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.url = f"http://127.0.0.1:{self.api_port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "REDIS_URL": self.redis_url,
            "SVD_BIND": f"127.0.0.1:{self.api_port}",
            "SVD_EXPORTER_BIND": f"127.0.0.1:{self.exporter_port}",
            "SVD_DATA_DIR": str(self.folder / "data"),
            "SVD_DEVICES": "cpu",
            "SVD_CPU_THREADS": "1",  # the tiny model's operations are too small to be shared
            **self.variables,
        }
        self.redis = redis.Redis.from_url(self.redis_url, decode_responses=True)
        self.http = httpx2.Client(base_url=self.url, timeout=20)

    def start(self, name: str, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a process of the service; its output goes to `{name}.log`. `variables` are its own."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self.environment | variables,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def start_redis(self) -> None:
        """Start Redis, and wait until it answers."""
        self.launch_redis()
        self.wait(self.redis.ping, 60)

    def launch_redis(self) -> None:
        """Start Redis with an append-only file; it finds what an earlier one left."""
        (self.folder / "redis").mkdir(exist_ok=True)
        options = ("--appendonly", "yes", "--save", "", "--bind", "127.0.0.1", "--dir", str(self.folder / "redis"))
        self.start("redis", redis_program(), "--port", str(self.redis_port), *options)

    def start_worker(self, name: str = "worker", **variables: str) -> "subprocess.Popen[bytes]":
        """Start a Celery worker; it is not ready yet when this returns."""
        celery = (sys.executable, "-m", "celery", "-A", "svd_service.celery_app", "worker")
        # Before it takes its first job it would wait a second for other workers' clocks, which nothing here looks at.
        options = ("-n", f"{name}@%h", "--loglevel", "INFO", "--without-mingle")
        return self.start(name, *celery, *options, **variables)

    def start_webhook_worker(self, name: str = "webhooks", **variables: str) -> "subprocess.Popen[bytes]":
        """Start a webhook worker; it is not ready yet when this returns."""
        celery = (sys.executable, "-m", "celery", "-A", "svd_service.webhooks.app", "worker")
        options = ("-n", f"{name}@%h", "--loglevel", "INFO", "--without-mingle")
        return self.start(name, *celery, *options, **variables)

    def start_stand_in(
        self, name: str = "worker", *, step: float = 0.1, variables: Mapping[str, str] | None = None, **faults: object
    ) -> "subprocess.Popen[bytes]":
        """Start a worker whose model is a stand-in with steps of so many seconds, and that suffers `faults`."""
        path = f"{FAULTS}{os.pathsep}{self.environment['PYTHONPATH']}"
        suffered = json.dumps({"stand_in": step, **faults})
        return self.start_worker(name, PYTHONPATH=path, TEST_FAULTS=suffered, **(variables or {}))

    def start_api(self) -> None:
        """Start gunicorn, and wait until it answers."""
        self.launch_api()
        self.wait(lambda: self.http.get("/health").status_code, 60)

    def launch_api(self) -> None:
        """Start gunicorn."""
        arguments = ("-c", "python:svd_service.gunicorn", "svd_service.wsgi:application")
        self.start("api", sys.executable, "-m", "gunicorn", *arguments)

    def start_exporter(self) -> None:
        """Start the exporter, and wait until it answers."""
        self.start("exporter", sys.executable, "-m", "svd_service", "exporter")
        self.wait(lambda: httpx2.get(f"http://127.0.0.1:{self.exporter_port}/metrics").status_code, 60)

    def start_all(self) -> None:
        """Start everything, and wait until a worker is ready."""
        self.start_redis()
        self.start_worker()
        self.start_api()
        self.start_exporter()
        self.wait_for_workers(1)

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many worker processes are ready. Importing torch and diffusers takes 10 s of processor time."""
        self.wait(lambda: self.http.get("/health").json()["workers_ready"] >= number, 180)

    def wait(self, condition: Any, seconds: float) -> Any:
        """Wait until `condition()` is true; what it raises meanwhile counts as false."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if value := condition():
                    return value
            except (httpx2.HTTPError, redis.RedisError, KeyError):
                pass
            assert time.monotonic() < deadline, f"waited {seconds} s in vain\n{self.logs()}"
            time.sleep(0.05)

    def submit(self, picture: bytes, **fields: object) -> str:
        """POST a picture; returns the job's id."""
        form = {name: str(value) for name, value in fields.items()}
        answer = self.http.post("/generate", files={"image": ("picture", picture)}, data=form)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def status(self, job_id: str) -> dict[str, Any]:
        """The job as `/status` tells it."""
        return dict(self.http.get(f"/status/{job_id}").json())

    def wait_for(self, job_id: str, *states: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until the job is in one of the states; returns its status."""
        return dict(self.wait(lambda: (now := self.status(job_id))["status"] in states and now, seconds))

    def workers(self) -> list[str]:
        """The worker processes that the ledger takes for ready."""
        return [worker["worker"] for worker in self.http.get("/health").json()["workers"]]

    def wait_until_started(self, job_id: str) -> None:
        """Wait until the job is past its first step."""
        self.wait(lambda: (self.status(job_id)["progress"] or {}).get("phase") == "sampling", 60)

    def holder(self, job_id: str, attempt: int = 1) -> int:
        """Id of the process that began this attempt."""
        return int(json.loads(str(self.redis.hget(f"svd:job:{job_id}", f"held:{attempt}")))["pid"])

    def stop(self, name: str, sign: signal.Signals = signal.SIGTERM) -> None:
        """End a process, by its id, and wait for that."""
        self.processes[name].send_signal(sign)
        self._wait_for_end(name)

    def _wait_for_end(self, name: str) -> None:
        process = self.processes.pop(name)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End everything, for good."""
        self.close()
        self.end_all()

    def end_all(self) -> None:
        """End every process: all at once, and then what they needed until then."""
        for names in (self.processes.keys() - NEEDED, {*self.processes} & NEEDED):
            for name in names:
                self.processes[name].terminate()
            for name in names:
                self._wait_for_end(name)

    def close(self) -> None:
        """Close our own connections."""
        self.http.close()
        self.redis.close()

    def logs(self) -> str:
        """The last lines of every log."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:])
            for log in sorted(self.folder.glob("*.log"))
        )
