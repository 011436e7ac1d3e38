"""How a job is told, the same wherever it is: in an answer of the native dialect, in an event, in a webhook.

The structs are what the OpenAPI document is made of, too.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Self, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from svd_service.jobs.job import Job, Webhook
from svd_service.jobs.parameters import MEDIA_TYPES, Parameters
from svd_service.parameters import Format


class ModelView(Struct):
    """The model that a job is for. `trained` is false for random weights: the video is noise then."""

    name: str
    revision: str | None
    trained: bool


class ProgressView(Struct):
    """`step` of `steps` within `phase`; `fraction` of the whole attempt, 0 to 1."""

    phase: str
    step: int
    steps: int
    fraction: Annotated[float, Meta(ge=0, le=1)]


class AttemptView(Struct):
    """One attempt. `outcome` is null while it runs; `lost` means that its worker fell silent."""

    number: int
    worker: str
    device: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None


class FailureView(Struct):
    """Why the job failed."""

    code: str
    message: str


class FileView(Struct):
    """One of the video's files. `bytes` is its size; `sha256` is also its ETag."""

    format: Format
    url: str
    media_type: str
    bytes: int
    sha256: str


class ResultView(Struct):
    """Where the video is, and what it is. `bytes` is its size; `sha256` is also its ETag.

    `files` has it in every format in which it was made, the MP4 first.
    """

    url: str
    bytes: int
    sha256: str
    width: int
    height: int
    frames: int
    files: list[FileView]


def _with_fields_of(record: type) -> Callable[[type[Struct]], type[Struct]]:
    """Give the decorated struct the fields of a dataclass, all of them required."""

    def extend(view: type[Struct]) -> type[Struct]:
        fields = [(name, kind) for name, kind in get_type_hints(record).items()]
        return msgspec.defstruct(
            view.__name__, fields, bases=(view,), module=view.__module__, namespace={"__doc__": view.__doc__}
        )

    return extend


@_with_fields_of(Parameters)
class ParametersView(Struct):
    """The effective values, seed included; `formats` are those beside the MP4."""


class WebhookAttemptView(Struct):
    """One try to deliver it: the status of the answer, or why there was none; neither while it runs."""

    at: datetime
    status_code: int | None
    error: str | None


class WebhookView(Struct):
    """Where the job's end is told. `state`: waiting (for that end), pending, delivered or given_up."""

    url: Annotated[str, Meta(description="Without credentials, and without what stands behind the path.")]
    state: str
    attempts: list[WebhookAttemptView]
    next_attempt_at: datetime | None

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """How `webhook` is shown."""
        attempts = [WebhookAttemptView(_moment(each.at), each.status_code, each.error) for each in webhook.tries]
        return cls(shown_url(webhook.url), webhook.state, attempts, _moment(webhook.next_try_at))


class JobView(Struct, kw_only=True):
    """A job. `status`: queued, started, finished, failed, cancelled or expired. Times in ISO 8601, UTC."""

    task_id: str
    status: str
    position: Annotated[int | None, Meta(description="Place in the queue, 1 is next; null unless queued.")]
    eta_seconds: Annotated[
        float | None, Meta(description="Seconds until it will have ended; null when that cannot be told.")
    ]
    priority: int
    progress: ProgressView | None
    preview: Annotated[
        int | None,
        Meta(description="Grows with each new preview at `/jobs/{task_id}/preview`; null while there is none."),
    ]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime | None
    cancel_requested: Annotated[bool, Meta(description="Whether its worker is to stop at the next step.")]
    cached: Annotated[bool, Meta(description="Whether the video is a copy of an earlier job's.")]
    cached_from: Annotated[str | None, Meta(description="The job that made the video, then; it may be gone by now.")]
    attempt: int
    attempts: list[AttemptView]
    parameters: ParametersView
    model: ModelView
    error: FailureView | None
    result: ResultView | None
    provenance: dict[str, Any] | None
    webhook: WebhookView | None

    @classmethod
    def of(cls, job: Job) -> Self:
        """How `job` is shown."""
        progress, failure, result = job.progress, job.failure, job.result
        return cls(
            task_id=job.id,
            status=job.state,
            position=job.position,
            priority=job.priority,
            eta_seconds=job.eta_seconds,
            progress=ProgressView(progress.phase, progress.step, progress.steps, progress.fraction)
            if progress
            else None,
            preview=job.preview.version if job.preview else None,
            created_at=_moment(job.created_at),
            started_at=_moment(job.started_at),
            ended_at=_moment(job.ended_at),
            expires_at=_moment(job.expires_at),
            cancel_requested=job.cancel_requested,
            cached=job.cached_from is not None,
            cached_from=job.cached_from,
            attempt=len(job.attempts),
            attempts=[
                AttemptView(**{**vars(a), "started_at": _moment(a.started_at), "ended_at": _moment(a.ended_at)})
                for a in job.attempts
            ],
            parameters=ParametersView(**job.parameters.to_dict()),
            model=ModelView(**job.model),
            error=FailureView(**vars(failure)) if failure else None,
            result=ResultView(
                url=f"/results/{job.id}.mp4",
                bytes=result.bytes,
                sha256=result.sha256,
                width=result.width,
                height=result.height,
                frames=result.frames,
                files=[
                    FileView(kind, f"/results/{job.id}.{kind}", MEDIA_TYPES[kind], file.bytes, file.sha256)
                    for kind, file in result.files.items()
                ],
            )
            if result
            else None,
            provenance=result.provenance if result else None,
            webhook=WebhookView.of(job.webhook) if job.webhook else None,
        )


class WebhookEvent(Struct):
    """What a webhook tells. `type`: job.finished, job.failed or job.cancelled; `timestamp` is when that was.

    `data` is the job's status at its end. What became of the webhook is no part of it.
    """

    id: str
    type: str
    timestamp: datetime
    data: JobView

    @classmethod
    def of(cls, id: str, kind: str, job: Job) -> Self:
        """The event `kind` of `job`, which is as it was then."""
        return cls(id, kind, _moment(job.ended_at), JobView.of(replace(job, webhook=None)))


def shown_url(url: str) -> str:
    """`url` without what may be secret in it: credentials, and all that stands behind the path."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"


def _moment(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
