"""The table of the parameters that a request may carry.

Bounds, forms, the OpenAPI document, the options of the command line and the signature of the Python client are derived
from it. To add a parameter, add one line to `VideoParameters` (or to `RequestParameters`, if the video does not depend
on it) and use its value: a parameter of the video has a field of the same name in `jobs.parameters.Parameters`, which
has the values in effect.

It imports nothing but the standard library, since the client, which installs without the server, reads it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType
from typing import Annotated, Any, Final, Literal, TypedDict, get_args, get_origin, get_type_hints

MAX_SEED: Final = 2**32 - 1

#: Highest priority of a job; 0 is the lowest, and the default.
MAX_PRIORITY: Final = 2

#: Maximum number of jobs of one request.
MAX_GROUP: Final = 8

#: Maximum length of a webhook's URL, in characters.
MAX_URL: Final = 2_048


class Fit(StrEnum):
    """How an image is fitted to the video's size."""

    AUTO = "auto"  # crop; a portrait image gets a portrait video, unless a size was requested
    CROP = "crop"  # fill the frame, cut what does not fit
    PAD = "pad"  # show the whole image, on black


class Profile(StrEnum):
    """How a video is sampled; each model defines what the profile means for it."""

    EXACT = "exact"  # the model's own scheduler and steps
    DRAFT = "draft"  # in fewer steps


class Format(StrEnum):
    """File format of a video. The MP4 is always made, the others on request."""

    MP4 = "mp4"  # H.264
    WEBM = "webm"  # AV1
    WEBP = "webp"  # animated
    GIF = "gif"
    ZIP = "zip"  # the frames, as PNGs


#: The formats besides the MP4, for descriptions.
_FURTHER_FORMATS: Final = ", ".join(
    f"`{each}` (of PNGs)" if each is Format.ZIP else f"`{each}`" for each in Format if each is not Format.MP4
)


class Loop(StrEnum):
    """How the end of a video leads back to its beginning."""

    NONE = "none"
    PINGPONG = "pingpong"  # the same frames once more, backwards
    CROSSFADE = "crossfade"  # the end is blended into the beginning


class Delivery(StrEnum):
    """What the result of a job that extends another one consists of."""

    JOINED = "joined"  # the extended video and its continuation, as one video
    ALONE = "alone"  # the continuation


@dataclass(frozen=True)
class Spec:
    """One parameter's description, limits (inclusive) and default.

    Without a `default` the model decides; `seed` is random. The maxima of sizes and of the number of frames come from
    the model.
    """

    description: str
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: int | None = None
    max_length: int | None = None
    default: Any = None


