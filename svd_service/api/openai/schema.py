"""The shapes of OpenAI's Videos API, in and out."""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from svd_service.api.http.forms import UploadedFile
from svd_service.api.http.parameter_forms import ParameterForm, takes_parameters, video_request
from svd_service.api.openai.translation import SIZE, leniently, strictly
from svd_service.errors import ContentFilteredError, InvalidParameterError, UnsupportedError
from svd_service.jobs.job import Job, ResultFile, State, Still
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import VideoRequest
from svd_service.parameters import BOUNDS, TABLE, Delivery, Format, RequestParameters
from svd_service.presentation import WebhookView
from svd_service.webhooks.payload import DIALECT, OPENAI

Status = Literal["queued", "in_progress", "completed", "failed"]

#: OpenAI's names of the native states. A client stops polling at a state that it does not know; so a cancelled job has
#: failed (`error.code` is `cancelled`), and one whose video has expired stays completed (see `expires_at`).
STATUSES: Final[dict[State, Status]] = {
    State.QUEUED: "queued",
    State.STARTED: "in_progress",
    State.FINISHED: "completed",
    State.EXPIRED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}

#: OpenAI's code for what its moderation rejects.
BLOCKED: Final = "moderation_blocked"

#: The names under which a job's notes hold values that do not influence the video, and the requested length, which the
#: object repeats: clients compare it.
PROMPT: Final = "prompt"
MODEL: Final = "openai_model"
NEGATIVE_PROMPT: Final = "negative_prompt"
GUIDANCE_SCALE: Final = "guidance_scale"
GUIDANCE_SCALE_2: Final = "guidance_scale_2"
BOUNDARY_RATIO: Final = "boundary_ratio"
FLOW_SHIFT: Final = "flow_shift"
SECONDS: Final = "seconds"

#: Warnings about recorded values, by the name of the note.
NO_EFFECT: Final = {
    PROMPT: "Stable Video Diffusion takes no text: the prompt was recorded and does not influence the video.",
    NEGATIVE_PROMPT: "Stable Video Diffusion takes no text: the negative prompt does not influence the video.",
    GUIDANCE_SCALE: "guidance_scale is guidance by text and has no effect here: use max_guidance_scale.",
    **{
        name: f"{name} is a parameter of other models: it was recorded and does not influence the video."
        for name in (GUIDANCE_SCALE_2, BOUNDARY_RATIO, FLOW_SHIFT)
    },
}

#: Maximum number of frames: those of the longest video at the highest rate.
MAX_FRAMES: Final = int(BOUNDS["seconds"][1] * BOUNDS["playback_fps"][1])

#: Maximum size of a recorded number, far beyond what any model takes.
_RECORDED: Final = 1_000


