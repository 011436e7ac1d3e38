"""Start, supervision and shutdown of all parts on one machine.

Each part is a process in its own session, so that a terminal's Ctrl-C reaches only `up`, which stops the parts in the
right order.
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import redis
from rich.console import Console
from rich.text import Text

from svd_service import __version__
from svd_service.cli.up import processes, registry
from svd_service.cli.up.first_key import make_first_key
from svd_service.cli.up.preflight import StackError
from svd_service.cli.up.process import Part, RunningPart
from svd_service.cli.up.stop import StopSignals
from svd_service.cli.up.supervision import SupervisedPart
from svd_service.client import Client, ClientError
from svd_service.config import Settings
from svd_service.errors import UnavailableError
from svd_service.jobs.model import Model
from svd_service.ledger.check import require_layout
from svd_service.ledger.connection import connect
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import Workers
from svd_service.worker.shutdown import LOAD_FAILED

#: Seconds between two checks of the parts.
_TICK: Final = 0.1
#: Seconds after which a message reports that the model is still loading.
_PATIENCE: Final = 20.0
#: Maximum seconds for Redis to load its data and answer.
_REDIS_START: Final = 60.0


class CrashError(Exception):
    """A part ended by itself before all were ready: its model, settings or environment are invalid."""

    def __init__(self, part: RunningPart) -> None:
        super().__init__(part.name)
        self.part = part


class Stack:
    """The parts of the service on one machine."""

    def __init__(self, settings: Settings, model: Model, scratch: Path, console: Console, stop: StopSignals) -> None:
        self._settings = settings
        self._model = model
        self._scratch = scratch
        self._console = console
        self._stop = stop
        self._parts: list[SupervisedPart] = []
        self._ready = False

    def run(self, *, flower: bool) -> int:
        """Start, supervise and stop everything; returns the exit status."""
        try:
            self._start(flower=flower)
            self._wait_until_ready()
            self._ready = True
            while not self._stop.wanted:
                self._tick()
        except CrashError as crash:
            self._report_crash(crash.part)
            return 1
        finally:
            self._end()
        return 0

    def _start(self, *, flower: bool) -> None:
        started_redis = processes.redis_of(self._settings)
        if started_redis is not None:
            self._launch(started_redis.part)
            self._settings = msgspec.structs.replace(self._settings, redis_url=started_redis.url)
        self._wait_for_redis(_REDIS_START if started_redis else 3.0)
        require_layout(self._settings)
        registry.note(self._settings)
        first_key = make_first_key(self._settings)
        for part in processes.ours(self._settings, self._scratch, flower=flower):
            self._launch(part)
        self._show()
        if first_key:
            self._say(
                f"Other machines can reach {self._settings.bind}, so the service requires an API key. The first one:"
            )
            self._say(f"  {first_key}")
            self._say("Store it: it is not shown again. SVD_OPEN=1 allows requests without keys instead.")

    def _launch(self, part: Part) -> None:
        self._parts.append(SupervisedPart(part, self._settings.data_dir))

    def _wait_for_redis(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with connect(self._settings, timeout=2) as client:
            while not self._stop.wanted:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    self._tick()
                    if time.monotonic() > deadline:
                        raise StackError(
                            f"cannot connect to Redis at {processes.without_password(self._settings.redis)}: {error}"
                        ) from None

    def _wait_until_ready(self) -> None:
        began, shown = time.time(), False
        with (
            Client(processes.url_of(self._settings.bind), timeout=3, patience=0) as client,
            connect(self._settings, timeout=3) as connection,
        ):
            workers = Workers(Scripts(connection, self._settings.namespace))
            while not self._stop.wanted:
                if _is_ready(client, workers, began):
                    self._say(f"Ready after {time.time() - began:.0f} s. Ctrl-C stops everything.")
                    self._say(f"  svd-service generate IMAGE -o OUT.mp4 --server {client.base_url}")
                    self._say(f"Open {client.base_url} in a browser")
                    return
                if not shown and time.time() - began > _PATIENCE:
                    shown = True
                    self._say(f"The worker is still loading {self._model.name}; see its log for the progress.")
                self._tick()

    def _tick(self) -> None:
        time.sleep(_TICK)
        for part in self._parts:
            if part.running.ended and not self._ready:
                raise CrashError(part.running)
            if event := part.supervise():
                self._say(event)

    def _report_crash(self, part: RunningPart) -> None:
        if part.status == str(LOAD_FAILED) and (reason := part.load_error()):
            self._say(f"svd-service up: {reason}", style="red")
            return
        self._say(f"{part.name} ended by itself (status {part.status}). The end of its log:", style="red")
        self._say(part.last_words())
        self._say(f"The complete log: {part.log}")

    def _end(self) -> None:
        if self._parts:
            self._say("Stopping …")
        for stage in _in_order(part.running for part in self._parts):
            for part in stage:
                part.ask_to_end()
            self._wait_for_end_of(stage)
        self._parts.clear()

    def _wait_for_end_of(self, stage: Sequence[RunningPart]) -> None:
        began, shown = time.monotonic(), False
        while left := [part for part in stage if not part.ended]:
            waited = time.monotonic() - began
            for part in left:
                if self._stop.hurry or waited > part.grace:
                    part.kill()
            if not shown and waited > 1:
                shown = True
                self._say(
                    f"Waiting for {', '.join(part.name for part in left)}; press Ctrl-C again to kill the processes."
                )
            time.sleep(_TICK)
        for part in stage:
            part.kill()  # its remaining child processes

    def _show(self) -> None:
        trained = "" if self._model.trained else "  (its weights are untrained: the videos are noise)"
        rows = [("model", f"{self._model.name}{trained}")]
        if not any(part.name == "redis" for part in self._parts):
            rows.append(("redis", f"{processes.without_password(self._settings.redis)}  (external)"))
        rows += [(each.part.name, each.part.where) for each in self._parts]
        rows.append(("logs", str(self._settings.data_dir / "logs")))
        self._say(f"svd-service {__version__}")
        for name, words in rows:
            self._say(f"  {name:<9} {words}")

    def _say(self, text: str, style: str = "") -> None:
        with contextlib.suppress(OSError):  # the output may be a file on a full disk
            self._console.print(Text(text, style=style))


def _is_ready(client: Client, workers: Workers, since: float) -> bool:
    """Return whether the API answers and a worker of this `up` is ready.

    From the ledger: the API shows its workers to operators only, without the drained ones. Redis may still list a
    worker that died with an earlier `up`.
    """
    try:
        client.health()
        return any(worker.ready_since >= since for worker in workers.ready())
    except (ClientError, UnavailableError):
        return False


def _in_order(running: Iterable[RunningPart]) -> list[list[RunningPart]]:
    """Return the shutdown stages, first to last: API and tools, workers, Redis."""
    stages: dict[int, list[RunningPart]] = {}
    for part in running:
        stages.setdefault({"worker": 1, "webhooks": 1, "redis": 2}.get(part.name, 0), []).append(part)
    return [stages[stage] for stage in sorted(stages)]
