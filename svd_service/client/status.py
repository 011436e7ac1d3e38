"""A job as the service tells it."""

from dataclasses import dataclass
from typing import Any, Final, Self

#: States in which nothing more will happen.
ENDED: Final = frozenset({"finished", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class Progress:
    """How far the job's present attempt has come: `step` of `steps` in `phase`, `fraction` (0 to 1) of the whole."""

    phase: str
    step: int
    steps: int
    fraction: float


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment.

    Attributes:
        id: the job's id.
        state: `queued`, `started`, `finished`, `failed`, `cancelled` or `expired`.
        progress: of a started job.
        position: of a queued job; the next one to be started is first (1).
        eta_seconds: how long it still takes, where the service can tell.
        attempt: number of the present or last attempt; 0 before the first.
        error_message: why a job failed.
        told: everything that the service said, as it said it; what is newer than this client is there as well.
    """

    id: str
    state: str
    progress: Progress | None
    position: int | None
    eta_seconds: float | None
    attempt: int
    error_message: str | None
    told: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1."""
        if self.state in {"finished", "expired"}:
            return 1.0
        return self.progress.fraction if self.progress else 0.0

    @property
    def trained(self) -> bool:
        """Whether the model's weights are trained; an untrained model's videos are noise."""
        return (self.told.get("model") or {}).get("trained") is not False

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """The job that the service's answer to a submission or a question about its status tells of."""
        progress = told.get("progress")
        return cls(
            id=told["task_id"],
            state=told["status"],
            progress=_progress(progress) if progress else None,
            position=told.get("position"),
            eta_seconds=told.get("eta_seconds"),
            attempt=told.get("attempt") or 0,
            error_message=(told.get("error") or {}).get("message"),
            told=told,
        )


def _progress(told: dict[str, Any]) -> Progress:
    return Progress(told["phase"], told.get("step", 0), told.get("steps", 0), told.get("fraction", 0.0))
