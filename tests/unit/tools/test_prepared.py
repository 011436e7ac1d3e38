"""Faster ways that change the video, with the tiny model: where they are exact, and how far off they are."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from svd_service.video.optimizations import AUTO, Optimization, apply
from svd_service.video.pipeline import Pipeline
from tools.benchmark.prepared import DeepCache, Fp8Linear, GuidanceBand, use_fp8
from tools.harness import tiny_model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The operations are too small to be shared: threads that wait for each other would take seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pipe() -> Pipeline:
    return Pipeline(**tiny_model.pipeline().components)


def inputs(seed: int) -> tuple[torch.Tensor, ...]:
    chance = torch.Generator().manual_seed(seed)
    sample, image = (torch.randn(shape, generator=chance) for shape in ((2, 3, 8, 8, 8), (2, 1, 32)))
    return sample, torch.tensor(1.5), image, torch.tensor([[6, 127, 0.02]] * 2)


def step(pipe: Pipeline, seed: int) -> torch.Tensor:
    with torch.inference_mode():
        made: torch.Tensor = pipe.unet(*inputs(seed), return_dict=False)[0]
    return made


def test_deep_cache_with_an_interval_of_one_is_the_stock_model(pipe: Pipeline) -> None:
    expected = [step(pipe, seed) for seed in (1, 2)]
    DeepCache(pipe, 1)
    assert all(torch.equal(step(pipe, seed), each) for seed, each in zip((1, 2), expected, strict=True))


def test_a_step_between_computes_the_outer_blocks_alone(pipe: Pipeline) -> None:
    first, second = step(pipe, 1), step(pipe, 2)
    computed: list[str] = []

    def note(name: str, part: Any) -> None:
        part.resnets[0].register_forward_hook(lambda *_: computed.append(name))

    blocks = (*pipe.unet.down_blocks, pipe.unet.mid_block, *pipe.unet.up_blocks)
    names = [*(f"down {number}" for number in range(4)), "middle", *(f"up {number}" for number in range(4))]
    for name, block in zip(names, blocks, strict=True):
        note(name, block)
    DeepCache(pipe, 2)
    assert torch.equal(step(pipe, 1), first)
    assert computed == names
    computed.clear()
    between = step(pipe, 2)
    assert computed == ["down 0", "up 3"]
    assert not torch.equal(between, second)
    assert torch.equal(step(pipe, 2), second), "the third step is computed whole again"


def test_a_step_between_with_the_same_input_is_exact(pipe: Pipeline) -> None:
    expected = step(pipe, 1)
    DeepCache(pipe, 2)
    assert torch.equal(step(pipe, 1), expected)
    assert torch.equal(step(pipe, 1), expected)


def test_a_new_video_begins_with_a_whole_step(pipe: Pipeline) -> None:
    expected = step(pipe, 2)
    DeepCache(pipe, 2)
    step(pipe, 1)
    pipe.scheduler.set_timesteps(2)
    assert torch.equal(step(pipe, 2), expected)


def guided(pipe: Pipeline, scale: float = 3.0) -> torch.Tensor:
    """Latents of a video of two frames in two steps, at noise levels of 700 and 0.002."""
    pipe.set_progress_bar_config(disable=True)
    made: torch.Tensor = pipe(
        Image.new("RGB", (64, 64), "teal"),
        width=64,
        height=64,
        num_frames=2,
        num_inference_steps=2,
        max_guidance_scale=scale,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
    ).frames
    return made


def test_a_band_of_all_noise_levels_is_the_stock_model_and_an_empty_one_has_no_guidance(pipe: Pipeline) -> None:
    exact, without = guided(pipe), guided(pipe, scale=1.0)
    rows: list[int] = []
    pipe.unet.conv_in.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    compute, begin = pipe.unet.forward, pipe.scheduler.set_timesteps
    for band, expected, halves in (((0.0,), exact, [4, 4]), ((1e6,), without, [2, 2]), ((0.28,), None, [4, 2])):
        rows.clear()
        GuidanceBand(pipe, *band)
        made = guided(pipe)
        assert rows == halves
        if expected is not None:
            torch.testing.assert_close(made, expected)
        pipe.unet.forward, pipe.scheduler.set_timesteps = compute, begin


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_8_bits_is_the_product_of_the_rounded_numbers(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(32, 48, bias=bias)
    layer = Fp8Linear(linear)
    # Powers of two have exact counterparts in 8 bits, and the largest number makes the scale 1.
    values = 2.0 ** torch.randint(0, 8, (2, 5, 32))
    values[0, 0, 0] = 448
    weight = layer.weight.float() * layer.scale
    expected = nn.functional.linear(values, weight, linear.bias)
    torch.testing.assert_close(layer(values), expected)


def multiply(
    one: torch.Tensor,
    other: torch.Tensor,
    *,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
) -> torch.Tensor:
    """What `torch._scaled_mm` computes, without its seconds per call on a CPU."""
    product = one.float() @ other.float() * (scale_a * scale_b)
    return (product if bias is None else product + bias).to(out_dtype)


@pytest.mark.parametrize("optimizations", [frozenset(), AUTO["cuda"] - {Optimization.COMPILE}], ids=["plain", "usual"])
def test_the_unet_in_8_bits_is_near_the_exact_one(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, optimizations: frozenset[Optimization]
) -> None:
    monkeypatch.setattr(torch, "_scaled_mm", multiply)
    expected = step(pipe, 1)
    apply(pipe, optimizations)
    use_fp8(pipe)
    layers = [name for name, module in pipe.unet.named_modules() if isinstance(module, Fp8Linear)]
    assert any("attn1" in name for name in layers)
    assert any(".ff." in name for name in layers)
    error = (step(pipe, 1) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 1e-4 < error < 0.2
