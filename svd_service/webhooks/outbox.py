"""The outbox: undelivered webhooks, in Redis next to the ledger, whose scripts fill it.

The script that ends a job also writes its delivery. A webhook worker chooses those that are due (`choose_due`), claims
them one by one, and ends each delivery attempt. A claim is fenced and expires like that of a job: another worker
retries what a dead one had claimed.

The fields of a delivery hash: `state` (pending, delivered, given_up), `type`, `url`, `host`, `owner`, `created`, `next`
(time of the next attempt), `tries`, `job` (the job hash when the job ended, as JSON; for a group, `lua/lib/group.lua`
of the ledger), `token` and `last_token`, and of each attempt `began:N`, `code:N` (HTTP status) and `error:N`.
"""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from svd_service.config import Settings
from svd_service.errors import StaleAttemptError
from svd_service.jobs.group import Group
from svd_service.jobs.job import Job
from svd_service.ledger.record import group_of, job_of, paired
from svd_service.ledger.scripts import Scripts
from svd_service.webhooks.backoff import GROWTH, LONGEST_PAUSE

#: Seconds after which a delivery that was enqueued with Celery and not claimed is enqueued again.
ENQUEUE_DELIVERY_AGAIN_AFTER: Final = 30.0

#: Seconds beyond its time limit after which an attempt counts as lost.
MARGIN: Final = 5.0

#: Maximum number of deliveries that are enqueued or claimed at once: in total, of one owner, and to one host. An owner
#: gets half of a webhook worker's threads, so that its dead hosts never delay the webhooks of the others.
ROOM: Final = 64
ROOM_OF_OWNER: Final = 16
ROOM_OF_HOST: Final = 16

#: Seconds for which a due delivery is deferred while its owner or its host is at its maximum.
DEFER: Final = 2.0


@dataclass(frozen=True)
class DeliveryClaim:
    """The claim on one delivery attempt. The job or group is as it was when it ended; `number` counts the attempts
    from 1.
    """

    job: Job | Group
    token: str
    number: int
    url: str
    type: str
    owner: str


#: Folder of the outbox's scripts.
LUA: Final = Path(__file__).parent / "lua"


class Outbox:
    """The outbox of one namespace. There is at most one delivery of each job or group, identified by its id.

    Every method raises `UnavailableError` when Redis cannot be reached; repeating it is safe.
    """

    def __init__(self, client: "redis.Redis", settings: Settings, scripts: Scripts | None = None) -> None:
        self._settings = settings
        self._scripts = scripts or Scripts(client, settings.namespace, LUA)

    def choose_due(self) -> list[str]:
        """Choose the deliveries that are to be enqueued with Celery now; the caller enqueues each returned id."""
        return list(
            self._scripts.run(
                "choose_due",
                enqueue_again_after=ENQUEUE_DELIVERY_AGAIN_AFTER,
                room=ROOM,
                room_of_owner=ROOM_OF_OWNER,
                room_of_host=ROOM_OF_HOST,
                defer=DEFER,
                give_up=self._settings.webhook_give_up,
                backoff=self._settings.webhook_backoff,
                growth=GROWTH,
                longest=LONGEST_PAUSE,
            )
        )

    def claim(self, job_id: str) -> DeliveryClaim | None:
        """Claim a delivery for one attempt; `None` when there is nothing to do (over, claimed, not due)."""
        token = uuid.uuid4().hex
        answer = self._scripts.run(
            "claim_delivery", id=job_id, token=token, seconds=self._settings.webhook_timeout + MARGIN
        )
        if not answer:
            return None
        number, url, kind, owner, copy = answer
        names_and_values = json.loads(copy)
        subject = _group(job_id, names_and_values) if kind.startswith("group.") else _job(job_id, names_and_values)
        return DeliveryClaim(subject, token, int(number), url, kind, owner)

    def deliver(self, delivery: DeliveryClaim, status_code: int) -> None:
        """Record that the receiver has acknowledged the delivery.

        Raises:
            StaleAttemptError: the attempt took too long, and the claim has expired.
        """
        self._end_attempt(delivery, "delivered", status_code, "", 0.0)

    def fail(self, delivery: DeliveryClaim, status_code: int | None, error: str, *, pause: float) -> None:
        """Record a failed attempt; the next is due in `pause` seconds, or never, when the time is over.

        Raises:
            StaleAttemptError: the attempt took too long, and the claim has expired.
        """
        self._end_attempt(delivery, "failed", status_code, error, pause)

    def give_up(self, delivery: DeliveryClaim, status_code: int | None, error: str) -> None:
        """Record a failed attempt that is not to be retried.

        Raises:
            StaleAttemptError: the attempt took too long, and the claim has expired.
        """
        self._end_attempt(delivery, "gone", status_code, error, 0.0)

    def _end_attempt(
        self, delivery: DeliveryClaim, outcome: str, status_code: int | None, error: str, pause: float
    ) -> None:
        answer = self._scripts.run(
            "end_delivery_attempt",
            id=delivery.job.id,
            token=delivery.token,
            outcome=outcome,
            code="" if status_code is None else status_code,
            message=error,
            pause=pause,
            give_up=self._settings.webhook_give_up,
        )
        if answer == "stale":
            raise StaleAttemptError(f"delivery attempt {delivery.number} is no longer that of job {delivery.job.id}")


def _job(job_id: str, record: list[str]) -> Job:
    fields = paired(record)
    return job_of(job_id, fields, {}, None, float(fields["ended"]))


def _group(group_id: str, copy: list[Any]) -> Group:
    """The group in the copy that `lua/lib/group.lua` of the ledger writes."""
    fields = paired(copy[1])
    jobs = [job_of(job_id, paired(record), {}, None, float(fields["ended"])) for job_id, record in copy[2:]]
    return group_of(group_id, fields, jobs, {})
