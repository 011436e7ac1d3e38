"""The shapes of the operators' dialect, in and out."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from svd_service.jobs.job import State
from svd_service.ledger.controls import Act, Pausable
from svd_service.presentation import JobView

Reason = Annotated[str, Meta(max_length=200, description="Why; shown to everybody.")]
Model = Annotated[str, Meta(max_length=200, description="Name of a model; empty: all.")]


class JobsQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which jobs."""

    key: Annotated[str | None, Meta(description="A key or an owner of keys; `-`: jobs without a key.")] = None
    state: State | None = None
    model: Model = ""
    after: Annotated[str | None, Meta(description="Id of the last job examined for the page before.")] = None
    limit: Annotated[int, Meta(ge=1, le=200, description="Maximum number of jobs.")] = 50


class PurgeForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which ended jobs to delete."""

    state: Annotated[Literal["finished", "failed", "cancelled", "expired"], Meta(description="State of the jobs.")]
    key: Annotated[str | None, Meta(description="A key or an owner of keys; `-`: jobs without a key.")] = None
    model: Model = ""
    older_than: Annotated[float, Meta(ge=0, description="Minimum seconds since they were accepted.")] = 0.0


class PauseForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to pause."""

    what: Pausable
    model: Model = ""
    reason: Reason = ""


class ResumeForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which pause to end."""

    what: Pausable
    model: Model = ""


class WorkerForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """A worker process (`node@host/0`), or a node (`node@host`) with all its processes."""

    worker: Annotated[str, Meta(min_length=1, max_length=300)]
    reason: Reason = ""


class AdminJobView(Struct, kw_only=True):
    """A job, and its owner: a `key`, or an owner of several (empty: no key)."""

    key: str
    job: JobView


class AdminJobList(Struct, kw_only=True):
    """Jobs of all keys, newest first; `next` is the path of the next page, if others follow."""

    jobs: list[AdminJobView]
    next: str | None


class PurgeView(Struct, kw_only=True):
    """How many jobs were deleted, and whether others may be left: then repeat the request."""

    deleted: int
    more: bool


class PauseView(Struct, kw_only=True):
    """A pause of the `intake` or the `dispatch`; `model` is empty for all models."""

    what: Pausable
    model: str
    since: datetime
    by: str
    reason: str


class PausesView(Struct, kw_only=True):
    """What is paused."""

    paused: list[PauseView]


class AdminWorkerView(Struct, kw_only=True):
    """A worker process. `state`: ready, preparing, drain or quarantine; `memory_…` in bytes."""

    worker: str
    state: str
    device: str = ""
    model: str = ""
    profiles: list[str] = []
    memory: str = ""
    memory_used: int | None = None
    memory_size: int | None = None
    job: str | None = None
    step_seconds: Annotated[float | None, Meta(description="Mean seconds of a step on this kind of device.")] = None
    progress: float | None = None
    reason: str = ""


class WorkersView(Struct, kw_only=True):
    """The workers, and those held back that are not running."""

    workers: list[AdminWorkerView]


class ActsView(Struct, kw_only=True):
    """The latest acts of operators, newest first."""

    acts: list[Act]


class QueueView(Struct, kw_only=True):
    """A queue: number of jobs, age of the oldest and expected wait of a new one, in seconds."""

    model: str
    profile: str
    length: int
    oldest: float
    wait: float | None


class PeriodView(Struct, kw_only=True):
    """Figures of ten minutes; `failed` by cause, `queue_age` is the greatest age of a queued job in seconds."""

    begin: datetime
    finished: int
    failed: dict[str, int]
    queue_age: float | None


class OverviewView(Struct, kw_only=True):
    """The service at a glance: jobs by state, queues, queued jobs by key, and the last day."""

    states: dict[str, int]
    queues: list[QueueView]
    queued_by_key: dict[str, int]
    paused: list[PauseView]
    failures: dict[str, int]
    history: list[PeriodView]
