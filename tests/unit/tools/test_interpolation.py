import pytest

from tools.harness.local import LONG
from tools.interpolation import CLIPS, Figures, frames_of, measure, misses


@pytest.mark.thorough
@pytest.mark.parametrize("clip", [name for name, (_, least) in CLIPS.items() if least and (LONG or name == "bikes")])
def test_frames_dropped_from_a_real_clip_are_interpolated_better_than_by_ffmpeg(clip: str):
    figures = measure(frames_of(clip, 49))
    assert [each for each in misses({clip: figures}) if "processor time" not in each] == []


def test_a_figure_below_its_bar_is_reported():
    good = Figures({"flow": 35.0, "minterpolate": 33.0}, {"flow 2x": 0.3, "flow 4x": 0.1})
    assert misses({"bigbuckbunny": good}) == []
    bad = Figures({"flow": 34.0, "minterpolate": 33.5}, {"flow 2x": 0.5, "flow 4x": 0.1})
    assert len(misses({"bigbuckbunny": bad})) == 3
