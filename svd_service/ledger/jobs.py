"""Jobs for callers: submit, find, list, cancel, delete."""

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, cast

from svd_service.config import Settings
from svd_service.errors import (
    IdempotencyConflictError,
    LateError,
    PinLimitError,
    QuotaExceededError,
    UnknownJobError,
)
from svd_service.jobs.allowance import exceeded
from svd_service.jobs.job import Job, State
from svd_service.jobs.submission import CachedVideo, Submission
from svd_service.ledger.connection import reachable
from svd_service.ledger.queue_limit import UNKNOWN_RETRY_AFTER, QueueLimit, paused_error
from svd_service.ledger.record import DAMAGE, dump, fields_of, job_of, paired
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import WORKER_TIMEOUT

logger = logging.getLogger(__name__)

#: Seconds for which an `Idempotency-Key` is stored.
IDEMPOTENCY_TTL: Final = 86_400

CONFLICT: Final = "this Idempotency-Key was used for a different request"

#: Minimum seconds for which a result is kept after it was unpinned, so that a slip can be undone.
UNPIN_GRACE: Final = 600

#: Maximum number of jobs that one script reads, so that a long page does not block Redis.
FIND_BATCH: Final = 50


@dataclass(frozen=True)
class Page:
    """A page of jobs, and whether more follow."""

    jobs: list[Job]
    more: bool


@dataclass(frozen=True)
class NeededArtifacts:
    """Artifacts that a job still needs: its image, its result, and what the attempt with `token` is writing.

    `known` is whether the ledger has the job.
    """

    known: bool
    input: str | None
    token: str | None
    result: str | None


