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

MakeParameters = Callable[..., Parameters]


class StopError(Exception):
    pass


def ignore(progress: Progress) -> None:
    pass


def opened(make: MakePreview) -> Image.Image:
    return Image.open(io.BytesIO(make()))


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "INTERVAL", 0.0)


def blurred(image: Image.Image) -> Array:
    return np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)


def test_colors_are_recovered_from_any_mixture_in_the_channels(image: Image.Image) -> None:
    mixing = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    latent = (blurred(image) @ mixing + np.float32(0.3)).transpose(2, 0, 1)
    colors = Colors(latent, image)
    np.testing.assert_allclose(colors.of(latent), blurred(image), atol=1e-3)
    # The map generalizes beyond the image that it was fitted on.
    mirrored = colors.of(np.ascontiguousarray(latent[:, :, ::-1]))
    np.testing.assert_allclose(mirrored, blurred(image)[:, ::-1], atol=1e-3)


def test_an_image_of_one_colour_is_handled() -> None:
    latent = np.ones((4, 8, 8), np.float32)
    colors = Colors(latent, Image.new("RGB", (64, 64), (255, 128, 0)))
    np.testing.assert_allclose(colors.of(latent)[3, 3], (1.0, 0.5, 0.0), atol=0.01)


@pytest.mark.usefixtures("every_step")
def test_each_step_offers_a_preview_in_the_videos_shape(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    offered: list[MakePreview] = []
    list(generator.generate(image, make_parameters(num_inference_steps=3), ignore, offered.append))
    assert len(offered) == 3
    shown = opened(offered[-1])
    assert (shown.format, shown.mode, shown.size) == ("WEBP", "RGB", (64, 64))


def test_previews_are_offered_at_intervals_and_after_the_last_step(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "INTERVAL", 3_600.0)
    offered: list[MakePreview] = []
    list(generator.generate(image, make_parameters(num_inference_steps=4), ignore, offered.append))
    assert len(offered) == 2


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("scale", [1.0, 2.5], ids=["plain", "guided"])
def test_the_frames_are_the_same_with_and_without_previews(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters, scale: float
) -> None:
    parameters = make_parameters(max_guidance_scale=scale)
    alone = list(generator.generate(image, parameters, ignore))
    previews: list[bytes] = []
    with_previews = list(generator.generate(image, parameters, ignore, lambda make: previews.append(make())))
    np.testing.assert_array_equal(alone, with_previews)
    assert len(previews) == 2


def test_the_preview_hooks_are_removed_also_after_a_cancelled_generation(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    def stop(progress: Progress) -> None:
        if progress == Progress(Phase.SAMPLING, 1, 2):
            raise StopError

    offered: list[MakePreview] = []
    with pytest.raises(StopError):
        list(generator.generate(image, make_parameters(), stop, offered.append))
    list(generator.generate(image, make_parameters(), ignore))
    assert offered == []
    assert "step" not in vars(generator._pipe.scheduler)
    assert generator._pipe.on_conditioning is None
