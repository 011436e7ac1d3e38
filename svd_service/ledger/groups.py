"""Groups: jobs that are accepted together, and found together."""

import logging
from typing import Final

from svd_service.config import Settings
from svd_service.errors import UnknownGroupError
from svd_service.jobs.group import Group
from svd_service.jobs.submission import GroupSubmission
from svd_service.ledger.connection import reachable
from svd_service.ledger.jobs import IDEMPOTENCY_TTL, Jobs
from svd_service.ledger.record import DAMAGE, fields_of, group_of, members_of
from svd_service.ledger.scripts import Scripts

logger = logging.getLogger(__name__)

#: Seconds for which a group's record is kept beyond those of its members, if it is not deleted with them.
_MARGIN: Final = 86_400


class Groups:
    """The groups of one namespace."""

    def __init__(self, scripts: Scripts, settings: Settings, jobs: Jobs) -> None:
        self._scripts = scripts
        self._redis = scripts.redis
        self._settings = settings
        self._jobs = jobs

    def submit(self, group: GroupSubmission) -> str:
        """Accept all jobs of a group; returns its id, or that of the job or group made earlier under the same key.

        Raises:
            IdempotencyConflictError, QueueFullError, LateError, QuotaExceededError, PausedError: as `Jobs.submit`; no
                job was accepted.
        """
        first = group.jobs[0]
        verdict, accepted = self._scripts.run(
            "submit_group",
            id=group.group_id,
            owner=first.owner,
            priority=first.priority,
            jobs=[{"id": job.job_id, "fields": fields_of(job)} for job in group.jobs],
            max_queued=self._settings.max_queued,
            max_queued_of_owner=self._settings.max_queued_per_key,
            quotas=dict(first.quotas) or None,
            webhook=group.webhook,
            keep=self._settings.result_ttl + self._settings.record_ttl + _MARGIN,
            idempotency_key=group.idempotency_key,
            fingerprint=group.fingerprint,
            idempotency_ttl=IDEMPOTENCY_TTL,
            cancel_after=first.cancel_after,
            late=first.late,
        )
        return self._jobs.require_accepted(verdict, accepted, group.jobs)

    def find(self, group_id: str) -> Group:
        """The group at this moment, with the members whose records exist.

        Raises:
            UnknownGroupError: there is no group with that id, or nothing is left of it.
        """
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._scripts.key("group", group_id))
            pipe.hgetall(self._scripts.key("delivery", group_id))
            fields, delivery = pipe.execute(raise_on_error=False)
        try:
            jobs = [job for job in self._jobs.find_all(members_of(fields)) if job is not None and not job.deleted]
            if jobs:
                return group_of(group_id, fields, jobs, delivery)
        except DAMAGE:
            logger.exception("group %s: its record in Redis is damaged", group_id)
        raise UnknownGroupError(f"there is no group {group_id}")
