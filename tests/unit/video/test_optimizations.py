import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import StableVideoDiffusionPipeline
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import AlphaBlender, ResnetBlock2D, TemporalResnetBlock
from PIL import Image
from torch import nn
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from svd_service.config import ConfigurationError, Settings
from svd_service.environment.types import OPTIMIZATIONS
from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters
from svd_service.video.encoder import Frame
from svd_service.video.loader import Generator
from svd_service.video.optimizations import AUTO, UNMEASURED, Optimization, apply, attention_kernels, chosen, usable
from svd_service.video.pipeline import Pipeline
from tools.harness import tiny_model

MakeParameters = Callable[..., Parameters]

#: Optimizations whose frames are bit-identical to the stock pipeline's on any machine: the arithmetic is the same.
EXACT = {
    Optimization.ZERO_BRANCHES,
    Optimization.CACHED_GUIDANCE,
    Optimization.DEVICE_RESIZE,
    Optimization.DEVICE_UINT8,
    Optimization.OVERLAPPED_ENCODING,
}

#: The same formula, evaluated in another order.
NEAR = AUTO["cuda"] - EXACT - {Optimization.COMPILE}


def name_of(optimizations: Collection[Optimization]) -> str:
    return "+".join(sorted(optimizations))


def open_pipe(kind: Any, folder: Path, precision: torch.dtype) -> Any:
    pipe = kind.from_pretrained(folder, dtype=precision)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator_of(
    folder: Path, optimizations: Collection[Optimization], precision: torch.dtype = torch.float32
) -> Generator:
    return Generator(
        open_pipe(Pipeline, folder, precision), Model(name="tiny", source=str(folder)), None, optimizations
    )


def frames_of(generator: Generator, image: Image.Image, parameters: Parameters) -> Frame:
    return np.stack(list(generator.generate(image, parameters, lambda _: None)))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parameters(make_parameters: MakeParameters) -> Parameters:
    """With guidance, and in two chunks, one of them smaller."""
    return make_parameters(max_guidance_scale=3.0)


@pytest.fixture(scope="module")
def stock_frames(tiny: Path, image: Image.Image, parameters: Parameters) -> Frame:
    """The frames of diffusers' own pipeline."""
    pipe = open_pipe(StableVideoDiffusionPipeline, tiny, torch.float32)
    takes = inspect.signature(StableVideoDiffusionPipeline.__call__).parameters
    values = {name: value for name, value in parameters.to_dict().items() if name in takes}
    generator = torch.Generator().manual_seed(parameters.seed)
    pixels = pipe(image, **values, generator=generator, output_type="np").frames[0]
    return np.asarray((pixels * 255).round(), dtype=np.uint8)


@pytest.mark.parametrize(
    "optimizations", [set(), *({optimization} for optimization in sorted(EXACT)), EXACT], ids=name_of
)
def test_an_exact_optimization_changes_no_bit(
    tiny: Path, stock_frames: Frame, image: Image.Image, parameters: Parameters, optimizations: set[Optimization]
) -> None:
    np.testing.assert_array_equal(frames_of(generator_of(tiny, optimizations), image, parameters), stock_frames)


def outputs(
    optimizations: Collection[Optimization],
    precision: torch.dtype,
    change: Callable[[Pipeline], None] = lambda _: None,
) -> list[torch.Tensor]:
    """Outputs of the UNet and the decoder of the tiny model for the same input: with guidance, and 3 frames."""
    pipe = Pipeline(**tiny_model.pipeline().components).to(dtype=precision)
    change(pipe)
    apply(pipe, optimizations)
    chance = torch.Generator().manual_seed(1)
    sample, latents, image = (torch.randn(shape, generator=chance).to(precision) for shape in SHAPES)
    times = torch.tensor([[6, 127, 0.02]] * 2, dtype=precision)
    with torch.inference_mode():
        noise = pipe.unet(sample, torch.tensor(1.5), image, added_time_ids=times).sample
        return [noise.double(), pipe.vae.decode(latents, num_frames=len(latents)).sample.double()]


def test_branches_that_add_zero_are_skipped_without_changing_a_bit() -> None:
    def zero_some(pipe: Pipeline) -> None:
        blocks = [block for part in (pipe.unet, pipe.vae) for block in part.modules() if hasattr(block, "conv2")]
        for block in blocks[::2]:
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
        attentions = [attention for attention in pipe.unet.modules() if isinstance(attention, Attention)]
        for attention in attentions[::2]:
            nn.init.zeros_(attention.to_out[0].weight)
            nn.init.zeros_(attention.to_out[0].bias)
        zeroed[:] = [block for block in blocks[::2] if isinstance(block, ResnetBlock2D | TemporalResnetBlock)]
        zeroed.extend(attentions[::2])

    def run(block: nn.Module, *_: Any) -> None:
        ran.append(block)

    zeroed: list[nn.Module] = []
    expected = outputs((), torch.float32, zero_some)
    ran: list[nn.Module] = []
    with nn.modules.module.register_module_forward_pre_hook(run):
        skipped = outputs({Optimization.ZERO_BRANCHES}, torch.float32, zero_some)
    assert zeroed
    assert not {id(block) for block in zeroed} & {id(block) for block in ran}
    assert {TemporalResnetBlock, Attention} <= {type(block) for block in ran}
    for one, other in zip(skipped, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("has_amx", [True, False])
def test_the_decoder_computes_in_bfloat16_where_the_cpu_has_matrix_units_for_it(
    has_amx: bool, tiny: Path, load_model: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_amx})
    assert (Optimization.BFLOAT16_DECODER in load_model(tiny).optimizations) == has_amx


