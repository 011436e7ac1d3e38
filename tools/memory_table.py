#!/usr/bin/env python3
"""Compute the device memory of Stable Video Diffusion XT's parts: the table in svd_service/video/memory_plan.py.

The real architectures run on torch's meta device, where tensors have shapes but no values. The result is the peak
memory of activations in half precision, with attention that stores no matrix of scores. The overhead of an allocator
and the libraries' workspaces are not included. Takes half a minute and no GPU.

usage: python -m tools.memory_table
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tools.benchmark.architectures import ARCHITECTURES, models

HEIGHT, WIDTH = 576, 1024


class Living(TorchDispatchMode):
    """Counts the bytes of the live tensors; `peak` is the maximum."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights = weights
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count its results."""
        made = operation(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)):
            storage = StorageWeakRef(tensor.untyped_storage())
            if storage.cdata not in self._weights:
                self._living[storage.cdata] = storage, tensor.untyped_storage().nbytes()
        self._living = {key: one for key, one in self._living.items() if not one[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._living.values()))
        return made


def main() -> None:
    """Compute and print the tables."""
    F.scaled_dot_product_attention = lambda query, *_, **__: torch.empty_like(query)
    torch.set_default_dtype(torch.float16)
    with torch.device("meta"):
        parts = models(ARCHITECTURES["svd-xt"], torch.float16)
        unet, vae = (parts[name].to("meta") for name in ("unet", "vae"))

        def peak(run: Callable[[], Any]) -> str:
            # For each run: `float` below replaces weights, and activations may get the addresses of the old ones.
            kept = (each for part in (unet, vae) for each in part.parameters())
            weights = {StorageWeakRef(each.untyped_storage()).cdata for each in kept}
            with torch.no_grad(), Living(weights) as living:
                run()
            return f"{living.peak / 1e9:.2f} GB"

        def sample(halves: int, frames: int) -> Callable[[], Any]:
            noisy = torch.empty(halves, frames, 8, HEIGHT // 8, WIDTH // 8)
            return lambda: unet(noisy, torch.empty(()), torch.empty(halves, 1, 1024), torch.empty(halves, 3))

        print(f"weights: UNet {parameters(unet) * 2 / 1e9:.2f} GB, VAE {parameters(vae) * 2 / 1e9:.2f} GB\n")
        print("| activations | 25 frames | 14 frames |\n|---|---|---|")
        for chunking in (None, 1):
            for module in unet.modules():
                if hasattr(module, "set_chunk_feed_forward"):
                    module.set_chunk_feed_forward(chunk_size=chunking, dim=0)
            for halves, name in ((2, "guidance at once"), (1, "guidance split, or none")):
                chunked = ", forward chunking" if chunking else ""
                print(f"| UNet, {name}{chunked} | {peak(sample(halves, 25))} | {peak(sample(halves, 14))} |")
        print("\n| frames decoded at once | activations |\n|---|---|")
        for frames in (1, 2, 4, 8, 25):
            latents = torch.empty(frames, 4, HEIGHT // 8, WIDTH // 8)
            print(f"| {frames} | {peak(lambda latents=latents: vae.decode(latents, num_frames=len(latents)))} |")  # type: ignore[misc]
        vae.float()  # as the pipeline encodes
        print(
            f"\nencoding the image: {peak(lambda: vae.encode(torch.empty(1, 3, HEIGHT, WIDTH, dtype=torch.float32)))}"
        )


def parameters(part: torch.nn.Module) -> int:
    """Return the number of parameters of a part."""
    return sum(each.numel() for each in part.parameters())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
