"""A whole generation on a simulated CUDA device: the device of each tensor, where the host waits for the device, and
how much memory is used. With the tiny architecture, and with the real one in its real size.
"""

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice

import pytest
import torch
from PIL import Image

from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.model import Defaults
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.video.generator import Generator
from svd_service.video.memory_plan import FAST, GB, MEMORY_PLANS, MemoryPlan, peak
from svd_service.video.optimizations import AUTO, Optimization
from svd_service.video.segments import Segments
from tools.benchmark.architectures import ARCHITECTURES, models, pipeline
from tools.harness.local import LONG
from tools.harness.pretended_cuda import PretendedCuda, Wait, pretended, without_values

MakeParameters = Callable[..., Parameters]

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
    pytest.mark.timeout(600),  # seconds of arithmetic; a busy machine takes longer
]

PLACE = torch.device("cuda", 0)

#: Bytes of the real architecture's parts in half precision.
WEIGHTS = {"unet": round(3.05 * GB), "image_encoder": round(1.26 * GB), "vae": round(0.2 * GB)}

SMALL = next(plan for plan in MEMORY_PLANS if plan.name == "small")

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
    device: PretendedCuda,
    optimizations: Collection[Optimization] = USUAL,
    plan: MemoryPlan = FAST,
    architecture: str = "tiny",
) -> Generator:
    """The architecture on the device, as `loader.load` moves it there."""
    chosen = ARCHITECTURES[architecture]
    pipe = pipeline(without_values(device, lambda: models(chosen, torch.float16)))
    if not plan.model_offload:
        pipe.to(PLACE)
    return Generator(pipe, chosen.model, None, optimizations, plan, PLACE)


def shapes_of(generator: Generator, image: Image.Image, parameters: Parameters) -> list[tuple[int, ...]]:
    return [frame.shape for frame in generator.generate(image, parameters, lambda _: None)]


@dataclass
class Seen:
    """Types and devices of what the parts of a pipeline make, by part."""

    made: dict[str, set[tuple[torch.dtype, str]]] = field(default_factory=dict)

    def watch(self, generator: Generator) -> None:
        pipe = generator._pipe
        parts = {
            "clip": pipe.image_encoder.visual_projection,
            "encoder": pipe.vae.encoder,
            "unet": pipe.unet.conv_out,
            "decoder": pipe.vae.decoder.conv_out,
        }
        for name, part in parts.items():
            part.register_forward_hook(
                lambda *call, name=name: self.made.setdefault(name, set()).add((call[2].dtype, str(call[2].device)))
            )

    def check(self) -> None:
        half = {(torch.float16, "cuda:0")}
        # The VAE's half precision overflows when it encodes.
        assert self.made == {"clip": half, "encoder": {(torch.float32, "cuda:0")}, "unet": half, "decoder": half}


@pytest.fixture
def parameters(make_parameters: MakeParameters) -> Parameters:
    """With guidance, in one step."""
    return make_parameters(max_guidance_scale=3.0, num_frames=2, num_inference_steps=1)


def test_tensors_of_the_host_and_of_the_device_are_not_mixed() -> None:
    with pretended(), pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device="cuda:0") + torch.ones(2)


@pytest.mark.parametrize(
    "optimizations",
    [pytest.param(frozenset(), id="plain", marks=pytest.mark.thorough), pytest.param(USUAL, id="usual")],
)
def test_everything_is_in_half_precision_and_on_its_device(
    image: Image.Image, parameters: Parameters, optimizations: frozenset[Optimization]
) -> None:
    seen = Seen()
    with pretended() as device:
        generator = generator_on(device, optimizations)
        seen.watch(generator)
        assert shapes_of(generator, image, parameters) == [(64, 64, 3)] * 2
        assert generator._pipe.vae.dtype == torch.float16
        # No call has a mask, and none computes all scores: at the real size these would take 170 GB.
        assert set(device.attention) == {"flash", "memory-efficient"}
    seen.check()


@pytest.fixture(scope="module")
def size() -> tuple[Parameters, Image.Image]:
    """What Stable Video Diffusion XT makes by default, in one step."""
    model = ARCHITECTURES["svd-xt"].model
    parameters = VideoRequest(seed=7, num_inference_steps=1).resolve(model, (1024, 576))
    assert (parameters.num_frames, parameters.max_guidance_scale) == (25, 3.0)
    return parameters, Image.new("RGB", (1024, 576), "teal")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "plan",
    # The other plans use some of the least one's means.
    [plan for plan in MEMORY_PLANS if LONG or plan.name in {"fast", "least"}],
    ids=lambda plan: plan.name,
)
def test_the_real_architecture_takes_the_memory_that_its_plan_computes(
    size: tuple[Parameters, Image.Image], plan: MemoryPlan
) -> None:
    parameters, image = size
    if plan.forward_chunking:
        # The halves of the guidance run one after the other: one of them shows what both take, in half the time.
        parameters = replace(parameters, max_guidance_scale=1.0)
    seen = Seen()
    with pretended() as device:
        generator = generator_on(device, USUAL, plan, "svd-xt")
        seen.watch(generator)
        device.peak, device.waits = 0, Counter()
        with closing(generator.generate(image, parameters, lambda _: None)) as frames:
            # Two chunks: the second is decoded beside nothing that the first was not.
            assert all(frame.shape == (576, 1024, 3) for frame in islice(frames, 5))
        weights = {weight.device.type for weight in generator._pipe.unet.parameters()}
    seen.check()
    assert weights == {"cpu" if plan.model_offload else "cuda"}
    assert set(device.waits) <= KNOWN
    assert set(device.attention) == {"flash", "memory-efficient"}
    assert generator.memory["attempts"] == []
    assert device.peak == pytest.approx(peak(plan, Defaults(), WEIGHTS), rel=0.1)


#: Bytes that suffice neither for both halves of the guidance at once nor for decoding eight frames at once.
TOO_SMALL = 8.6 * GB


@pytest.mark.thorough
def test_encoding_the_image_takes_the_memory_that_is_computed_for_a_short_video(
    size: tuple[Parameters, Image.Image],
) -> None:
    parameters, image = size
    with pretended() as device:
        generator = generator_on(device, USUAL, SMALL, "svd-xt")
        device.peak = 0

        def stop(progress: Progress) -> None:
            if progress.phase is Phase.SAMPLING:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            next(generator.generate(image, parameters, stop))
    assert device.peak == pytest.approx(peak(SMALL, Defaults(num_frames=2), WEIGHTS), rel=0.1)


@pytest.mark.thorough
def test_a_device_that_is_too_small_for_its_plan_makes_the_video_with_the_fallbacks(
    size: tuple[Parameters, Image.Image],
) -> None:
    parameters, image = replace(size[0], decode_chunk_size=8), size[1]
    with pretended(room=TOO_SMALL) as device:
        generator = generator_on(device, USUAL, FAST, "svd-xt")
        with closing(generator.generate(image, parameters, lambda _: None)) as frames:
            assert all(frame.shape == (576, 1024, 3) for frame in islice(frames, 3))
    assert device.peak <= TOO_SMALL
    memory = generator.memory
    assert [attempt["phase"] for attempt in memory["attempts"]] == ["sampling", "decoding"]
    assert (memory["split_guidance"], memory["forward_chunking"], memory["decode_chunk_size"]) == (True, False, 4)


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