def test_in_bfloat16_the_decoder_differs_by_its_rounding_only() -> None:
    exact, rounded = (outputs(each, torch.float32) for each in ((), {Optimization.BFLOAT16_DECODER}))
    assert torch.equal(rounded[0], exact[0])
    assert 0 < distances(rounded, exact)[1] < 0.05


SHAPES = [(2, 3, 8, 8, 8), (2, 4, 8, 8), (2, 1, 32)]


def distances(some: list[torch.Tensor], others: list[torch.Tensor]) -> list[float]:
    """Root mean squares of the differences, relative to those of `others`."""
    return [
        float((one - other).square().mean().sqrt() / other.square().mean().sqrt())
        for one, other in zip(some, others, strict=True)
    ]


@pytest.fixture(scope="module")
def true_outputs() -> list[torch.Tensor]:
    """Outputs of the stock models, in double precision."""
    return outputs((), torch.float64)


near = pytest.mark.parametrize("optimizations", [*({optimization} for optimization in sorted(NEAR)), NEAR], ids=name_of)


@near
def test_a_near_optimization_is_the_same_formula_in_double_precision(
    true_outputs: list[torch.Tensor], optimizations: set[Optimization]
) -> None:
    assert max(distances(outputs(optimizations, torch.float64), true_outputs)) < 1e-10


@near
def test_in_single_precision_a_near_optimization_changes_at_most_one_part_in_ten_thousand(
    optimizations: set[Optimization],
) -> None:
    assert max(distances(outputs(optimizations, torch.float32), outputs((), torch.float32))) < 1e-4


@near
def test_in_half_precision_a_near_optimization_is_as_accurate_as_the_stock_models(
    true_outputs: list[torch.Tensor], optimizations: set[Optimization]
) -> None:
    usual = distances(outputs((), torch.bfloat16), true_outputs)
    for own, stock in zip(distances(outputs(optimizations, torch.bfloat16), true_outputs), usual, strict=True):
        assert own < 1.5 * stock


def test_all_optimizations_together_make_the_stock_pipelines_video(
    tiny: Path, stock_frames: Frame, image: Image.Image, parameters: Parameters
) -> None:
    frames = frames_of(generator_of(tiny, EXACT | NEAR), image, parameters)
    np.testing.assert_allclose(frames.astype(int), stock_frames.astype(int), atol=2)
    assert frames.std() > 1


def test_each_optimization_is_applied_to_its_modules() -> None:
    pipe = Pipeline(**tiny_model.pipeline().components)
    apply(pipe, EXACT | NEAR)
    attentions = [module for module in pipe.unet.modules() if isinstance(module, Attention)]
    cross = [module for module in attentions if module.is_cross_attention]
    assert cross
    assert len(attentions) == 2 * len(cross)
    assert all(hasattr(module, "to_qkv") == (module not in cross) for module in attentions)
    assert not any(isinstance(module, AlphaBlender) for part in (pipe.unet, pipe.vae) for module in part.modules())
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert pipe.vae.decoder.time_conv_out.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert pipe.cached_guidance
    assert pipe.device_resize


def test_cached_guidance_reads_no_value_from_the_device_in_any_step(
    tiny: Path, image: Image.Image, make_parameters: MakeParameters
) -> None:
    reads = 0

    class CountingPipeline(Pipeline):
        @property
        def guidance_scale(self) -> Any:
            nonlocal reads
            reads += isinstance(self._guidance_scale, torch.Tensor)
            return self._guidance_scale

    def count(optimizations: set[Optimization], steps: int) -> int:
        nonlocal reads
        reads = 0
        generator = Generator(
            open_pipe(CountingPipeline, tiny, torch.float32), Model("tiny", str(tiny)), None, optimizations
        )
        generator._sample(image, make_parameters(max_guidance_scale=3.0, num_inference_steps=steps), lambda _: None)
        return reads

    assert count({Optimization.CACHED_GUIDANCE}, 3) == 3, "the uses only, without synchronizing reads"
    assert count(set(), 3) > 6


