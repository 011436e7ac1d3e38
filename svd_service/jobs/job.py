"""A job: its states and their legal transitions, its progress, its attempts, and its snapshot at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Format


class State(StrEnum):
    """State of a job. Celery's own states are never exposed."""

    QUEUED = "queued"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        """Whether the job is neither queued nor started."""
        return not MOVES[self] & {State.STARTED, State.FINISHED}


#: The legal transitions. The ledger's Lua makes no others; `started → queued` requeues a job for another attempt.
MOVES: Final[dict[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.STARTED, State.FAILED, State.CANCELLED}),
    State.STARTED: frozenset({State.QUEUED, State.STARTED, State.FINISHED, State.FAILED, State.CANCELLED}),
    State.FINISHED: frozenset({State.EXPIRED}),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}


class Phase(StrEnum):
    """Phase of a started job, in this order; all but the last occur once per segment."""

    PREPARING = "preparing"
    SAMPLING = "sampling"
    DECODING = "decoding"
    INTERPOLATING = "interpolating"
    UPLOADING = "publishing"  # the value that clients know


#: Assumed share of each phase in an attempt's time, for the overall progress, until finished jobs on the same kind of
#: device provide measured ones.
PHASE_WEIGHTS: Final[dict[Phase, float]] = {
    Phase.PREPARING: 0.04,
    Phase.SAMPLING: 0.76,
    Phase.DECODING: 0.18,
    Phase.INTERPOLATING: 0.0,
    Phase.UPLOADING: 0.02,
}


@dataclass(frozen=True)
class Progress:
    """Progress of an attempt: `step` of `steps` within `phase` of `segment` of `segments`.

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
        last = self.weights[Phase.UPLOADING]
        if self.phase is Phase.UPLOADING:
            return round(1 - last * (1 - within), 4)
        phases = list(self.weights)
        before = sum(self.weights[phase] for phase in phases[: phases.index(self.phase)])
        done = before + self.weights[self.phase] * within
        return round((done + (1 - last) * (self.segment - 1)) / self.segments, 4)


@dataclass(frozen=True)
class Holder:
    """The holder of a claim: the worker process that runs an attempt.

    `instance` is a new random value for each start of a worker's parent process, so that process ids are only compared
    within one process tree.
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
    """One attempt in a job's history. `outcome` is absent while it runs; times are seconds since the epoch.

    `device_seconds` is the device time that counts as usage, `None` while it runs.
    """

    number: int
    worker: str
    device: str
    started_at: float
    ended_at: float | None = None
    outcome: str | None = None
    device_seconds: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why a job failed: a stable code, and a message for people."""

    code: str
    message: str


#: The failure of a job whose deadline (`Cancel-After`) passed.
DEADLINE_EXCEEDED: Final = Failure("deadline_exceeded", "The job did not end before its deadline (Cancel-After).")


@dataclass(frozen=True)
class Preview:
    """The latest preview of a started job: `artifact` is its name in the store, `version` grows with each preview."""

    version: int
    artifact: str


class Still(StrEnum):
    """A still image made from a video."""

    THUMBNAIL = "thumbnail"  # one frame, as WebP
    SPRITESHEET = "spritesheet"  # all frames side by side, as JPEG


#: A file of a result: the video in a format, or a still.
ResultFile = Format | Still

#: Every file that a result may have.
RESULT_FILES: Final[tuple[ResultFile, ...]] = (*Format, *Still)


@dataclass(frozen=True)
class File:
    """A file of a committed result: its length in `bytes`, and its SHA-256 (the ETag)."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Result:
    """A committed video. `artifact` is its name in the store, `sha256` that of its bytes (and its ETag).

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
    """State of a job's webhook."""

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

    `eta_seconds` is the estimated remaining time, `None` where no estimate is possible. `notes` are stored for the
    caller. `trace` links its spans to the trace of its request. A `deleted` job has no owner: its worker has yet to
    stop. A queued job fails at `deadline_at`, a started one at its next step after it. `cached_from` is the job whose
    video this one has a copy of; `group_id` the group that it is a member of. A `pinned` job's result does not expire.
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
    deadline_at: float | None = None
    pinned: bool = False
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
    group_id: str | None = None
    preview: Preview | None = None
    webhook: Webhook | None = None
