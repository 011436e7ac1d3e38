"""What a caller may ask for, its bounds, and how what was not said is filled in from the model's defaults."""

import secrets
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Self

from svd_service.errors import InvalidParameterError
from svd_service.jobs.model import DRAFT, EXACT, Model

MAX_SEED: Final = 2**32 - 1

#: Greatest priority of a job; 0 is that of who asks for none. It says when, not what, so it is no parameter.
MAX_PRIORITY: Final = 2

#: SVD's usual bounds, least and greatest, both included (the pipeline's documentation); sizes and the number of
#: frames are bounded by each model.
BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "seed": (0, MAX_SEED),
    "num_inference_steps": (1, 100),
    "fps": (5, 30),
    "motion_bucket_id": (1, 255),
    "noise_aug_strength": (0.0, 1.0),
    "min_guidance_scale": (1.0, 10.0),
    "max_guidance_scale": (1.0, 10.0),
    "decode_chunk_size": (1, 50),
}


class Fit(StrEnum):
    """How a picture is brought to the video's size."""

    AUTO = "auto"  # crop; a portrait picture gets a portrait video, unless a size was asked for
    CROP = "crop"  # fill the frame, cut what hangs over
    PAD = "pad"  # show all of the picture, on black


class Profile(StrEnum):
    """How a video is sampled; a model says what that means for it."""

    EXACT = EXACT  # as the model itself would
    DRAFT = DRAFT  # in fewer steps


class Format(StrEnum):
    """What a video comes as. The MP4 is always made, the others where they were asked for."""

    MP4 = "mp4"  # H.264
    WEBM = "webm"  # AV1
    WEBP = "webp"  # animated
    GIF = "gif"
    ZIP = "zip"  # the frames, as PNGs


#: Media types of the formats, the MP4's first.
MEDIA_TYPES: Final[dict[Format, str]] = {
    Format.MP4: "video/mp4",
    Format.WEBM: "video/webm",
    Format.WEBP: "image/webp",
    Format.GIF: "image/gif",
    Format.ZIP: "application/zip",
}


@dataclass(frozen=True)
class Parameters:
    """Effective values of one job; nothing is left open. Sizes in pixels, `fps` in frames per second.

    `fit` is `crop` or `pad`: `auto` is decided when the picture's shape is known. `formats` are those beside the MP4,
    in the order of `Format`.
    """

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
    profile: Profile = Profile.EXACT  # jobs of a time before there were any have none
    formats: tuple[Format, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        profile = Profile(values.get("profile", Profile.EXACT))
        formats = tuple(Format(name) for name in values.get("formats", ()))
        return cls(**{**values, "fit": Fit(values["fit"]), "profile": profile, "formats": formats})


@dataclass(frozen=True)
class Request:
    """What a caller said; what is `None` is the model's choice, or chance's for `seed`.

    No `model` is the service's own.
    """

    model: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    fps: int | None = None
    motion_bucket_id: int | None = None
    noise_aug_strength: float | None = None
    min_guidance_scale: float | None = None
    max_guidance_scale: float | None = None
    decode_chunk_size: int | None = None
    fit: Fit = Fit.AUTO
    profile: Profile = Profile.EXACT
    formats: tuple[Format, ...] = ()

    def resolve(self, model: Model, picture_size: tuple[int, int]) -> Parameters:
        """Effective parameters for a picture of `picture_size` (width, height in pixels, upright).

        Raises:
            InvalidParameterError: a value is out of bounds, or two contradict each other.
        """
        said = {name: value for name, value in asdict(self).items() if value is not None and name != "model"}
        if self.profile not in model.profiles:
            offered = ", ".join(model.profiles)
            raise InvalidParameterError("profile", f"profile: this model offers {offered}; got {self.profile}")
        steps = model.profiles[self.profile].num_inference_steps
        values = {**asdict(model.defaults), "num_inference_steps": steps, **said}
        values["formats"] = tuple(kind for kind in Format if kind in self.formats and kind is not Format.MP4)
        if self.seed is None:
            values["seed"] = secrets.randbelow(MAX_SEED + 1)
        if self.fit is Fit.AUTO:
            values["fit"] = Fit.CROP
            portrait = picture_size[1] > picture_size[0]
            if self.width is None and self.height is None and portrait != (values["height"] > values["width"]):
                values["width"], values["height"] = values["height"], values["width"]
        # Whoever sets only the one end of the guidance gets the other end moved along, not an error.
        if self.max_guidance_scale is None:
            values["max_guidance_scale"] = max(values["max_guidance_scale"], values["min_guidance_scale"])
        if self.min_guidance_scale is None:
            values["min_guidance_scale"] = min(values["min_guidance_scale"], values["max_guidance_scale"])
        _check(values, model)
        return Parameters(**values)


def _check(values: dict[str, Any], model: Model) -> None:
    bounds = {**BOUNDS, **asdict(model.bounds)}
    for name, (least, most) in bounds.items():
        # `not (a <= x <= b)` also refuses NaN.
        if not least <= values[name] <= most:
            raise InvalidParameterError(name, f"{name} must lie between {least} and {most}; got {values[name]}")
    for name in ("width", "height"):
        if values[name] % 8:
            raise InvalidParameterError(name, f"{name} must be a multiple of 8; got {values[name]}")
    if values["min_guidance_scale"] > values["max_guidance_scale"]:
        raise InvalidParameterError("min_guidance_scale", "min_guidance_scale must not exceed max_guidance_scale")
