"""A whole generation on a simulated CUDA device: the device of each tensor, and where the host waits for the device."""

from collections import Counter
from collections.abc import Callable, Collection

import pytest
import torch
from PIL import Image

from svd_service.jobs.parameters import Parameters
from svd_service.video.generator import Generator
from svd_service.video.memory_plan import FAST, MEMORY_PLANS, MemoryPlan
from svd_service.video.optimizations import AUTO, Optimization
from svd_service.video.segments import Segments
from tools.benchmark.architectures import ARCHITECTURES, models, pipeline
from tools.harness.pretended_cuda import PretendedCuda, Wait, pretended, without_values

MakeParameters = Callable[..., Parameters]

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
    pytest.mark.timeout(600),  # seconds of arithmetic; a busy machine takes longer
]

PLACE = torch.device("cuda", 0)

#: The optimizations of a GPU, except compilation.
USUAL = AUTO["cuda"] - {Optimization.COMPILE}

SCHEDULER = "diffusers.schedulers.scheduling_euler_discrete"
PIPELINE = "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion"
GENERATOR = "svd_service.video.generator"

#: Where the host waits for the device during a video.
KNOWN = {
    Wait("to device", "svd_service.video.pipeline", "_resized"),
    Wait("to host", "svd_service.video.pipeline", "_resized"),
    Wait("to device", PIPELINE, "_filter2d"),
    Wait("to device", PIPELINE, "_encode_image"),
    Wait("to device", PIPELINE, "__call__"),
    Wait("to device", "diffusers.utils.torch_utils", "randn_tensor"),
    Wait("to device", SCHEDULER, "set_timesteps"),
    Wait("to host", SCHEDULER, "set_timesteps"),
    Wait("item", SCHEDULER, "set_timesteps"),
    Wait("nonzero", SCHEDULER, "index_for_timestep"),
    Wait("item", SCHEDULER, "index_for_timestep"),
    Wait("item", GENERATOR, "_require_finite"),
    Wait("to host", GENERATOR, "_decode_chunk"),
}


def generator_on(
    device: PretendedCuda, optimizations: Collection[Optimization] = USUAL, plan: MemoryPlan = FAST
) -> Generator:
    """The tiny architecture on the device, as `loader.load` moves it there."""
    tiny = ARCHITECTURES["tiny"]
    pipe = pipeline(without_values(device, lambda: models(tiny, torch.float16)))
    if not plan.model_offload:
        pipe.to(PLACE)
    return Generator(pipe, tiny.model, None, optimizations, plan, PLACE)


def shapes_of(generator: Generator, image: Image.Image, parameters: Parameters) -> list[tuple[int, ...]]:
    return [frame.shape for frame in generator.generate(image, parameters, lambda _: None)]


@pytest.fixture
def parameters(make_parameters: MakeParameters) -> Parameters:
    """With guidance, in one step."""
    return make_parameters(max_guidance_scale=3.0, num_frames=2, num_inference_steps=1)


def test_tensors_of_the_host_and_of_the_device_are_not_mixed() -> None:
    with pretended(), pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device="cuda:0") + torch.ones(2)


@pytest.mark.parametrize(
    ("plan", "optimizations"),
    [
        pytest.param(FAST, frozenset(), id="plain"),
        pytest.param(FAST, USUAL, id="fast"),
        *(pytest.param(plan, USUAL, id=plan.name, marks=pytest.mark.thorough) for plan in MEMORY_PLANS if plan != FAST),
    ],
)
def test_each_memory_plan_keeps_everything_in_half_precision_on_its_device(
    image: Image.Image, parameters: Parameters, plan: MemoryPlan, optimizations: frozenset[Optimization]
) -> None:
    seen: list[tuple[str, torch.dtype, str]] = []
    with pretended() as device:
        generator = generator_on(device, optimizations, plan)
        pipe = generator._pipe
        for name, part in (("unet", pipe.unet.conv_out), ("decoder", pipe.vae.decoder.conv_out)):
            part.register_forward_hook(lambda *call, name=name: seen.append((name, call[2].dtype, str(call[2].device))))
        pipe.image_encoder.visual_projection.register_forward_hook(
            lambda *call: seen.append(("clip", call[2].dtype, str(call[2].device)))
        )
        pipe.vae.encoder.register_forward_hook(
            lambda *call: seen.append(("encoder", call[2].dtype, str(call[2].device)))
        )
        assert shapes_of(generator, image, parameters) == [(64, 64, 3)] * 2
        weights = {weight.device.type for weight in pipe.unet.parameters()}
        assert pipe.vae.dtype == torch.float16
    assert dict.fromkeys(seen) == dict.fromkeys(
        [
            ("clip", torch.float16, "cuda:0"),
            ("encoder", torch.float32, "cuda:0"),  # the VAE's half precision overflows there
            ("unet", torch.float16, "cuda:0"),
            ("decoder", torch.float16, "cuda:0"),
        ]
    )
    assert weights == {"cpu" if plan.model_offload else "cuda"}


def waits_of(image: Image.Image, parameters: Parameters, optimizations: Collection[Optimization]) -> Counter[Wait]:
    with pretended() as device:
        generator = generator_on(device, optimizations)
        device.waits.clear()
        shapes_of(generator, image, parameters)
        return device.waits


@pytest.mark.thorough
def test_the_host_waits_for_the_device_only_at_the_known_places(
    image: Image.Image, make_parameters: MakeParameters
) -> None:
    parameters = make_parameters(max_guidance_scale=3.0, num_frames=2, num_inference_steps=3)
    assert set(waits_of(image, parameters, USUAL)) == KNOWN


@pytest.mark.thorough
def test_three_segments_need_the_device_memory_of_one(image: Image.Image, make_parameters: MakeParameters) -> None:
    with pretended() as device:
        generator = generator_on(device)
        peaks = []
        for segments in (1, 3):
            device.peak = 0
            parameters = make_parameters(num_frames=2, num_inference_steps=1, segments=segments)
            frames = Segments(generator, parameters, lambda _: None).frames(image)
            assert sum(1 for _ in frames) == segments + 1
            peaks.append(device.peak)
    assert 0 < peaks[1] <= 1.15 * peaks[0]
