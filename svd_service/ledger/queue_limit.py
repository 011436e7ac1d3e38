"""Queue limit: the maximum number of queued jobs in total and of one owner, and `Retry-After` of a full queue."""

import json
import math
from typing import Final

from svd_service.config import Settings
from svd_service.errors import PausedError, QueueFullError
from svd_service.jobs.job import Job, State
from svd_service.ledger.connection import reachable
from svd_service.ledger.estimates import Estimates
from svd_service.ledger.record import DAMAGE, SEPARATOR
from svd_service.ledger.scripts import Scripts
from svd_service.parameters import Profile

#: `Retry-After` of a full queue, a used-up quota or a deadline that cannot be met, in seconds, while there is no
#: estimate.
UNKNOWN_RETRY_AFTER: Final = 30

#: Longest `Retry-After` of a full queue, in seconds.
LONGEST_RETRY_AFTER: Final = 3_600


class QueueLimit:
    """The limits of one namespace. `submit.lua` enforces them; this checks them early, and makes the error."""

    def __init__(self, scripts: Scripts, settings: Settings, estimates: Estimates) -> None:
        self._scripts = scripts
        self._redis = scripts.redis
        self._settings = settings
        self._estimates = estimates

    def require_room(self, owner: str, model: str, profile: Profile, number: int = 1) -> None:
        """Raise early the error that submitting `number` jobs would raise for a full queue of that model and profile.

        Raises:
            QueueFullError: the queue is full, or the owner's share of it.
            PausedError: an operator has paused the intake.
        """
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(self._scripts.key("states"), State.QUEUED)
            pipe.hget(self._scripts.key("queued_of"), owner)
            pipe.hmget(self._scripts.key("paused"), f"intake{SEPARATOR}{model}", f"intake{SEPARATOR}")
            queued, of_owner, pauses = pipe.execute()
        if pause := next(filter(None, pauses), None):
            raise paused_error(pause)
        if int(queued or 0) + number > self._settings.max_queued:
            raise self.error(model, profile, of_owner=False)
        if owner and int(of_owner or 0) + number > self._settings.max_queued_per_key:
            raise self.error(model, profile, of_owner=True)

    def seconds_left(self, job: Job) -> float | None:
        """The estimated seconds until a job ends; `None` without an estimate."""
        return self._estimates.estimate([job])[0].eta_seconds

    def error(self, model: str, profile: Profile, *, of_owner: bool) -> QueueFullError:
        """The error, with the estimated seconds until the next job, or the next one of this owner, starts."""
        with reachable():
            owners = self._redis.hlen(self._scripts.key("queued_of"))
        # Jobs of other owners start before this owner's next one.
        place = owners - 1 if of_owner else 0
        pause = self._estimates.until_start(model, place, [profile])[profile]
        retry_after = UNKNOWN_RETRY_AFTER if pause is None else min(max(1, math.ceil(pause)), LONGEST_RETRY_AFTER)
        if of_owner:
            limit = f"{self._settings.max_queued_per_key} jobs of yours"
        else:
            limit = f"{self._settings.max_queued} jobs"
        return QueueFullError(f"queue is full ({limit}); retry after {retry_after} s", retry_after)


def paused_error(record: str) -> PausedError:
    """The error for a pause of the intake, with the operator's reason."""
    try:
        reason = str(json.loads(record)["reason"])
    except DAMAGE:
        reason = ""
    because = f" ({reason})" if reason else ""
    return PausedError(f"new jobs are not accepted at the moment{because}; jobs in the queue are kept")
