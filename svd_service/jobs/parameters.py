"""The effective values of a job's parameters, derived from a request, the model and the image."""

import secrets
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final, Self, Unpack

from svd_service.errors import ImageSizeError, InvalidParameterError
from svd_service.jobs.clip import TOLERANCE, Clip, VideoLimits, resolve_clip
from svd_service.jobs.extension import Extended
from svd_service.jobs.model import Model, Size
from svd_service.parameters import (
    BOUNDS,
    DERIVED_FROM,
    MAX_SEED,
    TABLE,
    Delivery,
    Fit,
    Format,
    Loop,
    Profile,
    VideoParameters,
)

#: Media types of the formats, the MP4's first.
MEDIA_TYPES: Final[dict[Format, str]] = {
    Format.MP4: "video/mp4",
    Format.WEBM: "video/webm",
    Format.WEBP: "image/webp",
    Format.GIF: "image/gif",
    Format.ZIP: "application/zip",
}


NO_LIMITS: Final = VideoLimits()


@dataclass(frozen=True)
class Parameters:
    """Effective values of one job; all are set. Sizes in pixels, `fps` in frames per second.

    `width` and `height` are generated, and scaled to `output_width` and `output_height`, which default to the same
    values. The model is conditioned on `fps`, the file plays at `playback_fps`. `fit` is `crop` or `pad`: `auto` is
    decided when the image's shape is known. `formats` are those beside the MP4, in the order of `Format`. `extend` is
    the job whose video is continued, of which `extended_frames` frames come first: all of them, or none.
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
    profile: Profile = Profile.EXACT  # missing in the records of older versions
    formats: tuple[Format, ...] = ()
    interpolate: int = 1
    playback_fps: int = 0
    segments: int = 1
    loop: Loop = Loop.NONE
    output_width: int = 0
    output_height: int = 0
    extend: str | None = None
    extend_as: Delivery = Delivery.JOINED
    extended_frames: int = 0

    def __post_init__(self) -> None:
        # Missing in the records of older versions.
        usual = {
            "playback_fps": self.fps * self.interpolate,
            "output_width": self.width,
            "output_height": self.height,
        }
        for name, value in usual.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)

    @property
    def clip(self) -> Clip:
        """The number of frames and the length of the video."""
        return Clip(
            self.num_frames,
            self.segments,
            self.interpolate,
            self.playback_fps,
            self.loop,
            continues=self.extend is not None,
            before=self.extended_frames,
        )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each segment."""
        return tuple((self.seed + number) % (MAX_SEED + 1) for number in range(self.segments))

    @property
    def output_size(self) -> Size:
        """Width and height of the file in pixels."""
        return self.output_width, self.output_height

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON has them."""
        return asdict(self)

    def to_record(self) -> dict[str, Any]:
        """The values as the ledger stores them: without optional ones at their default.

        A worker of an older release fails a job with a parameter that it does not know. During an upgrade it can still
        run every job that uses no new parameter.
        """
        values = self.to_dict()
        required = {name: value for name, value in values.items() if name in _REQUIRED}
        defaults = Parameters.from_dict(required).to_dict()
        return required | {name: value for name, value in values.items() if value != defaults[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict` and of `to_record`."""
        profile = Profile(values.get("profile", Profile.EXACT))
        formats = tuple(Format(name) for name in values.get("formats", ()))
        loop, delivery = Loop(values.get("loop", Loop.NONE)), Delivery(values.get("extend_as", Delivery.JOINED))
        kinds = {"profile": profile, "formats": formats, "loop": loop, "extend_as": delivery}
        return cls(**{**values, "fit": Fit(values["fit"]), **kinds})


