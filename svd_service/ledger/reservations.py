"""Job ids reserved for requests whose callers count how often they send them.

A client that retries a request by itself, because the answer was lost or late, means the job that it has already
requested. It could identify it by an `Idempotency-Key`, but some clients only count how often they have sent the
request before. So the id of the job is chosen when a request arrives, before anything else: a retry gets the same id,
and submitting a job twice under one id makes one job, even if both requests arrive at once.

Two equal requests, each sent for the first time, are two jobs. Which of them a retry means cannot be known for sure, so
it gets one whose id has not been used since (its answer may be the lost one), and no two retries get the same.
"""

import uuid
from typing import Final

import redis

from svd_service.config import Settings
from svd_service.ledger.connection import reachable
from svd_service.ledger.scripts import Scripts

#: Seconds for which a request is stored. The `openai` package waits ten minutes for an answer and then at most two
#: until it retries.
REMEMBER: Final = 900


class Reservations:
    """The reserved ids of one namespace.

    Every method raises `UnavailableError` when Redis cannot be reached; retrying is safe.
    """

    def __init__(self, client: "redis.Redis", settings: Settings, scripts: Scripts | None = None) -> None:
        self._redis = client
        self._scripts = scripts or Scripts(client, settings.namespace)

    def reserve(self, digest: str, sent_before: int, *, owner: str = "") -> str:
        """The id for the job of the request that has this `digest` and was sent so many times before."""
        return str(
            self._scripts.run(
                "reserve", owner=owner, digest=digest, sent_before=sent_before, id=str(uuid.uuid4()), remember=REMEMBER
            )
        )

    def acknowledge(self, job_id: str) -> None:
        """Record that a caller knows the job's id: its answer was not lost, so no retry means this job."""
        with reachable():
            self._redis.delete(self._scripts.key("unheard", job_id))
