"""Videos that extend another one."""

import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from svd_service.errors import BrokenInputError
from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Fit, Format, Loop
from svd_service.video import render
from svd_service.video.decoder import decoded, last_frame
from svd_service.video.encoder import Encoder
from svd_service.video.loader import Generator
from svd_service.video.playback import scaled, unscaled
from svd_service.video.seam import joined
from svd_service.video.segments import Segments
from svd_service.video.writer import Frame
from tests.samples import IMAGES

MakeParameters = Callable[..., Parameters]


def ignore(_: object) -> None:
    pass


@pytest.fixture
def make(generator: Generator, tmp_path: Path) -> Callable[..., bytes]:
    def made(start: Image.Image | bytes, parameters: Parameters) -> bytes:
        rendering = render(generator, start, parameters, tmp_path / "video.mp4", ignore)
        assert rendering.frames == parameters.clip.frames
        return (tmp_path / "video.mp4").read_bytes()

    return made


@pytest.fixture
def source(make: Callable[..., bytes], image: Image.Image, make_parameters: MakeParameters) -> bytes:
    return make(image, make_parameters())


def difference(first: Frame, second: Frame) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


def test_decoded_frames_have_the_colors_that_were_encoded(tmp_path: Path) -> None:
    with Image.open(IMAGES / "chelsea.jpg") as image:
        photo = np.asarray(image.convert("RGB").resize((256, 144)))
    with Encoder(tmp_path / "video.mp4", 256, 144, 7, {}) as encoder:
        encoder.put(photo)
        encoder.put(photo[::-1])
    video = (tmp_path / "video.mp4").read_bytes()
    first, second = decoded(video)
    assert first.shape == second.shape == (144, 256, 3)
    assert np.array_equal(last_frame(video), second)
    for frame, original in ((first, photo), (second, photo[::-1])):
        assert difference(frame, original) < 3
        # Not darker, which would accumulate when a video is extended repeatedly.
        assert abs(float(frame.mean()) - float(original.mean())) < 0.3


def test_a_continuation_begins_after_the_last_frame(
    generator: Generator, source: bytes, make_parameters: MakeParameters
) -> None:
    parameters = make_parameters(extend="a", extend_as="alone", seed=9)
    with closing(Segments(generator, parameters, ignore).frames(source)) as frames:
        alone = list(frames)
    last = last_frame(source)
    expected = list(joined(last, generator.generate(Image.fromarray(last), make_parameters(seed=9), ignore)))
    assert len(alone) == len(expected) == 2
    for frame, generated in zip(alone, expected, strict=True):
        assert np.array_equal(frame, generated)


def test_a_joined_video_has_the_extended_one_and_then_the_continuation(
    make: Callable[..., bytes], source: bytes, make_parameters: MakeParameters
) -> None:
    before = list(decoded(source))
    joined = list(decoded(make(source, make_parameters(extend="a", extended_frames=len(before), seed=9, segments=2))))
    alone = list(decoded(make(source, make_parameters(extend="a", extend_as="alone", seed=9, segments=2))))
    assert len(joined) == len(before) + len(alone) == 3 + 4
    for frame, expected in zip(joined, before + alone, strict=True):
        assert difference(frame, expected) < 6


def test_frames_are_interpolated_between_the_last_frame_and_the_continuation(
    make: Callable[..., bytes], source: bytes, make_parameters: MakeParameters
) -> None:
    smooth = make_parameters(extend="a", extend_as="alone", seed=9, interpolate=4)
    frames, plain = (
        list(decoded(make(source, smooth))),
        list(decoded(make(source, make_parameters(extend="a", seed=9)))),
    )
    assert len(frames) == 4 * len(plain)
    for frame, generated in zip(frames[3::4], plain, strict=True):
        assert difference(frame, generated) < 8


def test_a_joined_video_can_be_a_loop_at_another_size(
    make: Callable[..., bytes], image: Image.Image, make_parameters: MakeParameters
) -> None:
    size = {"output_width": 96, "output_height": 80}
    source = make(image, make_parameters(**size))
    looped = make_parameters(**size, extend="a", extended_frames=3, loop=Loop.PINGPONG)
    with av.open(io.BytesIO(make(source, looped)), "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert {frame.shape for frame in frames} == {(80, 96, 3)}
    assert len(frames) == 8


@pytest.mark.parametrize("fit", [Fit.CROP, Fit.PAD])
@pytest.mark.parametrize("output", [(256, 144), (250, 160), (300, 120), (144, 256)])
def test_an_unscaled_frame_is_scaled_to_the_same_place(fit: Fit, output: tuple[int, int]) -> None:
    y, x = np.mgrid[0:64, 0:96]
    generated = np.stack([2 * x, 3 * y, 100 + 40 * np.sin(x / 7)], axis=-1).astype(np.uint8)
    shown = scaled(generated, output, fit)
    back = unscaled(shown, (96, 64), fit)
    assert back.shape == generated.shape
    again = scaled(back, output, fit)
    assert difference(again, shown) < 2


@pytest.mark.parametrize("video", [b"", b"no video", bytes(10_000)])
def test_an_undecodable_video_is_a_broken_input(
    make: Callable[..., bytes], make_parameters: MakeParameters, video: bytes
) -> None:
    with pytest.raises(BrokenInputError):
        make(video, make_parameters(extend="a", extended_frames=3))


def test_a_truncated_video_is_a_broken_input(source: bytes) -> None:
    with pytest.raises(BrokenInputError):
        last_frame(source[: len(source) // 3])


def test_the_provenance_names_the_extended_job(
    generator: Generator, tmp_path: Path, source: bytes, make_parameters: MakeParameters
) -> None:
    parameters = make_parameters(extend="a", extended_frames=3, seed=9)
    gif = {Format.GIF: tmp_path / "video.gif"}
    rendering = render(generator, source, parameters, tmp_path / "video.mp4", ignore, further=gif)
    assert rendering.provenance["parameters"]["extend"] == "a"
    assert rendering.provenance["seeds"] == [9]
    with Image.open(tmp_path / "video.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 5
