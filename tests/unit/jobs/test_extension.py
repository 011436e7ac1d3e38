"""Parameters that an extension inherits, and those that it may change."""

from collections.abc import Callable
from typing import Any

import pytest

from svd_service.errors import InvalidParameterError
from svd_service.jobs.clip import VideoLimits
from svd_service.jobs.extension import Extended
from svd_service.jobs.model import Bounds, Defaults, Model, Sampling
from svd_service.jobs.parameters import NO_LIMITS, Parameters, VideoRequest

NANO = Model(
    "nano",
    "nano",
    defaults=Defaults(256, 144, num_frames=14, num_inference_steps=6),
    bounds=Bounds((64, 512), (64, 512), (2, 14)),
    profiles={"draft": Sampling(2)},
)


@pytest.fixture
def extend() -> Callable[..., Parameters]:
    """Parameters of a job that extends one submitted with `source`; keywords are those of its request."""

    def resolve(source: dict[str, Any] | None = None, limits: VideoLimits = NO_LIMITS, **given: Any) -> Parameters:
        first = VideoRequest(**(source or {})).resolve(NANO, (256, 144))
        extended = Extended("a", first.clip.frames, first.to_dict())
        return VideoRequest(extend="a", **given).resolve(NANO, (first.width, first.height), limits, extended)

    return resolve


def test_an_extension_has_the_parameters_of_the_extended_video_but_another_seed(extend: Callable[..., Parameters]):
    source: dict[str, Any] = {
        "seed": 5, "fps": 9, "interpolate": 2, "num_inference_steps": 3, "motion_bucket_id": 60, "size": "720x1280",
        "formats": ("gif",), "profile": "draft", "max_guidance_scale": 2.0, "num_frames": 8, "segments": 3,
        "fit": "pad",
    }  # fmt: skip
    first, second = VideoRequest(**source).resolve(NANO, (256, 144)), extend(source)
    own = {"seed", "segments", "extend", "extend_as", "extended_frames"}
    inherited = {name: value for name, value in first.to_dict().items() if name not in own}
    assert second.to_dict() | inherited == second.to_dict()
    assert second.seed != first.seed
    assert (second.segments, second.extend, second.extended_frames) == (1, "a", first.clip.frames)


@pytest.mark.parametrize(
    ("given", "frames"),
    [
        ({}, 27 + 26),
        ({"segments": 2}, 27 + 52),
        ({"extend_as": "alone"}, 26),
        ({"extend_as": "alone", "loop": "pingpong"}, 50),
        ({"loop": "pingpong"}, 2 * (27 + 26) - 2),
    ],
)
def test_the_frame_where_the_extension_begins_is_not_shown_twice(extend, given, frames):
    assert extend({"interpolate": 2}, **given).clip.frames == frames


@pytest.mark.parametrize("seconds", [1, 4, 8, 12])
@pytest.mark.parametrize("source", [{}, {"seconds": 4}, {"interpolate": 4}])
def test_seconds_are_those_of_the_new_part(extend, seconds, source):
    first = VideoRequest(**source).resolve(NANO, (256, 144)).clip
    joined = extend(source, seconds=seconds).clip
    assert joined.seconds - first.seconds == pytest.approx(seconds, rel=0.05)
    assert extend(source, seconds=seconds, extend_as="alone").clip.seconds == pytest.approx(seconds, rel=0.05)


def test_a_profile_sets_its_own_steps_and_a_rate_its_own_playback(extend):
    assert extend(profile="draft").num_inference_steps == 2
    assert extend({"num_inference_steps": 9}).num_inference_steps == 9
    assert extend(extend_as="alone", interpolate=4).playback_fps == 28
    assert extend(extend_as="alone", fps=10).playback_fps == 10
    assert (extend(fps=10).fps, extend(fps=10).playback_fps) == (10, 7)
    guided = extend({"max_guidance_scale": 3.0, "min_guidance_scale": 2.0}, max_guidance_scale=1.5)
    assert guided.min_guidance_scale == 1.5


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"size": "64x64"}, "size"),
        ({"size": "large"}, "size"),
        ({"width": 64}, "width"),
        ({"output_height": 288}, "output_height"),
        ({"interpolate": 4}, "interpolate"),
        ({"playback_fps": 20}, "playback_fps"),
        ({"profile": "fast"}, "profile"),
        ({"seconds": 4, "segments": 2}, "seconds"),
    ],
)
def test_another_size_or_rate_is_rejected(extend, given, parameter):
    with pytest.raises(InvalidParameterError) as raised:
        extend(**given)
    assert raised.value.parameter == parameter


def test_the_same_size_is_accepted(extend):
    assert extend({"size": "1280x720"}, size="1280x720", width=256).output_size == (1280, 720)


def test_the_joined_video_counts_against_the_maximum_length(extend):
    limits = VideoLimits(seconds=10)
    with pytest.raises(InvalidParameterError, match="would last"):
        extend({"seconds": 8}, limits, seconds=4)
    assert extend({"seconds": 8}, limits, seconds=4, extend_as="alone").segments > 1


def test_records_of_older_versions_are_no_extensions():
    values = VideoRequest().resolve(NANO, (256, 144)).to_dict()
    for name in ("extend", "extend_as", "extended_frames"):
        del values[name]
    assert Parameters.from_dict(values).extend is None