@takes_parameters(*(name for name in TABLE if name not in {"extend", "extend_as"}))  # see `ExtensionForm`
class VideoForm(ParameterForm, kw_only=True, forbid_unknown_fields=True):
    """An image, OpenAI's own fields, and SVD's parameters as extensions; a form or a JSON object."""

    prompt: (
        Annotated[str, Meta(max_length=32_000, description="Recorded. SVD takes no text; the response has a warning.")]
        | UnsetType
    ) = UNSET
    input_reference: Annotated[
        Any,
        Meta(
            description="The image: a file, or a data URL in `input_reference[image_url]` or in a JSON object "
            "`{image_url}`. An http(s) URL there where the service fetches them.",
            extra_json_schema={"type": "string", "format": "binary"},
        ),
    ] = UNSET
    model: (
        Annotated[
            str, Meta(max_length=200, description="One of `GET /models`, or any: the first of those makes the video.")
        ]
        | UnsetType
    ) = UNSET
    seconds: (
        Annotated[
            float,
            Meta(gt=0, le=3_600, description="Length, to within 5 %: as many segments as it takes (docs/clips.md)."),
        ]
        | UnsetType
    ) = UNSET
    size: (
        Annotated[
            str,
            Meta(
                extra_json_schema={"pattern": SIZE.pattern},
                description="Width x height in pixels of the file; what the model does not make well is scaled to it.",
            ),
        ]
        | UnsetType
    ) = UNSET
    width: (
        Annotated[
            int, Meta(ge=16, le=4_096, description="With `height`: like `size` if the model cannot make them itself.")
        ]
        | UnsetType
    ) = UNSET
    height: Annotated[int, Meta(ge=16, le=4_096, description="See `width`.")] | UnsetType = UNSET
    num_frames: (
        Annotated[
            int,
            Meta(
                ge=2,
                le=MAX_FRAMES,
                description="Frames; more than the model makes at once are made in segments, to within 5 %.",
            ),
        ]
        | UnsetType
    ) = UNSET
    fps: (
        Annotated[
            int, Meta(ge=1, le=120, description="Frames per second; from 5 to 30 the model is conditioned on it.")
        ]
        | UnsetType
    ) = UNSET
    negative_prompt: (
        Annotated[str, Meta(max_length=32_000, description="Recorded, without effect, as `prompt`.")] | UnsetType
    ) = UNSET
    guidance_scale: (
        Annotated[
            float,
            Meta(
                ge=-_RECORDED,
                le=_RECORDED,
                description="Recorded, without effect: SVD's are `min_` and `max_guidance_scale`.",
            ),
        ]
        | UnsetType
    ) = UNSET
    guidance_scale_2: (
        Annotated[
            float, Meta(ge=-_RECORDED, le=_RECORDED, description="Of Wan's second expert: recorded, without effect.")
        ]
        | UnsetType
    ) = UNSET
    boundary_ratio: (
        Annotated[float, Meta(ge=0, le=1, description="Between Wan's two experts: recorded, without effect.")]
        | UnsetType
    ) = UNSET
    flow_shift: (
        Annotated[float, Meta(ge=-_RECORDED, le=_RECORDED, description="Of Wan's scheduler: recorded, without effect.")]
        | UnsetType
    ) = UNSET
    n: Annotated[int, Meta(ge=1, le=1, description="One video per request.")] = 1
    num_outputs_per_prompt: Annotated[int, Meta(ge=1, le=1, description="One video per request.")] = 1
    user: Annotated[str, Meta(max_length=512, description="Accepted, without effect.")] | UnsetType = UNSET
    generate_audio: Annotated[bool, Meta(description="Only `false`: SVD makes no sound.")] = False
    extra_body: (
        Annotated[
            dict[str, Any],
            Meta(max_length=0, description="Accepted if empty: clients merge its content into the body themselves."),
        ]
        | UnsetType
    ) = UNSET

    def request_to(self, model: Model, *, strict: bool = False) -> VideoRequest:
        """The requested video, for `model`; `strict`: only what the model makes by itself, in one piece and unscaled.

        Raises:
            InvalidParameterError: the video cannot be made, or a parameter contradicts another.
        """
        if self.generate_audio:
            raise InvalidParameterError(
                "generate_audio", "Stable Video Diffusion makes no sound: send generate_audio=false"
            )
        translate = strictly if strict else leniently
        return video_request(translate(self.parameters(), model), model=model.name)

    def notes(self) -> dict[str, str]:
        """Values that are recorded with the job and do not influence the video."""
        values: dict[str, Any] = {
            PROMPT: self.prompt,
            MODEL: self.model,
            NEGATIVE_PROMPT: self.negative_prompt,
            GUIDANCE_SCALE: self.guidance_scale,
            GUIDANCE_SCALE_2: self.guidance_scale_2,
            BOUNDARY_RATIO: self.boundary_ratio,
            FLOW_SHIFT: self.flow_shift,
            SECONDS: self.seconds if self.seconds is UNSET else f"{self.seconds:g}",
            DIALECT: OPENAI,
        }
        return {name: str(value) for name, value in values.items() if value is not UNSET}


