"""The job ledger: the one truth about every job, in Redis, changed by nothing but the Lua scripts beside this file.

Keys, all under one namespace:

==========================  ======  ================================================================================
``job:{id}``                hash    the job: state, owner, request, times, attempts, progress, failure, result
``waiting:{model}``         zset    queued jobs whose id Celery does not have yet, by fair-queueing tag
``waiting:{route}``         zset    the same of one profile (routing.py)
``published:{model}``       zset    queued jobs whose id was given to Celery, by the time of that
``queued:{route}``          zset    all that are queued, by the time of submission
``loads``                   hash    how many jobs of each of Celery's queues are published, and how many started
``leases``                  zset    started jobs, by the time at which their lease lapses
``ended``                   zset    ended jobs, by the time at which retention looks at them next
``owner:{owner}``           zset    an owner's jobs, by the time of submission
``queued_of``               hash    how many queued jobs each owner has
``idempotency:{owner}:{k}`` hash    the job that was made under an `Idempotency-Key`
``sendings:{owner}:{digest}`` zset  ids reserved for the jobs of one request: the business of reservations.py
``unheard:{id}``                    how often the request was sent that took such an id
``content:{owner}:{digest}`` hash   the latest job that made a video of just that, by the kind of device that made it
``states``                  hash    how many jobs there are in each state
``counters``                hash    what has ever happened, for the exporter
``paces``                   hash    how fast each kind of device is with each model (pace.py)
``far:{model}``             hash    what was last seen of the queue's far end (outlook.lua), for two seconds
``models``                  zset    models that a worker holds or a job asks for, by the last time of either
``model_descriptions``      hash    what workers say of theirs, as JSON
``workers``                 zset    worker processes that hold their model, by their last heartbeat
``workers:{queue}``         zset    the same of those that take jobs from one queue
``queues``                  zset    those queues, by the last heartbeat
``worker_status``           hash    their status, as JSON
``worker_queue``            hash    the queue that each takes jobs from
``worker_device``           hash    the device that each has
``preparing``               zset    worker processes that do not hold it yet, by the last time they said so
``preparing_status``        hash    what they are doing, as JSON
``heard``                           when a worker or house-keeping was last heard
``finish_tags:{model}``     hash    the virtual time of fair queueing: of owners and priorities,
``clock:{model}``                   and of the model's queue
``rate:{who}:{minute}``             requests that someone made in a minute
``outbox``                  zset    jobs whose webhook waits to be delivered, by the time of the next try
``posted``                  zset    those that were given to Celery or are being tried, by the time they are taken back
``delivery:{id}``           hash    a job's webhook: state, what is to be told, tries. The business of outbox.py
``webhook_secrets``         hash    what webhooks are signed with, by owner: the business of webhooks.py
``keys``                    hash    API keys: the business of keys.py
``events``                  channel "id version state owner" at every change of a job
==========================  ======  ================================================================================

Invariants, after every script:

1. A job is in exactly the sets of its state: queued in `queued` and either in both of `waiting` or in `published`, with
   the `queue` that has its id; started in `leases`, with a `token`; ended in `ended`; and in nothing else.
2. A write in the name of an attempt is heard only if its token is the job's present one. A token is made anew for every
   claim, so at most one attempt is heard at any time, and none after the job has ended.
3. A job's result is written once, by the move to `finished`, and that move ends the attempt, if there is one: a job
   whose video an earlier one has made is finished from the start.
4. Nobody's lease runs while nobody is heard, because Redis is down or frozen.
5. A job leaves `started` for `queued` at most as often as attempts allow; released attempts are not counted.
6. Every script can be repeated after an answer that was lost, and changes nothing the second time.
7. A job that has ended and has a webhook has one delivery: pending, and in one of `outbox` and `posted`; or delivered
   or given up, and in neither. A pending one outlives its job.

So Celery's message is a hint, not the truth: lost, it is sent again by `reap` and `dispatch`; doubled, the second claim
is refused.
"""

