"""`svd-service up`: every part of the service on one machine, started, watched and stopped together.

processes.py defines the processes, process.py runs one of them, preflight.py rejects what cannot work.
Each part is a process in a session of its own, so that a terminal's Ctrl-C reaches `up` alone and the parts are stopped
in their right order. Logs and our own Redis' data lie in the data folder; jobs outlive a restart.
"""

import contextlib
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

import msgspec
import redis
from rich.console import Console
from rich.text import Text

from svd_service import __version__
from svd_service.cli.up import processes, registry
from svd_service.cli.up.preflight import StackError, only_one, require_free, require_packages
from svd_service.cli.up.process import Part, Running
from svd_service.client import Client, ClientError
from svd_service.config import ConfigurationError, Settings
from svd_service.jobs.model import Model
from svd_service.ledger.client import connect

#: Seconds between two looks at the parts.
_TICK: Final = 0.1
#: Seconds after which a model that is still being loaded is worth a word.
_PATIENCE: Final = 20.0
#: Seconds that a Redis may take to read its data and answer.
_REDIS_START: Final = 60.0


def up(*, flower: bool = False, port: int | None = None) -> int:
    """Start everything, and return when it has ended: the exit status.

    0: it was stopped (Ctrl-C, SIGTERM, SIGHUP). 1: a part crashed. 2: it could not be started.
    """
    console = Console(soft_wrap=True, highlight=False)
    try:
        require_packages(flower=flower)
        settings = processes.chosen(Settings.load(), flower=flower, port=port)
        model = Model.of(settings)
        with only_one(settings.data_dir), _scratch() as scratch, Stop() as stop:
            require_free(settings, flower=flower)
            return Stack(settings, model, scratch, console, stop).run(flower=flower)
    except (ConfigurationError, StackError) as error:
        console.print(Text(f"svd-service up: {error}", style="red"))
        return 2


class Stop:
    """Whether somebody wants an end: Ctrl-C, SIGTERM, or the terminal closed. The same once more means: at once."""

    def __init__(self) -> None:
        self._heard: list[int] = []
        self._before: dict[int, Any] = {}

    @property
    def wanted(self) -> bool:
        """Somebody wants an end."""
        return bool(self._heard)

    @property
    def hurry(self) -> bool:
        """Somebody does not want to wait for it."""
        return len(self._heard) > len(set(self._heard))

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._heard.append(number)


class CrashError(Exception):
    """A part ended by itself."""

    def __init__(self, part: Running) -> None:
        super().__init__(part.name)
        self.part = part


class Stack:
    """The parts of one machine, from their start to their end."""

    def __init__(self, settings: Settings, model: Model, scratch: Path, console: Console, stop: Stop) -> None:
        self._settings = settings
        self._model = model
        self._scratch = scratch
        self._console = console
        self._stop = stop
        self._running: list[Running] = []

    def run(self, *, flower: bool) -> int:
        """Start, watch and stop everything; the exit status."""
        try:
            self._start(flower=flower)
            self._wait_until_ready()
            while not self._stop.wanted:
                self._tick()
        except CrashError as crash:
            self._tell_of(crash.part)
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
        registry.note(self._settings)
        for part in processes.ours(self._settings, self._scratch, flower=flower):
            self._launch(part)
        self._show()

    def _launch(self, part: Part) -> None:
        self._running.append(Running(part, self._settings.data_dir))

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
                            f"the Redis at {processes.without_password(self._settings.redis)} does not answer: {error}"
                        ) from None

    def _wait_until_ready(self) -> None:
        began, told = time.time(), False
        with Client(processes.url_of(self._settings.bind), timeout=3, patience=0) as client:
            while not self._stop.wanted:
                if _is_ready(client, began):
                    self._say(f"Ready after {time.time() - began:.0f} s. Ctrl-C stops everything.")
                    self._say(f"  svd-service generate IMAGE -o OUT.mp4 --server {client.base_url}")
                    self._say(f"Open {client.base_url} in a browser")
                    return
                if not told and time.time() - began > _PATIENCE:
                    told = True
                    self._say(f"The worker is still loading {self._model.name}; its log says how far it is.")
                self._tick()

    def _tick(self) -> None:
        time.sleep(_TICK)
        for part in self._running:
            if part.ended:
                raise CrashError(part)
            part.cut_log()

    def _tell_of(self, part: Running) -> None:
        self._console.print(Text(f"{part.name} ended by itself (status {part.status}). Its last words:", style="red"))
        self._console.print(Text(part.last_words()))
        self._say(f"All of its log: {part.log}")

    def _end(self) -> None:
        if self._running:
            self._say("Stopping …")
        for stage in _in_order(self._running):
            for part in stage:
                part.ask_to_end()
            self._wait_for_end_of(stage)
        self._running.clear()

    def _wait_for_end_of(self, stage: Sequence[Running]) -> None:
        began, told = time.monotonic(), False
        while left := [part for part in stage if not part.ended]:
            waited = time.monotonic() - began
            for part in left:
                if self._stop.hurry or waited > part.grace:
                    part.kill()
            if not told and waited > 1:
                told = True
                self._say(f"Waiting for {', '.join(part.name for part in left)}; Ctrl-C once more does not wait.")
            time.sleep(_TICK)
        for part in stage:
            part.kill()  # what it may have left behind

    def _show(self) -> None:
        trained = "" if self._model.trained else "  (its weights are untrained: the videos are noise)"
        rows = [("model", f"{self._model.name}{trained}")]
        if not any(part.name == "redis" for part in self._running):
            rows.append(("redis", f"{processes.without_password(self._settings.redis)}  (not ours)"))
        rows += [(part.name, part.where) for part in self._running]
        rows.append(("logs", str(self._settings.data_dir / "logs")))
        self._say(f"svd-service {__version__}")
        for name, words in rows:
            self._say(f"  {name:<9} {words}")

    def _say(self, words: str) -> None:
        self._console.print(Text(words))


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for temporary files, gone afterwards whatever is in it. Its path is short, as sockets in it need."""
    with tempfile.TemporaryDirectory(prefix="svd-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _is_ready(client: Client, since: float) -> bool:
    """Whether a worker of ours is ready: Redis may still remember one that died with an earlier `up`."""
    try:
        workers = client.health().get("workers", [])
    except ClientError:
        return False
    return any(worker["ready_since"] >= since for worker in workers)


def _in_order(running: Iterable[Running]) -> list[list[Running]]:
    """Who is stopped together, first to last: whoever takes jobs, whoever does them, where they are kept."""
    stages: dict[int, list[Running]] = {}
    for part in running:
        stages.setdefault({"worker": 1, "courier": 1, "redis": 2}.get(part.name, 0), []).append(part)
    return [stages[stage] for stage in sorted(stages)]
