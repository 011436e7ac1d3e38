"""SVD's own parameters as every dialect takes them from a caller: all of them optional, with their usual bounds."""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from svd_service.errors import InvalidParameterError
from svd_service.jobs.parameters import BOUNDS, MAX_PRIORITY, MAX_SEED, Fit, Format, Profile, Request
from svd_service.webhooks.signing import MAX_URL

#: Where a job's end is told.
WebhookURL = Annotated[
    str,
    Meta(
        max_length=MAX_URL,
        description="An http(s) URL of the public Internet: the job's end is told there (docs/webhooks.md). Default: "
        "that of the caller's key, if it has one.",
    ),
]


def _bounds(name: str) -> dict[str, float]:
    least, most = BOUNDS[name]
    return {"ge": least, "le": most}


_ANY_FORMAT: Final = "|".join(Format)

#: A list of formats as a caller writes it: `webp,gif`, or as many values.
Formats = Annotated[
    # As a union of text and list, with a pattern, msgspec 0.22 frees something twice: `formats_of` looks at it instead.
    Any,
    Meta(
        description="What to make beside the MP4, with commas between: `webm`, `webp`, `gif`, `zip` (of PNGs).",
        extra_json_schema={
            "anyOf": [
                # A form's empty field is one that was left out.
                {"type": "string", "pattern": f"^( *({_ANY_FORMAT})( *, *({_ANY_FORMAT}))* *)?$"},
                {"type": "array", "items": {"type": "string", "enum": list(Format)}},
            ]
        },
    ),
]


def formats_of(said: object) -> tuple[Format, ...]:
    """The formats that a caller named; none where nothing was said.

    Raises:
        InvalidParameterError: there is no such format.
    """
    if said is UNSET:
        return ()
    # As a form has it several times, a value may itself have commas.
    texts = said if isinstance(said, list) else [said]
    names = [name.strip() if isinstance(text, str) else "" for text in texts for name in str(text).split(",")]
    unknown = [name for name in names if name not in set(Format)]
    if unknown:
        raise InvalidParameterError("formats", f"formats: any of {', '.join(Format)}; got {said!r}")
    return tuple(map(Format, names))


class Options(Struct, kw_only=True, forbid_unknown_fields=True):
    """SVD's parameters; what is left out is the model's choice."""

    seed: (
        Annotated[int, Meta(ge=0, le=MAX_SEED, description="Same seed and settings, same video. Default: random.")]
        | UnsetType
    ) = UNSET
    num_frames: Annotated[int, Meta(ge=2, description="Frames of the video.")] | UnsetType = UNSET
    num_inference_steps: (
        Annotated[int, Meta(**_bounds("num_inference_steps"), description="Denoising steps: more is slower and finer.")]
        | UnsetType
    ) = UNSET
    fps: (
        Annotated[
            int, Meta(**_bounds("fps"), description="Frames per second, of the video and of the model's conditioning.")
        ]
        | UnsetType
    ) = UNSET
    motion_bucket_id: (
        Annotated[int, Meta(**_bounds("motion_bucket_id"), description="How much motion: more is more.")] | UnsetType
    ) = UNSET
    noise_aug_strength: (
        Annotated[
            float, Meta(**_bounds("noise_aug_strength"), description="Noise added to the picture: more is freer.")
        ]
        | UnsetType
    ) = UNSET
    min_guidance_scale: (
        Annotated[float, Meta(**_bounds("min_guidance_scale"), description="Guidance at the first frame.")] | UnsetType
    ) = UNSET
    max_guidance_scale: (
        Annotated[float, Meta(**_bounds("max_guidance_scale"), description="Guidance at the last frame.")] | UnsetType
    ) = UNSET
    decode_chunk_size: (
        Annotated[
            int, Meta(**_bounds("decode_chunk_size"), description="Frames decoded at once: fewer need less memory.")
        ]
        | UnsetType
    ) = UNSET
    width: Annotated[int, Meta(ge=64, multiple_of=8, description="Width in pixels, a multiple of 8.")] | UnsetType = (
        UNSET
    )
    height: Annotated[int, Meta(ge=64, multiple_of=8, description="Height in pixels, a multiple of 8.")] | UnsetType = (
        UNSET
    )
    fit: Annotated[Fit, Meta(description="`crop`, `pad`, or `auto`: crop, and portrait stays portrait.")] = Fit.AUTO
    profile: Annotated[
        Profile, Meta(description="`exact`, or `draft`: fewer steps, sooner and coarser. `GET /models` tells more.")
    ] = Profile.EXACT

    formats: Formats = UNSET

    priority: Annotated[
        int, Meta(ge=0, le=MAX_PRIORITY, description="Greater is sooner; a key may have a lower bound of its own.")
    ] = 0

    webhook_url: WebhookURL | UnsetType = UNSET

    def request(self) -> Request:
        """What the caller said of the video, as the use cases know it."""
        fields = {*Options.__struct_fields__} - {"priority", "formats", "webhook_url"}
        said = {name: value for name in fields if (value := getattr(self, name)) is not UNSET}
        return Request(**said, formats=formats_of(self.formats))
