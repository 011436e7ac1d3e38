"""A service on five hosts of one machine: network namespaces on a bridge, whose links can be cut.

The namespaces are unnamed: each disappears with its last process, so none can remain. This module runs inside another
namespace (`enter`), which has the bridge and the callers.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2
import redis

from svd_service.artifacts.choice import store_of
from svd_service.bootstrap import UseCases, use_cases
from svd_service.config import Settings
from svd_service.errors import UnavailableError
from svd_service.ledger import open_ledger
from svd_service.ledger.connection import connect
from tools.chaos.service import running_on
from tools.harness import s3
from tools.harness.local import redis_program
from tools.harness.stack import Stack

#: The hosts and their addresses; the callers have an address of the bridge itself.
HOSTS: Final = {
    "redis": "10.77.0.1",
    "store": "10.77.0.2",
    "api": "10.77.0.3",
    "worker1": "10.77.0.4",
    "worker2": "10.77.0.5",
}
CALLERS: Final = "10.77.0.254"
WORKERS: Final = ("worker1", "worker2")

#: Seconds per step of the stand-in for the model, and bytes of its videos.
STEP: Final = 0.5
VIDEO_BYTES: Final = 2_000_000

_BRIDGE: Final = "switch"


class NoNetworksError(Exception):
    """This machine or user cannot create network namespaces; the message has the cause."""


def enter(command: Sequence[str]) -> tuple[str, ...]:
    """Return `command` prefixed so that it runs with all privileges in a network namespace of its own.

    This requires root or unprivileged user namespaces.

    Raises:
        NoNetworksError: this machine offers neither.
    """
    stderr = ""
    for how in (("unshare", "--net"), ("unshare", "--user", "--map-root-user", "--net")):
        # The same operations as below.
        trial = "ip link add trial type bridge && setpriv --pdeathsig KILL unshare --net nsenter --version"
        try:
            done = subprocess.run([*how, "sh", "-c", trial], capture_output=True, text=True, timeout=20, check=False)
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            raise NoNetworksError(str(error)) from None
        if done.returncode == 0:
            return (*how, *command)
        stderr = done.stderr.strip()
    raise NoNetworksError(stderr)


@dataclass
class Hosts(Stack):
    """Redis, an S3 server, the API and two workers with a stand-in for the model, each on its own host.

    Each host has its own folder in `folder` for data, temporary files and home, and does not know the others' folders.
    """

    network: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    own_ends: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.redis_port, self.api_port = 6379, 8000
        self.redis_url = f"redis://{HOSTS['redis']}:6379/0"
        self.url = f"http://{HOSTS['api']}:8000"
        self.environment |= {
            "REDIS_URL": self.redis_url,
            "SVD_BIND": "0.0.0.0:8000",
            "SVD_OPEN": "1",
            "SVD_DRAIN_TIMEOUT": "1",
            **s3.variables(f"http://{HOSTS['store']}:9000", f"s3://{s3.BUCKET}/chaos"),
        }
        self.redis = redis.Redis.from_url(
            self.redis_url, decode_responses=True, socket_timeout=3, socket_connect_timeout=3
        )
        self.http = httpx2.Client(base_url=self.url, timeout=10, trust_env=False)
        # A data folder for this process, so that it writes into no host's folder.
        self.settings = Settings.from_mapping(self.environment | {"SVD_DATA_DIR": str(self.folder / "observer")})
        self._client = connect(self.settings, timeout=2.0)
        self.ledger = open_ledger(self._client, self.settings)
        self.artifacts = store_of(self.settings)

    def use_cases(self) -> UseCases:
        """Make use cases with their own connection, for another thread."""
        ledger = open_ledger(connect(self.settings, timeout=2.0), self.settings)
        return use_cases(ledger, self.artifacts, self.settings, lambda *_: None)

    # Network

    def connect_hosts(self) -> None:
        """Create the bridge and the hosts, each with a link to it."""
        _ip("link", "set", "lo", "up")
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("address", "add", f"{CALLERS}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        for host, address in HOSTS.items():
            for folder in ("data", "tmp"):
                (self.folder / host / folder).mkdir(parents=True)
            # An idle process keeps the namespace alive. It prints a line when it is inside.
            holder = subprocess.Popen(
                _killed_with_parent("unshare", "--net", "sh", "-c", "echo; exec sleep infinity"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            self.network[host] = holder
            assert holder.stdout is not None
            holder.stdout.readline()
            inside = ("nsenter", f"--net=/proc/{holder.pid}/ns/net", "ip")
            _ip("link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            _ip("link", "set", host, "master", _BRIDGE, "up")
            _run(*inside, "link", "set", "lo", "up")
            _run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
            _run(*inside, "link", "set", "eth0", "up")

    def cut(self, host: str) -> None:
        """Disconnect the host: packets to and from it are dropped without any error."""
        _ip("link", "set", host, "down")

    def mend(self, host: str) -> None:
        """Reconnect the host."""
        _ip("link", "set", host, "up")

    # Processes

    def start(self, name: str, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a process like `Stack`, but on the host `name`."""
        home = self.folder / name
        own = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "SVD_DATA_DIR": str(home / "data")}
        place = ("nsenter", f"--net=/proc/{self.network[name].pid}/ns/net")
        return super().start(name, *_killed_with_parent(*place, *command), **(own | variables))

    def launch_redis(self) -> None:
        """Start Redis with an append-only file."""
        options = ("--appendonly", "yes", "--save", "", "--protected-mode", "no", "--dir", str(self.folder / "redis"))
        self.start("redis", redis_program(), "--port", str(self.redis_port), *options)

    def launch_store(self) -> None:
        """Start the S3 server, and create the bucket."""
        process = self.start("store", *s3.command("0.0.0.0", 9000), **s3.environment())
        s3.make_bucket(f"http://{HOSTS['store']}:9000", s3.BUCKET, process)

    def start_all(self) -> None:
        """Connect the hosts, start everything, and wait until both workers are ready."""
        self.connect_hosts()
        self.start_redis()
        self.launch_store()
        for name in WORKERS:
            self.start_stand_in(name, step=STEP, video_bytes=VIDEO_BYTES)
        self.start_api()
        self.wait_for_workers(len(WORKERS))

    def remove_all(self) -> None:
        """Stop all processes; the namespaces, the bridge and the links disappear with the last one."""
        # A disconnected host cannot shut down cleanly, and waiting for it takes long.
        for host in self.network:
            with suppress(AssertionError):
                self.mend(host)
        with suppress(redis.RedisError):
            self._client.close()
        self.close()
        self.end_all()
        for holder in self.network.values():
            holder.kill()
            holder.wait()

    # Observation

    def running_on(self, worker: str) -> list[tuple[str, int]]:
        """Return the jobs that run on the host `worker`, each with the number of the attempt."""
        return running_on(self._client, self.ledger, self.settings.namespace, f"{worker}@")

    def workers_ready(self) -> set[str]:
        """Return the hosts whose workers are ready according to the ledger."""
        try:
            return {status.worker.partition("@")[0] for status in self.ledger.workers.ready()}
        except UnavailableError:
            return set()

    def whole(self) -> bool:
        """Return whether API, Redis, store and both workers are available to a caller."""
        try:
            health = self.http.get("/health", timeout=5).json()
        except httpx2.HTTPError:
            return False
        return bool(health["status"] == "ok" and health["workers_ready"] == len(WORKERS))

    def files(self) -> list[str]:
        """Return the images and videos on the hosts' own disks; there must be none while no job runs."""
        found = [path for host in HOSTS for path in (self.folder / host / "data").rglob("*") if path.is_file()]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


@contextmanager
def hosts(folder: Path, lease: float) -> Iterator[Hosts]:
    """Start the hosts for the duration of the block; `lease` in seconds."""
    started = Hosts(folder, {"SVD_LEASE": str(lease)})
    try:
        started.start_all()
        yield started
    finally:
        started.remove_all()


def _killed_with_parent(*command: str) -> tuple[str, ...]:
    """Return `command` prefixed so that the kernel kills it when this process ends."""
    return ("setpriv", "--pdeathsig", "KILL", *command)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
