"""A job: its states and their legal moves, its progress, its attempts, and how it looks at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Format


class State(StrEnum):
    """Where a job stands. Celery's own states are never shown as ours."""

    QUEUED = "queued"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        """Whether nothing more will be done for the job."""
        return not MOVES[self] & {State.STARTED, State.FINISHED}


#: The legal moves. The ledger's Lua makes no other; `started → queued` is a lost attempt that is to be repeated.
MOVES: Final[dict[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.STARTED, State.FAILED, State.CANCELLED}),
    State.STARTED: frozenset({State.QUEUED, State.STARTED, State.FINISHED, State.FAILED, State.CANCELLED}),
    State.FINISHED: frozenset({State.EXPIRED}),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}


class Phase(StrEnum):
    """What a started job is busy with, in this order; all but the last once for each segment."""

    PREPARING = "preparing"
    SAMPLING = "sampling"
    DECODING = "decoding"
    INTERPOLATING = "interpolating"
    PUBLISHING = "publishing"


#: Share of an attempt's time that each phase is taken to need, for the one number of a progress bar, until finished
#: jobs have shown what it is on their device.
PHASE_WEIGHTS: Final[dict[Phase, float]] = {
    Phase.PREPARING: 0.04,
    Phase.SAMPLING: 0.76,
    Phase.DECODING: 0.18,
    Phase.INTERPOLATING: 0.0,
    Phase.PUBLISHING: 0.02,
}


@dataclass(frozen=True)
class Progress:
    """How far an attempt has come: `step` of `steps` within `phase` of `segment` of `segments`.

    Decoding and interpolating count frames. `weights` are the phases' shares of the whole attempt's time; `at` is when
    it was reported.
    """

    phase: Phase
    step: int = 0
    steps: int = 0
    segment: int = 1
    segments: int = 1
    weights: Mapping[Phase, float] = field(default_factory=lambda: PHASE_WEIGHTS, compare=False, repr=False)
    at: float = field(default=0.0, compare=False, repr=False)

    @property
    def fraction(self) -> float:
        """Share of the whole attempt that is done, 0 to 1."""
        within = self.step / self.steps if self.steps else 0.0
        last = self.weights[Phase.PUBLISHING]
        if self.phase is Phase.PUBLISHING:
            return round(1 - last * (1 - within), 4)
        phases = list(self.weights)
        before = sum(self.weights[phase] for phase in phases[: phases.index(self.phase)])
        done = before + self.weights[self.phase] * within
        return round((done + (1 - last) * (self.segment - 1)) / self.segments, 4)


@dataclass(frozen=True)
class Holder:
    """Who holds a claim: the worker process that runs an attempt.

    `instance` is made up anew by each worker parent at its start, so that a process id is only ever compared within
    the process tree that it belongs to.
    """

    worker: str
    device: str
    instance: str
    pid: int


@dataclass(frozen=True)
class Claim:
    """The right to run one attempt. `token` fences it: each claim has its own, and the ledger rejects all others."""

    job_id: str
    token: str
    attempt: int


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    RELEASED = "released"
    LOST = "lost"


@dataclass(frozen=True)
class Attempt:
    """One attempt in a job's history. `outcome` is absent while it runs; times are seconds since the epoch."""

    number: int
    worker: str
    device: str
    started_at: float
    ended_at: float | None = None
    outcome: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why a job failed: a stable code, and a sentence that a person understands."""

    code: str
    message: str


@dataclass(frozen=True)
class Preview:
    """What there is to be seen of a started job: `artifact` is its name in the store, `version` grows with each."""

    version: int
    artifact: str


class Still(StrEnum):
    """A still image made of a video."""

    THUMBNAIL = "thumbnail"  # one frame, as WebP
    SPRITESHEET = "spritesheet"  # all frames side by side, as JPEG


#: A file of a result: the video in a format, or a still.
ResultFile = Format | Still

#: Every file that a result may have.
RESULT_FILES: Final[tuple[ResultFile, ...]] = (*Format, *Still)


@dataclass(frozen=True)
class File:
    """What is known of a published file: its length in `bytes`, and the SHA-256 of them (its ETag)."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Result:
    """A published video. `artifact` is its name in the store, `sha256` that of its bytes (and its ETag).

    `further` are the same video's files in other formats.
    """

    artifact: str
    bytes: int
    sha256: str
    width: int
    height: int
    frames: int
    provenance: dict[str, Any] = field(default_factory=dict)
    further: dict[Format, File] = field(default_factory=dict)

    @property
    def files(self) -> dict[Format, File]:
        """The files by format, the MP4 first."""
        return {Format.MP4: File(self.bytes, self.sha256), **self.further}

    @property
    def kinds(self) -> list[ResultFile]:
        """All files of the result."""
        return [*self.files, *Still]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        further = {Format(name): File(**file) for name, file in values.get("further", {}).items()}
        return cls(**{**values, "further": further})


class WebhookState(StrEnum):
    """Where the webhook of a job stands."""

    WAITING = "waiting"  # for the job's end
    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class DeliveryAttempt:
    """One attempt to deliver a webhook: the `status_code` of the response, or the `error`; neither while it runs."""

    at: float
    status_code: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Webhook:
    """The webhook of a job: the URL that is notified when the job ends, and the delivery attempts so far."""

    url: str
    state: WebhookState = WebhookState.WAITING
    attempts: tuple[DeliveryAttempt, ...] = ()
    next_attempt_at: float | None = None


@dataclass(frozen=True)
class Job:
    """A job at one moment, `observed_at`, as read from the ledger. Times are seconds since the epoch, by Redis' clock.

    `eta_seconds` is how long it still takes, `None` where that cannot be told. `notes` are what its caller wants
    remembered with it. By `trace` its spans belong to the trace of its request. A `deleted` job is nobody's: only its
    worker is still to stop. `cached_from` is the job whose video this one has a copy of.
    """

    id: str
    state: State
    parameters: Parameters
    model: dict[str, Any]
    owner: str
    input: str
    created_at: float
    version: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    expires_at: float | None = None
    cancel_requested: bool = False
    deleted: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    trace: dict[str, str] = field(default_factory=dict)
    progress: Progress | None = None
    attempts: tuple[Attempt, ...] = ()
    failure: Failure | None = None
    result: Result | None = None
    position: int | None = None
    observed_at: float = 0.0
    eta_seconds: float | None = None
    priority: int = 0
    cached_from: str | None = None
    preview: Preview | None = None
    webhook: Webhook | None = None
