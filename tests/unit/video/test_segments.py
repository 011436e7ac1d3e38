"""Videos of several segments, with interpolated frames, as loops and at other sizes."""

import gc
import json
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Format
from svd_service.video import render
from svd_service.video.loader import Generator
from svd_service.video.seam import joined
from svd_service.video.segments import Segments
from svd_service.video.writer import Frame

MakeParameters = Callable[..., Parameters]


class StopError(Exception):
    pass


def ignore(progress: Progress) -> None:
    pass


@pytest.fixture
def frames_of(generator: Generator, image: Image.Image) -> Callable[[Parameters], list[Frame]]:
    def frames(parameters: Parameters) -> list[Frame]:
        with closing(Segments(generator, parameters, ignore).frames(image)) as made:
            return list(made)

    return frames


def test_a_segment_continues_from_the_last_frame_with_the_next_seed_and_does_not_repeat_it(
    generator: Generator, make_parameters: MakeParameters, frames_of: Callable[[Parameters], list[Frame]]
) -> None:
    parameters = make_parameters(segments=3, seed=5)
    frames = frames_of(parameters)
    assert len(frames) == parameters.clip.frames == 7
    alone = list(generator.generate(Image.fromarray(frames[2]), make_parameters(seed=6), ignore))
    for made, expected in zip(frames[3:5], joined(frames[2], iter(alone)), strict=True):
        assert np.array_equal(made, expected)


def test_an_interpolated_video_has_every_generated_frame_unchanged(
    make_parameters: MakeParameters, frames_of: Callable[[Parameters], list[Frame]]
) -> None:
    plain, smooth = frames_of(make_parameters(segments=2)), frames_of(make_parameters(segments=2, interpolate=4))
    assert len(smooth) == 4 * (len(plain) - 1) + 1
    for generated, shown in zip(plain, smooth[::4], strict=True):
        assert np.array_equal(generated, shown)


def test_progress_includes_segments_and_interpolation_and_never_decreases(
    tmp_path: Path, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    reports: list[Progress] = []
    render(generator, image, make_parameters(segments=2, interpolate=2), tmp_path / "video", reports.append)
    assert {each.segments for each in reports[:-1]} == {2}
    assert [each.segment for each in reports[:-1]] == sorted(each.segment for each in reports[:-1])
    assert Progress(Phase.INTERPOLATING, 3, 3, 1, 2) in reports
    assert Progress(Phase.INTERPOLATING, 2, 2, 2, 2) in reports
    weights = dict(zip(Phase, (0.05, 0.5, 0.2, 0.2, 0.05), strict=True))
    fractions = [replace(each, weights=weights).fraction for each in reports]
    assert fractions == sorted(fractions)


def test_a_stop_in_the_second_segment_ends_the_generation(
    tmp_path: Path, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    reports: list[Progress] = []

    def stop(progress: Progress) -> None:
        reports.append(progress)
        if progress == Progress(Phase.SAMPLING, 1, 2, 2, 3):
            raise StopError

    with pytest.raises(StopError):
        render(generator, image, make_parameters(segments=3), tmp_path / "video", stop)
    assert reports[-1].segment == 2
    assert len(list(generator.generate(image, make_parameters(), ignore))) == 3


def test_the_file_has_the_size_and_the_rate_that_were_requested(
    tmp_path: Path, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    parameters = make_parameters(output_width=96, output_height=80, playback_fps=20, interpolate=2, segments=2)
    others = {kind: tmp_path / kind for kind in (Format.WEBM, Format.GIF)}
    rendering = render(generator, image, parameters, tmp_path / "video", ignore, further=others)
    assert (rendering.width, rendering.height, rendering.frames) == (96, 80, 9)
    for path in (tmp_path / "video", *others.values()):
        with av.open(path) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == (96, 80)
            assert stream.average_rate is not None
            assert float(stream.average_rate) == pytest.approx(20, rel=0.02)
            assert len(list(container.decode(video=0))) == 9
    origin = rendering.provenance
    assert origin["seeds"] == [7, 8]
    with av.open(tmp_path / "video") as container:
        comment = json.loads(container.metadata["comment"])
    assert comment["seeds"] == [7, 8]
    stored = {
        name: comment["parameters"][name] for name in ("width", "output_width", "fps", "playback_fps", "segments")
    }
    assert stored == {"width": 64, "output_width": 96, "fps": 7, "playback_fps": 20, "segments": 2}


@pytest.mark.thorough
def test_three_segments_need_the_host_memory_of_one(
    tmp_path: Path, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    start = image.resize((128, 96))

    def peak(segments: int) -> int:
        """Peak of the bytes allocated by Python and NumPy."""
        parameters = make_parameters(
            num_frames=8, num_inference_steps=1, width=128, height=96, segments=segments, interpolate=2
        )
        gc.collect()
        tracemalloc.start()
        try:
            render(generator, start, parameters, tmp_path / f"{segments}", ignore)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # allocations of the first video only, such as imports
    assert peak(3) <= 1.15 * peak(1)


def test_the_provenance_has_the_memory_use_of_all_segments(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    generator: Generator,
    image: Image.Image,
    make_parameters: MakeParameters,
) -> None:
    segments = Segments(generator, make_parameters(segments=2), ignore)
    segments._memory = [
        {"decode_chunk_size": 1, "attempts": [{"phase": "decoding"}]},
        {"decode_chunk_size": 2, "attempts": [{"phase": "sampling"}]},
    ]
    assert segments.memory == {
        "decode_chunk_size": 1,
        "attempts": [{"phase": "decoding", "segment": 1}, {"phase": "sampling", "segment": 2}],
    }