class VideoBody(VideoForm, kw_only=True, forbid_unknown_fields=True):
    """The same as a JSON object, which has no files."""

    input_reference: Annotated[
        Any,
        Meta(
            description="The image: a data URL, or `{image_url}` with one. An http(s) URL where the service fetches "
            "them.",
            extra_json_schema={
                "anyOf": [
                    {"type": "string"},
                    {"type": "object", "properties": {"image_url": {"type": "string"}}, "required": ["image_url"]},
                ]
            },
        ),
    ] = UNSET


@takes_parameters(*(name for name in TABLE if name not in {"extend", "model"}))
class ExtensionForm(ParameterForm, kw_only=True, forbid_unknown_fields=True):
    """The job whose video is extended, OpenAI's own fields, and SVD's parameters as extensions.

    A form or a JSON object. Parameters that are not set are those of the extended video.
    """

    video: Annotated[
        Any,
        Meta(
            description="The id of a completed job: `{id}`, in a form `video[id]`. Files are not taken.",
            extra_json_schema={
                "anyOf": [
                    {"type": "string"},
                    {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
                ]
            },
        ),
    ]
    prompt: (
        Annotated[str, Meta(max_length=32_000, description="Recorded. SVD takes no text; the response has a warning.")]
        | UnsetType
    ) = UNSET
    model: (
        Annotated[
            str, Meta(max_length=200, description="One of `GET /models`, or any: the model of the extended video.")
        ]
        | UnsetType
    ) = UNSET
    seconds: (
        Annotated[float, Meta(gt=0, le=3_600, description="Length of the new part, to within 5 %.")] | UnsetType
    ) = UNSET
    user: Annotated[str, Meta(max_length=512, description="Accepted, without effect.")] | UnsetType = UNSET

    def video_id(self) -> str:
        """The id of the job to be extended.

        Raises:
            UnsupportedError: a file was sent.
            InvalidParameterError: there is no id.
        """
        reference = self.video
        if isinstance(reference, UploadedFile):
            raise UnsupportedError('Only videos made here can be extended: send video={"id": …}, not a file')
        video_id = reference.get("id") if isinstance(reference, dict) else reference
        if not isinstance(video_id, str):
            raise InvalidParameterError("video", 'video must be the id of a completed job, such as {"id": …}')
        return video_id

    def request(self, source: Job, model: Model | None) -> VideoRequest:
        """The requested video, which extends that of `source`, by `model` if one is named."""
        parameters = RequestParameters(**{**self.parameters(), "extend": source.id})
        return video_request(parameters, model=model.name if model else None)

    def notes(self, source: Job) -> dict[str, str]:
        """Values that are recorded with the job and do not influence the video."""
        values: dict[str, Any] = {PROMPT: self.prompt, MODEL: self.model, DIALECT: OPENAI}
        if self.seconds is not UNSET:
            alone = self.parameters().get("extend_as") == Delivery.ALONE
            values[SECONDS] = f"{self.seconds + (0 if alone else float(seconds_of(source))):g}"
        return {name: str(value) for name, value in values.items() if value is not UNSET}


class VideosQuery(Struct, kw_only=True):
    """Which page of the list."""

    after: Annotated[str, Meta(description="Id of the last job of the page before.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=100, description="Jobs on a page.")] = 20
    order: Annotated[Literal["asc", "desc"], Meta(description="By the time of submission.")] = "desc"


class Variant(StrEnum):
    """OpenAI's word for a file of the result; the formats are extensions."""

    VIDEO = "video"
    THUMBNAIL = "thumbnail"
    SPRITESHEET = "spritesheet"
    WEBM = "webm"
    WEBP = "webp"
    GIF = "gif"
    ZIP = "zip"

    @property
    def kind(self) -> ResultFile:
        """The file that it stands for."""
        if self is Variant.VIDEO:
            return Format.MP4
        return Still(self.value) if self.value in set(Still) else Format(self.value)


class ContentQuery(Struct, kw_only=True):
    """Which content."""

    variant: Annotated[
        Variant, Meta(description="The MP4, one frame as WebP, all frames as JPEG, or one of the job's `formats`.")
    ] = Variant.VIDEO


class VideoError(Struct):
    """Why the job failed; `cancelled` if it was."""

    code: str
    message: str


class VideoView(Struct, kw_only=True):
    """A job. Times are seconds since the epoch; `seconds` is the requested length (of an extended video, in
    all), `size` that of the video, as text.

    The fields after `remixed_from_video_id` are extensions.
    """

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: Annotated[int, Meta(ge=0, le=100)]
    created_at: int
    completed_at: int | None
    expires_at: int | None
    error: VideoError | None
    prompt: str | None
    seconds: str
    size: str
    remixed_from_video_id: None = None
    duration_seconds: Annotated[float, Meta(description="Length of the video; within 5 % of the requested `seconds`.")]
    queue_position: Annotated[int | None, Meta(description="1 is next; null unless queued.")]
    eta_seconds: Annotated[
        float | None, Meta(description="Estimated seconds until the job ends, if there is an estimate.")
    ]
    cached: Annotated[bool, Meta(description="Whether the video is a copy of an earlier job's.")]
    parameters: Annotated[dict[str, Any], Meta(description="SVD's parameters in effect, the seed included.")]
    webhook: Annotated[WebhookView | None, Meta(description="What became of telling the job's end.")]
    warnings: Annotated[list[str], Meta(description="Fields of the request that have no effect.")]

    @classmethod
    def of(cls, job: Job) -> Self:
        """How `job` is shown."""
        used, finished = job.parameters, job.state in {State.FINISHED, State.EXPIRED}
        return cls(
            id=job.id,
            model=job.model["name"],
            status=STATUSES[job.state],
            progress=100 if finished else int(job.progress.fraction * 100) if job.progress else 0,
            created_at=int(job.created_at),
            completed_at=int(job.ended_at) if finished and job.ended_at else None,
            expires_at=int(job.expires_at) if job.expires_at else None,
            error=_error(job),
            prompt=job.notes.get(PROMPT),
            seconds=seconds_of(job),
            duration_seconds=round(used.clip.seconds, 3),
            size="{}x{}".format(*used.output_size),
            queue_position=job.position,
            eta_seconds=job.eta_seconds,
            cached=job.cached_from is not None,
            parameters=used.to_dict(),
            webhook=WebhookView.of(job.webhook) if job.webhook else None,
            warnings=_warnings(job),
        )


class VideoList(Struct, kw_only=True):
    """A page of jobs; `last_id` is the next page's `after`."""

    object: Literal["list"] = "list"
    data: list[VideoView]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, jobs: list[Job], *, more: bool) -> Self:
        """How a page of `jobs` is shown."""
        ends = (jobs[0].id, jobs[-1].id) if jobs else (None, None)
        return cls(data=[VideoView.of(job) for job in jobs], has_more=more, first_id=ends[0], last_id=ends[1])


class DeletedVideo(Struct, kw_only=True):
    """That a job is deleted."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


def seconds_of(job: Job) -> str:
    """The requested length of the video, or else its length."""
    return job.notes.get(SECONDS) or f"{round(job.parameters.clip.seconds, 2):g}"


def _error(job: Job) -> VideoError | None:
    if job.state is State.CANCELLED:
        return VideoError("cancelled", "The job was cancelled.")
    if job.failure is None:
        return None
    code = BLOCKED if job.failure.code == ContentFilteredError.code else job.failure.code
    return VideoError(code, job.failure.message)


def _warnings(job: Job) -> list[str]:
    requested, used = job.notes.get(MODEL), job.model["name"]
    substituted = f"The video is made by the model {used}, not by {requested}."
    return [
        *(text for name, text in NO_EFFECT.items() if name in job.notes),
        *([substituted] if requested and requested != used else []),
    ]
