"""A Compose project and requests to it from outside, for compose_smoke.py. Needs only Python's standard library."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
API: Final = "http://127.0.0.1:8000"
PROJECT: Final = "svd-smoke"
FILES: Final = "compose.yaml:compose.cpu.yaml"
#: Parameters of a job that is short, but long enough to be interrupted.
SHORT: Final = {"num_inference_steps": 6, "num_frames": 7}


class StepError(Exception):
    """A requirement of a step is not met."""


class Stack:
    """One Compose project from one checkout."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self._folder = folder
        self.environment = {"COMPOSE_PROJECT_NAME": PROJECT, "COMPOSE_FILE": FILES, "COMPOSE_PROFILES": "monitoring"}
        self.environment |= environment

    def compose(self, *arguments: str, **environment: str) -> str:
        """Run `docker compose …`; return its standard output and error."""
        return called(
            "docker",
            "compose",
            "--ansi=never",
            *arguments,
            cwd=self._folder,
            seconds=1800,
            environment={**os.environ, **self.environment, **environment},
        )

    def up(self, *arguments: str, **environment: str) -> float:
        """Run `docker compose up` and wait until a worker is ready; return the seconds."""
        began = time.monotonic()
        self.compose("up", "--detach", "--quiet-pull", *arguments, **environment)
        wait(lambda: get_json("/health")["workers_ready"] >= 1, 240, "no worker is ready")
        return time.monotonic() - began

    def container(self, service: str) -> str:
        """Return the id of a service's only container."""
        return self.compose("ps", "--all", "--quiet", service).split()[-1]

    def state(self, service: str) -> dict[str, Any]:
        """Return the engine's description of a service's container: `State`, `HostConfig` and more."""
        return dict(json.loads(called("docker", "inspect", self.container(service)))[0])

    def healthy(self, service: str) -> bool:
        """Return whether the container runs and its health check passes."""
        state = self.state(service)["State"]
        return bool(state["Running"] and state.get("Health", {}).get("Status") == "healthy")

    def crash(self, service: str) -> None:
        """Send SIGKILL to the container's first process; the engine restarts it, as after a crash."""
        pid = self.state(service)["State"]["Pid"]
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # an engine on another host, or of another user
            called("docker", "kill", self.container(service))
            called("docker", "start", self.container(service))
        wait(lambda: self.state(service)["State"]["Pid"] not in {0, pid}, 60, f"{service} did not come back")

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose("down", "--volumes", "--remove-orphans")


def submit(url: str, key: str = "") -> str:
    """Submit a short job; return its id."""
    form = [word for item in SHORT.items() for word in ("-F", f"{item[0]}={item[1]}")]
    image = ("-F", f"image=@{ROOT / 'scripts' / 'sample.jpg'}")
    login = ("-H", f"Authorization: Bearer {key}") if key else ()
    return str(json.loads(called("curl", "-s", *form, *image, *login, f"{url}/generate"))["task_id"])


def wait(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait until the condition is true; a service that does not answer counts as false."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, KeyError, ValueError, StepError, subprocess.SubprocessError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise StepError(f"waited {seconds:.0f} s: {otherwise}")
        time.sleep(1)


def require(holds: bool, otherwise: str) -> None:
    """Raise `StepError` unless `holds`."""
    if not holds:
        raise StepError(otherwise)


def text_of(url: str, *, key: str = "", basic: str = "") -> str:
    """Send a GET; return the body."""
    request = urllib.request.Request(url)  # noqa: S310 - our own addresses
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    if basic:
        request.add_header("Authorization", f"Basic {b64encode(basic.encode()).decode()}")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return str(answer.read().decode(errors="replace"))


def json_of(url: str, *, key: str = "") -> dict[str, Any]:
    """Send a GET; return the body from JSON."""
    return dict(json.loads(text_of(url, key=key)))


def get_json(path: str) -> dict[str, Any]:
    """Send a GET to the API; return the body from JSON."""
    return json_of(f"{API}{path}")


def status_of(url: str, **credentials: str) -> int:
    """Send a GET; return the status."""
    try:
        text_of(url, **credentials)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def called(
    *command: str,
    cwd: Path | None = None,
    seconds: float = 300,
    errors: bool = True,
    environment: dict[str, str] | None = None,
) -> str:
    """Run a command; return its output, or raise `StepError` with its output and standard error."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, timeout=seconds, env=environment
    )
    if done.returncode and errors:
        raise StepError(f"{' '.join(command)} exited with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return done.stdout


def say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr, flush=True)
