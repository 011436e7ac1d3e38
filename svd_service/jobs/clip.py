"""Length, smoothness and size of a video: how a request for seconds or a size translates to parameters of a model.

A model works well for clips of a certain number of frames at a certain size. A longer video consists of several
segments, each of which continues from the last frame of the previous one; a smoother one has interpolated frames;
other sizes are scaled from the nearest one that suits the model.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from svd_service.errors import InvalidParameterError
from svd_service.jobs.model import Model, Size
from svd_service.parameters import BOUNDS, Loop

#: Maximum relative deviation of a video's length from the requested one.
TOLERANCE: Final = 0.05

#: Minimum generated frames per second for a requested length; below it, motion looks like a slide show.
MINIMUM_RATE: Final = 6

#: Maximum share of the frames, and maximum seconds, over which a crossfaded loop blends its end into its beginning.
_FADE_SHARE: Final = 4
_FADE_SECONDS: Final = 1.0

#: Maximum relative deviation of a generated video's area from that of the model's default size.
_AREA: Final = 0.1

#: Sides of sizes that suit a model are multiples of this if those of the default size are; else of a smaller number.
_UNIT: Final = 64

SIZE: Final = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")


@dataclass(frozen=True)
class VideoLimits:
    """Maximum length of a video in seconds, and maximum area in pixels."""

    seconds: float = math.inf
    pixels: int = 4096 * 4096


@dataclass(frozen=True)
class Clip:
    """Number of frames of a video, and their rate.

    Each of the `segments` has `num_frames` generated frames; all but the first drop their first frame, which is the
    last one of the previous segment. `interpolate` - 1 frames are added between each two.

    If it `continues` another video, the first segment drops its first frame, too, and `before` frames of that video
    are shown first.
    """

    num_frames: int
    segments: int
    interpolate: int
    playback_fps: int
    loop: Loop
    continues: bool = False
    before: int = 0

    @property
    def generated(self) -> int:
        """Generated frames, with the one that another video ends with."""
        return self.segments * (self.num_frames - 1) + 1

    @property
    def played(self) -> int:
        """Frames from the first one to the last generated one, with those in between."""
        return self.before + (self.generated - 1) * self.interpolate + (not self.continues)

    @property
    def faded(self) -> int:
        """Frames over which the end is blended into the beginning; 0 without a crossfade."""
        if self.loop is not Loop.CROSSFADE:
            return 0
        longest = max(1, min(self.played // _FADE_SHARE, round(_FADE_SECONDS * self.playback_fps)))
        return min(longest, self.played - 1)  # a video of one frame has nothing to blend

    @property
    def frames(self) -> int:
        """Frames of the video."""
        if self.loop is Loop.PINGPONG:
            return max(self.played, 2 * self.played - 2)
        return self.played - self.faded

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.frames / self.playback_fps


def resolve_clip(
    model: Model, seconds: float | None, size: str | Size | None, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Values of the parameters that make a video of `model` last `seconds` (to within 5 %) and have exactly `size`.

    `given` are the parameters that the request sets (`fps`, `num_frames`, `interpolate`, `playback_fps`, `loop`). If it
    sets `extend`, `seconds` are those of the continuation. The values complement them: `num_frames`, `segments`, `fps`
    and `playback_fps` for `seconds`, and `width`, `height`, `output_width` and `output_height` for `size` (text such as
    1280x720, or width and height).

    Raises:
        InvalidParameterError: there is no such length or size, or it contradicts what is given.
    """
    given = given or {}
    values: dict[str, Any] = {}
    if size is not None:
        values.update(_size_values(model, parsed_size(size), given))
    if seconds is not None:
        values.update(_length_values(model, seconds, given))
    return values


def native_size(model: Model, size: Size) -> Size:
    """What the model generates for a video of `size`: that size if it suits the model, or else the most similar one.

    Sizes suit a model if their area is about that of its default size, and their sides are multiples of what the
    default size is a multiple of.
    """
    default = (model.defaults.width, model.defaults.height)
    if _is_native(model, size) and not (size[0] % 8 or size[1] % 8):
        return size
    unit = math.gcd(_UNIT, *default)
    sizes = [
        (width, height) for width in _sides(unit, model.bounds.width) for height in _sides(unit, model.bounds.height)
    ]
    fitting = [each for each in sizes if _is_native(model, each)]
    return min(
        fitting, key=lambda each: (abs(_shape(each) - _shape(size)), abs(_ratio(model, each) - 1)), default=default
    )


