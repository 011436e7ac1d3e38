"""Values that Python and the Lua scripts share: defined here, and rendered into every script."""

from dataclasses import dataclass
from typing import Final

from svd_service.jobs.job import DEADLINE_EXCEEDED, Failure
from svd_service.ledger.histograms import JOB_BOUNDS
from svd_service.parameters import Profile

#: The failure of a job whose attempts were all lost.
WORKER_LOST: Final = Failure("worker_lost", "Worker lost; all attempts failed.")

#: Names in Redis (keys, a field, a counter) that are older than the words for what they hold. With other names, this
#: release and the one before could not share a Redis.
ENQUEUED: Final = "published"
LAST_ACTIVITY: Final = "heard"
REPORTED: Final = "told"
REJECTED: Final = "refused"
ATTEMPTS: Final = "tries"
UNCLAIMED: Final = "refusals"


@dataclass(frozen=True)
class Constants:
    """The constants of the scripts.

    `priority_share` is the factor by which each priority step multiplies the share of an owner's flow.
    `enqueued` and `last_activity` are names of keys; `reported`, `attempts` and `unclaimed` are fields of
    hashes (`ledger/__init__.py`).
    `max_ended_per_owner` bounds the records of failed, cancelled and expired jobs, and the pending webhook deliveries,
    which cost their owner nothing.
    `usage_days` is for how many days usage is kept, `max_usage_owners` the number of owners with totals of their own.
    `job_bounds` are the upper bounds of the histograms of a job's wait and duration, in seconds, with
    spaces between them.
    """

    profiles: tuple[str, ...] = tuple(Profile)
    priority_share: int = 4
    max_ended_per_owner: int = 10_000
    worker_lost: str = WORKER_LOST.code
    worker_lost_message: str = WORKER_LOST.message
    deadline_exceeded: str = DEADLINE_EXCEEDED.code
    deadline_exceeded_message: str = DEADLINE_EXCEEDED.message
    enqueued: str = ENQUEUED
    last_activity: str = LAST_ACTIVITY
    reported: str = REPORTED
    attempts: str = ATTEMPTS
    unclaimed: str = UNCLAIMED
    usage_days: int = 400
    max_usage_owners: int = 100
    job_bounds: str = " ".join(map(str, JOB_BOUNDS))
    delivery_lost_message: str = "worker lost during the delivery"

    def as_lua(self) -> str:
        """Lua's definitions of them, by their names in capitals."""
        return "".join(f"local {name.upper()} = {_literal(value)}\n" for name, value in vars(self).items())


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return "{ " + ", ".join(map(_literal, value)) + " }"
    return str(value) if isinstance(value, int) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
