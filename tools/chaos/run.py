"""One run: submit jobs while faults are injected, and collect what happened."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from svd_service.artifacts.base import ArtifactStore
from svd_service.jobs.usage import total
from svd_service.ledger import Ledger
from svd_service.ledger.workers import WorkerStatus
from tools.chaos.bad_callers import BadCallers
from tools.chaos.caller import Caller, Sighting
from tools.chaos.schedule import Fault, schedule
from tools.chaos.service import WORKERS, Service

#: Seconds between two checks for due faults.
TICK = 0.05

#: Seconds within which an accepted job must end once the faults have stopped, or else it counts as lost: enough for
#: three attempts, each with a lease that expires and a model to load.
PATIENCE = 180.0

#: Seconds between two samples of whether a worker is ready.
SAMPLE = 0.25


@dataclass
class Hit:
    """An attempt that was running where a fault was injected, at `at` in seconds since the epoch."""

    kind: str
    at: float
    job_id: str
    attempt: int


@dataclass
class Outcome:
    """Everything that was observed in a run. `wall` in seconds."""

    seed: int
    interval: float
    wall: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    hits: list[Hit] = field(default_factory=list)
    seen: dict[str, Sighting] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    repeats: int = 0
    ready: list[tuple[float, bool]] = field(default_factory=list)
    created: int = 0
    counted_finished: int = 0
    load_seconds: float = 0.0
    orphans: list[str] = field(default_factory=list)
    usage: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    hostile_uploads: Counter[str] = field(default_factory=Counter)


def run(service: Service, *, jobs: int, seed: int, interval: float, kinds: Sequence[str], limit: float) -> Outcome:
    """Submit `jobs` jobs (or as many as possible in `limit` seconds) while faults are injected.

    Return when all jobs have ended, at the latest `PATIENCE` seconds after the last was accepted.
    """
    outcome = Outcome(seed, interval)
    service.start()
    outcome.load_seconds = max(child.load_seconds for child in service.children())
    caller = Caller(service.stack.url, service.use_cases(), jobs=jobs, seed=seed)
    bad_callers = BadCallers(service.stack.url)
    began = time.monotonic()
    caller.start()
    try:
        _inject_while_submitting(
            Targets(service, caller, bad_callers), outcome, schedule(seed, interval, kinds), began, limit
        )
        caller.enough()
        _wait_for_ends(service, caller, outcome)
    finally:
        caller.give_up()
    caller.join()
    bad_callers.join()
    outcome.hostile_uploads = bad_callers.answers
    outcome.wall = time.monotonic() - began
    service.stack.wait(lambda: service.stack.http.get("/health").status_code == 200, 30)
    read_final_state(service, caller, outcome)
    return outcome


@dataclass(frozen=True)
class Targets:
    """The targets of faults, and the callers that cause some."""

    service: Service
    caller: Caller
    bad_callers: BadCallers


def _inject_while_submitting(targets: Targets, outcome, faults, began, limit) -> None:
    service, caller = targets.service, targets.caller
    due = next(faults)
    while caller.submitting and caller.is_alive() and time.monotonic() < began + limit:
        service.heal()
        _sample(service, outcome)
        if time.monotonic() >= began + due.at:
            _inject(targets, due, outcome)
            due = next(faults)
        time.sleep(TICK)


def _wait_for_ends(service: Service, caller: Caller, outcome: Outcome) -> None:
    deadline = time.monotonic() + PATIENCE
    service.heal(now=True)
    while caller.is_alive() and time.monotonic() < deadline:
        service.heal()
        _sample(service, outcome)
        time.sleep(TICK)


def _sample(service: Service, outcome: Outcome) -> None:
    """Record a few times per second whether a worker could claim a job."""
    if not outcome.ready or time.time() - outcome.ready[-1][0] > SAMPLE:
        outcome.ready.append((time.time(), service.ready()))


def _inject(targets: Targets, fault: Fault, outcome: Outcome) -> None:
    service, caller = targets.service, targets.caller
    what = fault.kind.partition("-")[0]
    children = service.children()
    child = children[int(fault.pick * len(children))] if children else None
    worker = WORKERS[int(fault.pick * len(WORKERS))]
    place = {"child": child.worker if child else None, "worker": f"{worker}@", "host": f"{worker}@"}
    place |= dict.fromkeys(("job", "slow", "hostile"))
    running_on = place.get(what, "")
    running = service.running_on(running_on) if running_on is not None else []
    at = time.time()
    if what == "child":
        injected = child is not None and _inject_into_child(service, fault, child)
    elif what == "job":
        injected = _inject_into_job(service, caller, fault)
    elif fault.kind == "slow-clients":
        injected = targets.bad_callers.be_slow(fault.seconds)
    elif fault.kind == "hostile-image":
        injected = targets.bad_callers.upload(fault.pick)
    elif what in {"connections", "garbage"} or fault.kind in {"redis-demote", "redis-misconf"}:
        injected = _inject_into_redis(service, fault)
    else:
        injected = _inject_into_processes(service, fault, worker if what in {"worker", "host"} else what)
    if not injected:
        outcome.missed += 1
        return
    outcome.faults[fault.kind] += 1
    outcome.hits += [Hit(fault.kind, at, job_id, attempt) for job_id, attempt in running]


def _inject_into_child(service: Service, fault: Fault, child: WorkerStatus) -> bool:
    return service.kill_child(child) if fault.kind == "child-kill" else service.freeze_child(child, fault.seconds)


def _inject_into_processes(service: Service, fault: Fault, name: str) -> bool:
    group = not fault.kind.startswith("worker")
    if fault.kind.endswith("kill"):
        return service.kill(name, group=group)
    if fault.kind.endswith("term"):
        return service.terminate(name)
    return service.freeze(name, fault.seconds, group=group)


def _inject_into_redis(service: Service, fault: Fault) -> bool:
    faults = service.redis_faults
    if fault.kind == "connections":
        return service.drop_connections()
    if fault.kind == "garbage":
        return faults.send_garbage()
    return faults.demote(fault.seconds) if fault.kind == "redis-demote" else faults.reject_writes(fault.seconds)


def _inject_into_job(service: Service, caller: Caller, fault: Fault) -> bool:
    jobs = caller.under_way
    if not jobs:
        return False
    job_id = jobs[int(fault.pick * len(jobs))]
    if fault.kind != "job-delete":
        return service.redis_faults.revoke(job_id, terminate=fault.kind == "job-terminate")
    # The youngest job is the most likely to be queued still.
    deleted = service.redis_faults.delete_record(f"{service.settings.namespace}:job:{jobs[-1]}")
    caller.seen[jobs[-1]].deleted = deleted
    return deleted


class Observed(Protocol):
    """The service whose final state is checked."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def artifacts(self) -> ArtifactStore: ...
    @property
    def own_ends(self) -> list[str]: ...


def read_final_state(service: Observed, caller: Caller, outcome: Outcome) -> None:
    """After the last job has ended, read every job, the counters and the artifacts."""
    caller.look(everywhere=True)
    outcome.seen, outcome.rejected, outcome.repeats = caller.seen, caller.rejected, caller.repeats
    figures = service.ledger.stats.figures()
    outcome.created, outcome.counted_finished = figures.created, figures.ended.get("finished", 0)
    today = datetime.now(UTC).date()
    outcome.usage = asdict(total(service.ledger.usage.of("", today - timedelta(1), today)))
    wanted = set()
    for job_id in caller.seen:
        job = service.ledger.jobs.find(job_id) if not caller.seen[job_id].unknown else None
        if job is not None and job.result is not None:
            wanted.add(job.result.artifact)
            service.artifacts.size(job.result.artifact)
        elif job is not None and not job.state.ended:
            wanted.add(job.input)
    # Files derived from a video have its name with another suffix.
    stems = {_stem(name) for name in wanted}
    outcome.orphans = sorted(name for name, _ in service.artifacts.names() if _stem(name) not in stems)
    outcome.remarks = service.own_ends


def _stem(name: str) -> str:
    return name.partition(".")[0]