import dataclasses
import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from svd_service.config import Settings
from svd_service.errors import (
    IdempotencyConflictError,
    QueueFullError,
    RateLimitedError,
    StaleAttemptError,
    UnknownJobError,
)
from svd_service.jobs.eta import Outlook, work_of
from svd_service.jobs.job import (
    Attempt,
    Claim,
    Failure,
    Holder,
    Job,
    Phase,
    Preview,
    Progress,
    Result,
    State,
    Try,
    Webhook,
    WebhookState,
)
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters
from svd_service.jobs.routing import celery_queue, queue_of, route_of
from svd_service.ledger.client import open_client, scripts
from svd_service.ledger.client import reachable as _reachable
from svd_service.parameters import Profile

#: Seconds between two heartbeats of a worker process, and after how many it no longer counts.
HEARTBEAT: Final = 2.0
WORKER_SILENCE: Final = 3 * HEARTBEAT + 1

#: Seconds for which a published id may stay unclaimed beside an idle worker before it is published again.
REPUBLISH_AFTER: Final = 5.0

#: Seconds for which an `Idempotency-Key` is remembered.
IDEMPOTENCY_TTL: Final = 86_400

#: Why a job failed whose attempts were all lost.
WORKER_LOST: Final = Failure("worker_lost", "The worker was lost in every attempt.")

#: Seconds after which to come again to a full queue: while no job has finished yet or nobody works, and at most.
UNKNOWN_RETRY_AFTER: Final = 30
LONGEST_RETRY_AFTER: Final = 3_600

_SEPARATOR: Final = "|"


@dataclass(frozen=True)
class DeviceMemory:
    """A device's memory, in bytes: how much it has, how much of it is in use by whomever, and how much of that the
    worker process holds for its tensors.
    """

    size: int
    used: int
    reserved: int


@dataclass(frozen=True)
class WorkerStatus:
    """One worker process that holds the model. Times are seconds since the epoch; `load_seconds` a duration.

    `memory` is the way in which it uses that of its device, `device_memory` how much of it, where it has its own;
    `profiles` are those whose jobs it takes (none: all).
    """

    worker: str
    device: str
    instance: str
    pid: int
    model: str
    trained: bool
    ready_since: float
    load_seconds: float
    seen_at: float = 0.0
    memory: str = ""
    device_memory: DeviceMemory | None = None
    profiles: tuple[str, ...] = ()

    @property
    def queue(self) -> str:
        """The queue that it takes jobs from."""
        return queue_of(self.model, self.profiles)

    @classmethod
    def of(cls, told: str, seen_at: float) -> Self:
        """As the worker said it, in JSON. What a newer worker says beside that is passed over."""
        known = {one.name for one in dataclasses.fields(cls)}
        said = {name: value for name, value in json.loads(told).items() if name in known}
        memory = DeviceMemory(**said["device_memory"]) if said.get("device_memory") else None
        profiles = tuple(said.get("profiles", ()))
        return cls(**{**said, "seen_at": seen_at, "device_memory": memory, "profiles": profiles})


@dataclass(frozen=True)
class Preparing:
    """A worker process that is not ready yet: what it is `doing`, and since when (seconds since the epoch)."""

    worker: str
    doing: str
    since: float


@dataclass(frozen=True)
class Wanted:
    """Artifacts that a job has a use for: its picture, its result, and what the attempt with `token` is writing."""

    input: str | None
    token: str | None
    result: str | None


@dataclass(frozen=True)
class QueueFigures:
    """What waits of one model and profile: how many jobs, the age of the oldest in seconds (0 if there is none), and in
    how many seconds one more would begin, `None` where that cannot be told.
    """

    length: int
    oldest: float
    predicted_wait: float | None


