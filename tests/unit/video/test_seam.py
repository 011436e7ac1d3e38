import numpy as np
from numpy.typing import NDArray

from svd_service.video.seam import FADE, joined


def plain(level: int) -> NDArray[np.uint8]:
    return np.full((36, 64, 3), level, np.uint8)


def test_a_change_of_brightness_at_the_seam_is_spread_over_the_next_frames() -> None:
    frames = [plain(100)] * (FADE + 3)
    levels = [int(frame[18, 32, 0]) for frame in joined(plain(170), iter(frames))]
    assert levels == [160, 150, 140, 130, 120, 110, 100, 100]


def test_colors_stay_in_their_range() -> None:
    frames = [plain(0), plain(250), plain(5)]
    assert [int(np.max(frame)) for frame in joined(plain(250), iter(frames))] == [255, 184]
    assert [int(np.min(frame)) for frame in joined(plain(0), iter([plain(250), plain(5)]))] == [0]


def test_details_of_the_previous_frame_leave_no_ghost() -> None:
    start, scene = plain(100), plain(100)
    start[18, 32] = 255
    (frame,) = joined(start, iter([scene, scene]))
    assert np.abs(frame.astype(int) - 100).max() <= 8


def test_a_segment_without_a_new_frame_adds_none() -> None:
    assert list(joined(plain(1), iter([plain(1)]))) == []