def _size_values(model: Model, size: Size, given: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("output_width", "output_height"):
        if given.get(name) is not None:
            raise InvalidParameterError("size", f"size and {name} mean the same: send one of them")
    for side, name in zip(size, ("output_width", "output_height"), strict=True):
        minimum, maximum = BOUNDS[name]
        if side % 2 or not minimum <= side <= maximum:
            raise InvalidParameterError(
                "size", f"size: each side must be even and between {minimum} and {maximum}; got {size[0]}x{size[1]}"
            )
    width, height = native_size(model, size)
    values = {"output_width": size[0], "output_height": size[1]}
    if given.get("width") is None and given.get("height") is None:
        values |= {"width": width, "height": height}
    return values


def parsed_size(size: str | Size) -> Size:
    """Width and height of a size such as 1280x720.

    Raises:
        InvalidParameterError: it is no size.
    """
    if not isinstance(size, str):
        return size
    match = SIZE.fullmatch(size)
    if match is None:
        raise InvalidParameterError("size", f"size must be width x height, such as 1280x720; got {size[:20]!r}")
    return int(match[1]), int(match[2])


def _sides(unit: int, bounds: tuple[int, int]) -> range:
    return range(math.ceil(bounds[0] / unit) * unit, bounds[1] + 1, unit)


def _shape(size: Size) -> float:
    return math.log(size[0] / size[1])


def _ratio(model: Model, size: Size) -> float:
    return size[0] * size[1] / (model.defaults.width * model.defaults.height)


def _is_native(model: Model, size: Size) -> bool:
    bounds = (model.bounds.width, model.bounds.height)
    inside = all(minimum <= side <= maximum for side, (minimum, maximum) in zip(size, bounds, strict=True))
    return inside and abs(_ratio(model, size) - 1) <= _AREA


def _length_values(model: Model, seconds: float, given: Mapping[str, Any]) -> dict[str, Any]:
    if given.get("segments") is not None:
        raise InvalidParameterError("seconds", "seconds and segments mean the same: send one of them")
    minimum, maximum = BOUNDS["seconds"]
    if not minimum <= seconds <= maximum:  # also rejects NaN
        raise InvalidParameterError("seconds", f"seconds must lie between {minimum:g} and {maximum:g}; got {seconds}")
    clip = _clip_of(model, seconds, given)
    if clip is None:
        raise InvalidParameterError(
            "seconds",
            f"seconds: with these parameters no video of this model lasts {seconds:g} s (to within {TOLERANCE:.0%}); "
            f"leave out num_frames, fps and playback_fps, or request another length",
        )
    values: dict[str, Any] = {
        "num_frames": clip.num_frames,
        "segments": clip.segments,
        "playback_fps": clip.playback_fps,
    }
    if given.get("fps") is None and given.get("playback_fps") is None:
        # For natural speed, the model is conditioned on the rate at which its frames are played.
        slowest, fastest = BOUNDS["fps"]
        values["fps"] = int(min(max(round(clip.playback_fps / clip.interpolate), slowest), fastest))
    return values


def _clip_of(model: Model, seconds: float, given: Mapping[str, Any]) -> Clip | None:
    """The cheapest clip of that length: as few segments as possible; with the model's default number of frames, if one
    of those is near enough; and of these the nearest.
    """
    maximum = int(BOUNDS["segments"][1])
    for segments in range(1, maximum + 1):
        clips = [clip for clip in _clips(model, segments, given) if abs(clip.seconds / seconds - 1) <= TOLERANCE]
        if clips:
            native = given.get("num_frames") or model.defaults.num_frames
            return min(clips, key=lambda clip: (clip.num_frames != native, abs(clip.seconds - seconds)))
    return None


def _clips(model: Model, segments: int, given: Mapping[str, Any]) -> Iterator[Clip]:
    interpolate, loop = int(given.get("interpolate") or 1), Loop(given.get("loop") or Loop.NONE)
    fixed = given.get("num_frames")
    frames = [fixed] if fixed else range(model.defaults.num_frames, model.bounds.num_frames[0] - 1, -1)
    for rate in _rates(model, interpolate, given):
        for num_frames in frames:
            yield Clip(num_frames, segments, interpolate, rate, loop, continues=bool(given.get("extend")))


def _rates(model: Model, interpolate: int, given: Mapping[str, Any]) -> list[int]:
    if given.get("playback_fps"):
        return [given["playback_fps"]]
    if given.get("fps"):
        return [given["fps"] * interpolate]
    usual = model.defaults.fps
    return list(range(usual * interpolate, min(MINIMUM_RATE, usual) * interpolate - 1, -1))
