"""The shapes of the native dialect, in and out. They are the validation and the OpenAPI document alike."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from svd_service.api.files import MEDIA_TYPES
from svd_service.api.forms import UploadedFile
from svd_service.api.options import Options
from svd_service.jobs.job import Job
from svd_service.jobs.model import Model
from svd_service.jobs.request import Fit, Format, Profile


class GenerateForm(Options, kw_only=True, forbid_unknown_fields=True):
    """A picture, and SVD's own parameters, all of them optional."""

    image: Annotated[UploadedFile, Meta(description="The picture: JPEG, PNG, WebP and others; not animated.")]


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


class ParametersView(Struct):
    """The effective values, seed included."""

    seed: int
    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    fps: int
    motion_bucket_id: int
    noise_aug_strength: float
    min_guidance_scale: float
    max_guidance_scale: float
    decode_chunk_size: int
    fit: Fit
    profile: Profile
    formats: Annotated[tuple[Format, ...], Meta(description="What is made beside the MP4.")]


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
        )


class ResultQuery(Struct, kw_only=True):
    """Which of the video's files."""

    format: Annotated[Format, Meta(description="One that the job was asked for, or `mp4`.")] = Format.MP4


class ListQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which page of the caller's jobs: so many behind job `after`, by the time of submission."""

    after: Annotated[str, Meta(description="Id of the last job of the page before.")] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=100, description="Most jobs of the page.")] = 20
    order: Annotated[Literal["asc", "desc"], Meta(description="`desc`: newest first.")] = "desc"

    def page(self) -> dict[str, Any]:
        """The same as the use cases know it."""
        return {
            "after": None if self.after is UNSET else self.after,
            "limit": self.limit,
            "newest_first": self.order == "desc",
        }


class EventView(Struct, kw_only=True):
    """A server-sent event: how a job stands. When it was deleted `event` is `deleted`, and only its id is left."""

    event: Annotated[Literal["message", "deleted"], Meta(description="`message` where there is none.")] = "message"
    id: Annotated[
        str | UnsetType,
        Meta(description="For `Last-Event-ID`."),
    ] = UNSET
    data: Annotated[
        str,
        Meta(
            extra_json_schema={
                "contentMediaType": "application/json",
                "contentSchema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/JobView"},
                        {
                            "type": "object",
                            "properties": {"task_id": {"type": "string"}},
                            "required": ["task_id"],
                            "additionalProperties": False,
                        },
                    ]
                },
            }
        ),
    ]
    retry: Annotated[int | UnsetType, Meta(description="Milliseconds to wait before coming back.")] = UNSET


class JobList(Struct, kw_only=True):
    """A page of the caller's jobs; `next` is the path of the page behind it, if there is one."""

    jobs: list[JobView]
    has_more: bool
    next: str | None


class ModelsView(Struct):
    """The models that are served."""

    models: list[Model]


class WorkerView(Struct):
    """A worker process that holds the model. `ready_since` in seconds since the epoch; `memory` is how its device's is
    used (`SVD_MEMORY`), `host` on a CPU.
    """

    worker: str
    device: str
    model: str
    trained: bool
    ready_since: float
    memory: str


class PreparingView(Struct):
    """A worker process that is not ready yet, what it is doing, and since when (seconds since the epoch)."""

    worker: str
    doing: str
    since: float


class HealthView(Struct, omit_defaults=True):
    """How the service is. `status`: ok; or, with a `message`, degraded (without the store of pictures and videos jobs
    are told of, but neither taken nor their results given) or unavailable.
    """

    status: str
    redis: bool
    workers_ready: int
    workers: list[WorkerView]
    workers_preparing: list[PreparingView] = []
    model: ModelView | None = None
    artifacts: bool | None = None
    message: str | None = None


class ErrorDetail(Struct, omit_defaults=True):
    """What went wrong: a stable `code`, a sentence, and the `parameter` at fault if there is one."""

    code: str
    message: str
    parameter: str | None = None


class ErrorView(Struct, omit_defaults=True):
    """The one shape of an error; `status` is the job's, where there is one."""

    error: ErrorDetail
    status: str | None = None


def _moment(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
