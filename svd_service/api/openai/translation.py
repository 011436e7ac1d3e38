"""From the length and size that a caller of OpenAI's API requests to parameters of a model."""

import re
from typing import Final

from svd_service.errors import InvalidParameterError
from svd_service.jobs.model import Model, Size
from svd_service.parameters import BOUNDS, RequestParameters

#: Width and height in pixels, as a caller writes them.
SIZE: Final = re.compile(r"^[0-9]{1,5}x[0-9]{1,5}$")

#: Parameters that set the size of the file.
_SIZES: Final = frozenset({"size", "output_width", "output_height"})


def leniently(parameters: RequestParameters, model: Model) -> RequestParameters:
    """Accept any size, number of frames and rate, as clients of SGLang and vLLM-Omni expect.

    A `width` and `height` that the model cannot make become the `size` of the file, to which the video is scaled; more
    frames than it makes at once become `seconds`, for which it makes several segments; an `fps` that it cannot be
    conditioned on is how fast the file plays.

    Raises:
        InvalidParameterError: the number of frames contradicts another parameter.
    """
    values = RequestParameters(**parameters)
    _scale(values, model)
    _play(values)
    _lengthen(values, model)
    return values


def strictly(parameters: RequestParameters, model: Model) -> RequestParameters:
    """Accept only what the model makes without scaling, segments or another rate.

    `seconds` become frames, `size` becomes width and height.

    Raises:
        InvalidParameterError: the model does not make it, or a parameter contradicts another.
    """
    values = RequestParameters(**parameters)
    if (seconds := values.pop("seconds", None)) is not None:
        values["num_frames"] = _frames(seconds, values, model)
    if (size := values.pop("size", None)) is not None:
        values["width"], values["height"] = _pixels(size, values, model)
    return values


def _scale(values: RequestParameters, model: Model) -> None:
    width, height = values.get("width"), values.get("height")
    if width is None or height is None or _SIZES & values.keys():
        return
    bounds = (model.bounds.width, model.bounds.height)
    if not all(_is_side(side, each) for side, each in zip((width, height), bounds, strict=True)):
        del values["width"], values["height"]
        values["size"] = f"{width}x{height}"


def _play(values: RequestParameters) -> None:
    fps = values.get("fps")
    slowest, fastest = map(int, BOUNDS["fps"])
    if fps is not None and not slowest <= fps <= fastest:
        values.setdefault("playback_fps", fps * (values.get("interpolate") or 1))
        values["fps"] = min(max(fps, slowest), fastest)


def _lengthen(values: RequestParameters, model: Model) -> None:
    frames, (minimum, maximum) = values.get("num_frames"), model.bounds.num_frames
    if frames is None or frames <= maximum:
        return
    if {"seconds", "segments"} & values.keys():
        raise InvalidParameterError(
            "num_frames",
            f"num_frames: this model makes {minimum} to {maximum} frames at once; got {frames}. For a longer video, "
            "send either seconds or num_frames, without segments",
        )
    del values["num_frames"]
    fps, shown = values.get("fps") or model.defaults.fps, values.get("interpolate") or 1
    rate = values.get("playback_fps") or fps * shown
    values["fps"], values["seconds"] = fps, frames * shown / rate


def _frames(seconds: float, values: RequestParameters, model: Model) -> int:
    if "num_frames" in values:
        raise InvalidParameterError("seconds", "seconds and num_frames mean the same: send one of them")
    fps = values.get("fps") or model.defaults.fps
    frames = round(seconds * fps)
    minimum, maximum = model.bounds.num_frames
    if not minimum <= frames <= maximum:
        raise InvalidParameterError(
            "seconds",
            f"seconds: {seconds:g} s are {frames} frames at {fps} per second; the model makes {minimum} to {maximum}. "
            "A lower fps makes longer videos.",
        )
    return frames


def _pixels(size: str, values: RequestParameters, model: Model) -> Size:
    if "width" in values or "height" in values:
        raise InvalidParameterError("size", "size and width, height mean the same: send one of them")
    if not SIZE.fullmatch(size):
        raise InvalidParameterError("size", f"size must be width x height, such as 1024x576; got {size[:20]!r}")
    width, height = (int(side) for side in size.split("x"))
    for side, bounds in ((width, model.bounds.width), (height, model.bounds.height)):
        if not _is_side(side, bounds):
            limits = f"a multiple of 8, here between {bounds[0]} and {bounds[1]}"
            raise InvalidParameterError("size", f"size: each side must be {limits}; got {size}")
    return width, height


def _is_side(pixels: int, bounds: tuple[int, int]) -> bool:
    """Whether the model makes videos that are that wide or high."""
    return pixels % 8 == 0 and bounds[0] <= pixels <= bounds[1]