class Jobs:
    """The jobs of one namespace."""

    def __init__(self, scripts: Scripts, settings: Settings, queue_limit: QueueLimit) -> None:
        self._scripts = scripts
        self._redis = scripts.redis
        self._settings = settings
        self._queue_limit = queue_limit

    def submit(self, submission: Submission) -> str:
        """Accept a job; returns its id, or that of the job made earlier under the same idempotency key.

        If the submission has a cached video and the earlier job's result still exists, the job is finished at once.

        Raises:
            IdempotencyConflictError: that key was used for another request (one with another fingerprint).
            QueueFullError: the queue is full, or the owner's share of it.
            LateError: it is `late`.
            QuotaExceededError: a quota of the owner's key is used up.
            PausedError: an operator has paused the intake.
        """
        verdict, accepted = self._scripts.run(
            "submit",
            id=submission.job_id,
            owner=submission.owner,
            priority=submission.priority,
            fields=fields_of(submission),
            max_queued=self._settings.max_queued,
            max_queued_of_owner=self._settings.max_queued_per_key,
            quotas=dict(submission.quotas) or None,
            result_ttl=self._settings.result_ttl,
            idempotency_key=submission.idempotency_key,
            fingerprint=submission.fingerprint,
            idempotency_ttl=IDEMPOTENCY_TTL,
            looked_up=submission.looked_up,
            cached=_cached(submission.cached) if submission.cached else None,
            cancel_after=submission.cancel_after,
            late=submission.late,
        )
        return self.require_accepted(verdict, accepted, [submission])

    def require_accepted(self, verdict: str, detail: str | list[str], submissions: Sequence[Submission]) -> str:
        """The id in `detail`; or the error, as `submit` raises it, if a script's `verdict` is one."""
        first = submissions[0]
        if verdict == "conflict":
            raise IdempotencyConflictError(CONFLICT)
        if verdict == "paused":
            raise paused_error(str(detail))
        if verdict == "quota":
            raise self._quota_exceeded(list(detail), first.quotas, len(submissions))
        if verdict in {"full", "owner_full"}:
            profile = first.parameters.profile
            raise self._queue_limit.error(first.model_name, profile, of_owner=verdict == "owner_full")
        if verdict == "late":
            raise LateError("the job would probably not end before its deadline (Cancel-After)", UNKNOWN_RETRY_AFTER)
        return str(detail)

    def find_same(self, owner: str, content: str, model: str) -> str:
        """The id of the owner's latest job that made a video of `content`, on a kind of device that is ready for
        `model` now, and whose result still exists; or `""`.
        """
        return str(
            self._scripts.run("find_same", owner=owner, content=content, model=model, worker_timeout=WORKER_TIMEOUT)
        )

    def find_repeated(self, owner: str, idempotency_key: str, fingerprint: str) -> str | None:
        """The id of the job that was made for the request with this key, if there is one.

        Raises:
            IdempotencyConflictError: that was another request (one with another fingerprint).
        """
        with reachable():
            known = self._redis.hmget(self._scripts.key("idempotency", owner, idempotency_key), "id", "fingerprint")
            job_id, known_fingerprint = cast(list[str | None], known)
            # A job that was deleted frees its key, as in submit.lua.
            record = self._scripts.key("job", job_id or "")
            if job_id is None or not self._redis.exists(record) or self._redis.hexists(record, "deleted"):
                return None
        if known_fingerprint != fingerprint:
            raise IdempotencyConflictError(CONFLICT)
        return job_id

    def require_quota(self, owner: str, quotas: Mapping[str, int], number: int = 1) -> None:
        """Raise early the error that submitting `number` jobs would raise for a quota.

        Raises:
            QuotaExceededError: a quota of the owner's key is used up.
        """
        if quotas and (found := self._scripts.run("quota", owner=owner, quotas=dict(quotas), number=number)):
            raise self._quota_exceeded(found, quotas, number)

    def find(self, job_id: str) -> Job:
        """The job at this moment.

        Raises:
            UnknownJobError: there is no job with that id.
        """
        (job,) = self.find_all([job_id])
        if job is None:
            raise UnknownJobError(f"there is no job {job_id}")
        return job

    def latest(self, owner: str | None, *, start: int, number: int) -> list[Job | None]:
        """`number` jobs of an owner, or of all for `None`, the newest first, from place `start`; `None` for damage."""
        key = self._scripts.key("jobs") if owner is None else self._scripts.key("owner", owner)
        with reachable():
            return self.find_all(cast(list[str], self._redis.zrange(key, start, start + number - 1, desc=True)))

    def running(self) -> dict[str, Job]:
        """The started jobs, at most 1,000, by the worker process that runs each."""
        with reachable():
            ids = cast(list[str], self._redis.zrange(self._scripts.key("leases"), 0, 999))
        found = (job for job in self.find_all(ids) if job is not None and job.attempts)
        return {job.attempts[-1].worker: job for job in found if job.state is State.STARTED}

    def place(self, owner: str | None, job_id: str) -> int | None:
        """The place of a job among those of an owner, or among all, the newest first; `None` if it is not there."""
        key = self._scripts.key("jobs") if owner is None else self._scripts.key("owner", owner)
        with reachable():
            return cast(int | None, self._redis.zrevrank(key, job_id))

    def page(self, owner: str, *, after: str | None = None, limit: int = 20, newest_first: bool = True) -> Page:
        """A page of an owner's jobs by the time of submission, starting behind job `after`.

        Raises:
            UnknownJobError: `after` is no job of this owner.
        """
        key = self._scripts.key("owner", owner)
        with reachable():
            start = 0
            if after is not None:
                rank = self._redis.zrevrank(key, after) if newest_first else self._redis.zrank(key, after)
                if rank is None:
                    raise UnknownJobError(f"there is no job {after}")
                start = cast(int, rank) + 1
            ids = cast(list[str], self._redis.zrange(key, start, start + limit, desc=newest_first))
        # A job may be deleted between the two reads.
        return Page([job for job in self.find_all(ids[:limit]) if job is not None], len(ids) > limit)

    def cancel(self, job_id: str) -> State:
        """Cancel a queued job at once, request a started one's worker to stop; returns the state after that.

        Raises:
            UnknownJobError: there is no job with that id.
        """
        state = self._scripts.run("cancel", id=job_id, record_ttl=self._settings.record_ttl)
        if not state:
            raise UnknownJobError(f"there is no job {job_id}")
        return State(state)

    def pin(self, job_id: str, *, on: bool) -> bool:
        """Exempt a finished job from retention, or with `on` false apply it again, after a grace period at least.

        Returns False if the job has no result (any more).

        Raises:
            PinLimitError: its owner has pinned as many jobs as allowed.
            UnknownJobError: there is no job with that id.
        """
        limit = self._settings.max_pinned_per_key
        answer = self._scripts.run("pin", id=job_id, on=on, limit=limit, grace=UNPIN_GRACE)
        if answer == "none":
            raise UnknownJobError(f"there is no job {job_id}")
        if answer == "full":
            raise PinLimitError(f"{limit} videos are pinned already, which is the limit: unpin or delete one first")
        return bool(answer == "ok")

    def forget(self, job_id: str, *, insist: bool = False) -> bool:
        """Delete the record of a job that has ended; returns False if it has not ended.

        With `insist`, a queued job is cancelled and deleted, and a started one cancelled: it is `deleted` from now on,
        in no list, and its record goes when its attempt has ended.

        Raises:
            UnknownJobError: there is no job with that id.
        """
        answer = self._scripts.run("forget", id=job_id, insist=insist)
        if answer == 0:
            raise UnknownJobError(f"there is no job {job_id}")
        return bool(answer > 0)

    def needed_artifacts(self, job_ids: Iterable[str]) -> dict[str, NeededArtifacts]:
        """The artifacts that each job still needs; none for an unknown job. Jobs with a damaged record are left out."""
        ids = list(job_ids)
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(self._scripts.key("job", job_id), "state", "ended", "input", "token", "result")
            answers = pipe.execute(raise_on_error=False)
        needed = {}
        for job_id, answer in zip(ids, answers, strict=True):
            with suppress(*DAMAGE):
                state, ended, input, token, result = answer
                needed[job_id] = NeededArtifacts(
                    known=state is not None,
                    input=input if state in {State.QUEUED, State.STARTED} or self._keeps_input(state, ended) else None,
                    token=token,
                    result=json.loads(result)["artifact"] if result else None,
                )
        return needed

    def _keeps_input(self, state: str | None, ended: str | None) -> bool:
        """Whether the image of a job in this state is kept, so that it can be retried."""
        return state == State.FAILED and time.time() < float(ended or 0) + self._settings.keep_inputs

    def ping(self) -> None:
        """Check that Redis answers."""
        with reachable():
            self._redis.ping()

    def find_all(self, job_ids: list[str]) -> list[Job | None]:
        """The jobs at this moment; `None` for an unknown one."""
        found = []
        for start in range(0, len(job_ids), FIND_BATCH):
            batch = job_ids[start : start + FIND_BATCH]
            now, *answers = self._scripts.run("find", ids=batch)
            for job_id, (record, delivery, place) in zip(batch, answers, strict=True):
                found.append(_read(job_id, paired(record), paired(delivery), place or None, float(now)))
        return found

    def _quota_exceeded(self, found: list[str], quotas: Mapping[str, int], number: int) -> QuotaExceededError:
        quota, renewed, started = found
        if renewed:
            return exceeded(quota, quotas[quota], math.ceil(float(renewed)), number)
        eta = None
        if started:
            with suppress(UnknownJobError):
                eta = self._queue_limit.seconds_left(self.find(started))
        return exceeded(quota, quotas[quota], UNKNOWN_RETRY_AFTER if eta is None else max(1, math.ceil(eta)), number)


def _read(job_id: str, record: dict[str, str], delivery: dict[str, str], place: int | None, now: float) -> Job | None:
    """The job; `None` if there is none, or its record is damaged."""
    if not record:
        return None
    try:
        return job_of(job_id, record, delivery, place, now)
    except DAMAGE:
        logger.exception("job %s: its record in Redis is damaged", job_id)
        return None


def _cached(cached: CachedVideo) -> dict[str, str]:
    device = str(cached.copy.provenance.get("device", ""))
    return {"id": cached.job_id, "result": dump(asdict(cached.copy)), "device": device}
