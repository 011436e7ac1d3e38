"""The outbox: webhooks that are to be delivered, in Redis beside the ledger, whose scripts fill it.

The script that ends a job writes its delivery in the same move. A courier asks for those that are due (`post`), claims
one after the other, and settles each try. A claim is fenced and bounded in time like that of a job: what a dead courier
had in hand is tried again by another.
"""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from svd_service.config import Settings
from svd_service.errors import StaleAttemptError
from svd_service.jobs.job import Job
from svd_service.ledger.record import job_of
from svd_service.ledger.scripts import Scripts

#: Seconds after which a delivery that was given to Celery and not begun is given to it again.
POST_AGAIN: Final = 30.0

#: Seconds that a try may take beyond its time limit before it is taken for lost.
MARGIN: Final = 5.0

#: Deliveries that are given out or under way at once, and those of them that go to one host.
ROOM: Final = 64
ROOM_OF_HOST: Final = 16


@dataclass(frozen=True)
class Delivery:
    """The right to try a delivery once. `job` is as it was when it ended; `number` counts the tries from 1."""

    job: Job
    token: str
    number: int
    url: str
    type: str
    owner: str


#: Folder of the outbox's scripts.
LUA: Final = Path(__file__).parent / "lua"


class Outbox:
    """The outbox of one namespace. There is at most one delivery of each job, which the job's id stands for.

    Every method raises `UnavailableError` when Redis cannot be reached; asking again is safe.
    """

    def __init__(self, client: "redis.Redis", settings: Settings, scripts: Scripts | None = None) -> None:
        self._settings = settings
        self._scripts = scripts or Scripts(client, settings.namespace, LUA)

    def post(self) -> list[str]:
        """Choose the deliveries that are to be given to Celery now; the caller publishes each of the returned ids."""
        times = self._settings.webhook_give_up, self._settings.webhook_backoff
        return list(self._scripts.run("post", POST_AGAIN, ROOM, ROOM_OF_HOST, *times))

    def claim(self, job_id: str) -> Delivery | None:
        """Claim a delivery for one try; `None` when there is nothing to do (over, in other hands, not due)."""
        token = uuid.uuid4().hex
        answer = self._scripts.run("claim_delivery", job_id, token, self._settings.webhook_timeout + MARGIN)
        if not answer:
            return None
        number, url, kind, owner, told = answer
        names_and_values = json.loads(told)
        fields = dict(zip(names_and_values[::2], names_and_values[1::2], strict=True))
        job = job_of(job_id, fields, {}, None, float(fields["ended"]))
        return Delivery(job, token, int(number), url, kind, owner)

    def deliver(self, delivery: Delivery, status_code: int) -> None:
        """The receiver has taken it: it is done.

        Raises:
            StaleAttemptError: the try took too long, and the delivery is no longer ours.
        """
        self._settle(delivery, "delivered", status_code, "", 0.0)

    def fail(self, delivery: Delivery, status_code: int | None, error: str, *, pause: float) -> None:
        """The try has failed; the next is due in `pause` seconds, or never, when the time is over.

        Raises:
            StaleAttemptError: the try took too long, and the delivery is no longer ours.
        """
        self._settle(delivery, "failed", status_code, error, pause)

    def give_up(self, delivery: Delivery, status_code: int | None, error: str) -> None:
        """The try has failed, and another would be of no use.

        Raises:
            StaleAttemptError: the try took too long, and the delivery is no longer ours.
        """
        self._settle(delivery, "gone", status_code, error, 0.0)

    def _settle(self, delivery: Delivery, outcome: str, status_code: int | None, error: str, pause: float) -> None:
        answer = self._scripts.run(
            "settle_delivery",
            delivery.job.id,
            delivery.token,
            outcome,
            "" if status_code is None else status_code,
            error,
            pause,
            self._settings.webhook_give_up,
        )
        if answer == "stale":
            raise StaleAttemptError(f"try {delivery.number} is no longer that of the webhook of job {delivery.job.id}")
