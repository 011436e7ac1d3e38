"""Frames between frames, by dense optical flow: smoother motion at the same length, or the same motion for longer.

Dense inverse search (Kroeger et al. 2016, OpenCV's `DISOpticalFlow`) finds the motion of a pair in both directions.
Both frames are warped to the time in between and blended; each has less weight where the two directions disagree.
Where neither is reliable (the frames differ even after warping: something appears, or the scene cuts), the nearer
frame is shown, since a blend would produce ghosting. `python -m tools.interpolation` measures all of this.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from svd_service.video.writer import Frame

Array = NDArray[np.float32]

_NO_SECOND_MAP: Final[Any] = None  # the coordinates are in the first

#: Forward-backward error in pixels that halves a frame's weight: a constant, and a share of the motion's length.
_ERROR: Final = 4.0
_ERROR_SHARE: Final = 0.4

#: Differences between the warped frames (0 to 255, averaged over a small block): up to the first they are blended, from
#: the second on the nearer frame is shown.
_DOUBT: Final = (45.0, 90.0)
_BLOCK: Final = (7, 7)

#: Mean difference over the whole frame from which a pair is treated as a cut. In two real clips, the fastest motion had
#: 19, the most similar frames on either side of a cut had 32.
_CUT: Final = 25.0


@dataclass(frozen=True)
class Motion:
    """The motion between two frames, shape (height, width, 2) in pixels, and its forward-backward error."""

    forward: Array
    backward: Array
    forward_error: Array
    backward_error: Array


class Interpolator:
    """Adds `factor` - 1 frames between each two frames of a video. One at a time: OpenCV's flow keeps its buffers."""

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._flow.setUseSpatialPropagation(True)
        self._last: Frame | None = None

    def put(self, frame: Frame) -> Iterator[Frame]:
        """Yield the frames between the last one and `frame`, the video's next one, then `frame` itself, unchanged."""
        last, self._last = self._last, frame
        if last is not None and self._factor > 1:
            yield from self.between(last, frame)
        yield frame

    def between(self, first: Frame, second: Frame) -> Iterator[Frame]:
        """The `factor` - 1 frames at equal steps between two frames of one size: RGB, uint8, (height, width, 3)."""
        motion = self._motion(first, second)
        for step in range(1, self._factor):
            yield _at(step / self._factor, first, second, motion)

    def _flow_of(self, first: Any, second: Any) -> Any:
        no_guess: Any = None
        return self._flow.calc(first, second, no_guess)

    def _motion(self, first: Frame, second: Frame) -> Motion:
        grey = cv2.cvtColor(first, cv2.COLOR_RGB2GRAY), cv2.cvtColor(second, cv2.COLOR_RGB2GRAY)
        forward, backward = self._flow_of(*grey), self._flow_of(*grey[::-1])
        grid = _grid(*grey[0].shape)
        return Motion(forward, backward, _misses(forward, backward, grid), _misses(backward, forward, grid))


def _at(time: float, first: Frame, second: Frame, motion: Motion) -> Frame:
    """The frame at `time`, 0 to 1, between two frames."""
    grid = _grid(*first.shape[:2])
    forward, backward = motion.forward, motion.backward
    # Where a pixel's content comes from: by the motion that starts there in each frame (Super SloMo's mix of both) and,
    # better at edges, by the motion at its source. The mean of the two has the smallest error.
    source = grid + (time * time * backward - time * (1 - time) * forward)
    target = grid + ((1 - time) ** 2 * forward - time * (1 - time) * backward)
    source = (source + (grid - time * _warp(forward, source))) / 2
    target = (target + (grid - (1 - time) * _warp(backward, target))) / 2
    warped = _warp(first, source, cv2.INTER_CUBIC), _warp(second, target, cv2.INTER_CUBIC)
    difference = cv2.blur(cv2.absdiff(*warped), _BLOCK).mean(axis=2).astype(np.float32)
    nearer = first if time <= 0.5 else second
    if difference.mean() > _CUT:
        return nearer
    scale = _ERROR + _ERROR_SHARE * _length(forward)
    first_share = (1 - time) * _trust(_warp(motion.forward_error, source) / scale)
    second_share = time * _trust(_warp(motion.backward_error, target) / scale)
    blended = _mix(warped[0], warped[1], second_share / (first_share + second_share))
    low, high = _DOUBT
    mixed: Frame = _mix(blended, nearer, np.clip((difference - low) / (high - low), 0, 1))
    return mixed


def _grid(height: int, width: int) -> Array:
    """Each pixel's own coordinates (x, y)."""
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack((columns, rows), axis=-1)


# OpenCV's type hints do not cover its arrays; the result has the type of the argument.
def _warp(image: Any, coordinates: Array, method: int = cv2.INTER_LINEAR) -> Any:
    return cv2.remap(image, coordinates, _NO_SECOND_MAP, method, borderMode=cv2.BORDER_REPLICATE)


def _misses(there: Array, back: Array, grid: Array) -> Array:
    misses: Array = _length(there + _warp(back, grid + there))
    return misses


def _length(vectors: Any) -> Any:
    return cv2.magnitude(vectors[..., 0], vectors[..., 1])


def _trust(error: Array) -> Array:
    """1 without an error, 1/2 at an error of 1; never 0, so that the weights never sum to 0."""
    trust: Array = np.reciprocal(1 + error * error)
    return trust


def _mix(one: Any, other: Any, share: Any) -> Any:
    """Blend `one` with `other`, whose weight is `share` (0 to 1, per pixel)."""
    return cv2.blendLinear(one, other, 1 - share, share)
