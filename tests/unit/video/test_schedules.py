from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules
from PIL import Image

from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.model import Sampling, Schedule
from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Profile
from svd_service.video.loader import Generator
from svd_service.video.schedules import sigmas

DRAFT = Sampling(10, Schedule.ALIGN_YOUR_STEPS)


def test_in_ten_steps_the_levels_are_those_of_diffusers() -> None:
    assert sigmas(DRAFT, 10) == pytest.approx(AysSchedules["StableDiffusionVideoSigmas"])


@pytest.mark.parametrize("steps", [1, 2, 7, 25, 100])
def test_in_any_number_of_steps_the_levels_fall_from_the_first_to_zero(steps: int) -> None:
    levels = sigmas(DRAFT, steps)
    assert levels is not None
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(700)
    assert levels[-1] == 0
    assert (np.diff(levels) < 0).all()


def test_levels_are_interpolated_linearly_in_the_logarithm() -> None:
    levels = sigmas(DRAFT, 20)
    assert levels is not None
    assert levels[1] == pytest.approx((700 * 54.5) ** 0.5)


def test_other_profiles_use_the_models_scheduler() -> None:
    assert sigmas(Sampling(2), 2) is None


def test_a_draft_is_sampled_at_those_levels_with_progress_for_each_step(
    generator: Generator, image: Image.Image, make_parameters: Callable[..., Parameters]
) -> None:
    timesteps: list[float] = []
    reports: list[Progress] = []

    def look(_: Any, inputs: tuple[Any, ...], __: Any) -> None:
        timesteps.append(float(inputs[1]))

    with generator._pipe.unet.register_forward_hook(look):
        latents = generator._sample(
            image, make_parameters(profile=Profile.DRAFT, num_inference_steps=3), reports.append
        )
    levels = sigmas(DRAFT, 3)
    assert levels is not None
    # The timestep of a noise level in SVD's UNet (EulerDiscreteScheduler with continuous timesteps).
    assert timesteps == pytest.approx([0.25 * np.log(level) for level in levels[:-1]])
    assert [(step.step, step.steps) for step in reports if step.phase is Phase.SAMPLING] == [
        (0, 3),
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    assert torch.isfinite(latents).all()


def test_a_draft_differs_from_the_exact_video_in_as_many_steps(
    generator: Generator, image: Image.Image, make_parameters: Callable[..., Parameters]
) -> None:
    exact, draft = (
        generator._sample(image, make_parameters(profile=profile, num_inference_steps=3), lambda _: None)
        for profile in Profile
    )
    assert not torch.equal(exact, draft)
