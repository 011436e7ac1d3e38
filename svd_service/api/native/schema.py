"""The shapes of the native dialect, in and out. They are the validation and the OpenAPI document alike."""

import re
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from svd_service.api.http import forms
from svd_service.api.http.parameter_forms import ParameterForm, takes_parameters
from svd_service.errors import InvalidParameterError
from svd_service.jobs.groups import Seeds
from svd_service.jobs.model import Model
from svd_service.parameters import MAX_GROUP, MAX_SEED, Format
from svd_service.presentation import JobView, ModelView

#: A seed, and several, as text.
_SEED: Final = re.compile(r"[0-9]{1,10}")
_SEEDS: Final = re.compile(r"^ *[0-9]{1,10}( *, *[0-9]{1,10}){0,7} *$")


@takes_parameters()
class GenerateForm(ParameterForm, kw_only=True, forbid_unknown_fields=True):
    """An image, or the job to `extend`, and the parameters of the video, all of them optional."""

    image: (
        Annotated[
            Any,
            Meta(
                description="The image: JPEG, PNG, WebP and others; not animated. A file, or a data URL. Required, "
                "unless `extend` is sent.",
                extra_json_schema={"type": "string", "format": "binary"},
            ),
        ]
        | UnsetType
    ) = UNSET
    n: (
        Annotated[
            int, Meta(ge=1, le=MAX_GROUP, description="Number of videos. Beyond one, the answer is a group of jobs.")
        ]
        | UnsetType
    ) = UNSET
    seeds: Annotated[
        Any,
        Meta(
            description="Seeds, separated by commas: a group with a video of each.",
            extra_json_schema={
                "anyOf": [
                    {"type": "string", "pattern": _SEEDS.pattern},
                    {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
                        "minItems": 1,
                        "maxItems": MAX_GROUP,
                        "uniqueItems": True,
                    },
                ]
            },
        ),
    ] = UNSET

    def group(self) -> Seeds | None:
        """The videos of the group that is requested; `None`: a single video.

        Raises:
            InvalidParameterError: `n`, `seed` and `seeds` contradict each other, or are out of bounds.
        """
        number = None if self.n is UNSET else self.n
        if self.seeds is UNSET and (number or 1) == 1:
            return None
        seed = self.parameters().get("seed")
        return Seeds.of(number, None if self.seeds is UNSET else _seeds(self.seeds), seed)


def _seeds(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    texts = [part.strip() for each in values for part in str(each).split(",")] if len(values) <= MAX_GROUP else []
    if not texts or any(isinstance(each, bool) for each in values) or not all(map(_SEED.fullmatch, texts)):
        raise InvalidParameterError("seeds", f"seeds must be 1 to {MAX_GROUP} whole numbers; got {forms.shown(value)}")
    return [int(text) for text in texts]


class GenerateBody(GenerateForm, kw_only=True, forbid_unknown_fields=True):
    """The same as a JSON object, which has no files."""

    image: (
        Annotated[
            str,
            Meta(
                description="The image: a data URL. An http(s) URL where the service fetches them "
                "(`SVD_FETCH_URLS`). Required, unless `extend` is sent."
            ),
        ]
        | UnsetType
    ) = UNSET


class ResultQuery(Struct, kw_only=True):
    """Which of the video's files."""

    format: Annotated[Format, Meta(description="`mp4`, or one of the `formats` of the job.")] = Format.MP4


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
                        {"$ref": "#/components/schemas/GroupView"},
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


class LimitsView(Struct):
    """Limits of the service for every model: length of a video in seconds, and its area in pixels."""

    seconds: float
    output_pixels: int


class ModelsView(Struct):
    """The models that are served, and the service's limits."""

    models: list[Model]
    limits: LimitsView


class WorkerView(Struct):
    """A worker process that holds its model. `ready_since` in seconds since the epoch; `memory` is how its device's is
    used (`SVD_MEMORY`), `host` on a CPU; `profiles` are those whose jobs it takes, none: all; `content_credentials`
    shows whether it signs, and in whose name.
    """

    worker: str
    device: str
    model: str
    trained: bool
    ready_since: float
    memory: str
    profiles: list[str] = []
    content_credentials: str = ""


class PreparingView(Struct):
    """A worker process that is not ready yet, what it is doing, and since when (seconds since the epoch)."""

    worker: str
    doing: str
    since: float


class HealthView(Struct, omit_defaults=True):
    """The state of the service. `status`: ok, degraded (jobs may wait, or cannot be submitted) or unavailable (Redis).

    `reasons` has the codes of what is wrong, and `message` explains them. Holders of a key and callers on the service's
    machine see its `workers` and the causes of faults; others do not.
    """

    status: str
    redis: bool
    workers_ready: int
    workers: list[WorkerView]
    workers_preparing: list[PreparingView] = []
    model: ModelView | None = None
    artifacts: bool | None = None
    content_credentials: Annotated[
        str | None,
        Meta(
            description="How the ready workers mark videos: `signed, signer unknown` (a self-signed certificate), "
            "`signed by NAME`, `off` or `not installed`; null while no worker is ready."
        ),
    ] = None
    message: str | None = None
    reasons: list[str] = []


class ErrorDetail(Struct, omit_defaults=True):
    """What went wrong: a stable `code`, a sentence, and the invalid `parameter` if there is one."""

    code: str
    message: str
    parameter: str | None = None


class ErrorView(Struct, omit_defaults=True):
    """The one shape of an error; `status` is the job's, where there is one."""

    error: ErrorDetail
    status: str | None = None