def test_without_overlap_the_first_frame_is_yielded_when_all_are_decoded(
    tiny: Path, image: Image.Image, make_parameters: MakeParameters
) -> None:
    reports: list[Progress] = []
    frames = generator_of(tiny, set()).generate(image, make_parameters(decode_chunk_size=1), reports.append)
    next(frames)
    assert reports[-1] == Progress(Phase.DECODING, 3, 3)


def test_on_a_gpu_progress_is_not_ahead_of_the_device_and_the_host_by_one_step_at_most(
    tiny: Path, image: Image.Image, make_parameters: MakeParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Event:
        """A CUDA event without a device."""

        number = 0

        def record(self, _: object) -> None:
            Event.number += 1
            self.name = Event.number
            events.append(f"queued {self.name}")

        def synchronize(self) -> None:
            events.append(f"waited for {self.name}")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda place: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda place: None)
    generator = generator_of(tiny, set())
    generator._place = torch.device("cuda", 0)
    generator._sample(
        image, make_parameters(num_inference_steps=3), lambda progress: events.append(f"reported {progress.step}")
    )
    assert events == [
        *("reported 0", "queued 1", "reported 0"),
        *("queued 2", "waited for 1", "reported 1"),
        *("queued 3", "waited for 2", "reported 2"),
    ]


@pytest.mark.parametrize(
    ("optimizations", "first"),
    [
        ({Optimization.FLASH_ATTENTION}, [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]),
        ({Optimization.CUDNN_ATTENTION}, [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]),
    ],
    ids=["flash", "cudnn"],
)
def test_attention_uses_the_selected_kernels_first_and_the_others_where_those_do_not_apply(
    tiny: Path,
    image: Image.Image,
    parameters: Parameters,
    monkeypatch: pytest.MonkeyPatch,
    optimizations: set[Optimization],
    first: list[SDPBackend],
) -> None:
    usual = _cur_sdpa_kernel_backends(with_priority=True)
    orders: list[list[SDPBackend]] = []
    attend = F.scaled_dot_product_attention

    def note(*args: Any, **kwargs: Any) -> torch.Tensor:
        orders.append(_cur_sdpa_kernel_backends(with_priority=True))
        return attend(*args, **kwargs)

    generator = generator_of(tiny, optimizations)
    monkeypatch.setattr(F, "scaled_dot_product_attention", note)
    frames_of(generator, image, parameters)
    selected = [order for order in orders if order != usual]
    assert len(selected) > len(generator._pipe.unet.attn_processors)  # the VAE's decoder, too
    assert all(order == [*first, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH] for order in selected)
    assert _cur_sdpa_kernel_backends(with_priority=True) == usual


def test_what_is_not_measured_is_off(tiny: Path) -> None:
    assert not any(UNMEASURED & defaults for defaults in AUTO.values())
    assert attention_kernels(AUTO["cuda"]).__class__ is nullcontext


def test_without_compiled_code_there_are_no_graphs(tiny: Path) -> None:
    assert generator_of(tiny, {Optimization.CUDA_GRAPHS}).origin["optimizations"] == []


def test_the_origin_names_the_optimizations(tiny: Path) -> None:
    generator = generator_of(tiny, {Optimization.LERP, Optimization.DEVICE_UINT8})
    assert generator.origin["optimizations"] == ["device_uint8", "lerp"]
    assert generator.optimizations == {Optimization.LERP, Optimization.DEVICE_UINT8}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("", lambda usual: usual),
        ("auto", lambda usual: usual),
        ("none", lambda usual: set()),
        ("-fused_qkv", lambda usual: usual - {Optimization.FUSED_QKV}),
        ("lerp , -fused_qkv", lambda usual: (usual | {Optimization.LERP}) - {Optimization.FUSED_QKV}),
        ("none,lerp,channels_last", lambda usual: {Optimization.LERP, Optimization.CHANNELS_LAST}),
        ("none,auto", lambda usual: usual),
    ],
)
def test_the_setting_adds_to_or_removes_from_the_devices_defaults(
    device: str, setting: str, change: Callable[[set[Optimization]], set[Optimization]]
) -> None:
    assert chosen(setting, torch.device(device)) == change(set(AUTO[device]))


def test_the_settings_accept_every_optimization() -> None:
    assert tuple(Optimization) == OPTIMIZATIONS
    setting = f"none, {', -'.join(Optimization)}"
    assert Settings.from_mapping({"SVD_OPTIMIZATIONS": setting}).optimizations == setting


@pytest.mark.parametrize("setting", ["warp", "lerp,warp", "-", "lerp fused_qkv", "all"])
def test_an_unknown_optimization_is_rejected_when_the_settings_are_read(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="SVD_OPTIMIZATIONS"):
        Settings.from_mapping({"SVD_OPTIMIZATIONS": setting})


def test_loading_applies_the_optimizations_of_the_settings(tiny: Path, load_model: Callable[..., Generator]) -> None:
    assert load_model(tiny).optimizations == usable(AUTO["cpu"])
    assert load_model(tiny, SVD_OPTIMIZATIONS="none,lerp").optimizations == {Optimization.LERP}
