"""Attention over time, in batches that CUDA's kernels take.

A temporal layer sees each pixel of the latents as a row of its batch: (height / 8) x (width / 8), twice that with
guidance. Flash attention counts rows in a dimension of CUDA's grid, which ends at 65,535. A larger batch ends with
"CUDA error: invalid configuration argument" (https://github.com/pytorch/pytorch/issues/142228), after which a process
cannot use the device any more; 2048x1024 with guidance is one row too many.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from diffusers.models.attention import TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import nn

#: Maximum number of rows of a batch.
MAX_ROWS: Final = 65_535


class SplitRows:
    """Calls an attention processor with at most `MAX_ROWS` rows at once; rows do not depend on each other."""

    def __init__(self, processor: Callable[..., torch.Tensor]) -> None:
        self._processor = processor

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attention of `hidden_states`, of shape (rows, frames, channels), to itself or to `encoder_hidden_states`."""
        parts = -(-len(hidden_states) // MAX_ROWS)
        if parts == 1:
            return self._processor(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        seen = encoder_hidden_states.tensor_split(parts) if encoder_hidden_states is not None else [None] * parts
        return torch.cat(
            [
                self._processor(attn, rows, context, *args, **kwargs)
                for rows, context in zip(hidden_states.tensor_split(parts), seen, strict=True)
            ]
        )


def split_rows(unet: nn.Module) -> None:
    """Let the attention over time of `unet` split its batches."""
    for block in unet.modules():
        if isinstance(block, TemporalBasicTransformerBlock):
            for attention in (block.attn1, block.attn2):
                if isinstance(attention, Attention):  # and not what replaces one that adds zero
                    attention.set_processor(SplitRows(attention.processor))
