from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from svd_service.jobs.clip import Clip
from svd_service.parameters import Fit, Loop
from svd_service.video.playback import Frames, looped, scaled
from svd_service.video.writer import Frame


def clip(loop: Loop, frames: int = 9, playback_fps: int = 8) -> Clip:
    return Clip(num_frames=frames, segments=1, interpolate=1, playback_fps=playback_fps, loop=loop)


def generated(values: Iterable[int]) -> Frames:
    for value in values:
        yield np.full((4, 6, 3), value, np.uint8)


def values(frames: Iterable[Frame]) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


def test_without_a_loop_frames_are_shown_in_order(tmp_path: Path):
    assert values(looped(generated(range(9)), clip(Loop.NONE), tmp_path)) == list(range(9))


def test_pingpong_shows_the_frames_backwards_without_showing_either_end_twice(tmp_path: Path):
    shown = values(looped(generated(range(5)), clip(Loop.PINGPONG, 5), tmp_path))
    assert shown == [0, 1, 2, 3, 4, 3, 2, 1]
    assert len(shown) == clip(Loop.PINGPONG, 5).frames
    assert list(tmp_path.iterdir()) == []


def test_crossfade_blends_the_end_into_the_omitted_beginning(tmp_path: Path):
    crossfade = clip(Loop.CROSSFADE)
    shown = values(looped(generated(range(0, 90, 10)), crossfade, tmp_path))
    assert crossfade.faded == 2
    assert len(shown) == crossfade.frames == 7
    assert shown[:5] == [20, 30, 40, 50, 60]
    assert shown[5] == pytest.approx(70 * 2 / 3 + 0 / 3, abs=1)
    assert shown[6] == pytest.approx(80 / 3 + 10 * 2 / 3, abs=1)


def test_scaling_keeps_the_shape_by_cropping_or_padding():
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:8], frame[8:] = (255, 0, 0), (0, 0, 255)
    cut, padded = scaled(frame, (128, 64), Fit.CROP), scaled(frame, (128, 64), Fit.PAD)
    assert cut.shape == padded.shape == (64, 128, 3)
    assert tuple(cut[2, 64]) == (0, 0, 255)
    assert tuple(padded[32, 10]) == (0, 0, 0)
    assert tuple(padded[2, 64]) == (255, 0, 0)


def test_a_frame_of_the_right_size_is_unchanged():
    frame = np.zeros((64, 64, 3), np.uint8)
    assert scaled(frame, (64, 64), Fit.CROP) is frame
