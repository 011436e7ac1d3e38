import pytest
import torch
from diffusers.models.attention import TemporalBasicTransformerBlock

from svd_service.video import attention
from svd_service.video.attention import split_rows
from svd_service.video.optimizations import Optimization, apply
from svd_service.video.pipeline import Pipeline
from tools.harness import tiny_model
from tools.harness.pretended_cuda import PretendedCuda, pretended, without_values

FRAMES = 2


def block() -> TemporalBasicTransformerBlock:
    torch.manual_seed(0)
    return TemporalBasicTransformerBlock(16, 16, 2, 8, cross_attention_dim=8).eval().requires_grad_(requires_grad=False)


def run(layer: TemporalBasicTransformerBlock, pixels: int, device: str = "cpu") -> torch.Tensor:
    """The layer's output for `pixels` pixels of each frame."""
    chance = torch.Generator().manual_seed(1)
    hidden = torch.randn(FRAMES, pixels, 16, generator=chance).to(device, next(layer.parameters()).dtype)
    image = torch.randn(pixels, 1, 8, generator=chance).to(device, hidden.dtype)
    made: torch.Tensor = layer(hidden, num_frames=FRAMES, encoder_hidden_states=image)
    return made


@pytest.mark.parametrize("pixels", [4, 5, 11])
def test_rows_beyond_the_limit_are_split_without_a_change_of_the_result(
    monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    layer = block()
    expected = run(layer, pixels)
    split_rows(layer)
    monkeypatch.setattr(attention, "MAX_ROWS", 4)
    rows: list[int] = []
    layer.attn1.to_out[0].register_forward_hook(lambda *call: rows.append(len(call[2])))
    torch.testing.assert_close(run(layer, pixels), expected)
    assert sum(rows) == pixels
    assert max(rows) <= 4


def test_every_attention_over_time_is_split_with_and_without_optimizations() -> None:
    for optimizations in ((), set(Optimization) - {Optimization.COMPILE}):
        pipe = Pipeline(**tiny_model.pipeline().components)
        apply(pipe, optimizations)
        split_rows(pipe.unet)
        blocks = [each for each in pipe.unet.modules() if isinstance(each, TemporalBasicTransformerBlock)]
        assert blocks
        for each in blocks:
            assert isinstance(each.attn1.processor, attention.SplitRows)
            assert isinstance(each.attn2.processor, attention.SplitRows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("pixels", [65_535, 65_536, 131_072])
def test_on_a_device_the_kernel_takes_the_rows_of_the_largest_video(pixels: int) -> None:
    """131,072 rows are those of 2048x2048 with guidance."""

    def layer_on(device: PretendedCuda) -> TemporalBasicTransformerBlock:
        return without_values(device, lambda: {"block": block().half()})["block"].to("cuda:0")

    with pretended() as device, torch.inference_mode():
        layer = layer_on(device)
        if pixels > attention.MAX_ROWS:
            with pytest.raises(torch.AcceleratorError, match="invalid configuration argument"):
                run(layer, pixels, "cuda:0")
        split_rows(layer)
        device.attention.clear()
        assert run(layer, pixels, "cuda:0").shape == (FRAMES, pixels, 16)
        assert set(device.attention) == {"flash"}
