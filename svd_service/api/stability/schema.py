"""The shapes of Stability's image-to-video API, in and out."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from svd_service.api.http.forms import UploadedFile
from svd_service.api.http.options import Formats, WebhookURL, formats_of
from svd_service.errors import PictureSizeError
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Format, Parameters, Profile, Request

#: The sizes of a picture that Stability takes: width and height in pixels.
SIZES: Final = ((1024, 576), (576, 1024), (768, 768))

Image = Annotated[UploadedFile, Meta(description="The picture: JPEG or PNG of 1024x576, 576x1024 or 768x768 pixels.")]
Seed = Annotated[int, Meta(ge=0, le=4_294_967_294, description="Same seed, same video; 0: random.")]
Scale = Annotated[
    float, Meta(ge=0, le=10, description="How closely to keep to the picture: becomes `max_guidance_scale`.")
]
Sampled = Annotated[Profile, Meta(description="Ours: `exact`, or `draft` for fewer steps, sooner and coarser.")]
Motion = Annotated[int, Meta(ge=1, le=255, description="How much motion: more is more.")]


class GenerationForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v2beta/image-to-video`."""

    image: Image
    seed: Seed = 0
    cfg_scale: Scale = 1.8
    motion_bucket_id: Motion = 127
    profile: Sampled = Profile.EXACT
    formats: Formats = UNSET  # not Stability's: see `ResultQuery`
    webhook_url: WebhookURL | UnsetType = UNSET

    def request(self) -> "SizedRequest":
        """What the caller said, as the use cases know it.

        Below 1 there is no guidance to be less of, so that `cfg_scale` is taken for 1 there; the first frame has the
        model's least guidance, as in SVD itself.
        """
        return SizedRequest(
            seed=self.seed or None,
            max_guidance_scale=max(1.0, self.cfg_scale),
            motion_bucket_id=self.motion_bucket_id,
            profile=self.profile,
            formats=formats_of(self.formats),
        )


class AlphaGenerationForm(GenerationForm, kw_only=True, forbid_unknown_fields=True):
    """`POST /v2alpha/generation/image-to-video`: the same with the defaults of its time."""

    cfg_scale: Scale = 2.5
    motion_bucket_id: Motion = 40


@dataclass(frozen=True)
class SizedRequest(Request):
    """A request whose picture decides on the video's size, and must have one of `SIZES`."""

    def resolve(self, model: Model, picture_size: tuple[int, int]) -> Parameters:
        """As `Request` does.

        Raises:
            PictureSizeError: the picture has another size.
            InvalidParameterError: as `Request` does.
        """
        if picture_size not in SIZES:
            sizes = ", ".join(f"{width}x{height}" for width, height in SIZES)
            raise PictureSizeError(f"image: must be one of {sizes}; got {picture_size[0]}x{picture_size[1]}")
        width, height = video_size(picture_size, model)
        return Request.resolve(replace(self, width=width, height=height), model, picture_size)


def video_size(size: tuple[int, int], model: Model) -> tuple[int, int]:
    """The size of the video of a picture of `size`: the same, if the model makes such.

    Else it is that of the same shape whose area is nearest the area that the model makes by default; a model whose
    bounds leave no such shape gets its own size, and the picture is cropped.
    """
    if _within(size, model):
        return size
    # The least multiple of the shape with sides of whole eights.
    shape = Fraction(*size)
    unit = (8 * shape.numerator, 8 * shape.denominator)
    usual = (model.defaults.width, model.defaults.height)
    sizes = [(unit[0] * times, unit[1] * times) for times in range(1, max(model.bounds.width) // unit[0] + 1)]
    fitting = [each for each in sizes if _within(each, model)]
    return min(fitting, key=lambda each: abs(each[0] * each[1] - usual[0] * usual[1]), default=usual)


def _within(size: tuple[int, int], model: Model) -> bool:
    bounds = (model.bounds.width, model.bounds.height)
    return all(least <= side <= most for side, (least, most) in zip(size, bounds, strict=True))


class ResultQuery(Struct, kw_only=True):
    """Which of the video's files; Stability's API knew none but the MP4."""

    format: Annotated[Format, Meta(description="One of the `formats` that were asked for.")] = Format.MP4


class Generation(Struct):
    """The id to ask for the result with."""

    id: Annotated[str, Meta(min_length=64, max_length=64)]


class PendingGeneration(Struct):
    """That the result is not there yet."""

    id: str
    status: Literal["in-progress"] = "in-progress"


class GenerationResult(Struct):
    """The video as Base64. Nothing is filtered here, so that `finish_reason` is always the same."""

    video: str
    seed: int
    finish_reason: Literal["SUCCESS"] = "SUCCESS"


class StabilityError(Struct):
    """The one shape of an error; `id` is that of the request."""

    id: str
    name: str
    errors: list[str]
