"""Hypothesis plays callers, workers, webhook workers and maintenance, alive and dead, against the ledger in Redis.

After each step the invariants of `svd_service/ledger/__init__.py` are checked in the raw keys. Scripts are repeated as
if their answer had been lost. A usual run takes about a thousand steps, one with `scripts/test.sh --thorough` four
thousand; ten thousand and more, different ones each time:

    python -m pytest tests/unit/ledger/test_state_machine.py --hypothesis-profile=thorough
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis
import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from svd_service.config import Settings
from svd_service.errors import IdempotencyConflictError, StaleAttemptError, UnknownJobError
from svd_service.jobs.job import MOVES, AttemptOutcome, Claim, Failure, Holder, Phase, Progress, Result, State
from svd_service.jobs.parameters import Parameters
from svd_service.jobs.routing import celery_queue
from svd_service.jobs.submission import Submission
from svd_service.ledger import open_ledger
from svd_service.ledger.attempts import StopReason
from svd_service.ledger.maintenance import ENQUEUE_AGAIN_AFTER, Reaped
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import WORKER_TIMEOUT, WorkerStatus
from svd_service.parameters import Fit, Profile
from svd_service.webhooks.backoff import GROWTH, LONGEST_PAUSE
from svd_service.webhooks.outbox import ENQUEUE_DELIVERY_AGAIN_AFTER, MARGIN, DeliveryClaim, Outbox
from svd_service.webhooks.outbox import LUA as OUTBOX_LUA
from tests.unit.ledger.samples import Clock

PARAMETERS = Parameters(1, 64, 64, 3, 2, 7, 127, 0.02, 1.0, 3.0, 4, Fit.CROP)
MAX_ATTEMPTS = 3
OWNERS, KEYS, WORKERS = ("", "one", "two"), ("", "", "", "k", "l"), ("w/0", "w/1", "w/2")

#: Models and profiles of the jobs, and of the workers (no profile: all). Most are of one kind, so that jobs get done.
ROUTES = (*[("tiny", Profile.EXACT)] * 5, ("tiny", Profile.DRAFT), ("other", Profile.EXACT))
TAKEN = (*[("tiny", ())] * 5, ("tiny", ("draft",)), ("tiny", ("exact",)), ("other", ()), ("other", ("draft",)))

#: Seconds of a lease, until a job's deadline, and until a failed delivery is retried. Time passes only when a rule
#: advances the clock, in steps that are shorter than the pause after which leases are extended (`lua/lib/attempt.lua`).
LEASE, DEADLINE, PAUSE = 10, 30, 20
STEP, LONGEST_STEP = 2, 3

THOROUGH = hypothesis.settings.get_current_profile_name() == "thorough"
STEPS = 50
#: Not every step of an example gets to be taken, so there are some more examples than the division gives.
EXAMPLES, FEW_EXAMPLES = 300 if THOROUGH else 60, 20


@dataclass
class ModelJob:
    """What a job should look like."""

    owner: str
    number: int
    state: State = State.QUEUED
    token: str | None = None
    last_token: str | None = None
    lease: float = 0.0
    cancel: bool = False
    returned: bool = False
    tries: int = 0
    outcomes: list[str | None] = field(default_factory=list)
    failure: str | None = None
    result: Result | None = None
    kept_until: float = 0.0
    webhook: bool = False
    deadline: float | None = None
    enqueued: float | None = None
    model: str = "tiny"
    profile: Profile = Profile.EXACT


@dataclass
class ModelDelivery:
    """What a delivery should look like.

    `posted`: enqueued or claimed; `at`: when it is due, or when that ends. `first` and `began` are the times of its
    first and its last attempt.
    """

    at: float
    state: str = "pending"
    posted: bool = False
    token: str | None = None
    last_token: str | None = None
    tries: int = 0
    first: float = 0.0
    began: float = 0.0


class RepeatingScripts(Scripts):
    """Runs each script `runs` times with the same arguments, as if answers were lost; returns the last answer."""

    runs = 1

    def run(self, name: str, /, **arguments: object) -> Any:
        answer = super().run(name, **arguments)
        for _ in range(self.runs - 1):
            before = snapshot(self.redis)
            answer = super().run(name, **arguments)
            assert snapshot(self.redis) == before, f"{name} changed something when it was repeated"
        return answer


def snapshot(client: Any) -> dict[str, Any]:
    """Everything in Redis. Between a script and its repetition no time passes, so no lease or heartbeat may change."""
    read = {
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        "hash": client.hgetall,
        "set": client.smembers,
        "string": client.get,
    }
    return {key: read[client.type(key)](key) for key in client.keys("svd:*")}


#: What may happen: how often, and with what arguments. One rule draws from it: of several rules, Hypothesis leaves
#: out some in many of its examples.
HAPPENINGS: dict[str, tuple[int, dict[str, Sequence[Any]]]] = {
    "a_caller_submits": (
        3,
        {
            "owner": OWNERS,
            "key": KEYS,
            "fingerprint": "fffg",
            "webhook": (False, True),
            "deadline": (False, True),
            "route": ROUTES,
            "runs": (1, 1, 2),
        },
    ),
    "a_caller_reads_or_cancels": (3, {"what": ("cancel", "forget", "look", "positions"), "runs": (1, 2)}),
    "a_worker_process": (
        2,
        {"worker": WORKERS, "what": ("beats", "beats", "dies", "leaves"), "taken": TAKEN, "runs": (1, 2)},
    ),
    "a_message_is_delivered": (8, {"worker": WORKERS, "runs": (1, 1, 2)}),
    "an_attempt_reports": (
        6,
        {
            "what": ("report", "progress", "finish", "finish", "failed", "retried", "released", "cancelled", "lost"),
            "runs": (1, 2),
        },
    ),
    "a_webhook_worker": (
        7,
        {
            "what": ("posts", "claims", "claims", "fails", "fails for good", "gone", "delivers", "delivers"),
            "runs": (1, 1, 2),
        },
    ),
    "time_passes_for": (
        5,
        {
            "what": (
                *("a lease", "a lease", "the time to claim", "desertion", "no activity", "a deadline"),
                *("result retention", "record retention", "a webhook"),
            )
        },
    ),
    "a_worker_does_maintenance": (6, {"what": ("dispatch", "reap", "expire"), "runs": (1, 1, 2)}),
}


class Chance:
    """Draws from Hypothesis' own data, so that a failure shrinks."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def choice(self, options: Sequence[Any]) -> Any:
        return self._data.draw(st.sampled_from(options))

    def some(self, ids: list[str]) -> list[str]:
        """Some of them; none only if there are none."""
        return self._data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True)) if ids else []


