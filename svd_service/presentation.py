"""The native representation of a job: the same in answers of the native dialect, in events and in webhooks.

The OpenAPI document is generated from these structs as well. The path of a result is defined here and not beside its
route, since webhooks, which do not depend on the web package, refer to it.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Self, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from svd_service.jobs.group import Group
from svd_service.jobs.job import Attempt, Job, Progress, Result, Webhook
from svd_service.jobs.parameters import MEDIA_TYPES, Parameters
from svd_service.parameters import Format


class ModelView(Struct):
    """The model of a job. `trained` is false for random weights, which make noise."""

    name: str
    revision: str | None
    trained: bool


class ProgressView(Struct):
    """`step` of `steps` within `phase` of `segment` of `segments`; `fraction` of the whole attempt, 0 to 1."""

    phase: str
    step: int
    steps: int
    segment: int
    segments: int
    fraction: Annotated[float, Meta(ge=0, le=1)]

    @classmethod
    def of(cls, progress: Progress) -> Self:
        """The representation of `progress`."""
        step = (progress.step, progress.steps, progress.segment, progress.segments)
        return cls(progress.phase, *step, progress.fraction)


class AttemptView(Struct):
    """One attempt. `outcome` is null while it runs; `lost` means that its worker's heartbeat timed out."""

    number: int
    worker: str
    device: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    device_seconds: Annotated[
        float | None, Meta(description="Device time that counts as usage; null while the attempt runs.")
    ]

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """The representation of `attempt`."""
        return cls(
            attempt.number,
            attempt.worker,
            attempt.device,
            moment(attempt.started_at),
            moment(attempt.ended_at),
            attempt.outcome,
            attempt.device_seconds,
        )


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
    """The MP4 and its properties. `bytes` is its size; `sha256` is also its ETag.

    `files` has the video in every format in which it was made, the MP4 first.
    """

    url: str
    bytes: int
    sha256: str
    width: int
    height: int
    frames: int
    files: list[FileView]

    @classmethod
    def of(cls, job_id: str, result: Result, root: str = "") -> Self:
        """The representation of the result of job `job_id`, with paths below `root`."""
        files = [
            FileView(kind, root + result_path(job_id, kind), MEDIA_TYPES[kind], file.bytes, file.sha256)
            for kind, file in result.files.items()
        ]
        path = root + result_path(job_id, Format.MP4)
        return cls(path, result.bytes, result.sha256, result.width, result.height, result.frames, files)


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


class ClipView(Struct):
    """Properties of the job's video file, including interpolated frames. `seeds` are the segments'."""

    output_width: int
    output_height: int
    frames: int
    playback_fps: int
    duration_seconds: float
    segments: int
    seeds: list[int]

    @classmethod
    def of(cls, parameters: Parameters) -> Self:
        """The representation of the video that `parameters` make."""
        clip, seeds = parameters.clip, list(parameters.seeds)
        return cls(
            *parameters.output_size, clip.frames, clip.playback_fps, round(clip.seconds, 3), clip.segments, seeds
        )


class WebhookAttemptView(Struct):
    """One delivery attempt: the status of the response, or the error; neither while it runs."""

    at: datetime
    status_code: int | None
    error: str | None


class WebhookView(Struct):
    """The webhook of a job. `state`: waiting (for the job's end), pending, delivered or given_up."""

    url: Annotated[str, Meta(description="Without credentials and query.")]
    state: str
    attempts: list[WebhookAttemptView]
    next_attempt_at: datetime | None

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """The representation of `webhook`."""
        attempts = [WebhookAttemptView(moment(each.at), each.status_code, each.error) for each in webhook.attempts]
        return cls(shown_url(webhook.url), webhook.state, attempts, moment(webhook.next_attempt_at))