class VideoRequest:
    """The video that a caller requests.

    Args:
        model: name of the model; `None` stands for the service's own.
        image_sizes: if given, the only allowed sizes of the image (width, height in pixels). The video then gets the
            image's shape.
        values: parameters; a missing one, or `None`, has its default.
    """

    def __init__(
        self, model: str | None = None, *, image_sizes: Collection[Size] = (), **values: Unpack[VideoParameters]
    ) -> None:
        self.model = model
        self.image_sizes = image_sizes
        given = {name: value for name, value in values.items() if value is not None}
        self.values: Final = VideoParameters(**given)  # type: ignore[typeddict-item]

    @property
    def profile(self) -> Profile:
        """The requested profile."""
        return Profile(self.values.get("profile") or Profile.EXACT)

    @property
    def extend(self) -> str | None:
        """The job whose video is to be continued."""
        extend: str | None = self.values.get("extend")
        return extend

    def resolve(
        self, model: Model, image_size: Size, limits: VideoLimits = NO_LIMITS, extended: Extended | None = None
    ) -> Parameters:
        """Effective parameters for an image of `image_size` (width, height in pixels, upright).

        A video that continues another one, `extended`, has its parameters, unless the request sets others; the image
        is that video's last frame.

        Raises:
            ImageSizeError: the image has none of the `image_sizes`.
            InvalidParameterError: a value is out of bounds, or two contradict each other.
        """
        inherited = extended.inherited(self.values) if extended else {}
        profile = self.values.get("profile") or inherited.get("profile") or Profile.EXACT
        if profile not in model.profiles:
            offered = ", ".join(model.profiles)
            raise InvalidParameterError("profile", f"profile: this model offers {offered}; got {profile}")
        values = {
            **{name: row.spec.default for name, row in TABLE.items() if name in _FIELDS},
            **asdict(model.defaults),
            "num_inference_steps": model.profiles[profile].num_inference_steps,
            "extended_frames": 0,
            **inherited,
            **self._given(model, inherited),
            **self._seed_and_formats(inherited),
        }
        values.update(self._frame(values, model, image_size))
        values.update(_output(values))
        values.update(self._guidance(values))
        values.update(_playback(values))
        _check(values, model)
        if extended:
            extended.check(values, self.values)
        parameters = Parameters(**values)
        self._check_limits(parameters, limits)
        return parameters

    def _given(self, model: Model, inherited: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the request, with `seconds` and `size` translated to the other parameters."""
        given: dict[str, Any] = {name: value for name, value in self.values.items() if name not in DERIVED_FROM}
        # A continuation has the rate and the size of the video before it, and as many frames as its length requires.
        known = {name: inherited[name] for name in ("fps", "interpolate", "playback_fps") if name in inherited} | given
        size = None if inherited else self.values.get("size")
        return {**given, **resolve_clip(model, self.values.get("seconds"), size, known)}

    def _check_limits(self, parameters: Parameters, limits: VideoLimits) -> None:
        length, (width, height) = parameters.clip.seconds, parameters.output_size
        if length > limits.seconds * (1 + TOLERANCE):
            name = "seconds" if "seconds" in self.values else "segments"
            raise InvalidParameterError(
                name, f"{name}: the video would last {length:.1f} s; the maximum is {limits.seconds:g} s"
            )
        if width * height > limits.pixels:
            name = "size" if "size" in self.values else "output_width"
            raise InvalidParameterError(
                name, f"{name}: {width}x{height} are {width * height:,} pixels; the maximum is {limits.pixels:,}"
            )

    def _seed_and_formats(self, inherited: Mapping[str, Any]) -> dict[str, Any]:
        seed, formats = self.values.get("seed"), self.values.get("formats", inherited.get("formats")) or ()
        return {
            "seed": secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
            "formats": tuple(kind for kind in Format if kind in formats and kind is not Format.MP4),
        }

    def _frame(self, values: dict[str, Any], model: Model, image_size: Size) -> dict[str, Any]:
        """Size and fit of the video."""
        width, height, fit = values["width"], values["height"], Fit(values["fit"])
        if self.image_sizes:
            if image_size not in self.image_sizes:
                sizes = ", ".join(f"{width}x{height}" for width, height in self.image_sizes)
                raise ImageSizeError(f"image: must be one of {sizes}; got {image_size[0]}x{image_size[1]}")
            width, height = model.size_of_shape(image_size)
        elif fit is Fit.AUTO and not {"width", "height", "size"} & self.values.keys():
            shape = self.values.get("output_width"), self.values.get("output_height")
            portrait = shape[1] > shape[0] if all(shape) else image_size[1] > image_size[0]
            if portrait != (height > width):
                width, height = height, width
        return {"width": width, "height": height, "fit": Fit.CROP if fit is Fit.AUTO else fit}

    def _guidance(self, values: dict[str, Any]) -> dict[str, float]:
        """Both ends of the guidance. If a caller sets only one, the other is adjusted instead of being an error."""
        minimum, maximum = values["min_guidance_scale"], values["max_guidance_scale"]
        if "max_guidance_scale" not in self.values:
            maximum = max(maximum, minimum)
        if "min_guidance_scale" not in self.values:
            minimum = min(minimum, maximum)
        return {"min_guidance_scale": minimum, "max_guidance_scale": maximum}


def _output(values: dict[str, Any]) -> dict[str, int]:
    """Size of the file. If a caller sets one side only, the other keeps the aspect ratio."""
    width, height = values.get("output_width"), values.get("output_height")
    shape = values["width"] / values["height"]
    if width is None and height is None:
        width, height = values["width"], values["height"]
    elif width is None:
        width = 2 * round(height * shape / 2)
    elif height is None:
        height = 2 * round(width / shape / 2)
    return {"output_width": width, "output_height": height}


def _playback(values: dict[str, Any]) -> dict[str, Any]:
    """Defaults for the length: one segment, played at the rate that the model is conditioned on."""
    usual = values["fps"] * values["interpolate"]
    return {
        "segments": 1 if values["segments"] is None else values["segments"],
        "playback_fps": usual if values["playback_fps"] is None else values["playback_fps"],
        "loop": Loop(values["loop"]),
        "extend_as": Delivery(values["extend_as"]),
    }


_FIELDS: Final = frozenset(Parameters.__dataclass_fields__)
_REQUIRED: Final = frozenset(each.name for each in fields(Parameters) if each.default is MISSING)


def _check(values: dict[str, Any], model: Model) -> None:
    bounds = {**asdict(model.bounds), **{name: limits for name, limits in BOUNDS.items() if name in _FIELDS}}
    for name, (minimum, maximum) in bounds.items():
        # `not (a <= x <= b)` also rejects NaN.
        if not minimum <= values[name] <= maximum:
            raise InvalidParameterError(name, f"{name} must lie between {minimum} and {maximum}; got {values[name]}")
    for name, row in TABLE.items():
        if row.spec.multiple_of and values[name] % row.spec.multiple_of:
            multiple = row.spec.multiple_of
            raise InvalidParameterError(name, f"{name} must be a multiple of {multiple}; got {values[name]}")
    if values["min_guidance_scale"] > values["max_guidance_scale"]:
        raise InvalidParameterError("min_guidance_scale", "min_guidance_scale must not exceed max_guidance_scale")