@dataclass(frozen=True)
class Figures:
    """What there is and what has happened, for metrics. Summaries are (count, sum of seconds).

    `causes` counts attempts without a result by outcome and cause. `queues` has what waits by model and profile.
    `redis_memory` is the bytes that Redis uses and those that it may use (0: any number), `None` where it does not say.
    """

    jobs: dict[str, int]
    created: int
    refused: dict[str, int]
    ended: dict[str, int]
    failed: dict[str, int]
    attempts: dict[str, int]
    queues: dict[tuple[str, str], QueueFigures]
    phases: dict[tuple[str, str], tuple[int, float]]
    steps: dict[str, tuple[int, float]]
    workers: list[WorkerStatus] = field(default_factory=list)
    cache: dict[str, int] = field(default_factory=dict)
    causes: dict[tuple[str, str], int] = field(default_factory=dict)
    redis_memory: tuple[int, int] | None = None
    webhooks: dict[str, int] = field(default_factory=dict)
    webhook_tries: dict[str, int] = field(default_factory=dict)
    webhooks_pending: int = 0
    webhook_overdue: float = 0.0


def connect(settings: Settings, *, timeout: float = 1.0) -> "redis.Redis":
    """A client of Redis on which nothing waits longer than `timeout` seconds.

    A connection that Redis closed in the meantime (a restart, a failover) is opened anew once; a timeout is not
    repeated.
    """
    return open_client(
        settings,
        decode_responses=True,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


class Ledger:
    """The ledger of one namespace.

    Every method raises `UnavailableError` when Redis cannot be reached or does not answer in time; what was asked for
    may then have happened or not, and asking again is safe.
    """

    def __init__(self, client: "redis.Redis", settings: Settings) -> None:
        self._redis = client
        self._settings = settings
        self._namespace = settings.namespace
        self._scripts = scripts(
            client,
            (
                "submit", "find", "dispatch", "claim", "progress", "finish", "settle",
                "cancel", "reap", "expire", "forget", "heartbeat", "leave", "prepare", "workers", "outlook",
                "count_request", "find_same", "show_preview",
            ),
        )  # fmt: skip

    # What callers do

    def submit(
        self,
        job_id: str,
        *,
        parameters: Parameters,
        model: Mapping[str, Any],
        input: str,
        owner: str = "",
        notes: Mapping[str, str] | None = None,
        trace: Mapping[str, str] | None = None,
        idempotency_key: str = "",
        fingerprint: str = "",
        priority: int = 0,
        content: str = "",
        same: str | None = None,
        copy: Result | None = None,
        webhook: str = "",
    ) -> str:
        """Accept a job; returns its id, or that of the job made earlier under the same `idempotency_key`.

        `content` is a digest of all that the video depends on but the device. `same` is what `find_same` said of it,
        or `None` where it was not asked; `copy` is a copy of that job's result. If that job's is still to be had, this
        one is finished at once, with the copy. `webhook` is the URL that its end is told to.

        Raises:
            IdempotencyConflictError: that key was used for another request (one with another `fingerprint`).
            QueueFullError: too many jobs wait, or too many of this owner.
        """
        fields = {
            "route": route_of(str(model.get("name", "")), parameters.profile),
            "parameters": _dump(parameters.to_dict()),
            "model": _dump(model),
            "input": input,
            "work": _dump(work_of(parameters)),
        }
        if notes:
            fields["notes"] = _dump(notes)
        if content:
            fields["content"] = content
        if trace:
            fields["trace"] = _dump(trace)
        if webhook:
            fields["webhook"] = webhook
        verdict, accepted = self._run(
            "submit",
            job_id,
            owner,
            idempotency_key,
            fingerprint,
            IDEMPOTENCY_TTL,
            priority,
            self._settings.max_queued,
            self._settings.max_queued_per_key,
            self._settings.result_ttl,
            "-" if same is None else same,
            _dump(asdict(copy)) if copy else "",
            copy.provenance.get("device", "") if copy else "",
            *_flat(fields.items()),
        )
        if verdict == "conflict":
            raise IdempotencyConflictError("this Idempotency-Key was used for a different request")
        if verdict in {"full", "owner_full"}:
            raise self._queue_full(str(model.get("name", "")), parameters.profile, of_owner=verdict == "owner_full")
        return str(accepted)

    def find_same(self, owner: str, content: str, model: str) -> str:
        """The id of the owner's latest job that made a video of `content`, on a device like one that works for `model`
        now, and whose result is still to be had; or `""`.
        """
        return str(self._run("find_same", owner, content, model, WORKER_SILENCE))

    def require_room(self, owner: str, model: str, profile: Profile) -> None:
        """Refuse early what `submit` would refuse now, of a job of that model and profile.

        Raises:
            QueueFullError: too many jobs wait, or too many of this owner.
        """
        with _reachable(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(self._key("states"), State.QUEUED)
            pipe.hget(self._key("queued_of"), owner)
            queued, of_owner = pipe.execute()
        if int(queued or 0) >= self._settings.max_queued:
            raise self._queue_full(model, profile, of_owner=False)
        if owner and int(of_owner or 0) >= self._settings.max_queued_per_key:
            raise self._queue_full(model, profile, of_owner=True)

    def count_request(self, who: str, limit: int) -> None:
        """Count a request of `who`, who may make `limit` within any minute.

        Raises:
            RateLimitedError: this one is too many; it was not counted.
        """
        wait = float(self._run("count_request", who, limit, 60))
        if wait > 0:
            raise RateLimitedError(f"more than {limit} requests in a minute", math.ceil(wait))

    def _queue_full(self, model: str, profile: Profile, *, of_owner: bool) -> QueueFullError:
        """The error that says when to come again: when the next job, or the next of this owner's, will have begun."""
        with _reachable():
            owners = self._redis.hlen(self._key("queued_of"))
        # Other owners' jobs take their turns before this one's.
        place = owners - 1 if of_owner else 0
        pause = self._outlook(model, place).until_start(place, profile)
        retry_after = UNKNOWN_RETRY_AFTER if pause is None else min(max(1, math.ceil(pause)), LONGEST_RETRY_AFTER)
        whose = "of yours wait" if of_owner else "wait"
        return QueueFullError(f"the queue is full: no more jobs {whose} than may; try again later", retry_after)

    def find(self, job_id: str) -> Job:
        """The job at this moment.

        Raises:
            UnknownJobError: there is none of that id.
        """
        (job,) = self._find([job_id])
        if job is None:
            raise UnknownJobError(f"there is no job {job_id}")
        return job

    def page(
        self, owner: str, *, after: str | None = None, limit: int = 20, newest_first: bool = True
    ) -> tuple[list[Job], bool]:
        """A page of an owner's jobs by the time of submission, beginning behind job `after`; and whether there is more.

        Raises:
            UnknownJobError: `after` is no job of this owner.
        """
        key = self._key("owner", owner)
        with _reachable():
            start = 0
            if after is not None:
                rank = self._redis.zrevrank(key, after) if newest_first else self._redis.zrank(key, after)
                if rank is None:
                    raise UnknownJobError(f"there is no job {after}")
                start = cast(int, rank) + 1
            ids = cast(list[str], self._redis.zrange(key, start, start + limit, desc=newest_first))
        # A job may be forgotten between the two questions.
        return [job for job in self._find(ids[:limit]) if job is not None], len(ids) > limit

    def _find(self, job_ids: list[str]) -> list[Job | None]:
        now, *answers = self._run("find", *job_ids)
        return [
            job_of(job_id, _paired(record), _paired(delivery), place or None, float(now)) if record else None
            for job_id, (record, delivery, place) in zip(job_ids, answers, strict=True)
        ]

    def foretell(self, jobs: Sequence[Job]) -> list[Job]:
        """The same jobs; those that have not ended with the seconds they still take, as far as that can be told."""
        live = [job for job in jobs if not job.state.ended]
        outlooks = {}
        for model in {_model_of(job) for job in live}:
            places = [job.position for job in live if _model_of(job) == model and job.position is not None]
            # Most questions are about jobs that are started, and it takes no look at all the workers to answer them.
            outlooks[model] = self._outlook(model, max(places) - 1) if places else self._learned(model)
        return [job if job.state.ended else outlooks[_model_of(job)].foretell(job) for job in jobs]

    def _learned(self, model: str) -> Outlook:
        """What finished jobs have taught, and nothing of who runs or waits."""
        with _reachable():
            return Outlook.of(model, {"paces": self._redis.hgetall(self._key("paces")), "runners": [], "queue": []})

    def _outlook(self, model: str, places: int) -> Outlook:
        """What can be told of the time to come, as far as the first `places` of the model's queue go."""
        told, far = self._run("outlook", WORKER_SILENCE, places, model)
        return Outlook.of(model, json.loads(told), json.loads(far))

    def cancel(self, job_id: str) -> State:
        """Cancel a queued job at once, ask a started one's worker to stop; returns the state after that.

        Raises:
            UnknownJobError: there is none of that id.
        """
        state = self._run("cancel", job_id, self._settings.record_ttl)
        if not state:
            raise UnknownJobError(f"there is no job {job_id}")
        return State(state)

    def forget(self, job_id: str, *, insist: bool = False) -> bool:
        """Delete the record of a job that has ended; returns False if it has not ended.

        Who insists has a queued job cancelled and deleted, and a started one cancelled: it is `deleted` from now on,
        in no list, and its record goes when its attempt has ended.

        Raises:
            UnknownJobError: there is none of that id.
        """
        answer = self._run("forget", job_id, int(insist))
        if answer == 0:
            raise UnknownJobError(f"there is no job {job_id}")
        return bool(answer > 0)

    def count_refused(self, code: str) -> None:
        """Note that a submission was refused, for the exporter."""
        with _reachable():
            self._redis.hincrby(self._key("counters"), f"refused{_SEPARATOR}{code}", 1)

    # What workers do

    def holder(self, job_id: str) -> tuple[Holder, str] | None:
        """Who holds the claim on a started job, and under which token; `None` if nobody does."""
        key = self._key("job", job_id)
        with _reachable():
            attempt, token = self._redis.hmget(key, "attempt", "token")
            held = self._redis.hget(key, f"held:{attempt!s}") if token else None
        return (Holder(**json.loads(held)), str(token)) if held else None

    def held_by(self, instance: str) -> list[tuple[Claim, Holder]]:
        """The claims on started jobs that processes of the worker `instance` hold."""
        with _reachable(), self._redis.pipeline(transaction=False) as pipe:
            ids = cast(list[str], self._redis.zrange(self._key("leases"), 0, -1))
            for job_id in ids:
                pipe.hmget(self._key("job", job_id), "attempt", "token")
            claims = [
                Claim(job_id, token, int(attempt))
                for job_id, (attempt, token) in zip(ids, pipe.execute(), strict=True)
                if token
            ]
            for claim in claims:
                pipe.hget(self._key("job", claim.job_id), f"held:{claim.attempt}")
            holders = [Holder(**json.loads(held)) if held else None for held in pipe.execute()]
        return [
            (claim, holder)
            for claim, holder in zip(claims, holders, strict=True)
            if holder is not None and holder.instance == instance
        ]

    def claim(self, job_id: str, holder: Holder, *, dead: str = "") -> Claim | None:
        """Claim a job for one attempt; `None` when there is nothing to do (held by another, ended, deleted).

        `dead` is the token of a claim whose holder the caller knows to be dead: it is broken before its lease lapses.
        """
        token = uuid.uuid4().hex
        verdict = self._run("claim", job_id, token, _dump(asdict(holder)), self._settings.lease, dead, *self._repeating)
        return Claim(job_id, token, verdict[1]) if verdict[0] == "claimed" else None

    def report(self, claim: Claim, progress: Progress | None = None) -> bool:
        """Renew the claim's lease and tell progress, if any; returns whether the job is to be cancelled.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        told = (progress.phase, progress.step, progress.steps) if progress else ("", 0, 0)
        answer = self._run("progress", claim.job_id, claim.token, self._settings.lease, *told)
        _heard(answer, claim)
        return bool(answer == "cancel")

    def show_preview(self, claim: Claim, name: str) -> None:
        """Say that the artifact `name` has a new preview of the attempt; it is one for as long as the attempt goes on.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        _heard(self._run("show_preview", claim.job_id, claim.token, name), claim)

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
        """Publish the result and end the job. `seconds` by phase and the number of `steps` feed the metrics, and
        teach how long the next jobs will take. What is not `reusable` is copied for no other job.

        Raises:
            StaleAttemptError: the claim is no longer the job's; the caller's result is not the job's and is to go.
        """
        counters: dict[str, float] = {}
        for phase, duration in seconds.items():
            counters[_SEPARATOR.join(("phase_count", device, phase))] = 1
            counters[_SEPARATOR.join(("phase_seconds", device, phase))] = round(duration, 6)
        counters[_SEPARATOR.join(("step_count", device))] = steps
        counters[_SEPARATOR.join(("step_seconds", device))] = round(seconds.get(Phase.SAMPLING, 0.0), 6)
        answer = self._run(
            "finish",
            claim.job_id,
            claim.token,
            _dump(asdict(result)),
            self._settings.result_ttl,
            device,
            _dump([seconds.get(phase, 0) for phase in list(Phase)[:-1]]),
            int(reusable),
            *_flat(counters.items()),
        )
        _heard(answer, claim)

    def fail(self, claim: Claim, failure: Failure) -> None:
        """End the job as failed.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        self._settle(claim, "failed", failure)

    def retry(self, claim: Claim, failure: Failure) -> None:
        """End the attempt; the job is queued again, or fails with `failure` when no attempts are left.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        self._settle(claim, "retried", failure)

    def release(self, claim: Claim) -> None:
        """Give the job back unharmed; the attempt does not count.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        self._settle(claim, "released", Failure("", ""))

    def lose(self, claim: Claim) -> None:
        """End an attempt whose holder is known to be dead, as `reap` does when its lease has lapsed.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        self._settle(claim, "lost", WORKER_LOST)

    def confirm_cancel(self, claim: Claim) -> None:
        """End the job as cancelled: the worker has stopped.

        Raises:
            StaleAttemptError: the claim is no longer the job's.
        """
        self._settle(claim, "cancelled", Failure("", ""))

    def heartbeat(self, status: WorkerStatus) -> None:
        """Say that a worker process holds the model and is there."""
        self._run("heartbeat", status.worker, _dump(asdict(status)), status.device, status.queue)

    def introduce(self, model: Model) -> None:
        """Say what a model takes that a worker holds."""
        with _reachable():
            self._redis.hset(self._key("model_descriptions"), model.name, _dump(model.to_dict()))

    def models(self) -> list[Model]:
        """The models that workers have introduced and that are not forgotten, by name."""
        with _reachable():
            told = self._redis.hgetall(self._key("model_descriptions"))
        return [Model.from_dict(json.loads(description)) for _, description in sorted(told.items())]

    def model(self, name: str) -> Model | None:
        """The one of them of that name."""
        with _reachable():
            told = self._redis.hget(self._key("model_descriptions"), name)
        return Model.from_dict(json.loads(told)) if told else None

    def prepare(self, preparing: Preparing) -> None:
        """Say that a worker process is there, and what keeps it from being ready."""
        self._run("prepare", preparing.worker, _dump(asdict(preparing)))

    def preparing(self) -> list[Preparing]:
        """The worker processes that are not ready yet, by name."""
        answer = self._run("workers", WORKER_SILENCE, "preparing", "preparing_status")
        found = [Preparing(**json.loads(status)) for status in answer[2::3] if status]
        return sorted(found, key=lambda preparing: preparing.worker)

    def leave(self, worker: str) -> None:
        """Say that a worker process is about to go."""
        self._run("leave", worker)

    def workers(self) -> list[WorkerStatus]:
        """The worker processes that are ready, by name."""
        answer = self._run("workers", WORKER_SILENCE, "workers", "worker_status")
        return sorted(
            (
                WorkerStatus.of(status, float(seen))
                for seen, status in zip(answer[1::3], answer[2::3], strict=True)
                if status
            ),
            key=lambda worker: worker.worker,
        )

    # What keeps the promise

    def dispatch(self) -> dict[str, str]:
        """Choose the jobs whose ids are to be given to Celery now; the caller publishes each to the queue that stands
        beside it.
        """
        return self._for_celery(self._run("dispatch", WORKER_SILENCE, self._settings.record_ttl))

    def reap(self) -> tuple[list[str], dict[str, str]]:
        """Queue or end the jobs whose lease lapsed; returns their ids, and the ids that are to be published again, each
        with its queue.
        """
        lapsed, overdue = self._run("reap", *self._repeating, REPUBLISH_AFTER, WORKER_SILENCE)
        return list(lapsed), self._for_celery(overdue)

    def _for_celery(self, told: list[str]) -> dict[str, str]:
        return {job_id: celery_queue(self._namespace, queue) for job_id, queue in _paired(told).items()}

    def expire(self, limit: int = 100) -> list[str]:
        """Apply retention to at most `limit` jobs; returns those whose artifacts are to be deleted."""
        return list(self._run("expire", self._settings.record_ttl, limit))

    def ping(self) -> None:
        """Make sure that Redis answers."""
        with _reachable():
            self._redis.ping()

    def wanted(self, job_ids: Iterable[str]) -> dict[str, Wanted]:
        """What each job still wants of the artifacts; of a job that there is not, nothing."""
        ids = list(job_ids)
        with _reachable(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(self._key("job", job_id), "state", "input", "token", "result")
            return {
                job_id: Wanted(
                    input=input if state in {State.QUEUED, State.STARTED} else None,
                    token=token,
                    result=json.loads(result)["artifact"] if result else None,
                )
                for job_id, (state, input, token, result) in zip(ids, pipe.execute(), strict=True)
            }

    def figures(self) -> Figures:
        """What there is and what has happened."""
        with _reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(self._key("states"))
            pipe.hgetall(self._key("counters"))
            pipe.zrange(self._key("models"), 0, -1)
            for name in ("outbox", "posted"):
                pipe.zcard(self._key(name))
                pipe.zrange(self._key(name), 0, 0, withscores=True)
            pipe.time()
            states, counters, models, waiting, due, posted, back, (seconds, microseconds) = pipe.execute()
        now = seconds + microseconds / 1e6
        split = {tuple(name.split(_SEPARATOR)): float(value) for name, value in counters.items()}

        def by_label(kind: str) -> dict[str, int]:
            return {name[1]: int(value) for name, value in split.items() if name[0] == kind}

        return Figures(
            jobs={state: int(states.get(state, 0)) for state in State},
            created=int(split.get(("created",), 0)),
            refused=by_label("refused"),
            ended=by_label("ended"),
            failed=by_label("failed"),
            attempts=by_label("attempts"),
            cache=by_label("cache"),
            queues=self._queues(models, now),
            phases={
                (name[1], name[2]): (int(value), split[("phase_seconds", name[1], name[2])])
                for name, value in split.items()
                if name[0] == "phase_count"
            },
            steps={
                name[1]: (int(value), split[("step_seconds", name[1])])
                for name, value in split.items()
                if name[0] == "step_count"
            },
            workers=self.workers(),
            causes={(name[1], name[2]): int(value) for name, value in split.items() if name[0] == "causes"},
            redis_memory=self._memory(),
            webhooks=by_label("webhooks"),
            webhook_tries=by_label("webhook_tries"),
            webhooks_pending=waiting + posted,
            webhook_overdue=max(0.0, *(now - at for _, at in [*due, *back])) if due or back else 0.0,
        )

    # Within

    def _queues(self, models: Iterable[str], now: float) -> dict[tuple[str, str], QueueFigures]:
        figures = {}
        for model in models:
            with _reachable(), self._redis.pipeline(transaction=False) as pipe:
                for profile in Profile:
                    pipe.zcard(self._key("queued", route_of(model, profile)))
                    pipe.zrange(self._key("queued", route_of(model, profile)), 0, 0, withscores=True)
                found = pipe.execute()
            end = sum(found[0::2])
            outlook = self._outlook(model, end)
            for profile, length, oldest in zip(Profile, found[0::2], found[1::2], strict=True):
                age = max(0.0, now - oldest[0][1]) if oldest else 0.0
                figures[model, str(profile)] = QueueFigures(length, age, outlook.until_start(end, profile))
        return figures

    def _memory(self) -> tuple[int, int] | None:
        with _reachable():
            try:
                said = self._redis.info("memory")
            except redis.exceptions.NoPermissionError:  # an ACL without `+info`
                return None
        return int(said["used_memory"]), int(said["maxmemory"])

    @property
    def _repeating(self) -> tuple[float, float]:
        return self._settings.max_attempts, self._settings.record_ttl

    def _settle(self, claim: Claim, outcome: str, failure: Failure) -> None:
        answer = self._run(
            "settle", claim.job_id, claim.token, outcome, failure.code, failure.message, *self._repeating
        )
        _heard(answer, claim)

    def _key(self, *parts: str) -> str:
        return ":".join((self._namespace, *parts))

    def _run(self, script: str, *args: str | float) -> Any:
        with _reachable():
            return self._scripts[script](keys=[self._namespace], args=list(args))


def _heard(answer: str, claim: Claim) -> None:
    if answer == "stale":
        raise StaleAttemptError(f"attempt {claim.attempt} is no longer that of job {claim.job_id}")


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _paired(told: Sequence[str]) -> dict[str, str]:
    return dict(zip(told[0::2], told[1::2], strict=True))


def _model_of(job: Job) -> str:
    return str(job.model.get("name", ""))


def _flat(pairs: Iterable[tuple[str, str | float]]) -> list[str | float]:
    return [part for pair in pairs for part in pair]


def job_of(
    job_id: str,
    fields: Mapping[str, str],
    delivery: Mapping[str, str],
    position: int | None,
    observed_at: float,
) -> Job:
    """The job that its record, and that of its webhook's delivery if there is one, tell of."""

    def moment(name: str) -> float | None:
        return float(fields[name]) if name in fields else None

    attempts = tuple(_attempt(number, fields) for number in range(1, int(fields["attempt"]) + 1))
    return Job(
        id=job_id,
        state=State(fields["state"]),
        parameters=Parameters.from_dict(json.loads(fields["parameters"])),
        model=json.loads(fields["model"]),
        owner=fields["owner"],
        input=fields["input"],
        created_at=float(fields["created"]),
        version=int(fields["version"]),
        started_at=moment("started"),
        ended_at=moment("ended"),
        expires_at=moment("expires"),
        cancel_requested="cancel" in fields,
        deleted="deleted" in fields,
        notes=json.loads(fields.get("notes", "{}")),
        trace=json.loads(fields.get("trace", "{}")),
        progress=_progress(fields) if "phase" in fields else None,
        attempts=attempts,
        failure=Failure(fields["failure_code"], fields["failure_message"]) if "failure_code" in fields else None,
        result=Result.from_dict(json.loads(fields["result"])) if "result" in fields else None,
        position=position,
        observed_at=observed_at,
        priority=int(fields.get("priority", 0)),
        cached_from=fields.get("cached_from"),
        preview=Preview(int(fields["preview"]), fields["preview_name"]) if "preview_name" in fields else None,
        webhook=_webhook(fields["webhook"], delivery) if "webhook" in fields else None,
    )


def _webhook(url: str, delivery: Mapping[str, str]) -> Webhook:
    if not delivery:
        return Webhook(url)
    tries = tuple(
        Try(
            at=float(delivery[f"began:{number}"]),
            status_code=int(code) if (code := delivery.get(f"code:{number}")) else None,
            error=delivery.get(f"error:{number}") or None,
        )
        for number in range(1, int(delivery["tries"]) + 1)
    )
    return Webhook(url, WebhookState(delivery["state"]), tries, float(delivery["next"]) if "next" in delivery else None)


def _progress(fields: Mapping[str, str]) -> Progress:
    at = float(fields.get("told", 0.0))
    return Progress(Phase(fields["phase"]), int(fields["step"]), int(fields["steps"]), at=at)


def _attempt(number: int, fields: Mapping[str, str]) -> Attempt:
    holder = Holder(**json.loads(fields[f"held:{number}"]))
    ended = fields.get(f"ended:{number}")
    return Attempt(
        number=number,
        worker=holder.worker,
        device=holder.device,
        started_at=float(fields[f"began:{number}"]),
        ended_at=float(ended) if ended else None,
        outcome=fields.get(f"outcome:{number}"),
    )
