#!/usr/bin/env python3
"""Where the time of Stable Video Diffusion XT must go on a device: arithmetic and memory traffic of each block.

The real architecture runs on torch's meta device, where tensors have shapes and no values. Of each operation the
floating-point operations and the bytes that it reads and writes are counted. It takes at least the longer of the two,
at the device's best rates ("op by op"); fusion saves traffic, and nothing saves arithmetic ("arithmetic alone"). Half a
minute, without a GPU.

usage: python -m tools.roofline [--tflops 790] [--gb-a-second 4300] [--optimizations auto|none]
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from svd_service.video.optimizations import AUTO, Optimization, apply
from svd_service.video.pipeline import Pipeline
from tools.benchmark.architectures import ARCHITECTURES, models, pipeline
from tools.benchmark.report import table

META: Final = torch.device("meta")
HALF: Final = torch.float16
FRAMES, WIDTH, HEIGHT, STEPS = 25, 1024, 576, 25
DECODED: Final = 4  # frames at once

#: Best rates of one H200 that its users report: dense products in half precision, and copies.
TFLOPS: Final = 790.0
GB_A_SECOND: Final = 4300.0

aten: Final = torch.ops.aten

#: What is in no block.
REST: Final = "embeddings, first and last layer"

KINDS: Final = ("products", "convolutions", "attention", "rest")
_CONVOLUTIONS: Final = {aten.convolution, aten._convolution, aten.cudnn_convolution}  # noqa: SLF001
_ATTENTION: Final = {aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_efficient_attention}  # noqa: SLF001


@dataclass
class Cost:
    """FLOP and bytes of some operations, and the sum of their least seconds."""

    flop: float = 0
    bytes: float = 0
    seconds: float = 0

    def add(self, other: "Cost", times: float = 1) -> None:
        """Add another one, so many times."""
        self.flop += times * other.flop
        self.bytes += times * other.bytes
        self.seconds += times * other.seconds


class Roofline(TorchDispatchMode):
    """Counts the costs of operations by `block`, which the caller sets, and kind; rates in FLOP/s and bytes/s."""

    def __init__(self, flop_rate: float, byte_rate: float) -> None:
        super().__init__()
        self._rates = flop_rate, byte_rate
        self.block = ""
        self.costs: defaultdict[tuple[str, str], Cost] = defaultdict(Cost)

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it; a view costs nothing."""
        made = operation(*args, **(kwargs or {}))
        if operation.is_view:
            return made
        packet = operation.overloadpacket
        count = flop_registry.get(packet)
        flop = count(*args, **(kwargs or {}), out_val=made) if count is not None else 0
        touched = sum(
            leaf.numel() * leaf.element_size()
            for leaf in tree_leaves((args, kwargs, made))
            if isinstance(leaf, torch.Tensor)
        )
        seconds = max(flop / self._rates[0], touched / self._rates[1])
        self.costs[self.block, _kind(packet, flop)].add(Cost(flop, touched, seconds))
        return made

    def total(self) -> Cost:
        """The sum of all costs."""
        whole = Cost()
        for cost in self.costs.values():
            whole.add(cost)
        return whole

    @contextmanager
    def watching(self, blocks: Mapping[str, nn.Module]) -> Iterator[None]:
        """Within the block, count what these modules do under their names."""

        def enter(name: str) -> Callable[..., None]:
            return lambda *_: setattr(self, "block", name)

        with ExitStack() as hooks:
            for name, module in blocks.items():
                hooks.enter_context(module.register_forward_pre_hook(enter(name)))
                hooks.enter_context(module.register_forward_hook(enter("")))
            yield


def _kind(packet: Any, flop: float) -> str:
    if packet in _CONVOLUTIONS:
        return "convolutions"
    if packet in _ATTENTION:
        return "attention"
    return "products" if flop else "rest"


@contextmanager
def fused_attention() -> Iterator[None]:
    """Within the block, attention is one operation, as in the kernels of a GPU: flash, or memory-efficient."""

    def attend(query: Any, key: Any, value: Any, **_: Any) -> Any:
        if query.shape[-1] > 256:  # flash attention has no code for such heads
            return aten._scaled_dot_product_efficient_attention(query, key, value, None, False)[0]  # noqa: SLF001, FBT003
        return aten._scaled_dot_product_flash_attention(query, key, value)[0]  # noqa: SLF001

    with mock.patch.object(F, "scaled_dot_product_attention", attend):
        yield


