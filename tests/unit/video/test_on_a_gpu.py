"""The tiny model on a real GPU, as a worker loads it: each memory plan, and compiled blocks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svd_service.config import Settings
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.video.encoder import Frame
from svd_service.video.loader import Generator, load
from svd_service.video.memory_plan import MEMORY_PLANS
from svd_service.video.optimizations import Optimization

DEVICE = "0"

MakeParameters = Callable[..., Parameters]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() == 0, reason="there is no CUDA device"),
]


def load_on_the_gpu(folder: Path, **variables: str) -> Generator:
    settings = Settings.from_mapping({"SVD_MODEL": str(folder), "SVD_DEVICES": DEVICE, **variables})
    return load(Model.of(settings), DEVICE, settings)


def frames_of(generator: Generator, image: Image.Image, parameters: Parameters) -> Frame:
    return np.stack(list(generator.generate(image, parameters, lambda _: None)))


@pytest.fixture
def parameters(make_parameters: MakeParameters) -> Parameters:
    """Guidance, so that its halves can be split; frames decoded one by one, as the most economical plans do anyway."""
    return make_parameters(max_guidance_scale=3.0, decode_chunk_size=1)


@pytest.fixture
def expected(generator: Generator, image: Image.Image, parameters: Parameters) -> Frame:
    """The CPU's video, in single precision."""
    return frames_of(generator, image, parameters)


def assert_same_but_for_precision(frames: Frame, expected: Frame) -> None:
    off = np.abs(frames.astype(int) - expected)
    assert frames.shape == expected.shape
    # On a CPU, half precision is off by 1.5 at most; a video of another seed by 12.
    assert off.mean() < 5, f"off by {off.mean():.2f} levels of 255"


@pytest.mark.parametrize("optimizations", ["none", "-compile"])
@pytest.mark.parametrize("plan", [plan.name for plan in MEMORY_PLANS])
def test_each_memory_plan_gives_the_cpus_video_repeatedly(
    tiny: Path, image: Image.Image, parameters: Parameters, expected: Frame, plan: str, optimizations: str
) -> None:
    generator = load_on_the_gpu(tiny, SVD_MEMORY=plan, SVD_OPTIMIZATIONS=optimizations)
    for _ in range(2):
        assert_same_but_for_precision(frames_of(generator, image, parameters), expected)
    assert generator.memory["setting"] == plan
    assert generator.memory["attempts"] == []


def test_compiled_blocks_give_the_cpus_video(tiny: Path, image: Image.Image, generator: Generator) -> None:
    on_the_gpu = load_on_the_gpu(tiny)
    on_the_gpu.warm_up()
    if Optimization.COMPILE not in on_the_gpu.optimizations:
        pytest.skip("no compiler; the reason is in the log")
    model = Model.of(Settings.from_mapping({"SVD_MODEL": str(tiny), "SVD_DEVICES": DEVICE}))
    parameters = VideoRequest(seed=7).resolve(model, image.size)  # the model's own size, for which it is compiled
    image = image.resize((parameters.width, parameters.height))
    expected = frames_of(generator, image, parameters)
    assert_same_but_for_precision(frames_of(on_the_gpu, image, parameters), expected)


def test_a_preview_is_made_and_changes_nothing(tiny: Path, image: Image.Image, parameters: Parameters) -> None:
    generator = load_on_the_gpu(tiny, SVD_OPTIMIZATIONS="-compile")
    previews: list[bytes] = []
    without = frames_of(generator, image, parameters)
    with_previews = list(generator.generate(image, parameters, lambda _: None, lambda make: previews.append(make())))
    assert_same_but_for_precision(np.stack(with_previews), without)
    assert previews
    assert all(preview.startswith(b"RIFF") for preview in previews)


def test_the_device_name_and_memory_use_are_reported(tiny: Path) -> None:
    generator = load_on_the_gpu(tiny, SVD_OPTIMIZATIONS="none")
    memory = generator.device_memory()
    assert generator.device == torch.cuda.get_device_name(0)
    assert memory is not None
    assert 0 < memory.reserved <= memory.used <= memory.size
