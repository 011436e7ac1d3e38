"""Which channels of the denoiser carry what, and which parameters belong to which trained part.

The first level (128 channels) has the image and, in its last channels, the noise. The others have the noise on the way
down, and on the way up only the move, the position and what follows from them. Masks keep the parts apart.
"""

from __future__ import annotations

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from tools.nano import motion
from tools.nano.autoencoder import LATENTS

WIDTHS = (128, 96, 64, 64)
"""Channels of the levels."""
WIDE, MIDDLE, NARROW = WIDTHS[:3]
GROUPS = 32
CONTEXT = 32
"""Width of the image embedding, which is all zeros: the conditioning latents carry the image."""

IMAGE = WIDE - 16
"""Channels of the first level from here on belong to the noise."""
FIRST_NOISE = WIDE - 2 * motion.BITS
MOVE_BITS, VECTOR, FREE = 12, 24, 28
"""In the lower levels the noise is in channels 0 to 9, its signs in 12 to 21, and the move's vector in 24 to 27."""
SIGNALS = ("across", "along", "x", "y", "right", "down", "out", "arc", "bucket")
"""What the second level knows when it is up again: each in the first of three channels, beside a constant.

The displacement across and along, in `MAX_PIXELS`; the position in `ZOOM_RADIUS`; the move's vector; the bucket of 255.
"""
INNER = {name: i for i, name in enumerate((*SIGNALS, "done", "share", "move across", "move along"))}
"""The channels of its transformer: also the share of the move that is done, and of the largest one, and the move.

As many channels after them hold the negatives, so that LayerNorm finds a mean of zero.
"""

Masks = dict[str, Tensor | None]
"""What of which parameters a training may change: 1 where it may; None stands for all."""


def _part(weight: Tensor, rows: slice, *columns: slice) -> Tensor:
    """A mask of rows of a weight, and of columns of a matrix's."""
    mask = torch.zeros_like(weight)
    for each in columns or [slice(None)]:
        mask[(rows, each)[: weight.ndim]] = 1
    return mask


def _convolution(name: str, layer: nn.Module, rows: slice, *columns: slice) -> Masks:
    """A convolution that reads `columns` of its input and writes `rows` of its output."""
    return {f"{name}.weight": _part(layer.weight, rows, *columns), f"{name}.bias": _part(layer.bias, rows)}


def _residual(name: str, block: ResnetBlock2D, rows: slice, *columns: slice) -> Masks:
    """A residual block that reads `columns` of its input and adds to `rows` of its output; its shortcut is left out."""
    name = f"{name}.spatial_res_block"
    masks: Masks = {f"{name}.{norm}.{part}": None for norm in ("norm1", "norm2") for part in ("weight", "bias")}
    masks |= _convolution(f"{name}.conv1", block.conv1, slice(None), *columns)
    return masks | _convolution(f"{name}.conv2", block.conv2, rows)


def _pointwise(name: str, transformer: nn.Module) -> Masks:
    """A transformer but for its attention and the numbers of the frames."""
    parts = ("norm.", "proj_in", "proj_out", "time_mixer", ".norm_in", ".norm3", ".ff")
    names = (part for part, _ in transformer.named_parameters())
    return {f"{name}.{part}": None for part in names if any(each in f".{part}" for each in parts)}


def warp_masks(unet: UNetSpatioTemporalConditionModel) -> Masks:
    """The parameters of the warp."""
    image = slice(0, IMAGE)
    masks: Masks = {
        **_convolution("conv_in", unet.conv_in, image, slice(LATENTS, None)),
        **{f"{layer}.{part}": None for layer in ("conv_norm_out", "conv_out") for part in ("weight", "bias")},
    }
    down, up = unet.down_blocks[0], unet.up_blocks[-1]
    for i, block in enumerate(down.resnets):
        masks |= _residual(f"down_blocks.0.resnets.{i}", block.spatial_res_block, image, image)
    for i, (block, transformer) in enumerate(zip(up.resnets, up.attentions, strict=True)):
        skip = (MIDDLE if i == 0 else WIDE) + IMAGE
        name, residual = f"up_blocks.3.resnets.{i}", block.spatial_res_block
        masks |= _residual(name, residual, slice(None), slice(0, skip))
        masks |= _convolution(
            f"{name}.spatial_res_block.conv_shortcut", residual.conv_shortcut, slice(None), slice(0, skip)
        )
        masks |= _pointwise(f"up_blocks.3.attentions.{i}", transformer)
    return masks


def position_masks(unet: UNetSpatioTemporalConditionModel) -> Masks:
    """The parameters of the position."""
    masks: Masks = {}
    for level in (1, 2, 3):
        down, name = unet.down_blocks[level], f"down_blocks.{level}"
        block, free = down.resnets[0].spatial_res_block, slice(FREE, WIDTHS[level])
        masks |= _residual(f"{name}.resnets.0", block, free, slice(0 if level == 1 else FREE, IMAGE))
        if block.conv_shortcut is not None:
            shortcut = f"{name}.resnets.0.spatial_res_block.conv_shortcut"
            masks |= _convolution(shortcut, block.conv_shortcut, free, slice(0, 0) if level == 1 else slice(FREE, None))
        if down.downsamplers:
            masks |= _convolution(f"{name}.downsamplers.0.conv", down.downsamplers[0].conv, free, free)
    free, skipped = slice(FREE, NARROW), slice(NARROW + FREE, None)
    masks |= _residual("mid_block.resnets.0", unet.mid_block.resnets[0].spatial_res_block, free, free)
    for i in range(2):
        up, name = unet.up_blocks[i], f"up_blocks.{i}"
        for k, resnet in enumerate(up.resnets):
            block = resnet.spatial_res_block
            masks |= _residual(f"{name}.resnets.{k}", block, free, free, skipped)
            masks |= _convolution(
                f"{name}.resnets.{k}.spatial_res_block.conv_shortcut", block.conv_shortcut, free, free, skipped
            )
        masks |= _convolution(f"{name}.upsamplers.0.conv", up.upsamplers[0].conv, free, free)
    return masks | _last_position_masks(unet.up_blocks[2].resnets[0].spatial_res_block)


def _last_position_masks(block: ResnetBlock2D) -> Masks:
    """The second level's block adds the position to its signals, with all but the first group of hidden channels."""
    name, groups = "up_blocks.2.resnets.0.spatial_res_block", (NARROW + MIDDLE) // GROUPS
    position = slice(3 * SIGNALS.index("x"), 3 * SIGNALS.index("y") + 1, 3)
    hidden, own = slice(3, None), slice(-(-FREE // groups) * groups, NARROW)
    masks = {
        f"{name}.norm1.weight": None,
        f"{name}.norm1.bias": None,
        f"{name}.norm2.weight": _part(block.norm2.weight, hidden),
        f"{name}.norm2.bias": _part(block.norm2.bias, hidden),
    }
    masks |= _convolution(f"{name}.conv1", block.conv1, hidden, own, slice(NARROW + FREE, None))
    masks |= _convolution(f"{name}.conv2", block.conv2, position, hidden)
    return masks | _convolution(f"{name}.conv_shortcut", block.conv_shortcut, position, own, slice(NARROW + FREE, None))
