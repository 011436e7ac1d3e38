"""A whole service of real processes on loopback, for tests: Redis, worker, API, exporter. Stops only these."""

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

#: A folder for PYTHONPATH whose sitecustomize.py causes the faults in the environment variable TEST_FAULTS.
FAULTS = Path(__file__).parent / "faults"

#: Processes that the others need until they have exited, so they are stopped last.
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
            "SVD_CPU_THREADS": "1",  # the tiny model's operations are too small for several threads
            **self.variables,
        }
        self.redis = redis.Redis.from_url(self.redis_url, decode_responses=True)
        self.http = httpx2.Client(base_url=self.url, timeout=20)

    def start(self, name: str, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a process of the service with additional `variables`; its output goes to `{name}.log`."""
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
        """Start Redis with an append-only file, which a restarted one loads again."""
        (self.folder / "redis").mkdir(exist_ok=True)
        options = ("--appendonly", "yes", "--save", "", "--bind", "127.0.0.1", "--dir", str(self.folder / "redis"))
        self.start("redis", redis_program(), "--port", str(self.redis_port), *options)

    def start_worker(self, name: str = "worker", **variables: str) -> "subprocess.Popen[bytes]":
        """Start a Celery worker, without waiting until it is ready."""
        celery = (sys.executable, "-m", "celery", "-A", "svd_service.celery_app", "worker")
        # Otherwise it waits a second for the logical clocks of other workers, which the service does not use.
        options = ("-n", f"{name}@%h", "--loglevel", "INFO", "--without-mingle")
        return self.start(name, *celery, *options, **variables)

    def start_webhook_worker(self, name: str = "webhooks", **variables: str) -> "subprocess.Popen[bytes]":
        """Start a webhook worker, without waiting until it is ready."""
        celery = (sys.executable, "-m", "celery", "-A", "svd_service.webhooks.app", "worker")
        options = ("-n", f"{name}@%h", "--loglevel", "INFO", "--without-mingle")
        return self.start(name, *celery, *options, **variables)

    def start_stand_in(
        self, name: str = "worker", *, step: float = 0.1, variables: Mapping[str, str] | None = None, **faults: object
    ) -> "subprocess.Popen[bytes]":
        """Start a worker with `faults`, whose model is a stand-in with steps of `step` seconds."""
        path = f"{FAULTS}{os.pathsep}{self.environment['PYTHONPATH']}"
        test_faults = json.dumps({"stand_in": step, **faults})
        return self.start_worker(name, PYTHONPATH=path, TEST_FAULTS=test_faults, **(variables or {}))

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
        """Wait until `number` worker processes are ready. Importing torch and diffusers takes 10 s of CPU time."""
        self.wait(lambda: self.http.get("/health").json()["workers_ready"] >= number, 180)

    def wait(self, condition: Any, seconds: float) -> Any:
        """Wait until `condition()` is true; errors of HTTP, Redis and missing keys count as false."""
        began = time.monotonic()
        while True:
            try:
                if value := condition():
                    return value
            except (httpx2.HTTPError, redis.RedisError, KeyError):
                pass
            waited = time.monotonic() - began
            assert waited < seconds, f"the condition is still false after {seconds} s\n{self.logs()}"
            # At 20 requests a second for long, tests would use a core that the service needs.
            time.sleep(min(max(waited / 10, 0.05), 0.25))

    def submit(self, image: bytes, **fields: object) -> str:
        """POST an image; return the job's id."""
        form = {name: str(value) for name, value in fields.items()}
        answer = self.http.post("/generate", files={"image": ("image", image)}, data=form)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def status(self, job_id: str) -> dict[str, Any]:
        """Return the job from `/status`."""
        return dict(self.http.get(f"/status/{job_id}").json())

    def wait_for(self, job_id: str, *states: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until the job is in one of the states, and return it."""
        return dict(self.wait(lambda: (now := self.status(job_id))["status"] in states and now, seconds))

    def workers(self) -> list[str]:
        """Return the names of the worker processes that are ready according to the ledger."""
        return [worker["worker"] for worker in self.http.get("/health").json()["workers"]]

    def wait_until_started(self, job_id: str) -> None:
        """Wait until the job is being sampled."""
        self.wait(lambda: (self.status(job_id)["progress"] or {}).get("phase") == "sampling", 60)

    def holder(self, job_id: str, attempt: int = 1) -> int:
        """Return the id of the process that claimed this attempt."""
        return int(json.loads(str(self.redis.hget(f"svd:job:{job_id}", f"held:{attempt}")))["pid"])

    def stop(self, name: str, sign: signal.Signals = signal.SIGTERM) -> None:
        """Send a process a signal, and wait until it exits."""
        self.processes[name].send_signal(sign)
        self._wait_for_end(name)

    def clear(self) -> None:
        """Kill all processes but Redis and the API, stopped (SIGSTOP) ones too, and empty the ledger."""
        for name in self.processes.keys() - {"redis", "api"}:
            self.processes[name].send_signal(signal.SIGCONT)
            self.stop(name, signal.SIGKILL)
        self.redis.flushall()

    def _wait_for_end(self, name: str) -> None:
        process = self.processes.pop(name)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """Close the connections and stop all processes."""
        self.close()
        self.end_all()

    def end_all(self) -> None:
        """Stop every process: first all but those in `NEEDED`, then these."""
        for names in (self.processes.keys() - NEEDED, {*self.processes} & NEEDED):
            for name in names:
                self.processes[name].terminate()
            for name in names:
                self._wait_for_end(name)

    def close(self) -> None:
        """Close the connections to Redis and the API."""
        self.http.close()
        self.redis.close()

    def logs(self) -> str:
        """Return the last lines of every log."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:])
            for log in sorted(self.folder.glob("*.log"))
        )
