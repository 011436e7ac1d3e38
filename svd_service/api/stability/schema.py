"""The shapes of Stability's image-to-video API, in and out."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from svd_service.api.http.forms import UploadedFile
from svd_service.api.http.parameter_forms import ParameterForm, takes_parameters
from svd_service.jobs.parameters import VideoRequest
from svd_service.parameters import Format

#: Image sizes that Stability's API accepts: width and height in pixels.
SIZES: Final = ((1024, 576), (576, 1024), (768, 768))

#: Stability's reason for the end of a generation that its moderation rejects.
FILTERED: Final = "CONTENT_FILTERED"

Image = Annotated[UploadedFile, Meta(description="The image: JPEG or PNG of 1024x576, 576x1024 or 768x768 pixels.")]
Seed = Annotated[int, Meta(ge=0, le=4_294_967_294, description="Same seed, same video; 0: random.")]
Scale = Annotated[
    float, Meta(ge=0, le=10, description="How closely to follow the image: becomes `max_guidance_scale`.")
]
Motion = Annotated[int, Meta(ge=1, le=255, description="Amount of motion: more is more.")]


@takes_parameters("profile", "formats", "webhook_url")  # these are not Stability's own
class GenerationForm(ParameterForm, kw_only=True, forbid_unknown_fields=True):
    """`POST /v2beta/image-to-video`."""

    image: Image
    seed: Seed = 0
    cfg_scale: Scale = 1.8
    motion_bucket_id: Motion = 127

    def request(self) -> VideoRequest:
        """The requested video.

        A `cfg_scale` below 1 counts as 1, which is no guidance. The first frame has the model's minimum guidance, as in
        SVD itself.
        """
        parameters = self.parameters()
        return VideoRequest(
            image_sizes=SIZES,
            seed=self.seed or None,
            max_guidance_scale=max(1.0, self.cfg_scale),
            motion_bucket_id=self.motion_bucket_id,
            profile=parameters.get("profile"),
            formats=parameters.get("formats"),
        )


class AlphaGenerationForm(GenerationForm, kw_only=True, forbid_unknown_fields=True):
    """`POST /v2alpha/generation/image-to-video`: the same with the defaults of its time."""

    cfg_scale: Scale = 2.5
    motion_bucket_id: Motion = 40


class GenerationQuery(Struct, kw_only=True):
    """Which of the video's files; Stability's API knew none but the MP4."""

    format: Annotated[Format, Meta(description="`mp4`, or one of the `formats` of the request.")] = Format.MP4


class Generation(Struct):
    """The id with which to request the result."""

    id: Annotated[str, Meta(min_length=64, max_length=64)]


class PendingGeneration(Struct):
    """That the result is not there yet."""

    id: str
    status: Literal["in-progress"] = "in-progress"


class GenerationResult(Struct):
    """The video as Base64. A video that moderation rejects is an error (403), so `finish_reason` is always this."""

    video: str
    seed: int
    finish_reason: Literal["SUCCESS"] = "SUCCESS"


class FilteredGeneration(Struct):
    """The error of an image or a video that moderation rejects."""

    id: str
    name: Literal["content_moderation"] = "content_moderation"
    errors: list[str] = []
    finish_reason: Literal["CONTENT_FILTERED"] = FILTERED


class StabilityError(Struct):
    """The one shape of an error; `id` is that of the request."""

    id: str
    name: str
    errors: list[str]
