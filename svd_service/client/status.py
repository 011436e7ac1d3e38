"""A job as the service reports it."""

import warnings
from dataclasses import dataclass
from typing import Any, Final, Self

#: Final states.
ENDED: Final = frozenset({"finished", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class Progress:
    """Progress of the job's current attempt: `step` of `steps` in `phase`, `fraction` (0 to 1) of the whole."""

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
        eta_seconds: estimated seconds until it ends, if the service has an estimate.
        attempt: number of the current or last attempt; 0 before the first.
        error_message: why a job failed.
        raw: the service's complete response, including fields that are newer than this client.
    """

    id: str
    state: str
    progress: Progress | None
    position: int | None
    eta_seconds: float | None
    attempt: int
    error_message: str | None
    raw: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in ENDED

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1."""
        if self.state in {"finished", "expired"}:
            return 1.0
        return self.progress.fraction if self.progress else 0.0

    @property
    def pinned(self) -> bool:
        """Whether the video is kept beyond its retention."""
        return self.raw.get("pinned") is True

    @property
    def trained(self) -> bool:
        """Whether the model's weights are trained; an untrained model's videos are noise."""
        return (self.raw.get("model") or {}).get("trained") is not False

    @property
    def told(self) -> dict[str, Any]:
        """Deprecated name of `raw`, kept for one release."""
        warnings.warn("JobStatus.told is deprecated: use JobStatus.raw", DeprecationWarning, stacklevel=2)
        return self.raw

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Self:
        """Parse the service's response to a submission or a status request."""
        progress = raw.get("progress")
        return cls(
            id=raw["task_id"],
            state=raw["status"],
            progress=_progress(progress) if progress else None,
            position=raw.get("position"),
            eta_seconds=raw.get("eta_seconds"),
            attempt=raw.get("attempt") or 0,
            error_message=(raw.get("error") or {}).get("message"),
            raw=raw,
        )


def _progress(raw: dict[str, Any]) -> Progress:
    return Progress(raw["phase"], raw.get("step", 0), raw.get("steps", 0), raw.get("fraction", 0.0))