class JobView(Struct, kw_only=True):
    """A job. `status`: queued, started, finished, failed, cancelled or expired. Times in ISO 8601, UTC."""

    task_id: str
    status: str
    position: Annotated[int | None, Meta(description="Position in the queue, 1 is next; null unless queued.")]
    eta_seconds: Annotated[
        float | None, Meta(description="Estimated seconds until the job ends; null if there is no estimate.")
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
    expires_at: Annotated[datetime | None, Meta(description="When the video is deleted; null if pinned.")]
    pinned: Annotated[bool, Meta(description="Whether the video is kept until it is deleted.")]
    deadline_at: Annotated[
        datetime | None, Meta(description="When the job fails if it has not ended (`Cancel-After`); null: never.")
    ]
    cancel_requested: Annotated[bool, Meta(description="Whether the worker stops at its next step.")]
    cached: Annotated[bool, Meta(description="Whether the video is a copy of an earlier job's.")]
    group_id: Annotated[str | None, Meta(description="The group that it was submitted with, at `/groups/{group_id}`.")]
    cached_from: Annotated[str | None, Meta(description="The job whose video was copied; it may be deleted.")]
    attempt: int
    attempts: list[AttemptView]
    parameters: ParametersView
    video: ClipView
    model: ModelView
    error: FailureView | None
    result: ResultView | None
    provenance: dict[str, Any] | None
    webhook: WebhookView | None

    @classmethod
    def of(cls, job: Job, root: str = "") -> Self:
        """The representation of `job`, with paths below `root`, the path under which a proxy serves the service."""
        return cls(
            task_id=job.id,
            status=job.state,
            position=job.position,
            priority=job.priority,
            eta_seconds=job.eta_seconds,
            progress=ProgressView.of(job.progress) if job.progress else None,
            preview=job.preview.version if job.preview else None,
            created_at=moment(job.created_at),
            started_at=moment(job.started_at),
            ended_at=moment(job.ended_at),
            expires_at=moment(job.expires_at),
            deadline_at=moment(job.deadline_at),
            pinned=job.pinned,
            cancel_requested=job.cancel_requested,
            cached=job.cached_from is not None,
            group_id=job.group_id,
            cached_from=job.cached_from,
            attempt=len(job.attempts),
            attempts=[AttemptView.of(attempt) for attempt in job.attempts],
            parameters=ParametersView(**job.parameters.to_dict()),
            video=ClipView.of(job.parameters),
            model=ModelView(**job.model),
            error=FailureView(job.failure.code, job.failure.message) if job.failure else None,
            result=ResultView.of(job.id, job.result, root) if job.result else None,
            provenance=job.result.provenance if job.result else None,
            webhook=WebhookView.of(job.webhook) if job.webhook else None,
        )


class GroupView(Struct, kw_only=True):
    """Jobs of one submission. `status`: queued until one has started, started until all have ended; then the worst of
    theirs: failed, cancelled, expired or finished.
    """

    group_id: str
    status: str
    n: Annotated[int, Meta(description="Number of jobs that were submitted. `jobs` lacks deleted ones.")]
    counts: Annotated[dict[str, int], Meta(description="How many jobs have each status.")]
    progress: Annotated[float, Meta(ge=0, le=1, description="Share of the work that is done.")]
    eta_seconds: Annotated[
        float | None, Meta(description="Estimated seconds until the last job ends; null if there is no estimate.")
    ]
    created_at: datetime
    ended_at: datetime | None
    contact_sheet: Annotated[
        str | None, Meta(description="Path of an image with all finished videos; null while there are none.")
    ]
    jobs: list[JobView]
    webhook: WebhookView | None

    @classmethod
    def of(cls, group: Group, root: str = "") -> Self:
        """The representation of `group`, with paths below `root`."""
        has_videos = any(job.result for job in group.jobs)
        return cls(
            group_id=group.id,
            status=group.state,
            n=group.size,
            counts={str(state): number for state, number in group.counts.items()},
            progress=group.fraction,
            eta_seconds=group.eta_seconds,
            created_at=moment(group.created_at),
            ended_at=moment(group.ended_at),
            contact_sheet=f"{root}/groups/{group.id}/contact-sheet" if has_videos else None,
            jobs=[JobView.of(job, root) for job in group.jobs],
            webhook=WebhookView.of(group.webhook) if group.webhook else None,
        )


class _EndEvent(Struct):
    """What the payloads of all webhooks share: the event's id, its type, and when the job or the group ended."""

    id: str
    type: str
    timestamp: datetime


class WebhookEvent(_EndEvent):
    """The payload of a webhook. `type`: job.finished, job.failed or job.cancelled; `timestamp` is when the job ended.

    `data` is the job at its end, without the state of the webhook itself.
    """

    data: JobView

    @classmethod
    def of(cls, id: str, kind: str, job: Job) -> Self:
        """The event `kind` of `job`, given as it was at its end."""
        return cls(id, kind, moment(job.ended_at), JobView.of(replace(job, webhook=None)))


class GroupEvent(_EndEvent):
    """The payload of a group's webhook: `type` is group.finished, group.failed or group.cancelled.

    `timestamp` is when the last job ended; `data` is the group at that moment, without the state of the webhook.
    """

    data: GroupView

    @classmethod
    def of(cls, id: str, kind: str, group: Group) -> Self:
        """The event `kind` of `group`, given as it was at its end."""
        return cls(id, kind, moment(group.ended_at), GroupView.of(replace(group, webhook=None)))


def result_path(job_id: str, kind: Format) -> str:
    """Path of a job's video in a format, as the native dialect serves it."""
    return f"/results/{job_id}.{kind}"


def shown_url(url: str) -> str:
    """`url` without the parts that may be secret: credentials and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"


def moment(seconds: float | None) -> Any:
    """A time in seconds since the epoch as a datetime in UTC; `None` stays `None`."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
