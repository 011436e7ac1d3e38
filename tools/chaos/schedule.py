"""The schedule of faults, a function of the seed only."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

#: Every kind of fault, with its relative frequency and its minimum and maximum duration in seconds (freezes only).
#: Faults after which a model must be loaded are rarer than the others, or the two workers would do little else.
KINDS: Final[dict[str, tuple[float, float, float]]] = {
    "child-kill": (1, 0, 0),  # SIGKILL to the process that holds the model
    "child-freeze": (1, 1, 14),  # SIGSTOP to it, SIGCONT later: sometimes after its lease has expired
    "worker-kill": (0.6, 0, 0),  # SIGKILL to Celery's parent process alone
    "host-kill": (0.6, 0, 0),  # SIGKILL to all processes of a worker at once
    "worker-term": (0.6, 0, 0),  # SIGTERM, as a deployment does
    "worker-freeze": (1, 1, 14),  # SIGSTOP to Celery's parent process alone
    "host-freeze": (1, 1, 14),  # SIGSTOP to all processes of a worker
    "api-kill": (2, 0, 0),  # SIGKILL to all processes of gunicorn
    "api-freeze": (2, 1, 5),
    "redis-kill": (2, 0, 0),  # SIGKILL; restarted with its append-only file
    "redis-freeze": (1.5, 1, 6),
    "redis-demote": (1.5, 1, 5),  # REPLICAOF a server that does not exist, then NO ONE
    "redis-misconf": (1.5, 1, 5),  # a snapshot fails: no writes (MISCONF)
    "connections": (4, 0, 0),  # CLIENT KILL TYPE normal
    "garbage": (1, 0, 0),  # malformed messages in Celery's queue
    "job-revoke": (1, 0, 0),  # Celery's revoke of an unfinished job
    "job-terminate": (0.6, 0, 0),  # the same, with SIGKILL to its process
    "slow-clients": (1, 2, 10),  # connections that send half a request and wait
    "hostile-image": (2, 0, 0),  # an upload that would take a parser minutes
    "job-delete": (0.6, 0, 0),  # DEL of the record of a queued job
}

#: The default kinds: all but the deletion of records, which loses jobs by design.
DEFAULT_KINDS: Final = tuple(kind for kind in KINDS if kind != "job-delete")


@dataclass(frozen=True)
class Fault:
    """A fault `at` seconds after the start that lasts `seconds`; `pick` (0 to 1) selects its target."""

    at: float
    kind: str
    pick: float
    seconds: float


def schedule(seed: int, interval: float, kinds: Sequence[str]) -> Iterator[Fault]:
    """Yield faults endlessly, one every `interval` seconds on average (a Poisson process)."""
    chance = random.Random(seed)
    weights = [KINDS[kind][0] for kind in kinds]
    at = 0.0
    while True:
        at += chance.expovariate(1 / interval)
        (kind,) = chance.choices(kinds, weights)
        _, least, most = KINDS[kind]
        yield Fault(at, kind, chance.random(), chance.uniform(least, most))
