import numpy as np
import pytest

from svd_service.video.interpolation import Interpolator
from svd_service.video.writer import Frame

HEIGHT, WIDTH = 96, 160


def pattern(shift: float, seed: int = 5) -> Frame:
    """A smooth random texture, `shift` pixels to the right."""
    chance = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    columns = columns - shift
    waves = [
        np.sin(x * columns + y * rows + phase)
        for x, y, phase in chance.uniform((-0.3, -0.3, 0), (0.3, 0.3, 6), (24, 3))
    ]
    value = 128 + 100 * np.tanh(np.sum(waves, axis=0) / 4)
    return np.stack([value, value * 0.8, 255 - value], axis=-1).round().astype(np.uint8)


def psnr(one: Frame, other: Frame) -> float:
    inside = np.s_[8:-8, 16:-16]  # at the edge, content enters that neither frame has
    error = float(np.mean((one[inside].astype(float) - other[inside]) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("factor", [2, 4])
def test_a_moving_pattern_is_at_the_right_place_at_each_moment(factor: int):
    between = list(Interpolator(factor).between(pattern(0), pattern(8)))
    assert len(between) == factor - 1
    for step, frame in enumerate(between, start=1):
        there = 8 * step / factor
        average = (pattern(0) * (1 - step / factor) + pattern(8) * (step / factor)).astype(np.uint8)
        assert psnr(frame, pattern(there)) > max(33.0, psnr(average, pattern(there)) + 8)


def test_input_frames_are_unchanged_in_the_output():
    interpolator = Interpolator(2)
    frames = [pattern(shift) for shift in (0, 3, 9)]
    made = [list(interpolator.put(frame)) for frame in frames]
    assert [len(each) for each in made] == [1, 2, 2]
    for frame, each in zip(frames, made, strict=True):
        assert np.array_equal(each[-1], frame)


def test_a_factor_of_one_adds_nothing():
    interpolator = Interpolator(1)
    assert [len(list(interpolator.put(pattern(shift)))) for shift in (0, 3)] == [1, 1]


@pytest.mark.parametrize(
    ("before", "after"),
    [(pattern(0), pattern(0, seed=9)), (np.full((HEIGHT, WIDTH, 3), 20, np.uint8), pattern(0))],
    ids=["texture", "flat"],
)
def test_a_hard_cut_is_not_smeared(before: Frame, after: Frame):
    first, second, third = Interpolator(4).between(before, after)
    assert np.array_equal(first, before)
    assert np.array_equal(second, before)
    assert np.array_equal(third, after)


def test_an_appearing_object_is_not_blended_with_the_background():
    before, after = pattern(0), pattern(0)
    after[30:60, 60:100] = (250, 10, 10)  # appears without motion
    (frame,) = Interpolator(2).between(before, after)
    hidden = frame[36:54, 66:94].astype(int)
    as_before = np.abs(hidden - before[36:54, 66:94]).max(axis=-1)
    as_after = np.abs(hidden - after[36:54, 66:94]).max(axis=-1)
    ghosts = np.minimum(as_before, as_after) > 40
    assert ghosts.mean() < 0.1
    assert psnr(frame[:, 110:], before[:, 110:]) > 35


def test_static_regions_stay_unchanged():
    (frame,) = Interpolator(2).between(pattern(0), pattern(0))
    assert np.array_equal(frame, pattern(0))
