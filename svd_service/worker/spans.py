"""The spans of one attempt in its job's trace: the time in the queue, the generation with its phases, the upload."""

from types import TracebackType
from typing import Final, Self

from svd_service.jobs.job import Attempt, Job, Phase
from svd_service.telemetry import logs, tracing

#: Outcome of an attempt whose worker died and could not report it.
_LOST: Final = "lost"


class AttemptSpans:
    """Context manager of the spans of the current attempt at `job`: siblings under the request that submitted it.

    A job that was submitted while the API did not trace gets its own trace, which begins with its time in the queue.
    `harmless` are exceptions that end an attempt without being a failure.
    """

    def __init__(self, job: Job, harmless: tuple[type[Exception], ...] = ()) -> None:
        self._job = job
        self._harmless = harmless
        self._parent = job.trace
        self._generation = tracing.Span()
        self._phase = tracing.Span()
        self._kind: Phase | None = None

    def __enter__(self) -> Self:
        if not tracing.is_on():
            return self
        present = self._job.attempts[-1]
        before = self._job.attempts[-2] if len(self._job.attempts) > 1 else None
        queued = before.ended_at if before else self._job.created_at
        about: dict[str, str | int] = {"svd.job.id": self._job.id, "svd.attempt": present.number}
        wait = tracing.begin("queue", self._parent, at=queued, attributes=about)
        wait.end(at=present.started_at)
        self._parent = self._parent or wait.carrier()
        if before and before.outcome == _LOST:
            # Its worker died before it could report the span.
            self._begin(before, at=before.started_at).end(at=before.ended_at, error="the worker was lost")
        self._generation = self._begin(present)
        logs.add(trace_id=self._generation.trace_id)
        return self

    def phase(self, phase: Phase) -> None:
        """Begin a phase of the attempt."""
        if phase is self._kind:
            return
        self._kind = phase
        self._phase.end()
        if phase is Phase.UPLOADING:
            self._generation.end()
            self._phase = tracing.begin("publish", self._parent, attributes={"svd.job.id": self._job.id})
        else:
            self._phase = tracing.begin(phase.value, self._generation.carrier())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        description = "" if error is None or isinstance(error, self._harmless) else f"{type(error).__name__}: {error}"
        for span in (self._phase, self._generation):
            if error is not None:
                span.set({"error.type": type(error).__name__})
            span.end(error=description)

    def _begin(self, attempt: Attempt, at: float | None = None) -> tracing.Span:
        parameters = self._job.parameters
        return tracing.begin(
            "generation",
            self._parent,
            at=at,
            attributes={
                "svd.job.id": self._job.id,
                "svd.attempt": attempt.number,
                "svd.worker": attempt.worker,
                "svd.device": attempt.device,
                "svd.model": str(self._job.model.get("name", "")),
                "svd.frames": parameters.num_frames,
                "svd.steps": parameters.num_inference_steps,
                "svd.segments": parameters.segments,
            },
        )
