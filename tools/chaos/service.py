"""The service under test: a real stack on loopback whose processes are killed or frozen, and restarted."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import redis

from svd_service.artifacts.local import LocalArtifacts
from svd_service.bootstrap import UseCases, use_cases
from svd_service.config import Settings
from svd_service.errors import UnavailableError
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.connection import connect
from svd_service.ledger.workers import WorkerStatus
from tools.chaos.redis_faults import RedisFaults
from tools.harness.stack import Stack

WORKERS: Final = ("worker1", "worker2")

#: Seconds from the end of a process to its restart.
RESTART: Final = 1.0

#: Maximum seconds for a process to exit after SIGTERM.
GRACE: Final = 60.0


class Service:
    """Redis with its append-only file, gunicorn and two workers of one process each, in `folder`."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.stack = Stack(folder, {"SVD_MODEL": str(model)})
        self.settings = Settings.from_mapping(self.stack.environment)
        self._client = connect(self.settings, timeout=2.0)
        self.ledger = open_ledger(self._client, self.settings)
        self.artifacts = LocalArtifacts(self.settings.data_dir)
        queue = f"{self.settings.namespace}.tiny"
        self.redis_faults = RedisFaults(self.stack.redis_url, folder / "redis", queue)
        self._starters: dict[str, Callable[[], object]] = {
            "redis": self.stack.launch_redis,
            "api": self.stack.launch_api,
            **{name: partial(self.stack.start_worker, name) for name in WORKERS},
        }
        self._frozen: dict[int, float] = {}
        self._killed_at: dict[str, float] = {}
        self._restart_at: dict[str, float] = {}
        self._dead: dict[str, subprocess.Popen[bytes]] = {}
        self.own_ends: list[str] = []

    def start(self) -> None:
        """Start everything, and wait until both workers are ready."""
        self.stack.start_redis()
        for name in WORKERS:
            self.stack.start_worker(name)
        self.stack.start_api()
        self.stack.wait_for_workers(len(WORKERS))

    def use_cases(self) -> UseCases:
        """Make use cases with their own connection, for another thread."""
        ledger = open_ledger(connect(self.settings, timeout=2.0), self.settings)
        return use_cases(ledger, self.artifacts, self.settings, lambda *_: None)

    # Faults

    def kill(self, name: str, *, group: bool) -> bool:
        """Send SIGKILL; return False if the process is not running."""
        return self._signal(name, signal.SIGKILL, group=group)

    def terminate(self, name: str) -> bool:
        """Send SIGTERM, and SIGKILL if the process is still running after `GRACE` seconds."""
        self._killed_at[name] = time.monotonic() + GRACE
        return self._signal(name, signal.SIGTERM, group=False)

    def freeze(self, name: str, seconds: float, *, group: bool) -> bool:
        """Send SIGSTOP, and SIGCONT after `seconds`."""
        done = self._signal(name, signal.SIGSTOP, group=group)
        if done:
            self._frozen[-self.stack.processes[name].pid] = time.monotonic() + seconds
        return done

    def kill_child(self, child: WorkerStatus) -> bool:
        """Send SIGKILL to a process that has loaded the model."""
        return self._signal_child(child.pid, signal.SIGKILL)

    def freeze_child(self, child: WorkerStatus, seconds: float) -> bool:
        """Send SIGSTOP to a process that has loaded the model, and SIGCONT after `seconds`."""
        done = self._signal_child(child.pid, signal.SIGSTOP)
        if done:
            self._frozen[child.pid] = time.monotonic() + seconds
        return done

    def drop_connections(self) -> bool:
        """Make Redis close all client connections."""
        try:
            self._client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        except redis.RedisError:
            return False
        return True

    def children(self) -> list[WorkerStatus]:
        """Return the processes that have loaded the model; none while Redis is unavailable."""
        try:
            return [child for child in self.ledger.workers.ready() if self._is_ours(child.pid)]
        except UnavailableError:
            return []

    def running_on(self, worker: str) -> list[tuple[str, int]]:
        """Return the jobs on workers whose names begin with `worker`, each with the number of the attempt."""
        return running_on(self._client, self.ledger, self.settings.namespace, worker)

    def ready(self) -> bool:
        """Return whether a worker could claim a job now: it has loaded the model and is not frozen."""
        frozen = {abs(pid) for pid in self._frozen}
        try:
            return any(child.pid not in frozen and os.getpgid(child.pid) not in frozen for child in self.children())
        except ProcessLookupError:
            return False

    # Recovery

    def heal(self, *, now: bool = False) -> None:
        """End the faults whose time is over, kill processes that do not exit, restart those that have ended.

        `now` ends all faults immediately.
        """
        moment = time.monotonic()
        self.redis_faults.heal(now=now)
        for pid, until in list(self._frozen.items()):
            if now or moment >= until:
                del self._frozen[pid]
                self._thaw(pid)
        for name in self._starters:
            self._supervise(name, moment)

    def _supervise(self, name: str, moment: float) -> None:
        process = self.stack.processes.get(name)
        if process is not None and process.poll() is None:
            if moment > self._killed_at.get(name, moment):
                self.kill(name, group=True)
            return
        if process is not None:
            del self.stack.processes[name]
            self._dead[name] = process
            if name not in self._killed_at:
                self.own_ends.append(f"{name} ended by itself (status {process.returncode})")
            self._killed_at.pop(name, None)
            self._restart_at[name] = moment + RESTART
        elif moment >= self._restart_at.get(name, moment):
            # The children of a dead parent exit by themselves, and have had a second to do so.
            dead = self._dead.pop(name)
            if left := _members(dead.pid):
                self.own_ends.append(f"{name} left {len(left)} processes behind")
                _signal_group(dead, signal.SIGKILL)
            self._starters[name]()

    def stop(self) -> None:
        """Stop all processes that were started, by their process groups."""
        with suppress(redis.RedisError):
            self._client.close()
            self.redis_faults.close()
        self.stack.close()
        for process in self._dead.values():
            _signal_group(process, signal.SIGKILL)
        processes = [process for _, process in sorted(self.stack.processes.items(), key=lambda item: item[0])]
        for process in processes:
            for sign in (signal.SIGCONT, signal.SIGTERM):
                _signal_group(process, sign)
        deadline = time.monotonic() + 10
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(process, signal.SIGKILL)
            process.wait()

    def _signal(self, name: str, sign: signal.Signals, *, group: bool) -> bool:
        process = self.stack.processes.get(name)
        if process is None or process.poll() is not None:
            return False
        if sign is signal.SIGKILL:
            self._killed_at.setdefault(name, time.monotonic())
        if group:
            _signal_group(process, sign)
        else:
            process.send_signal(sign)
        return True

    def _signal_child(self, pid: int, sign: signal.Signals) -> bool:
        if not self._is_ours(pid):
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, sign)
            return True
        return False

    def _is_ours(self, pid: int) -> bool:
        """Return whether the process belongs to a worker of this service; the system may have reused the id."""
        groups = {process.pid for process in self.stack.processes.values()}
        with suppress(ProcessLookupError):
            return os.getpgid(pid) in groups
        return False

    def _thaw(self, pid: int) -> None:
        if pid > 0:
            self._signal_child(pid, signal.SIGCONT)
        else:
            for process in self.stack.processes.values():
                if process.pid == -pid and process.poll() is None:
                    _signal_group(process, signal.SIGCONT)


def running_on(client: "redis.Redis", ledger: Ledger, namespace: str, worker: str) -> list[tuple[str, int]]:
    """Return the jobs on workers whose names begin with `worker`, each with the number of the attempt.

    The result is empty while Redis is unavailable.
    """
    try:
        jobs = [ledger.jobs.find(str(job_id)) for job_id in client.zrange(f"{namespace}:leases", 0, -1)]
    except (UnavailableError, redis.RedisError):
        return []
    return [
        (job.id, last.number)
        for job in jobs
        if job.attempts and (last := job.attempts[-1]).outcome is None and last.worker.startswith(worker)
    ]


def _members(group: int) -> list[int]:
    """Return the ids of a process group's running processes, on systems with `/proc`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name is in parentheses and may contain anything; after it come state, parent and group.
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def _signal_group(process: "subprocess.Popen[bytes]", sign: signal.Signals) -> bool:
    """Signal a process and its children, whose process group has its id. Return False if none is left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, sign)
        return True
    return False