class VideoParameters(TypedDict, total=False):
    """Parameters that the video depends on. A missing one, or `None`, has its default."""

    seed: Annotated[int | None, Spec("Same seed and settings, same video. Default: random.", 0, MAX_SEED)]
    num_frames: Annotated[int | None, Spec("Frames that the model generates at once.", 2)]
    num_inference_steps: Annotated[int | None, Spec("Denoising steps: more is slower and finer.", 1, 100)]
    fps: Annotated[int | None, Spec("Frames per second that the model is conditioned on.", 5, 30)]
    interpolate: Annotated[
        int | None,
        Spec("Frames shown for each generated one: 2 and 4 add frames between them by optical flow.", 1, 4, default=1),
    ]
    playback_fps: Annotated[
        int | None, Spec("Frames per second of the file. Default: `fps` times `interpolate`.", 1, 120)
    ]
    seconds: Annotated[
        float | None,
        Spec(
            "Length of the video, to within 5 %; decides `segments`, and what of frames and fps is left out.", 0.1, 3600
        ),
    ]
    segments: Annotated[
        int | None, Spec("Clips in a row, each of which continues from the last frame of the one before.", 1, 50)
    ]
    loop: Annotated[
        Loop | Literal["none", "pingpong", "crossfade"] | None,
        Spec("`pingpong` (forth and back) or `crossfade` (the end into the beginning) for a loop.", default=Loop.NONE),
    ]
    extend: Annotated[
        str | None,
        Spec("Id of a finished job whose video is continued from its last frame; instead of an image.", max_length=36),
    ]
    extend_as: Annotated[
        Delivery | Literal["joined", "alone"] | None,
        Spec(
            "Result of a job with `extend`: `joined`, the extended video and its continuation in one, or `alone`, the "
            "continuation.",
            default=Delivery.JOINED,
        ),
    ]
    motion_bucket_id: Annotated[int | None, Spec("Amount of motion: more is more.", 1, 255)]
    noise_aug_strength: Annotated[float | None, Spec("Noise added to the image: more is freer.", 0.0, 1.0)]
    min_guidance_scale: Annotated[float | None, Spec("Guidance at the first frame.", 1.0, 10.0)]
    max_guidance_scale: Annotated[float | None, Spec("Guidance at the last frame.", 1.0, 10.0)]
    decode_chunk_size: Annotated[int | None, Spec("Frames decoded at once: fewer need less memory.", 1, 50)]
    width: Annotated[int | None, Spec("Width in pixels that the model generates, a multiple of 8.", 64, multiple_of=8)]
    height: Annotated[
        int | None, Spec("Height in pixels that the model generates, a multiple of 8.", 64, multiple_of=8)
    ]
    size: Annotated[
        str | None,
        Spec(
            "Size of the file, such as `1280x720`. The model generates the nearest size that it makes well.",
            max_length=9,
        ),
    ]
    output_width: Annotated[
        int | None, Spec("Width of the file in pixels, even: what is generated is scaled.", 16, 4096, multiple_of=2)
    ]
    output_height: Annotated[
        int | None, Spec("Height of the file in pixels, even: what is generated is scaled.", 16, 4096, multiple_of=2)
    ]
    fit: Annotated[
        Fit | Literal["auto", "crop", "pad"] | None,
        Spec("`crop`, `pad`, or `auto`: crop, and portrait stays portrait.", default=Fit.AUTO),
    ]
    profile: Annotated[
        Profile | Literal["exact", "draft"] | None,
        Spec(
            "`exact`, or `draft`: fewer steps, sooner and coarser. `GET /models` lists the profiles.",
            default=Profile.EXACT,
        ),
    ]
    formats: Annotated[
        Sequence[Format | str] | None,
        Spec(f"Files to make beside the MP4, separated by commas: {_FURTHER_FORMATS}."),
    ]


class RequestParameters(VideoParameters, total=False):
    """All parameters of a request: those of the video, and how its job is handled.

    The client has it under its public name, `svd_service.client.Parameters`.
    """

    model: Annotated[str | None, Spec("Name of one of `GET /models`. Default: the first of them.", max_length=200)]
    priority: Annotated[
        int | None,
        Spec("Higher is sooner; an API key may have a lower maximum of its own.", 0, MAX_PRIORITY, default=0),
    ]
    webhook_url: Annotated[
        str | None,
        Spec(
            "An http(s) URL of the public Internet that is notified when the job ends (docs/webhooks.md). Default: the "
            "webhook URL of the caller's API key, if it has one.",
            max_length=MAX_URL,
        ),
    ]


@dataclass(frozen=True)
class Parameter:
    """One row of the table. `kind` is the type of a value, or of each of several if `is_list`."""

    name: str
    kind: type
    is_list: bool
    spec: Spec


def _rows(table: type) -> dict[str, Parameter]:
    return {name: _row(name, hint) for name, hint in get_type_hints(table, include_extras=True).items()}


def _row(name: str, hint: Any) -> Parameter:
    union, spec = get_args(hint)
    # Of `Fit | Literal[…] | None` the first type is the one that values have inside the service.
    kind = next(each for each in get_args(union) if each is not NoneType)
    if get_origin(kind) is Sequence:
        (elements,) = get_args(kind)
        return Parameter(name, get_args(elements)[0], is_list=True, spec=spec)
    return Parameter(name, kind, is_list=False, spec=spec)


#: The table, by name.
TABLE: Final = _rows(RequestParameters)

#: Names of the parameters that the video depends on.
OF_THE_VIDEO: Final = tuple(VideoParameters.__annotations__)

#: Parameters that are only translated to others, by the model.
DERIVED_FROM: Final = ("seconds", "size")

#: Minimum and maximum of the numbers whose limits are the same for every model.
BOUNDS: Final[dict[str, tuple[float, float]]] = {
    name: (row.spec.minimum, row.spec.maximum)
    for name, row in TABLE.items()
    if name in OF_THE_VIDEO and row.spec.minimum is not None and row.spec.maximum is not None
}
