"""Figures for the exporter: what is in the ledger now, and counters of all events."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, cast

import redis

from svd_service.jobs.job import State
from svd_service.jobs.routing import route_of
from svd_service.jobs.usage import Usage
from svd_service.ledger.connection import reachable
from svd_service.ledger.constants import REJECTED
from svd_service.ledger.estimates import Estimates
from svd_service.ledger.histograms import INFINITY, JOB_BOUNDS, STEP_BOUNDS, Histogram
from svd_service.ledger.record import SEPARATOR
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.usage import UsageRecords
from svd_service.ledger.workers import Workers, WorkerStatus
from svd_service.parameters import Profile

#: Redis' persistence states (`ok` or `err`), with a message for each error.
PERSISTENCE: Final = {
    "aof_last_write_status": "the last write to its append-only file failed",
    "aof_last_bgrewrite_status": "the last rewrite of its append-only file failed",
    "rdb_last_bgsave_status": "its last snapshot failed",
}


@dataclass(frozen=True)
class QueueFigures:
    """The queue of one model and profile: number of jobs, age of the oldest in seconds (0 if there is none), and the
    seconds until another job would start, `None` where no estimate is possible.
    """

    length: int
    oldest: float
    predicted_wait: float | None


@dataclass(frozen=True)
class Figures:
    """Figures for metrics. Summaries are (count, sum of seconds).

    `steps` are the denoising steps by device. `waits` are from a job's submission to its first attempt, by model and
    profile, `durations` to its end, also by state.

    `causes` counts attempts without a result by outcome and cause. `queues` is keyed by model and profile.
    `redis_memory` is the bytes that Redis uses and may use (0: no limit), `None` where it does not report it.
    `usage` is that of each key since the beginning.
    """

    jobs: dict[str, int]
    created: int
    rejected: dict[str, int]
    ended: dict[str, int]
    failed: dict[str, int]
    attempts: dict[str, int]
    queues: dict[tuple[str, str], QueueFigures]
    phases: dict[tuple[str, str], tuple[int, float]]
    steps: dict[str, Histogram]
    workers: list[WorkerStatus] = field(default_factory=list)
    cache: dict[str, int] = field(default_factory=dict)
    messages_dropped: int = 0
    causes: dict[tuple[str, str], int] = field(default_factory=dict)
    redis_memory: tuple[int, int] | None = None
    webhooks: dict[str, int] = field(default_factory=dict)
    webhook_tries: dict[str, int] = field(default_factory=dict)
    webhooks_pending: int = 0
    webhook_overdue: float = 0.0
    damaged: dict[str, int] = field(default_factory=dict)
    refused_by_celery: int = 0
    moderation: dict[tuple[str, str], int] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)
    waits: dict[tuple[str, ...], Histogram] = field(default_factory=dict)
    durations: dict[tuple[str, ...], Histogram] = field(default_factory=dict)


class Counters:
    """The hash `counters`, whose names are labels with separators between them."""

    def __init__(self, record: dict[str, str]) -> None:
        self._values: dict[tuple[str, ...], float] = {}
        for name, value in record.items():
            if math.isfinite(number := _number(value)):
                self._values[tuple(name.split(SEPARATOR))] = number

    def total(self, kind: str) -> int:
        """The counter that has no labels."""
        return int(self._values.get((kind,), 0))

    def by_label(self, kind: str) -> dict[str, int]:
        """Counters with one label."""
        return {labels[0]: int(value) for labels, value in self._of(kind, 1)}

    def by_two_labels(self, kind: str) -> dict[tuple[str, str], int]:
        """Counters with two labels."""
        return {(labels[0], labels[1]): int(value) for labels, value in self._of(kind, 2)}

    def summaries(self, kind: str, labels: int) -> dict[tuple[str, ...], tuple[int, float]]:
        """Count and sum of `{kind}_count` and `{kind}_seconds`."""
        seconds = dict(self._of(f"{kind}_seconds", labels))
        return {names: (int(value), seconds.get(names, 0.0)) for names, value in self._of(f"{kind}_count", labels)}

    def histograms(self, kind: str, labels: int, bounds: Iterable[float]) -> dict[tuple[str, ...], Histogram]:
        """Histograms of `{kind}_bucket`, with the sums of `{kind}_seconds`."""
        numbers: dict[tuple[str, ...], dict[str, int]] = {names: {} for names, _ in self._of(f"{kind}_count", labels)}
        for (*names, bound), value in self._of(f"{kind}_bucket", labels + 1):
            if bound == INFINITY or _number(bound) > 0:  # else damaged
                numbers.setdefault(tuple(names), {})[bound] = int(value)
        seconds, counts = dict(self._of(f"{kind}_seconds", labels)), dict(self._of(f"{kind}_count", labels))
        return {
            names: Histogram.of(found, seconds.get(names, 0.0), bounds, int(counts.get(names, 0)))
            for names, found in numbers.items()
        }

    def _of(self, kind: str, labels: int) -> list[tuple[tuple[str, ...], float]]:
        return [
            (name[1:], value) for name, value in self._values.items() if name[0] == kind and len(name) == labels + 1
        ]


def _number(text: str, otherwise: float = math.nan) -> float:
    """The number; `otherwise` if the text is damaged."""
    try:
        number = float(text)
    except ValueError:
        return otherwise
    return number if math.isfinite(number) else otherwise


class Stats:
    """Reads the figures, and counts the events that no other script counts."""

    def __init__(self, scripts: Scripts, workers: Workers, estimates: Estimates, usage: UsageRecords) -> None:
        self._usage = usage
        self._scripts = scripts
        self._redis = scripts.redis
        self._workers = workers
        self._estimates = estimates

    def count_rejected(self, code: str) -> None:
        """Count a rejected submission."""
        with reachable():
            self._redis.hincrby(self._scripts.key("counters"), f"{REJECTED}{SEPARATOR}{code}", 1)

    def count_verdict(self, stage: str, verdict: str) -> None:
        """Count a verdict of the moderation hook: `allow`, `reject` or `error`, on an `image` or a `video`."""
        with reachable():
            self._redis.hincrby(self._scripts.key("counters"), SEPARATOR.join(("moderation", stage, verdict)), 1)

    def count_dropped_messages(self, number: int) -> None:
        """Count foreign messages that workers dropped from Celery's queues."""
        with reachable():
            self._redis.hincrby(self._scripts.key("counters"), "messages_dropped", number)

    def figures(self) -> Figures:
        """All figures at this moment."""
        key = self._scripts.key
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(key("states"))
            pipe.hgetall(key("counters"))
            pipe.zrange(key("models"), 0, -1)
            for name in ("outbox", "posted"):
                pipe.zcard(key(name))
                pipe.zrange(key(name), 0, 0, withscores=True)
            states, record, models, waiting, due, posted, back = pipe.execute()
        now = self._scripts.now()
        counters = Counters(record)
        return Figures(
            jobs={state: int(_number(states.get(state, "0"), 0.0)) for state in State},
            created=counters.total("created"),
            rejected=counters.by_label(REJECTED),
            ended=counters.by_label("ended"),
            failed=counters.by_label("failed"),
            attempts=counters.by_label("attempts"),
            cache=counters.by_label("cache"),
            messages_dropped=counters.total("messages_dropped"),
            queues=self._queues(models, now),
            phases={(names[0], names[1]): value for names, value in counters.summaries("phase", 2).items()},
            steps={names[0]: value for names, value in counters.histograms("step", 1, STEP_BOUNDS).items()},
            waits=counters.histograms("wait", 2, JOB_BOUNDS),
            durations=counters.histograms("duration", 3, JOB_BOUNDS),
            workers=self._workers.ready(),
            causes=counters.by_two_labels("causes"),
            redis_memory=self._memory(),
            webhooks=counters.by_label("webhooks"),
            webhook_tries=counters.by_label("webhook_tries"),
            damaged=counters.by_label("damaged"),
            refused_by_celery=counters.total("refused_by_celery"),
            moderation=counters.by_two_labels("moderation"),
            usage=self._usage.totals(),
            webhooks_pending=waiting + posted,
            webhook_overdue=max(0.0, *(now - at for _, at in [*due, *back])) if due or back else 0.0,
        )

    def queued_by_owner(self, limit: int = 100) -> dict[str, int]:
        """Number of queued jobs by owner, the greatest first; of at most `limit` owners."""
        with reachable():
            record = cast(dict[str, str], self._redis.hgetall(self._scripts.key("queued_of")))
        numbers = {owner: int(_number(number, 0.0)) for owner, number in record.items()}
        return dict(sorted(numbers.items(), key=lambda item: -item[1])[:limit])

    def step_seconds(self) -> dict[str, float]:
        """The mean seconds of a denoising step since the beginning, by device."""
        with reachable():
            counters = Counters(cast(dict[str, str], self._redis.hgetall(self._scripts.key("counters"))))
        return {names[0]: total / count for names, (count, total) in counters.summaries("step", 1).items() if count}

    def persistence_trouble(self) -> str | None:
        """Why Redis cannot write its data to disk, for people; `None` if it can, or if the ACL hides it."""
        with reachable():
            try:
                info = self._redis.info("persistence")
            except redis.exceptions.NoPermissionError:
                return None
        troubles = [text for name, text in PERSISTENCE.items() if info.get(name, "ok") != "ok"]
        return f"Redis cannot write to its disk: {'; '.join(troubles)}" if troubles else None

    def _queues(self, models: Iterable[str], now: float) -> dict[tuple[str, str], QueueFigures]:
        figures = {}
        for model in models:
            with reachable(), self._redis.pipeline(transaction=False) as pipe:
                for profile in Profile:
                    pipe.zcard(self._scripts.key("queued", route_of(model, profile)))
                    pipe.zrange(self._scripts.key("queued", route_of(model, profile)), 0, 0, withscores=True)
                found = pipe.execute()
            end = sum(found[0::2])
            waits = self._estimates.until_start(model, end, Profile)
            for profile, length, oldest in zip(Profile, found[0::2], found[1::2], strict=True):
                age = max(0.0, now - oldest[0][1]) if oldest else 0.0
                figures[model, str(profile)] = QueueFigures(length, age, waits[profile])
        return figures

    def _memory(self) -> tuple[int, int] | None:
        with reachable():
            try:
                info = self._redis.info("memory")
            except redis.exceptions.NoPermissionError:  # an ACL without `+info`
                return None
        return int(info["used_memory"]), int(info["maxmemory"])