class LedgerMachine(RuleBasedStateMachine):
    """Lets things happen; `self.jobs` has what should come of it."""

    def __init__(self, client: Any, settings: Settings) -> None:
        super().__init__()
        client.flushdb()
        self.client = client
        self.settings = settings
        self.clock = Clock()
        self.scripts = (
            RepeatingScripts(client, settings.namespace, clock=self.clock),
            RepeatingScripts(client, settings.namespace, OUTBOX_LUA, clock=self.clock),
        )
        self.last_activity = self.clock.now
        self.statuses: dict[str, WorkerStatus] = {}
        self.ledger = open_ledger(client, settings, self.scripts[0])
        self.outbox = Outbox(client, settings, self.scripts[1])
        self.deliveries: dict[str, ModelDelivery] = {}
        self.tries: list[DeliveryClaim] = []
        self.jobs: dict[str, ModelJob] = {}
        self.queues: dict[str, str] = {}
        self.observed = self.clock.now
        self.idle_since: dict[str, float] = {}
        self.arrived: dict[str, float] = {}
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.counted: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.made = 0
        self.versions: dict[str, int] = {}
        self.states_seen: dict[str, State] = {}
        self.ever: list[str] = []
        self.claims: list[Claim] = []
        self.listener = client.pubsub(ignore_subscribe_messages=True)
        self.listener.subscribe("svd:events")
        self.listener.get_message(timeout=1)

    def teardown(self) -> None:
        self.listener.close()

    # What may happen

    @initialize(jobs=st.integers(1, 6), workers=st.integers(0, 3))
    def begin(self, jobs, workers):
        for _ in range(jobs):
            self._accept("one", "", "f", 1, webhook=True)
        for worker in WORKERS[:workers]:
            self._heartbeat(worker, TAKEN[0], 1)

    @rule(data=st.data())
    def something_happens(self, data):
        chance = Chance(data)
        name = chance.choice([name for name, (weight, _) in HAPPENINGS.items() for _ in range(weight)])
        arguments = {key: chance.choice(choices) for key, choices in HAPPENINGS[name][1].items()}
        hypothesis.note(f"{name} {arguments}")
        getattr(self, name)(chance, **arguments)

    def a_caller_submits(self, chance, owner, key, fingerprint, webhook, deadline, route, runs):
        self._accept(owner, key, fingerprint, runs, webhook=webhook, deadline=deadline, route=route)

    def a_caller_reads_or_cancels(self, chance, what, runs):
        if what == "positions":
            self._check_positions()
        elif self.ever:
            job_id = chance.choice(self.ever)
            {"cancel": lambda: self._cancel(job_id, runs), "forget": lambda: self._delete(job_id)}.get(
                what, lambda: self._look(job_id)
            )()

    def a_worker_process(self, chance, worker, what, taken, runs):
        if what == "beats":
            self._heartbeat(worker, taken, runs)
        else:
            self.statuses.pop(worker, None)  # no more heartbeats
            if what == "leaves":
                self.ledger.workers.leave(worker)

    def a_message_is_delivered(self, chance, worker, runs):
        """To its first worker, or once more, or to one who knows, rightly or not, that the job's holder is dead."""
        if pool := self._of_state(State.QUEUED) * 3 + self._of_state(State.STARTED) + self.ever:
            job_id = chance.choice(pool)
            held = self.ledger.attempts.current(job_id)
            assert (held is not None) == (self._state(job_id) is State.STARTED)
            tokens = ["", "", *([held.claim.token] if held else []), *(claim.token for claim in self.claims[-2:])]
            self._claim(job_id, worker, chance.choice(tokens), runs)

    def an_attempt_reports(self, chance, what, runs):
        """The current attempt, or a stale one that does not know it yet."""
        holding = [claim for claim in self.claims if self._holding(claim) is not None]
        if self.claims:
            claim = chance.choice(holding * 3 + self.claims)
            if what in {"report", "progress"}:
                self._report(claim, Progress(Phase.SAMPLING, 1, 4) if what == "progress" else None, runs)
            elif what == "finish":
                self._publish(claim, runs)
            else:
                self._end_attempt(claim, what, runs)

    def a_webhook_worker(self, chance, what, runs):
        """One that gives out what is due, takes a delivery in hand, or ends an attempt, which may be stale."""
        if what == "posts":
            self._post(runs)
        elif what == "claims":
            pool = [job_id for job_id, delivery in self.deliveries.items() if delivery.state == "pending"]
            if self.ever:
                self._claim_delivery(chance.choice(pool * 3 + self.ever), runs)
        elif self.tries:
            holding = [each for each in self.tries if self._holds(each)]
            self._settle_delivery(chance.choice(holding * 3 + self.tries), what, runs)

    def time_passes_for(self, chance, what):
        if what == "no activity":
            self.clock.advance(60)
        elif what in {"result retention", "record retention"}:  # as if all had been down
            settings = self.settings
            self.clock.advance(1 + (settings.result_ttl if what == "result retention" else settings.record_ttl))
        elif what == "a lease":
            self._pass_time(LEASE + 1, lost=set(chance.some(self._of_state(State.STARTED))))
        elif what == "a deadline":
            self._pass_time(DEADLINE + 1)
        elif what == "a webhook":
            self._pass_time(chance.choice((PAUSE + 1, ENQUEUE_DELIVERY_AGAIN_AFTER + 1)))
        else:
            seconds = ENQUEUE_AGAIN_AFTER + STEP + 1  # the first round sees the idle workers
            if what == "desertion" and (queues := sorted({queue for _, queue in self._loads()})):
                deserted = chance.choice(queues)
                for worker in [worker for worker, status in self.statuses.items() if status.queue == deserted]:
                    del self.statuses[worker]
                seconds += WORKER_TIMEOUT
            self._pass_time(seconds, watched=what == "the time to claim")

    def _pass_time(self, seconds: float, lost: Collection[str] = (), *, watched: bool = False) -> None:
        """Advance the clock while workers send heartbeats and the holders of all jobs but the `lost` renew leases."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.advance(min(STEP, end - self.clock.now))
            self._note_activity()
            assert self.ledger.attempts.claim("none", Holder("", "cpu", "instance", 1)) is None
            for worker, status in self.statuses.items():
                self.ledger.workers.heartbeat(status)
                self.queues[worker] = status.queue
            for claim in self.claims:
                job = self._holding(claim)
                if job is not None and claim.job_id not in lost:
                    self.ledger.attempts.report(claim, None)
                    job.lease = self.clock.now + LEASE
            if watched:
                self._reap(1)

    def _note_activity(self) -> None:
        """A pause without any activity counts for no lease."""
        missed = max(self.clock.now - self.last_activity - LONGEST_STEP, 0)
        for job_id in self._of_state(State.STARTED):
            self.jobs[job_id].lease += missed
        self.last_activity = self.clock.now

    def a_worker_does_maintenance(self, chance, what, runs):
        {"dispatch": self._dispatch, "reap": self._reap, "expire": self._expire}[what](runs)

    # Callers

    def _accept(
        self,
        owner: str,
        key: str,
        fingerprint: str,
        runs: int,
        *,
        webhook: bool = False,
        deadline: bool = False,
        route: tuple[str, Profile] = ROUTES[0],
    ) -> None:
        job_id = f"job-{self.made:03}"
        earlier = self.keys.get((owner, key)) if key else None
        if earlier and earlier[0] not in self.jobs:
            earlier = None
        with self._repeated(runs):
            if earlier and earlier[1] != fingerprint:
                with pytest.raises(IdempotencyConflictError):
                    self._submit(job_id, owner, key, fingerprint, route, webhook=webhook, deadline=deadline)
                return
            accepted = self._submit(job_id, owner, key, fingerprint, route, webhook=webhook, deadline=deadline)
        if earlier:
            assert accepted == earlier[0]
            return
        assert accepted == job_id
        self.jobs[job_id] = ModelJob(
            owner,
            self.made,
            webhook=webhook,
            deadline=self.clock.now + DEADLINE if deadline else None,
            model=route[0],
            profile=route[1],
        )
        self.ever.append(job_id)
        self.made += 1
        self.counted["created"] += 1
        if key:
            self.keys[owner, key] = (job_id, fingerprint)

    def _submit(
        self,
        job_id: str,
        owner: str,
        key: str,
        fingerprint: str,
        route: tuple[str, Profile],
        *,
        webhook: bool,
        deadline: bool,
    ) -> str:
        # Each has a host of its own, so that none waits for another.
        url = f"https://{job_id}/" if webhook else ""
        more: Any = {"owner": owner, "idempotency_key": key, "fingerprint": fingerprint, "webhook": url}
        more["cancel_after"] = DEADLINE if deadline else None
        parameters = replace(PARAMETERS, profile=route[1])
        model = {"name": route[0]}
        return self.ledger.jobs.submit(
            Submission(job_id, parameters=parameters, model=model, input=f"inputs/{job_id}.png", **more)
        )

    def _cancel(self, job_id: str, runs: int) -> None:
        with self._repeated(runs):
            if job_id not in self.jobs:
                with pytest.raises(UnknownJobError):
                    self.ledger.jobs.cancel(job_id)
                return
            job = self.jobs[job_id]
            if job.state is State.QUEUED:
                self._fail_late(job) if self._is_late(job) else self._end(job, State.CANCELLED)
            job.cancel = job.cancel or job.state is State.STARTED
            assert self.ledger.jobs.cancel(job_id) is job.state

    def _delete(self, job_id: str) -> None:
        if job_id not in self.jobs:
            with pytest.raises(UnknownJobError):
                self.ledger.jobs.forget(job_id)
            return
        if self.jobs[job_id].state is State.QUEUED and self._is_late(self.jobs[job_id]):
            self._fail_late(self.jobs[job_id])
        assert self.ledger.jobs.forget(job_id) is self.jobs[job_id].state.ended
        if self.jobs[job_id].state.ended:
            self._forget(job_id)

    def _look(self, job_id: str) -> None:
        if job_id not in self.jobs:
            with pytest.raises(UnknownJobError):
                self.ledger.jobs.find(job_id)
            return
        model, job = self.jobs[job_id], self.ledger.jobs.find(job_id)
        assert (job.state, job.owner, job.cancel_requested) == (model.state, model.owner, model.cancel)
        assert [attempt.outcome for attempt in job.attempts] == model.outcomes
        assert job.result == model.result
        assert (job.position is not None) == (model.state is State.QUEUED)

    def _check_positions(self) -> None:
        for model in ("tiny", "other"):
            queued = [job_id for job_id in self._of_state(State.QUEUED) if self.jobs[job_id].model == model]
            positions = sorted(self.ledger.jobs.find(job_id).position or 0 for job_id in queued)
            assert positions == list(range(1, len(queued) + 1))

    # Workers

    def _heartbeat(self, worker: str, taken: tuple[str, tuple[str, ...]], runs: int) -> None:
        status = WorkerStatus(worker, "cpu", "instance", 1, taken[0], False, 0.0, 1.0, profiles=taken[1])
        self._note_activity()
        with self._repeated(runs):
            self.ledger.workers.heartbeat(status)
        self.statuses[worker] = status
        self.queues[worker] = status.queue

    def _claim(self, job_id: str, worker: str, dead: str, runs: int) -> None:
        self._note_activity()
        job = self.jobs.get(job_id)
        # A worker that never sent a heartbeat takes anything.
        if job is not None and worker in self.queues and not _takes(self.queues[worker], job):
            assert self.ledger.attempts.claim(job_id, Holder(worker, "cpu", "instance", 1), dead=dead) is None
            self.seen["not its own"] += 1
            return
        if job is not None and worker in self.queues:
            queue = self.queues[worker]
            self.idle_since.pop(queue, None)
            if job.enqueued is not None:
                self.arrived[queue] = max(job.enqueued, self.arrived.get(queue, 0.0))
        if job is not None and job.state is State.STARTED and (job.lease < self.clock.now or job.token == dead):
            self._lose(job)
        with self._repeated(runs):
            claim = self.ledger.attempts.claim(job_id, Holder(worker, "cpu", "instance", 1), dead=dead)
        if job is not None and job.state is State.QUEUED and self._is_late(job):
            self._fail_late(job)
        if job is None or job.state is not State.QUEUED:
            assert claim is None
            return
        assert claim is not None
        job.state, job.token, job.lease = State.STARTED, claim.token, self.clock.now + LEASE
        job.outcomes.append(None)
        job.tries += 1
        self.counted["attempts|started"] += 1
        assert claim.attempt == len(job.outcomes)
        self.claims.append(claim)

    def _report(self, claim: Claim, progress: Progress | None, runs: int) -> None:
        self._note_activity()
        job = self._holding(claim)
        with self._repeated(runs):
            if job is None:
                with pytest.raises(StaleAttemptError):
                    self.ledger.attempts.report(claim, progress)
                return
            assert self.ledger.attempts.report(claim, progress) is (
                StopReason.CANCEL if job.cancel else StopReason.DEADLINE if self._is_late(job) else None
            )
        job.lease = self.clock.now + LEASE

    def _publish(self, claim: Claim, runs: int) -> None:
        result = Result(f"results/{claim.job_id}/{claim.token}.mp4", 1, "00ff", 64, 64, 3, {})
        job = self._holding(claim)
        with self._repeated(runs):
            if job is None:
                self._expect_nothing(claim, lambda: self._finish(claim, result), of=State.FINISHED)
                return
            self._finish(claim, result)
        self._close(job, "finished")
        job.last_token, job.cancel, job.result = claim.token, False, result
        self._end(job, State.FINISHED)

    def _finish(self, claim: Claim, result: Result) -> None:
        self.ledger.attempts.finish(claim, result, device="cpu", seconds={"sampling": 1.0}, steps=2)

    def _end_attempt(self, claim: Claim, outcome: str, runs: int) -> None:
        job = self._holding(claim)
        with self._repeated(runs):
            if job is None:
                self._expect_nothing(claim, lambda: self._settle(claim, outcome))
                return
            self._settle(claim, outcome)
        self._close(job, outcome)
        job.last_token = claim.token
        if outcome == "failed":
            self._fail(job, "reason")
        elif outcome == "cancelled":
            self._end(job, State.CANCELLED)
        else:
            job.tries -= outcome == "released"
            self._repeat_or_end(job, "worker_lost" if outcome == "lost" else "reason")

    def _settle(self, claim: Claim, outcome: str) -> None:
        failure = Failure("reason", "why") if outcome in {"failed", "retried"} else None
        self.ledger.attempts.end_attempt(claim, AttemptOutcome(outcome), failure)

    def _expect_nothing(self, claim: Claim, write: Callable[[], None], of: State | None = None) -> None:
        """A write that comes too late is rejected, unless it repeats the one that ended its attempt."""
        job = self.jobs.get(claim.job_id)
        repeated = job is not None and job.last_token == claim.token and of in {None, job.state}
        if repeated:
            write()
        else:
            with pytest.raises(StaleAttemptError):
                write()

    # Webhook workers

    def _post(self, runs: int) -> None:
        due = {job_id for job_id in self.deliveries if self._is_due(job_id)}
        for job_id in [job_id for job_id in due if self.deliveries[job_id].token is not None]:
            delivery = self.deliveries[job_id]
            self.counted["webhook_tries|lost"] += 1
            delivery.posted, delivery.token, delivery.at = False, None, self.clock.now
            if delivery.began > delivery.first + self.settings.webhook_give_up:
                self._end_delivery(job_id, "given_up")
            elif delivery.tries > 1:  # it may have killed two webhook workers
                delivery.at += min(PAUSE * GROWTH ** (delivery.tries - 2), LONGEST_PAUSE)
        chosen = {job_id for job_id in due if self._is_due(job_id)}
        with self._repeated(runs):
            answered = self.outbox.choose_due()
        assert set(answered) == (chosen if runs == 1 else set())
        for job_id in chosen:
            self.deliveries[job_id].posted, self.deliveries[job_id].at = (
                True,
                self.clock.now + ENQUEUE_DELIVERY_AGAIN_AFTER,
            )

    def _is_due(self, job_id: str) -> bool:
        delivery = self.deliveries.get(job_id)
        return delivery is not None and delivery.state == "pending" and delivery.at <= self.clock.now

    def _claim_delivery(self, job_id: str, runs: int) -> None:
        with self._repeated(runs):
            claimed = self.outbox.claim(job_id)
        delivery = self.deliveries.get(job_id)
        free = delivery is not None and delivery.state == "pending" and delivery.token is None
        if delivery is None or not free or not (delivery.posted or self._is_due(job_id)):
            assert claimed is None
            return
        assert claimed is not None
        delivery.tries += 1
        delivery.began = self.clock.now
        delivery.first = delivery.first or self.clock.now
        assert (claimed.number, claimed.job.id, claimed.job.state.ended) == (delivery.tries, job_id, True)
        delivery.posted, delivery.token = True, claimed.token
        delivery.at = self.clock.now + self.settings.webhook_timeout + MARGIN
        self.tries.append(claimed)

    def _settle_delivery(self, claimed: DeliveryClaim, what: str, runs: int) -> None:
        end: Callable[[], None] = {
            "delivers": lambda: self.outbox.deliver(claimed, 200),
            "fails": lambda: self.outbox.fail(claimed, 500, "", pause=PAUSE),
            "fails for good": lambda: self.outbox.fail(claimed, 500, "", pause=1 + self.settings.webhook_give_up),
            "gone": lambda: self.outbox.give_up(claimed, 410, ""),
        }[what]
        held = self._holds(claimed)
        delivery = self.deliveries.get(claimed.job.id)
        with self._repeated(runs):
            if not held and delivery is not None and delivery.last_token != claimed.token:
                with pytest.raises(StaleAttemptError):
                    end()
                return
            end()
        if not held or delivery is None:
            return
        delivery.token, delivery.last_token, delivery.posted = None, claimed.token, False
        self.counted["webhook_tries|" + ("delivered" if what == "delivers" else "failed")] += 1
        if what == "fails" and self.clock.now + PAUSE <= delivery.first + self.settings.webhook_give_up:
            delivery.at = self.clock.now + PAUSE
        else:
            self._end_delivery(claimed.job.id, "delivered" if what == "delivers" else "given_up")

    def _end_delivery(self, job_id: str, state: str) -> None:
        self.deliveries[job_id].state = state
        self.counted[f"webhooks|{state}"] += 1
        if job_id not in self.jobs:
            del self.deliveries[job_id]

    def _holds(self, claimed: DeliveryClaim) -> bool:
        delivery = self.deliveries.get(claimed.job.id)
        return delivery is not None and delivery.token == claimed.token

    # Maintenance

    def _dispatch(self, runs: int) -> None:
        published, waiting = self._members("published:*"), self._members("waiting:*")
        with self._repeated(runs):
            answered = self.ledger.maintenance.dispatch()
        chosen = list(answered)
        if runs > 1:
            assert answered == {}
            chosen = sorted(self._members("published:*") - published)
        else:
            for model in ("tiny", "other"):
                for profile in Profile:
                    self._check_order(chosen, waiting, model, profile)
        at_work, loads = self._at_work(), self._loads()
        for job_id in chosen:
            self.jobs[job_id].enqueued = self.jobs[job_id].enqueued or self.clock.now
            job, queue = self.jobs[job_id], self.client.hget(f"svd:job:{job_id}", "queue")
            assert _takes(queue, job)
            assert queue in at_work or not any(each.startswith(f"{job.model}|") for each in at_work)
            if not job.returned:
                assert loads["published", queue] <= max(1, at_work[queue]) + sum(
                    self.jobs[i].returned for i in published
                )
            if runs == 1:
                assert answered[job_id] == celery_queue("svd", queue)
        # No worker has room for what still waits, and all of that is new.
        for job_id in waiting - set(chosen):
            job = self.jobs[job_id]
            takers = [queue for queue in at_work if _takes(queue, job)]
            if not any(queue.startswith(f"{job.model}|") for queue in at_work):
                takers = [f"{job.model}|"]
            assert all(loads["published", queue] >= max(1, at_work[queue]) for queue in takers)
            assert not takers or not job.returned

    def _check_order(self, chosen: list[str], waiting: set[str], model: str, profile: Profile) -> None:
        """Those who had waited already come first; an owner's other jobs in the order of their submission."""
        of_route = {i for i in waiting if (self.jobs[i].model, self.jobs[i].profile) == (model, profile)}
        chosen, waiting = [job_id for job_id in chosen if job_id in of_route], of_route
        order = chosen + sorted(waiting - set(chosen))
        returned = [self.jobs[job_id].returned for job_id in order]
        assert returned[: len(chosen)] == sorted(returned, reverse=True)[: len(chosen)]
        for owner in OWNERS:
            fresh = [self.jobs[job_id] for job_id in order]
            numbers = [job.number for job in fresh if job.owner == owner and not job.returned]
            mine = [self.jobs[job_id] for job_id in chosen]
            first = [job.number for job in mine if job.owner == owner and not job.returned]
            assert first == sorted(numbers)[: len(first)]

    def _reap(self, runs: int) -> None:
        self._note_activity()
        lapsed = {job_id for job_id in self._of_state(State.STARTED) if self.jobs[job_id].lease <= self.clock.now}
        queue_of = {job_id: self.client.hget(f"svd:job:{job_id}", "queue") for job_id in self.jobs}
        started = Counter(queue_of[job_id] for job_id in self._of_state(State.STARTED) if job_id not in lapsed)
        enqueued_before = self.clock.now - ENQUEUE_AGAIN_AFTER
        overdue = {
            job_id: at
            for model in ("tiny", "other")
            for job_id, at in self.client.zrangebyscore(
                f"svd:published:{model}", "-inf", enqueued_before, withscores=True
            )
        }
        at_work = self._at_work()
        self._watch_workers(at_work, started)
        republished = {
            job_id
            for job_id, at in overdue.items()
            if not self._is_late(self.jobs[job_id]) and self._is_lost(queue_of[job_id], at)
        }
        deserted = {
            job_id
            for job_id in overdue
            if not self._is_late(self.jobs[job_id])
            and queue_of[job_id] not in at_work
            and any(_takes(queue, self.jobs[job_id]) for queue in at_work)
        }
        for job_id in self.jobs:  # how often is too often is not this test's business
            self.client.hdel(f"svd:job:{job_id}", "refusals")
        with self._repeated(runs):
            answered = self.ledger.maintenance.reap()
        for worker in set(self.queues) - set(self.client.hkeys("svd:worker_queue")):
            assert self.client.zscore("svd:workers", worker) is None
            del self.queues[worker]
        for job_id in lapsed:
            self._lose(self.jobs[job_id])
        for job in [self.jobs[job_id] for job_id in self._of_state(State.QUEUED)]:
            if self._is_late(job):
                self._fail_late(job)
        if runs > 1:
            assert answered == Reaped([], {})
        else:
            assert set(answered.lost) == lapsed
            assert answered.overdue == {job_id: celery_queue("svd", queue_of[job_id]) for job_id in republished}
        assert deserted <= self._members("waiting:*")
        self.seen.update({"deserted": len(deserted), "republished": len(republished)})
        for job_id in deserted:
            self.jobs[job_id].returned = True

    def _watch_workers(self, at_work: Counter[str], started: Counter[str]) -> None:
        """Since when a worker of each queue has been idle, without the time between two distant rounds."""
        missed = max(self.clock.now - self.observed - LONGEST_STEP, 0)
        self.observed = self.clock.now
        idle = [queue for queue, workers in at_work.items() if workers > started[queue]]
        self.idle_since = {
            queue: self.idle_since[queue] + missed if queue in self.idle_since else self.clock.now for queue in idle
        }
        self.arrived = {queue: at for queue, at in self.arrived.items() if queue in at_work}

    def _is_lost(self, queue: str, enqueued: float) -> bool:
        idle = self.clock.now - self.idle_since.get(queue, self.clock.now) >= ENQUEUE_AGAIN_AFTER
        return idle or self.arrived.get(queue, 0.0) - enqueued > ENQUEUE_AGAIN_AFTER

    def _expire(self, runs: int) -> None:
        due = {job_id for job_id in self._ended() if self.jobs[job_id].kept_until <= self.clock.now}
        with self._repeated(runs):
            answered = self.ledger.maintenance.expire()
        assert set(answered) == (due if runs == 1 else set())
        for job_id in due:
            job = self.jobs[job_id]
            if job.state is State.FINISHED:
                job.state, job.result = State.EXPIRED, None
                job.kept_until = self.clock.now + self.settings.record_ttl
            else:
                self._forget(job_id)

    # What should come of it

    def _holding(self, claim: Claim) -> ModelJob | None:
        job = self.jobs.get(claim.job_id)
        return job if job is not None and job.state is State.STARTED and job.token == claim.token else None

    def _close(self, job: ModelJob, outcome: str) -> None:
        assert job.outcomes[-1] is None
        job.outcomes[-1] = outcome
        job.token = None
        self.counted[f"attempts|{outcome}"] += 1

    def _lose(self, job: ModelJob) -> None:
        self._close(job, "lost")
        self._repeat_or_end(job, "worker_lost")

    def _repeat_or_end(self, job: ModelJob, code: str) -> None:
        if job.cancel:
            self._end(job, State.CANCELLED)
        elif self._is_late(job):
            self._fail_late(job)
        elif job.tries >= MAX_ATTEMPTS:
            self._fail(job, code)
        else:
            job.state, job.returned = State.QUEUED, True

    def _fail(self, job: ModelJob, code: str) -> None:
        job.failure = code
        self.counted[f"failed|{code}"] += 1
        self._end(job, State.FAILED)

    def _fail_late(self, job: ModelJob) -> None:
        self._fail(job, "deadline_exceeded")

    def _end(self, job: ModelJob, state: State) -> None:
        job.state = state
        job.kept_until = self.clock.now
        job.kept_until += self.settings.result_ttl if state is State.FINISHED else self.settings.record_ttl
        self.counted[f"ended|{state}"] += 1
        if job.webhook:
            self.deliveries[f"job-{job.number:03}"] = ModelDelivery(self.clock.now)

    def _forget(self, job_id: str) -> None:
        del self.jobs[job_id]
        if job_id in self.deliveries and self.deliveries[job_id].state != "pending":
            del self.deliveries[job_id]

    # Looks behind the ledger

    def _repeated(self, runs: int) -> "_Runs":
        return _Runs(self.scripts, runs)

    def _members(self, name: str) -> set[str]:
        """Of all sets whose name has that pattern."""
        return {each for key in self.client.keys(f"svd:{name}") for each in self.client.zrange(key, 0, -1)}

    def _at_work(self) -> Counter[str]:
        """How many live workers take jobs from each queue."""
        live = self.client.zrangebyscore("svd:workers", self.clock.now - WORKER_TIMEOUT, "+inf")
        return Counter(self.queues[worker] for worker in live)

    def _loads(self) -> Counter[tuple[str, str]]:
        """How many jobs each queue has that are published or started, according to the jobs themselves."""
        names = {"published": self._members("published:*"), "started": self._members("leases")}
        return Counter(
            (kind, self.client.hget(f"svd:job:{job_id}", "queue"))
            for kind, ids in names.items()
            for job_id in ids
            if not self.client.hexists(f"svd:job:{job_id}", "slotless")
        )

    def _route(self, job_id: str) -> str:
        return f"{self.jobs[job_id].model}|{self.jobs[job_id].profile}"

    def _state(self, job_id: str) -> State | None:
        return self.jobs[job_id].state if job_id in self.jobs else None

    def _is_late(self, job: ModelJob) -> bool:
        return job.deadline is not None and job.deadline <= self.clock.now

    def _of_state(self, state: State) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.state is state]

    def _ended(self) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.state.ended]

    # The invariants

    @invariant()
    def each_job_is_in_exactly_the_sets_of_its_state(self):
        waiting, published = self._members("waiting:*"), self._members("published:*")
        assert not waiting & published
        assert waiting | published == set(self._of_state(State.QUEUED))
        for model in ("tiny", "other"):
            for profile in Profile:
                route = f"{model}|{profile}"
                queued = {i for i in self._of_state(State.QUEUED) if self._route(i) == route}
                assert self._members(f"queued:{route}") == queued
                assert self._members(f"waiting:{route}") == queued & waiting
            queued = {i for i in self._of_state(State.QUEUED) if self.jobs[i].model == model}
            assert self._members(f"waiting:{model}") == queued & waiting
            assert self._members(f"published:{model}") == queued & published
        sets = {name: self._members(name) for name in ("leases", "ended")}
        assert sets["leases"] == set(self._of_state(State.STARTED))
        assert sets["ended"] == set(self._ended())
        timed = {i for i, job in self.jobs.items() if job.deadline is not None and not job.state.ended}
        late = {i for i in timed if self._is_late(self.jobs[i])}
        assert timed - late <= self._members("deadlines") <= timed
        for owner in OWNERS:
            assert self._members(f"owner:{owner}") == {i for i, job in self.jobs.items() if job.owner == owner}

    @invariant()
    def each_worker_is_in_the_set_of_its_queue_alone(self):
        there = self._members("workers")
        queues = {self.queues[worker] for worker in there}
        assert self._members("queues") == queues
        assert set(self.client.keys("svd:workers:*")) == {f"svd:workers:{queue}" for queue in queues}
        for queue in queues:
            assert self._members(f"workers:{queue}") == {worker for worker in there if self.queues[worker] == queue}

    @invariant()
    def the_counts_are_those_of_the_jobs(self):
        of_owners = Counter(self.jobs[job_id].owner for job_id in self._of_state(State.QUEUED))
        assert self.client.hgetall("svd:queued_of") == {owner: str(number) for owner, number in of_owners.items()}
        loads = {f"{kind}|{queue}": str(number) for (kind, queue), number in self._loads().items()}
        assert self.client.hgetall("svd:loads") == loads
        states = {state: int(number) for state, number in self.client.hgetall("svd:states").items()}
        assert {state: number for state, number in states.items() if number} == Counter(
            job.state for job in self.jobs.values()
        )
        kinds = ("created", "attempts|", "ended|", "failed|", "webhooks|", "webhook_tries|")
        counters = self.client.hgetall("svd:counters").items()
        assert {name: int(number) for name, number in counters if name.startswith(kinds)} == +self.counted

    @invariant()
    def usage_is_the_sum_of_the_jobs(self):
        recorded = {
            name.rpartition("|")[2]: int(number)
            for name, number in self.client.hgetall("svd:usage_totals").items()
            if name.startswith("one|")
        }
        of_days = [self.client.hgetall(key) for key in self.client.keys("svd:usage:one:*")]
        sums: Counter[str] = Counter()
        for day in of_days:
            for name, number in day.items():
                sums[name.rpartition("|")[2]] += int(number)
        assert sums == recorded
        jobs = [job_id for job_id in self.jobs if self.jobs[job_id].owner == "one"]
        assert recorded.get("submitted", 0) >= len(jobs)
        if recorded.get("submitted", 0) == len(jobs):  # no record was deleted
            states = Counter(str(self.jobs[job_id].state).replace("expired", "finished") for job_id in jobs)
            assert [recorded.get(state, 0) for state in ("finished", "failed", "cancelled")] == [
                states[state] for state in ("finished", "failed", "cancelled")
            ]
            used = sum(
                int(value)
                for job_id in jobs
                for name, value in self.client.hgetall(f"svd:job:{job_id}").items()
                if name.startswith("used:")
            )
            assert recorded.get("device_ms", 0) + recorded.get("failed_device_ms", 0) == used

    @invariant()
    def each_ended_job_with_a_webhook_has_one_delivery_and_pending_ones_are_in_the_outbox(self):
        requested_and_ended = {job_id for job_id in self._ended() if self.jobs[job_id].webhook}
        outlived = {job_id for job_id in self.deliveries if job_id not in self.jobs}
        assert set(self.deliveries) == requested_and_ended | outlived
        assert all(self.deliveries[job_id].state == "pending" for job_id in outlived)
        assert set(self.client.keys("svd:delivery:*")) == {f"svd:delivery:{job_id}" for job_id in self.deliveries}
        pending = {job_id: each for job_id, each in self.deliveries.items() if each.state == "pending"}
        assert self._members("posted") == {job_id for job_id, each in pending.items() if each.posted}
        assert self._members("outbox") == {job_id for job_id, each in pending.items() if not each.posted}
        for job_id, delivery in self.deliveries.items():
            record = self.client.hgetall(f"svd:delivery:{job_id}")
            assert (record["state"], record.get("token")) == (delivery.state, delivery.token)
            assert int(record["tries"]) == delivery.tries
            assert ("job" in record) == (delivery.state == "pending")
            assert ("next" in record) == (job_id in pending and delivery.token is None)

    @invariant()
    def each_record_has_what_happened_and_only_legal_moves_were_made(self):
        ids = list(self.jobs)
        with self.client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(f"svd:job:{job_id}")
            records = dict(zip(ids, pipe.execute(), strict=True))
        assert set(self.client.keys("svd:job:*")) == {f"svd:job:{job_id}" for job_id in ids}
        for job_id, record in records.items():
            self._check_record(self.jobs[job_id], record)
            state, before = State(record["state"]), self.states_seen.get(job_id, State.QUEUED)
            assert state is before or state in MOVES[before] or state in MOVES[State.QUEUED] & _reach(before)
            self.states_seen[job_id] = state

    def _check_record(self, job: ModelJob, record: dict[str, str]) -> None:
        assert record["state"] == job.state
        assert record.get("token") == job.token
        assert ("token" in record) == (job.state is State.STARTED)
        outcomes = [record.get(f"outcome:{number}") for number in range(1, int(record["attempt"]) + 1)]
        assert outcomes == job.outcomes
        assert int(record["tries"]) == job.tries == len(outcomes) - outcomes.count("released")
        assert job.tries <= MAX_ATTEMPTS
        assert outcomes.count("finished") == (job.state in {State.FINISHED, State.EXPIRED})
        assert ("result" in record) == (job.state is State.FINISHED)
        if job.result is not None:
            assert json.loads(record["result"])["artifact"] == job.result.artifact
        assert record.get("failure_code") == job.failure
        assert (job.failure is not None) == (job.state is State.FAILED)
        assert ("ended" in record) == job.state.ended

    @invariant()
    def every_change_is_notified_with_the_next_version(self):
        while (message := self.listener.get_message(timeout=0)) is not None:
            job_id, version, *_ = message["data"].split(" ")
            assert int(version) == self.versions.get(job_id, 0) + 1
            self.versions[job_id] = int(version)
        for job_id in self.jobs:
            assert int(self.client.hget(f"svd:job:{job_id}", "version")) >= self.versions.get(job_id, 0)


