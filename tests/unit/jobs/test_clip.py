"""How a requested length and size become parameters of the model."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from svd_service.config import Settings
from svd_service.errors import InvalidParameterError
from svd_service.jobs.clip import Clip, VideoLimits, native_size, resolve_clip
from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.model import Bounds, Defaults, Model
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.parameters import BOUNDS, MAX_SEED, Loop

SVD_XT = Model("svd-xt", "stabilityai/stable-video-diffusion-img2vid-xt")
NANO = Model.of(Settings.from_mapping({"SVD_MODEL": "svd_service/models/nano"}))
SECONDS = (4, 8, 12, 16, 20)
SIZES = ("720x1280", "1280x720", "1024x1792", "1792x1024")
IMAGE = (640, 480)


def resolved(model: Model = SVD_XT, **values: Any) -> Parameters:
    return VideoRequest(**values).resolve(model, IMAGE)


@pytest.mark.parametrize("interpolate", [1, 2, 4])
@pytest.mark.parametrize("model", [SVD_XT, NANO], ids=lambda model: model.name)
def test_openais_lengths_and_sizes_become_valid_parameters_of_that_length_and_size(model: Model, interpolate: int):
    for seconds, size in product(SECONDS, SIZES):
        parameters = resolved(model, seconds=seconds, size=size, interpolate=interpolate)
        assert parameters.clip.seconds == pytest.approx(seconds, rel=0.05)
        assert "{}x{}".format(*parameters.output_size) == size
        assert (parameters.height > parameters.width) == (size in {"720x1280", "1024x1792"})
        assert {parameters.width, parameters.height} == {model.defaults.width, model.defaults.height}
        assert parameters.num_frames <= model.defaults.num_frames
        assert parameters.playback_fps / interpolate >= 6


def test_a_length_uses_as_few_segments_as_possible_of_the_models_preferred_frame_counts():
    eight = resolved(seconds=8)
    assert (eight.num_frames, eight.segments, eight.fps, eight.playback_fps) == (25, 2, 6, 6)
    assert eight.clip.frames == 49
    assert resolved(seconds=2).segments == 1
    assert resolved(seconds=2).clip.frames == 14


def test_values_that_a_caller_fixes_stay_and_the_others_give_the_length():
    parameters = resolved(seconds=8, fps=10)
    assert (parameters.fps, parameters.playback_fps) == (10, 10)
    assert parameters.clip.seconds == pytest.approx(8, rel=0.05)
    slow = resolved(seconds=12, playback_fps=4, interpolate=2)
    assert (slow.playback_fps, slow.fps) == (4, SVD_XT.defaults.fps)
    assert slow.clip.seconds == pytest.approx(12, rel=0.05)
    assert resolved(seconds=7, num_frames=25, fps=7).segments == 2


def test_a_loop_counts_as_part_of_the_length():
    there_and_back = resolved(seconds=8, loop="pingpong")
    assert there_and_back.segments == 1
    assert there_and_back.clip.seconds == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize(
    ("values", "parameter"),
    [
        ({"seconds": 5, "num_frames": 25, "fps": 7}, "seconds"),
        ({"seconds": 0.1}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": 4, "segments": 2}, "seconds"),
        ({"size": "1280x721"}, "size"),
        ({"size": "big"}, "size"),
        ({"size": "9000x16"}, "size"),
        ({"size": "1280x720", "output_width": 1280}, "size"),
        ({"output_width": 1281}, "output_width"),
    ],
)
def test_an_impossible_value_is_rejected_with_the_parameters_name(values: dict[str, Any], parameter: str):
    with pytest.raises(InvalidParameterError) as rejected:
        resolved(**values)
    assert rejected.value.parameter == parameter


def test_limits_of_the_service_apply_to_length_and_area():
    limits = VideoLimits(seconds=10, pixels=1280 * 720)
    VideoRequest(seconds=10, size="1280x720").resolve(SVD_XT, IMAGE, limits)
    for values, parameter in (
        ({"seconds": 12.0}, "seconds"),
        ({"segments": 4}, "segments"),
        ({"size": "1920x1080"}, "size"),
        ({"output_width": 1920}, "output_width"),
    ):
        with pytest.raises(InvalidParameterError) as rejected:
            VideoRequest(**values).resolve(SVD_XT, IMAGE, limits)
        assert rejected.value.parameter == parameter


def test_a_native_size_of_the_model_is_not_scaled():
    for size in ((1024, 576), (576, 1024), (768, 768), (1000, 600)):
        assert native_size(SVD_XT, size) == size


@pytest.mark.parametrize(
    ("size", "native"),
    [("1920x1080", (1024, 576)), ("512x512", (768, 768)), ("640x480", (832, 640)), ("64x64", (768, 768))],
)
def test_another_size_is_scaled_from_the_most_similar_native_size(size: str, native: tuple[int, int]):
    parameters = resolved(size=size)
    assert (parameters.width, parameters.height) == native
    assert native[0] % 64 == native[1] % 64 == 0


def test_a_model_with_one_native_size_generates_that_size():
    bounds = Bounds((256, 256), (144, 144))
    only = Model("only", "only", defaults=Defaults(width=256, height=144), bounds=bounds)
    assert native_size(only, (720, 1280)) == (256, 144)


def test_the_generated_size_may_be_set_independently_of_the_output_size():
    parameters = resolved(width=512, height=512, size="640x360")
    assert (parameters.width, parameters.height, parameters.output_size) == (512, 512, (640, 360))
    assert resolved(output_width=1280).output_size == (1280, 720)
    assert resolved(output_height=360).output_size == (640, 360)
    assert resolved().output_size == (1024, 576)


def test_the_frames_of_a_clip_are_counted_as_shown():
    clip = Clip(num_frames=25, segments=3, interpolate=2, playback_fps=14, loop=Loop.NONE)
    assert (clip.generated, clip.played, clip.frames) == (73, 145, 145)
    assert replace(clip, loop=Loop.PINGPONG).frames == 288
    crossfaded = replace(clip, loop=Loop.CROSSFADE)
    assert (crossfaded.faded, crossfaded.frames) == (14, 131)
    continuation = replace(crossfaded, num_frames=2, segments=1, interpolate=1, continues=True)
    assert (continuation.faded, continuation.frames) == (0, 1)


def test_playback_follows_conditioning_and_interpolation_unless_it_is_given():
    assert resolved(fps=7, interpolate=4).playback_fps == 28
    assert resolved(fps=7, interpolate=4, playback_fps=24).fps == 7
    with pytest.raises(InvalidParameterError):
        resolved(fps=7, playback_fps=int(BOUNDS["playback_fps"][1]) + 1)


def test_seeds_of_segments_derive_from_the_jobs_seed_and_wrap_around():
    assert resolved(seed=5, segments=3).seeds == (5, 6, 7)
    assert resolved(seed=MAX_SEED, segments=2).seeds == (MAX_SEED, 0)


def test_a_record_of_an_older_version_is_read_as_one_segment():
    known = resolved(seed=1).to_dict()
    new = ("interpolate", "playback_fps", "segments", "loop", "output_width", "output_height")
    old = {name: value for name, value in known.items() if name not in new}
    assert Parameters.from_dict(old) == Parameters.from_dict(known)


def test_progress_over_segments_and_phases_never_decreases():
    weights = dict(zip(Phase, (0.05, 0.5, 0.2, 0.2, 0.05), strict=True))
    fractions = [
        Progress(phase, step, 4, segment, 3, weights).fraction
        for segment in (1, 2, 3)
        for phase in list(Phase)[:-1]
        for step in range(5)
    ]
    fractions += [Progress(Phase.UPLOADING, 0, 0, 1, 1, weights).fraction]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == pytest.approx(0.95)


def test_an_empty_request_keeps_the_defaults():
    assert resolve_clip(SVD_XT, None, None) == {}