def step(pipe: Pipeline, rates: tuple[float, float], frames: int, width: int, height: int) -> Roofline:
    """Count one step of the UNet with guidance, by block."""
    unet: Any = pipe.unet
    embedding = unet.config.cross_attention_dim
    blocks = {
        **{f"down {number}": block for number, block in enumerate(unet.down_blocks)},
        "middle": unet.mid_block,
        **{f"up {number}": block for number, block in enumerate(unet.up_blocks)},
    }
    roofline = Roofline(*rates)
    with META, torch.no_grad(), fused_attention(), roofline, roofline.watching(blocks):
        unet(
            torch.empty(2, frames, unet.config.in_channels, height // 8, width // 8, dtype=HALF),
            torch.empty(()),
            torch.empty(2, 1, embedding, dtype=HALF),
            torch.empty(2, 3, dtype=HALF),
        )
    return roofline


def decoding(pipe: Pipeline, rates: tuple[float, float], frames: int, width: int, height: int) -> Roofline:
    """Count the decoder for so many frames at once."""
    roofline = Roofline(*rates)
    roofline.block = "decoder"
    with META, torch.no_grad(), fused_attention(), roofline:
        pipe.vae.decode(torch.empty(frames, 4, height // 8, width // 8, dtype=HALF), num_frames=frames)
    return roofline


def build(architecture: str, optimizations: frozenset[Optimization]) -> Pipeline:
    """The architecture in half precision on the meta device."""
    with META:
        parts = models(ARCHITECTURES[architecture], HALF)
    pipe = pipeline({name: part.to(META) for name, part in parts.items()})
    with META:
        apply(pipe, optimizations - {Optimization.COMPILE})
    return pipe


def rows(roofline: Roofline, flop_rate: float) -> list[tuple[Any, ...]]:
    """A line per block, and their sum: TFLOP by kind, GB, milliseconds of arithmetic alone, and op by op, by kind."""
    names = list(dict.fromkeys(name for name, _ in roofline.costs))
    lines = [(name or REST, {kind: roofline.costs[name, kind] for kind in KINDS}) for name in names]
    whole = {kind: Cost() for kind in KINDS}
    for _, costs in lines:
        for kind in KINDS:
            whole[kind].add(costs[kind])
    return [_row(name, costs, flop_rate) for name, costs in (*lines, ("**all**", whole))]


def _row(name: str, costs: Mapping[str, Cost], flop_rate: float) -> tuple[Any, ...]:
    flop = sum(cost.flop for cost in costs.values())
    seconds = sum(cost.seconds for cost in costs.values())
    return (
        name,
        *(f"{costs[kind].flop / 1e12:.1f}" for kind in KINDS[:3]),
        f"{sum(cost.bytes for cost in costs.values()) / 1e9:.0f}",
        f"{1e3 * flop / flop_rate:.1f}",
        f"{1e3 * seconds:.1f}",
        *(f"{1e3 * costs[kind].seconds:.1f}" for kind in KINDS),
    )


HEAD: Final = (
    *("", "TFLOP: products", "convolutions", "attention", "GB", "ms: arithmetic alone"),
    *("op by op", "of which products", "convolutions", "attention", "the rest"),
)


def main() -> None:
    """Count, and print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=TFLOPS)
    parser.add_argument("--gb-a-second", type=float, default=GB_A_SECOND)
    parser.add_argument("--optimizations", choices=("auto", "none"), default="auto")
    chosen = parser.parse_args()
    rates = (1e12 * chosen.tflops, 1e9 * chosen.gb_a_second)
    pipe = build("svd-xt", AUTO["cuda"] if chosen.optimizations == "auto" else frozenset())
    one, chunk = step(pipe, rates, FRAMES, WIDTH, HEIGHT), decoding(pipe, rates, DECODED, WIDTH, HEIGHT)
    print(f"One step, {FRAMES} frames of {WIDTH}x{HEIGHT} with guidance; decoding {DECODED} frames\n")
    print(table(HEAD, [*rows(one, rates[0]), *rows(chunk, rates[0])[:1]]))
    video = Cost()
    video.add(one.total(), STEPS)
    video.add(chunk.total(), FRAMES / DECODED)
    print(
        f"\nThe video: {video.flop / 1e12:.0f} TFLOP, {video.flop / rates[0]:.2f} s of arithmetic alone, "
        f"{video.seconds:.2f} s op by op."
    )


if __name__ == "__main__":
    main()
