"""Attempts at jobs for workers: claim, renew, end.

A claim is fenced by its token: every write of an attempt is rejected as stale once the claim is no longer current.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, cast

from svd_service.config import Settings
from svd_service.errors import StaleAttemptError
from svd_service.jobs.job import AttemptOutcome, Claim, Failure, Holder, Phase, Progress, Result
from svd_service.ledger.connection import reachable
from svd_service.ledger.constants import WORKER_LOST
from svd_service.ledger.histograms import STEP_BOUNDS, bucket_of
from svd_service.ledger.record import DAMAGE, SEPARATOR, dump, holder_of
from svd_service.ledger.scripts import Scripts


@dataclass(frozen=True)
class HeldClaim:
    """The current claim on a started job, and the worker process that holds it."""

    claim: Claim
    holder: Holder


class StopReason(StrEnum):
    """Why a worker must stop its attempt."""

    CANCEL = "cancel"
    DEADLINE = "deadline"


class Attempts:
    """The attempts of one namespace."""

    def __init__(self, scripts: Scripts, settings: Settings) -> None:
        self._scripts = scripts
        self._redis = scripts.redis
        self._settings = settings

    def current(self, job_id: str) -> HeldClaim | None:
        """The claim on a started job; `None` if it is not started."""
        key = self._scripts.key("job", job_id)
        with reachable():
            attempt, token = self._redis.hmget(key, "attempt", "token")
            held = self._redis.hget(key, f"held:{attempt!s}") if token else None
        return HeldClaim(Claim(job_id, str(token), int(str(attempt))), holder_of(str(held))) if held else None

    def held_by(self, instance: str) -> list[HeldClaim]:
        """The claims that processes of the worker `instance` hold. Damaged records are left out."""
        key = self._scripts.key
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            ids = cast(list[str], self._redis.zrange(key("leases"), 0, -1))
            for job_id in ids:
                pipe.hmget(key("job", job_id), "attempt", "token")
            claims = []
            for job_id, answer in zip(ids, pipe.execute(raise_on_error=False), strict=True):
                with suppress(*DAMAGE):  # left to `reap`
                    attempt, token = answer
                    claims += [Claim(job_id, token, int(attempt))] if token else []
            for claim in claims:
                pipe.hget(key("job", claim.job_id), f"held:{claim.attempt}")
            held = []
            for claim, record in zip(claims, pipe.execute(raise_on_error=False), strict=True):
                with suppress(*DAMAGE):
                    held.append(HeldClaim(claim, holder_of(record)))
        return [each for each in held if each.holder.instance == instance]

    def claim(self, job_id: str, holder: Holder, *, dead: str = "") -> Claim | None:
        """Claim a job for one attempt; `None` if there is nothing to do (held by another, ended, deleted).

        `dead` is the token of a claim whose holder is known to be dead: it is replaced before its lease expires.
        """
        token = uuid.uuid4().hex
        verdict = self._scripts.run(
            "claim",
            id=job_id,
            token=token,
            holder=dump(asdict(holder)),
            worker=holder.worker,
            lease=self._settings.lease,
            dead=dead,
            max_attempts=self._settings.max_attempts,
            record_ttl=self._settings.record_ttl,
        )
        return Claim(job_id, token, verdict[1]) if verdict[0] == "claimed" else None

    def report(self, claim: Claim, progress: Progress | None = None) -> StopReason | None:
        """Renew the claim's lease and record progress, if any; returns why the attempt must stop, if it must.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        shown = progress or Progress(Phase.PREPARING)
        answer = self._write(
            "progress",
            claim,
            lease=self._settings.lease,
            phase=shown.phase if progress else "",
            step=shown.step,
            steps=shown.steps,
            segment=shown.segment,
            segments=shown.segments,
        )
        return None if answer == "ok" else StopReason(answer)

    def show_preview(self, claim: Claim, name: str) -> None:
        """Record that the artifact `name` has a new preview of the attempt; it counts until the attempt ends.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        self._write("show_preview", claim, name=name)

    def finish(
        self,
        claim: Claim,
        result: Result,
        *,
        device: str,
        seconds: Mapping[str, float],
        steps: int,
        reusable: bool = True,
    ) -> None:
        """Commit the result and end the job. `seconds` by phase and the number of `steps` feed the metrics and the
        throughput model. A result that is not `reusable` is not copied for other jobs.

        Raises:
            StaleAttemptError: the claim is no longer the job's; the caller must delete the uploaded result.
        """
        self._write(
            "finish",
            claim,
            result=dump(asdict(result)),
            result_ttl=self._settings.result_ttl,
            device=device,
            seconds=[seconds.get(phase, 0) for phase in list(Phase)[:-1]],
            frames=result.frames,
            bytes=sum(file.bytes for file in result.files.values()),
            reusable=reusable,
            counters=_counters(device, seconds, steps),
        )

    def end_attempt(self, claim: Claim, outcome: AttemptOutcome, failure: Failure | None = None) -> None:
        """End an attempt that has no result.

        `FAILED` and `CANCELLED` end the job. `RETRIED` and `LOST` (its holder is dead) requeue it while attempts are
        left, and else fail it with `failure`. `RELEASED` requeues it and the attempt does not count.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        if failure is None:
            failure = WORKER_LOST if outcome is AttemptOutcome.LOST else Failure("", "")
        self._write(
            "end_attempt",
            claim,
            outcome=outcome,
            code=failure.code,
            message=failure.message,
            max_attempts=self._settings.max_attempts,
            record_ttl=self._settings.record_ttl,
        )

    def _write(self, script: str, claim: Claim, **arguments: object) -> Any:
        answer = self._scripts.run(script, id=claim.job_id, token=claim.token, **arguments)
        if answer == "stale":
            raise StaleAttemptError(f"attempt {claim.attempt} is no longer that of job {claim.job_id}")
        return answer


def _counters(device: str, seconds: Mapping[str, float], steps: int) -> dict[str, float]:
    counters: dict[str, float] = {}
    for phase, duration in seconds.items():
        counters[SEPARATOR.join(("phase_count", device, phase))] = 1
        counters[SEPARATOR.join(("phase_seconds", device, phase))] = round(duration, 6)
    counters[SEPARATOR.join(("step_count", device))] = steps
    sampling = seconds.get(Phase.SAMPLING, 0.0)
    counters[SEPARATOR.join(("step_seconds", device))] = round(sampling, 6)
    if steps:
        # A device runs behind its program, so only their mean can be measured.
        counters[SEPARATOR.join(("step_bucket", device, bucket_of(sampling / steps, STEP_BOUNDS)))] = steps
    return counters
