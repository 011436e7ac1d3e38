import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.parameters import Parameters
from svd_service.video import preview
from svd_service.video.loader import Generator
from svd_service.video.preview import Array, Colors, MakePreview

Ask = Callable[..., Parameters]


class StopError(Exception):
    pass


def ignore(progress: Progress) -> None:
    pass


def opened(make: MakePreview) -> Image.Image:
    return Image.open(io.BytesIO(make()))


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "INTERVAL", 0.0)


def blurred(picture: Image.Image) -> Array:
    return np.asarray(picture.resize((8, 8), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)


def test_colors_are_found_however_the_channels_mix_them(picture: Image.Image) -> None:
    mixing = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    latent = (blurred(picture) @ mixing + np.float32(0.3)).transpose(2, 0, 1)
    colors = Colors(latent, picture)
    np.testing.assert_allclose(colors.of(latent), blurred(picture), atol=1e-3)
    # What the map was fitted on is not all that it is good for.
    mirrored = colors.of(np.ascontiguousarray(latent[:, :, ::-1]))
    np.testing.assert_allclose(mirrored, blurred(picture)[:, ::-1], atol=1e-3)


def test_a_picture_of_one_colour_is_no_trouble() -> None:
    latent = np.ones((4, 8, 8), np.float32)
    colors = Colors(latent, Image.new("RGB", (64, 64), (255, 128, 0)))
    np.testing.assert_allclose(colors.of(latent)[3, 3], (1.0, 0.5, 0.0), atol=0.01)


@pytest.mark.usefixtures("every_step")
def test_each_step_offers_a_preview_in_the_videos_shape(generator: Generator, picture: Image.Image, ask: Ask) -> None:
    offered: list[MakePreview] = []
    list(generator.generate(picture, ask(num_inference_steps=3), ignore, offered.append))
    assert len(offered) == 3
    image = opened(offered[-1])
    assert (image.format, image.mode, image.size) == ("WEBP", "RGB", (64, 64))


def test_previews_are_offered_at_intervals_and_after_the_last_step(
    generator: Generator, picture: Image.Image, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "INTERVAL", 3_600.0)
    offered: list[MakePreview] = []
    list(generator.generate(picture, ask(num_inference_steps=4), ignore, offered.append))
    assert len(offered) == 2


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("scale", [1.0, 2.5], ids=["plain", "guided"])
def test_the_frames_are_the_same_with_and_without_sketches(
    generator: Generator, picture: Image.Image, ask: Ask, scale: float
) -> None:
    parameters = ask(max_guidance_scale=scale)
    alone = list(generator.generate(picture, parameters, ignore))
    made: list[bytes] = []
    watched = list(generator.generate(picture, parameters, ignore, lambda make: made.append(make())))
    np.testing.assert_array_equal(alone, watched)
    assert len(made) == 2


def test_what_looks_on_is_gone_afterwards_also_when_the_work_was_given_up(
    generator: Generator, picture: Image.Image, ask: Ask
) -> None:
    def stop(progress: Progress) -> None:
        if progress == Progress(Phase.SAMPLING, 1, 2):
            raise StopError

    offered: list[MakePreview] = []
    with pytest.raises(StopError):
        list(generator.generate(picture, ask(), stop, offered.append))
    list(generator.generate(picture, ask(), ignore))
    assert offered == []
    assert "step" not in vars(generator._pipe.scheduler)
    assert generator._pipe.on_conditioning is None
