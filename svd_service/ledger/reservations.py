"""Job ids reserved for requests whose callers count how often they send them.

A client that repeats a request by itself, because the answer was lost or did not come in time, means the job that it
has asked for already. With a key of its own it could say so (`Idempotency-Key`); some clients only say how often they
have sent the request before. So the id of its job is chosen when a request comes in, before anything else is done with
it: sent again, it gets the same id, and submitting a job twice under one id makes one job, even if both come at once.

Two requests that are alike, each sent for the first time, are two jobs. Which of them a repetition means nobody can
know for sure, so it gets one whose id nobody has asked for since (its answer may be the lost one), and no two
repetitions get the same.
"""

import uuid
from typing import Final

import redis

from svd_service.config import Settings
from svd_service.ledger.client import reachable
from svd_service.ledger.scripts import Scripts

#: Seconds for which a request is remembered. The `openai` package waits ten minutes for an answer and then at most two
#: until it asks again.
REMEMBER: Final = 900


class Reservations:
    """The reserved ids of one namespace.

    Every method raises `UnavailableError` when Redis cannot be reached; asking again is safe.
    """

    def __init__(self, client: "redis.Redis", settings: Settings) -> None:
        self._redis = client
        self._scripts = Scripts(client, settings.namespace)

    def reserve(self, digest: str, sent_before: int, *, owner: str = "") -> str:
        """The id for the job of the request that has this `digest` and was sent so many times before."""
        return str(
            self._scripts.run(
                "reserve", owner=owner, digest=digest, sent_before=sent_before, id=str(uuid.uuid4()), remember=REMEMBER
            )
        )

    def heard(self, job_id: str) -> None:
        """Somebody knows the job's id: its answer was not lost, and no repetition means this job."""
        with reachable():
            self._redis.delete(self._scripts.key("unheard", job_id))
