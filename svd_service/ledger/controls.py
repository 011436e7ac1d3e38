"""What operators change while the service runs: pauses, workers held back, and the record of their acts.

Everything is in Redis, so it outlives a restart of any process. The scripts that accept, dispatch and claim jobs read
it (`lua/lib/paused.lua`).
"""

import json
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final, cast

import redis

from svd_service.ledger.connection import reachable
from svd_service.ledger.record import DAMAGE, SEPARATOR, dump
from svd_service.ledger.scripts import Scripts

logger = logging.getLogger(__name__)

#: Maximum number of stored acts.
MAX_ACTS: Final = 1_000

#: Length of a period of the history in seconds, as in `lua/lib/history.lua`.
PERIOD: Final = 600


class Pausable(StrEnum):
    """What can be paused: accepting jobs, or starting them."""

    INTAKE = "intake"
    DISPATCH = "dispatch"


class HoldKind(StrEnum):
    """Why a worker takes no jobs: it is to be stopped, or its device is faulty."""

    DRAIN = "drain"
    QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Note:
    """Who did something (a key's id and name), when (seconds since the epoch) and why."""

    by: str
    at: float
    reason: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Act:
    """An act of an operator: `what`, and to which `target`."""

    by: str
    at: float
    what: str
    target: str
    reason: str = ""


class Controls:
    """The controls of one namespace. Every change is stored together with its act, which is logged as well."""

    def __init__(self, scripts: Scripts) -> None:
        self._redis = scripts.redis
        self._paused = scripts.key("paused")
        self._held_back = scripts.key("held_back")
        self._audit = scripts.key("audit")
        self._key = scripts.key

    def pause(self, what: Pausable, model: str, *, by: str, reason: str) -> None:
        """Pause the intake or the dispatch of a model, or of all for `""`."""
        note = dump(asdict(Note(by, time.time(), reason)))
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._paused, f"{what}{SEPARATOR}{model}", note)
            self._record(pipe, by, f"pause {what}", model or "all models", reason)
            pipe.execute()

    def resume(self, what: Pausable, model: str, *, by: str) -> bool:
        """End a pause; returns whether there was one."""
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hdel(self._paused, f"{what}{SEPARATOR}{model}")
            self._record(pipe, by, f"resume {what}", model or "all models", "")
            return bool(pipe.execute()[0])

    def pauses(self) -> list[tuple[Pausable, str, Note]]:
        """What is paused, for which model (`""`: all), and why."""
        found = []
        for name, note in self._notes(self._paused):
            what, _, model = name.partition(SEPARATOR)
            if what in set(Pausable):
                found.append((Pausable(what), model, note))
        return found

    def hold_back(self, worker: str, kind: HoldKind, *, by: str, reason: str) -> None:
        """Let a worker process, or a node with all its processes, take no more jobs; its current job continues."""
        note = dump(asdict(Note(by, time.time(), reason, kind)))
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._held_back, worker, note)
            self._record(pipe, by, kind, worker, reason)
            pipe.execute()

    def release(self, worker: str, *, by: str) -> bool:
        """Let a worker take jobs again; returns whether it was held back."""
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hdel(self._held_back, worker)
            self._record(pipe, by, "release", worker, "")
            return bool(pipe.execute()[0])

    def held_back(self) -> dict[str, Note]:
        """The workers and nodes that take no jobs."""
        return dict(self._notes(self._held_back))

    def is_held_back(self, worker: str) -> bool:
        """Whether a worker process takes no jobs, itself or with its node."""
        with reachable():
            return any(self._redis.hmget(self._held_back, [worker, node_of(worker)]))

    def record(self, by: str, what: str, target: str, reason: str = "") -> None:
        """Record an act that something else carries out."""
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            self._record(pipe, by, what, target, reason)
            pipe.execute()

    def acts(self, limit: int) -> list[Act]:
        """The latest acts, newest first."""
        found = []
        with reachable():
            records = cast(list[str], self._redis.lrange(self._audit, 0, limit - 1))
        for record in records:
            with suppress(*DAMAGE):
                found.append(Act(**json.loads(record)))
        return found

    def history(self, periods: int) -> list[tuple[float, dict[str, float]]]:
        """Figures of the latest `periods` of `PERIOD` seconds, oldest first.

        Of each: when it began (seconds since the epoch), and its figures by name (`finished`, `failed|CAUSE`,
        `queue_age` in seconds, …).
        """
        last = int(time.time() // PERIOD)
        numbers = range(last - periods + 1, last + 1)
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            for number in numbers:
                pipe.hgetall(self._key("history", str(number)))
            records = pipe.execute()
        return [
            (number * float(PERIOD), _numbers(record.items())) for number, record in zip(numbers, records, strict=True)
        ]

    def _notes(self, name: str) -> list[tuple[str, Note]]:
        found = []
        with reachable():
            records = cast(dict[str, str], self._redis.hgetall(name))
        for member, record in sorted(records.items()):
            with suppress(*DAMAGE):
                found.append((member, Note(**json.loads(record))))
        return found

    def _record(self, pipe: "redis.client.Pipeline", by: str, what: str, target: str, reason: str) -> None:
        act = Act(by, time.time(), what, target, reason)
        pipe.lpush(self._audit, dump(asdict(act)))
        pipe.ltrim(self._audit, 0, MAX_ACTS - 1)
        logger.warning("operator %s: %s %s%s", by, what, target, f" ({reason})" if reason else "")


def node_of(worker: str) -> str:
    """The node of a worker process: `node@host` of `node@host/0`."""
    return worker.rpartition("/")[0] or worker


def _numbers(items: Iterable[tuple[str, str]]) -> dict[str, float]:
    found = {}
    for name, value in items:
        with suppress(ValueError):
            found[name] = float(value)
    return found
