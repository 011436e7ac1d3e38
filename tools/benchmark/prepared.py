"""Faster ways that change the video. They are ready to be measured on a GPU; the service does not offer them.

Each changes a pipeline whose optimizations are applied already, before its first video. What they cost in quality can
only be seen with trained weights.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

#: The largest number of the format e4m3 with finite values only.
_E4M3_MAX: Final = 448.0

#: Both sides of a product in 8 bits must be multiples of this.
_MULTIPLE: Final = 16


class DeepCache:
    """Computes the UNet's inner blocks in every `interval`-th step, and keeps their outputs for the steps in between.

    After DeepCache (arXiv 2312.00858). The first block of the way down and the last of the way up, which work at the
    latents' own resolution, are computed in each step. Guidance must not be split, and the UNet not be compiled.
    """

    def __init__(self, pipe: Any, interval: int) -> None:
        self._interval = interval
        self._step = 0
        unet, scheduler = pipe.unet, pipe.scheduler
        for block in (*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]):
            self._keep(block)
        unet.register_forward_hook(self._step_ended)
        _at_each_video(scheduler, self._begin)

    def _begin(self) -> None:
        self._step = 0

    def _keep(self, block: nn.Module) -> None:
        compute = block.forward
        kept: Any = None

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal kept
            if self._step % self._interval == 0:
                kept = compute(*args, **kwargs)
            return kept

        block.forward = forward

    def _step_ended(self, *_: Any) -> None:
        self._step += 1


class GuidanceBand:
    """Runs the UNet without guidance in steps whose noise level is outside of `lowest` to `highest`: half of the work.

    After "Applying Guidance in a Limited Interval" (arXiv 2404.07724): guidance is needless at low noise levels. The
    UNet must not be compiled, as it gets two shapes.
    """

    def __init__(self, pipe: Any, lowest: float, highest: float = math.inf) -> None:
        self._sigmas: list[float] = []
        self._step = 0
        unet, scheduler = pipe.unet, pipe.scheduler
        compute = unet.forward

        def begin() -> None:
            self._step, self._sigmas = 0, scheduler.sigmas.tolist()

        def forward(
            sample: torch.Tensor,
            timestep: Any,
            encoder_hidden_states: torch.Tensor,
            added_time_ids: Any,
            **options: Any,
        ) -> Any:
            sigma, self._step = self._sigmas[self._step], self._step + 1
            if len(sample) == 1 or lowest <= sigma <= highest:
                return compute(sample, timestep, encoder_hidden_states, added_time_ids, **options)
            # The second half is the one that sees the image. Without a difference of the two, guidance has no effect.
            output = compute(sample[1:], timestep, encoder_hidden_states[1:], added_time_ids[1:], return_dict=False)[0]
            return (torch.cat([output, output]),)

        _at_each_video(scheduler, begin)
        unet.forward = forward


def _at_each_video(scheduler: Any, begin: Callable[[], None]) -> None:
    """Call `begin` at each new video, when the scheduler's noise levels are set."""
    set_timesteps = scheduler.set_timesteps

    def set_and_begin(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        begin()

    scheduler.set_timesteps = set_and_begin


class Fp8Linear(nn.Module):
    """A linear layer whose product is computed from 8-bit numbers (e4m3): weights scaled once, inputs for each call.

    On CUDA it needs compute capability 8.9.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantized(linear.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The layer's output, in the type of `inputs`, of shape (…, number of inputs)."""
        rows, scale = quantized(inputs.reshape(-1, inputs.shape[-1]))
        product: torch.Tensor = torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, bias=self.bias, out_dtype=inputs.dtype
        )
        return product.reshape(*inputs.shape[:-1], -1)


def quantized(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`values` in 8 bits, and the scale, a single-precision scalar, by which they must be multiplied."""
    scale = (values.detach().abs().amax().float() / _E4M3_MAX).clamp(min=1e-12)
    return (values.detach() / scale).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn), scale


def use_fp8(pipe: Any) -> None:
    """Compute the linear layers of the UNet's attention and feed-forward parts in 8 bits."""
    for name, module in list(pipe.unet.named_modules()):
        if isinstance(module, nn.Linear) and "transformer_blocks" in name and _fits(module):
            parent, _, child = name.rpartition(".")
            setattr(pipe.unet.get_submodule(parent), child, Fp8Linear(module))


def _fits(linear: nn.Linear) -> bool:
    return linear.in_features % _MULTIPLE == linear.out_features % _MULTIPLE == 0


def deep_cache(pipe: Any) -> None:
    """Keep the inner blocks' outputs for every other step."""
    DeepCache(pipe, 2)


def guidance_band(pipe: Any) -> None:
    """Leave guidance out at noise levels below 0.28, the paper's; five of 25 steps of Stable Video Diffusion."""
    GuidanceBand(pipe, 0.28)


#: What is measured on a kind of device, by name, and whether it may be compiled. A CPU has no fast product in 8 bits.
PREPARED: Final[dict[str, dict[str, tuple[Callable[[Any], None], bool]]]] = {
    "cpu": {"DeepCache": (deep_cache, False), "guidance band": (guidance_band, False)},
    "cuda": {"DeepCache": (deep_cache, False), "guidance band": (guidance_band, False), "FP8": (use_fp8, True)},
}