class _Runs:
    def __init__(self, repeating: Iterable[RepeatingScripts], runs: int) -> None:
        self._repeating, self._runs = list(repeating), runs

    def __enter__(self) -> None:
        self._set(self._runs)

    def __exit__(self, *error: object) -> None:
        self._set(1)

    def _set(self, runs: int) -> None:
        for each in self._repeating:
            each.runs = runs


def _takes(queue: str, job: ModelJob) -> bool:
    """Whether a job may be given to that queue."""
    model, profiles = queue.split("|")
    return model == job.model and (not profiles or str(job.profile) in profiles.split(","))


def _reach(state: State) -> frozenset[State]:
    """What a claim may do in one script to a job whose holder is dead: queue it again, and move it on from there."""
    return MOVES[State.QUEUED] if state is State.STARTED else frozenset()


@pytest.mark.enable_socket
@pytest.mark.timeout(1_800)
def test_the_invariants_hold_whatever_happens_in_whatever_order(redis_url, make_settings, thorough):
    examples = EXAMPLES if thorough else FEW_EXAMPLES
    settings = make_settings(SVD_LEASE=LEASE, SVD_MAX_ATTEMPTS=MAX_ATTEMPTS, SVD_WEBHOOK_BACKOFF=PAUSE)
    taken = Counter[str]()

    class Counted(LedgerMachine):
        @invariant()
        def count(self) -> None:
            taken["steps"] += 1

        def teardown(self) -> None:
            super().teardown()
            taken.update(self.counted + self.seen)

    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        make: Any = lambda: Counted(client, settings)  # noqa: E731  (the signature wants a class, the code a maker)
        run_state_machine_as_test(
            make,
            settings=hypothesis.settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=not THOROUGH,
                phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],
                suppress_health_check=list(hypothesis.HealthCheck),
            ),
        )
    assert taken["steps"] >= examples * STEPS * 0.7
    if thorough:
        frequent = ("webhook_tries|delivered", "webhook_tries|failed", "not its own", "failed|deadline_exceeded")
        assert all(taken[name] for name in frequent), taken
    if THOROUGH:
        assert all(taken[name] for name in ("webhook_tries|lost", "deserted", "republished")), taken
