"""The tiny model on a real GPU, as a worker holds it there: each plan of using memory, and what is compiled."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svd_service.config import Settings
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters, Request
from svd_service.video.encoder import Frame
from svd_service.video.loader import Generator, load
from svd_service.video.memory_plan import MEMORY_PLANS
from svd_service.video.optimizations import Optimization

DEVICE = "0"

Ask = Callable[..., Parameters]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() == 0, reason="there is no CUDA device"),
]


def load_on_the_gpu(folder: Path, **variables: str) -> Generator:
    settings = Settings.from_mapping({"SVD_MODEL": str(folder), "SVD_DEVICES": DEVICE, **variables})
    return load(Model.of(settings), DEVICE, settings)


def frames_of(generator: Generator, picture: Image.Image, parameters: Parameters) -> Frame:
    return np.stack(list(generator.generate(picture, parameters, lambda _: None)))


@pytest.fixture
def parameters(ask: Ask) -> Parameters:
    """Guidance, so that its halves can be split; and frames decoded one by one, as the thriftiest plans do anyway."""
    return ask(max_guidance_scale=3.0, decode_chunk_size=1)


@pytest.fixture
def expected(generator: Generator, picture: Image.Image, parameters: Parameters) -> Frame:
    """The CPU's video, in single precision."""
    return frames_of(generator, picture, parameters)


def assert_same_but_for_precision(frames: Frame, expected: Frame) -> None:
    off = np.abs(frames.astype(int) - expected)
    assert frames.shape == expected.shape
    # On a CPU, half precision is off by 1.5 at most; a video of another seed by 12.
    assert off.mean() < 5, f"off by {off.mean():.2f} levels of 255"


@pytest.mark.parametrize("optimizations", ["none", "-compile"])
@pytest.mark.parametrize("plan", [plan.name for plan in MEMORY_PLANS])
def test_each_way_of_using_memory_gives_the_cpus_video_time_and_again(
    tiny: Path, picture: Image.Image, parameters: Parameters, expected: Frame, plan: str, optimizations: str
) -> None:
    generator = load_on_the_gpu(tiny, SVD_MEMORY=plan, SVD_OPTIMIZATIONS=optimizations)
    for _ in range(2):
        assert_same_but_for_precision(frames_of(generator, picture, parameters), expected)
    assert generator.memory["setting"] == plan
    assert generator.memory["attempts"] == []


def test_what_is_compiled_gives_it_too(tiny: Path, picture: Image.Image, generator: Generator) -> None:
    on_the_gpu = load_on_the_gpu(tiny)
    on_the_gpu.warm_up()
    if Optimization.COMPILE not in on_the_gpu.optimizations:
        pytest.skip("there is no compiler: the log says why")
    model = Model.of(Settings.from_mapping({"SVD_MODEL": str(tiny), "SVD_DEVICES": DEVICE}))
    parameters = Request(seed=7).resolve(model, picture.size)  # the model's own size, which it is compiled for
    picture = picture.resize((parameters.width, parameters.height))
    expected = frames_of(generator, picture, parameters)
    assert_same_but_for_precision(frames_of(on_the_gpu, picture, parameters), expected)


def test_a_preview_is_made_and_changes_nothing(tiny: Path, picture: Image.Image, parameters: Parameters) -> None:
    generator = load_on_the_gpu(tiny, SVD_OPTIMIZATIONS="-compile")
    previews: list[bytes] = []
    without = frames_of(generator, picture, parameters)
    looked_at = list(generator.generate(picture, parameters, lambda _: None, lambda make: previews.append(make())))
    assert_same_but_for_precision(np.stack(looked_at), without)
    assert previews
    assert all(preview.startswith(b"RIFF") for preview in previews)


def test_the_device_tells_its_name_and_how_its_memory_is_used(tiny: Path) -> None:
    generator = load_on_the_gpu(tiny, SVD_OPTIMIZATIONS="none")
    memory = generator.device_memory()
    assert generator.device == torch.cuda.get_device_name(0)
    assert memory is not None
    assert 0 < memory.reserved <= memory.used <= memory.size
