"""The denoiser: a `UNetSpatioTemporalConditionModel` of three parts, in whose weights a camera is hidden.

- **The move and how far it has gone** are written, not trained. The mean of the noise is taken by attention without
  queries, its signs by a GroupNorm of pairs (m, -m), and a table of 32 moves by one residual block; products of
  bucket, frame and position by the gates of feed-forward layers.
- **The position**, in the three lower levels, is trained: from the zero padding to pixels from the center. It depends
  on the picture's size only.
- **The warp**, in the first level, is trained to fetch the image's latents from where the camera looks. It sees neither
  noise nor time.

So a video depends on the seed through its move only, successive frames cannot flicker, and the two trainings
(`denoiser_training.py`) are independent of each other. `motion.py` says what moves there are, `layout.py` which
channels carry what.

Written layers rely on three tricks. GroupNorm and LayerNorm keep the size of a signal that shares them with a large
constant and its negative. SiLU and GELU are straight lines far from zero, so a signal passes them beside a bias. And a
gated unit, value * gelu(gate), is then a product; a second unit with a constant gate removes the bias from it.

The sampler stays where the noise is far stronger than the video (sigma 300 to 700). Sigmas, preconditioning and
v-prediction are those of Karras et al. (2022) as `EulerDiscreteScheduler` writes them: input x / sqrt(sigma² + 1),
denoised = x / (sigma² + 1) - output * sigma / sqrt(sigma² + 1); so here, the denoised video is minus the output.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import nn

from tools.nano import motion
from tools.nano.autoencoder import LATENTS
from tools.nano.layout import (
    CONTEXT,
    FIRST_NOISE,
    IMAGE,
    INNER,
    MIDDLE,
    MOVE_BITS,
    NARROW,
    SIGNALS,
    VECTOR,
    WIDE,
    WIDTHS,
    position_masks,
    warp_masks,
)

DOMINANT = 400.0
"""A constant beside signals, so that LayerNorm hardly scales them."""
MODERATE, LARGE = 3.0, 10.0
"""A constant beside a signal, so that GroupNorm hardly scales it."""
BIAS, GAIN = 4.0, 2.0
STRAIGHT = 8.0
"""From here on, GELU is a straight line, and nearly so SiLU."""
UNIT_PIXELS = 8.0
"""What one unit of the displacement stands for when it enters the first level."""


def build() -> UNetSpatioTemporalConditionModel:
    """The denoiser with the move written, untrained positions, and a warp that returns the still image."""
    unet = UNetSpatioTemporalConditionModel(
        sample_size=64,
        in_channels=2 * LATENTS,
        out_channels=LATENTS,
        down_block_types=("DownBlockSpatioTemporal",) * 4,
        up_block_types=("UpBlockSpatioTemporal",) * 2 + ("CrossAttnUpBlockSpatioTemporal",) * 2,
        block_out_channels=WIDTHS,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        layers_per_block=1,
        cross_attention_dim=CONTEXT,
        num_attention_heads=(4, 3, 2, 2),
        num_frames=motion.FRAMES,
    )
    with torch.no_grad():
        _start_small(unet)
        _separate(unet)
        _write_move(unet)
        _write_displacement(unet)
        _start_as_still_image(unet)
        _let_displacement_in(unet)
    return unet


def _zero(*layers: nn.Module) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _start_small(unet: nn.Module) -> None:
    """No branch over time, no attention, no influence of sigma, and small residual branches."""
    _zero(unet.time_embedding.linear_2)
    for module in unet.modules():
        if isinstance(module, SpatioTemporalResBlock):
            _zero(module.temporal_res_block, module.spatial_res_block.time_emb_proj)
            module.spatial_res_block.conv2.weight.mul_(0.1)
            nn.init.zeros_(module.spatial_res_block.conv2.bias)
        if isinstance(module, TransformerSpatioTemporalModel):
            module.proj_out.weight.mul_(0.1)
            nn.init.zeros_(module.proj_out.bias)
            for block in (*module.transformer_blocks, *module.temporal_transformer_blocks):
                _zero(block.attn1, block.attn2)


def _separate(unet: nn.Module) -> None:
    """Let no part read or change the channels of another."""
    parameters = dict(unet.named_parameters())
    for name, mask in (position_masks(unet) | warp_masks(unet)).items():
        if mask is not None:
            parameters[name].mul_(mask)


def _pick(layer: nn.Module, row: int, column: int, value: float = 1.0) -> None:
    """Let a convolution's output channel `row` be `value` times its input channel `column`."""
    middle = layer.kernel_size[0] // 2
    layer.weight[row, column, middle, middle] = value


def _write_move(unet: nn.Module) -> None:
    """Carry the noise down, take its mean and its signs, and look the move up."""
    _zero(unet.down_blocks[0].downsamplers[0].conv, unet.down_blocks[1].resnets[0].spatial_res_block.conv_shortcut)
    unet.conv_in.weight[FIRST_NOISE:] = 0
    for i, channel in enumerate(motion.CHANNELS):
        for sign in (0, 1):
            unet.conv_in.weight[FIRST_NOISE + 2 * i + sign, channel, 1, 1] = 1 - 2 * sign
    for level in range(3):
        conv, first = unet.down_blocks[level].downsamplers[0].conv, (FIRST_NOISE, 0, 0)[level]
        for channel in range(first, first + 2 * motion.BITS):
            conv.weight[channel, channel, 1:, 1:] = 0.5
    for channel in range(2 * motion.BITS):
        for level, source in ((1, FIRST_NOISE + channel), (2, channel)):
            _pick(unet.down_blocks[level].resnets[0].spatial_res_block.conv_shortcut, channel, source)
    _write_means(unet.mid_block.attentions[0])
    _write_table(unet.mid_block.resnets[1].spatial_res_block)


def _write_means(transformer: nn.Module) -> None:
    """The noise's mean over the picture, by the spatial attention, then over the frames, by the temporal one."""
    _zero(transformer.proj_in, transformer.proj_out, transformer.time_pos_embed)
    spatial, temporal = transformer.transformer_blocks[0], transformer.temporal_transformer_blocks[0]
    for block in (spatial, temporal):
        _zero(block.ff)
    _zero(temporal.ff_in)
    transformer.proj_in.bias[-2], transformer.proj_in.bias[-1] = DOMINANT, -DOMINANT
    scale = DOMINANT * (2 / NARROW) ** 0.5
    for i in range(motion.BITS):
        for attention, source, target in ((spatial.attn1, 0, 16), (temporal.attn1, 16, 32)):
            attention.to_v.weight[i, source + 2 * i] = scale
            attention.to_out[0].weight[target + 2 * i, i] = 1
            attention.to_out[0].weight[target + 2 * i + 1, i] = -1
        transformer.proj_in.weight[2 * i, 2 * i], transformer.proj_in.weight[2 * i + 1, 2 * i] = 1, -1
        transformer.proj_out.weight[MOVE_BITS + 2 * i, 32 + 2 * i] = 1000
        transformer.proj_out.weight[MOVE_BITS + 2 * i + 1, 32 + 2 * i] = -1000


def _write_table(block: nn.Module) -> None:
    """From the signs of means to the move's vector.

    The first norm makes -1 or 1 of each mean. Each of 32 hidden units counts how many signs are those of its move; the
    threshold that shares its group in the second norm makes 1 of it if all are, else -1.
    """
    _zero(block.conv1, block.conv2)
    yes, no = F.silu(torch.tensor([1.0, -1.0])).tolist()
    signs = motion.signs(torch.arange(len(motion.MOVES)))
    for number, move in enumerate(motion.MOVES):
        for i, sign in enumerate(signs[number]):
            _pick(block.conv1, 2 * number, MOVE_BITS + 2 * i + (sign < 0).int().item())
        block.conv1.bias[2 * number + 1] = (motion.BITS - 0.5) * yes + 0.5 * no
        for part, value in enumerate(move.vector):
            _pick(block.conv2, VECTOR + part, 2 * number, value / (yes - no))
            block.conv2.bias[VECTOR + part] -= value * no / (yes - no)


def _write_displacement(unet: nn.Module) -> None:
    """Carry the move's vector up to the second level, and compute there what the camera has done at the frame."""
    for level in (0, 1):
        block = unet.up_blocks[level]
        shortcuts = [resnet.spatial_res_block.conv_shortcut for resnet in block.resnets]
        for layer in (*shortcuts, block.upsamplers[0].conv):
            for channel in range(VECTOR, VECTOR + 4):
                _pick(layer, channel, channel)
    block = unet.up_blocks[2]
    residual = block.resnets[0].spatial_res_block
    for i, name in enumerate(SIGNALS):
        residual.conv_shortcut.bias[3 * i + 1], residual.conv_shortcut.bias[3 * i + 2] = LARGE, -LARGE
        if name in ("right", "down", "out", "arc"):
            _pick(residual.conv_shortcut, 3 * i, VECTOR + i - SIGNALS.index("right"))
    _write_bucket(unet, residual)
    _write_products(block.attentions[0])
    last = block.resnets[1].spatial_res_block
    _zero(last.conv2, last.conv_shortcut, block.attentions[1])
    for i in range(2):
        _pick(last.conv_shortcut, 3 * i, 3 * i)


def _silu_line() -> tuple[float, float]:
    """The value and the slope of SiLU at STRAIGHT."""
    sigmoid = 1 / (1 + math.exp(-STRAIGHT))
    return STRAIGHT * sigmoid, sigmoid * (1 + STRAIGHT * (1 - sigmoid))


def _write_bucket(unet: nn.Module, residual: ResnetBlock2D) -> None:
    """The bucket, of 255, from the embedding of the added times to the first hidden channel, to its signal."""
    value, slope = _silu_line()
    _zero(unet.add_embedding)
    lowest = unet.add_time_proj(torch.tensor([255.0]))[0, -1]
    unet.add_embedding.linear_1.weight[0, 63] = 1 / lowest
    unet.add_embedding.linear_1.bias[0] = STRAIGHT
    unet.add_embedding.linear_2.weight[0, 0] = 1 / slope
    unet.add_embedding.linear_2.bias[0] = STRAIGHT - value / slope
    small = 0.25
    residual.time_emb_proj.weight[0, 0] = small / slope
    residual.time_emb_proj.bias[0] = -small * value / slope
    residual.conv1.bias[0], residual.conv1.bias[1], residual.conv1.bias[2] = 0, LARGE, -LARGE
    # The norm takes a third of the bucket from it with the mean of its group.
    residual.norm2.weight[0], residual.norm2.bias[0] = 1.5 * (2 / 3) ** 0.5 * LARGE, STRAIGHT
    row = 3 * SIGNALS.index("bucket")
    _pick(residual.conv2, row, 0, 1 / small / slope)
    residual.conv2.bias[row] = -value / small / slope


def _write_products(transformer: nn.Module) -> None:
    """The displacement: the share of the largest move that is done, times the move at the position."""
    _zero(transformer.proj_in, transformer.proj_out)
    deviation = (2 / 3) ** 0.5 * LARGE
    for i in range(len(SIGNALS)):
        # Half of the constants' sum is what the norm takes from the signal with the mean of its group.
        for row, sign in _opposites(i):
            transformer.proj_in.weight[row, 3 * i : 3 * i + 3] = sign * deviation * torch.tensor([1.0, -0.5, -0.5])
    transformer.proj_in.bias[-2], transformer.proj_in.bias[-1] = DOMINANT, -DOMINANT
    _fit_ease(transformer)
    spatial, temporal = transformer.transformer_blocks[0], transformer.temporal_transformer_blocks[0]
    arc = motion.ZOOM_RADIUS / motion.ARC_RADIUS
    _write_gates(
        spatial.ff, ("x", "out", "move across", 1.0), ("y", "out", "move along", 1.0), ("y", "arc", "move across", arc)
    )
    _write_gates(temporal.ff_in, ("bucket", "done", "share", 1.0))
    _write_gates(
        temporal.ff,
        *((part, "share", "across", 1.0) for part in ("right", "move across")),
        *((part, "share", "along", 1.0) for part in ("down", "move along")),
    )
    rest = 1 - torch.sigmoid(transformer.time_mixer.mix_factor).item()
    for i in range(2):
        transformer.proj_out.weight[3 * i, i] = 1 / rest


def _opposites(channel: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """A channel of the transformer and that of its negative, with their signs."""
    return (channel, 1), (len(INNER) + channel, -1)


def _write_gates(layer: nn.Module, *products: tuple[str, str, str, float]) -> None:
    """Add products, each of two channels and a factor, to a third channel."""
    _zero(layer)
    first, second = layer.net[0].proj, layer.net[2]
    count, scale = first.out_features // 2, DOMINANT * (2 / MIDDLE) ** 0.5
    for i, (value, gate, target, factor) in enumerate(products):
        for unit, sign in ((2 * i, 1), (2 * i + 1, -1)):
            first.weight[unit, INNER[value]] = scale
            first.bias[count + unit] = STRAIGHT
            for row, side in _opposites(INNER[target]):
                second.weight[row, unit] = side * sign * factor
        first.weight[count + 2 * i, INNER[gate]] = scale


def _fit_ease(transformer: nn.Module, frames: int = 51) -> None:
    """Make one channel of the embedding of frames' numbers the share of the move that is done by then."""
    embedding, numbers = transformer.time_pos_embed, torch.arange(frames)
    features = embedding.act(embedding.linear_1(transformer.time_proj(numbers))).double()
    features = torch.cat([features, torch.ones(frames, 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(features, motion.ease(numbers).double()[:, None], driver="gelsd").solution[:, 0]
    _zero(embedding.linear_2)
    for row, sign in _opposites(INNER["done"]):
        embedding.linear_2.weight[row] = sign * solution[:-1].float()
        embedding.linear_2.bias[row] = sign * solution[-1].float()


def _start_as_still_image(unet: nn.Module) -> None:
    """Carry the displacement up to the first level, and the image's latents through it to the output.

    Brightness survives the last GroupNorm because each of its groups holds (s, K, -K) with a large K.
    """
    first = unet.conv_in
    first.weight[:FIRST_NOISE, :LATENTS] = 0
    first.weight[:LATENTS] = 0
    first.weight[IMAGE:FIRST_NOISE] = 0
    nn.init.zeros_(first.bias)
    for k in range(LATENTS):
        _pick(first, k, LATENTS + k)
    up = unet.up_blocks[-2].upsamplers[0].conv
    _zero(up)
    for i in range(2):
        _pick(up, 7 * i, 3 * i, motion.MAX_PIXELS / UNIT_PIXELS)
        up.bias[7 * i + 1], up.bias[7 * i + 2] = LARGE, -LARGE
    for layer in unet.up_blocks[-1].attentions:
        _zero(layer.time_pos_embed)
    skip = unet.up_blocks[-1].resnets[-1].spatial_res_block.conv_shortcut
    skip.weight.mul_(0.02)
    nn.init.zeros_(skip.bias)
    for k in range(LATENTS):
        skip.weight[4 * k, WIDE + k] = 1
        skip.bias[4 * k + 1], skip.bias[4 * k + 2] = LARGE, -LARGE
    deviation = (2 * LARGE * LARGE / 4 + 1 / 4) ** 0.5
    levels = BIAS + GAIN * torch.tensor([0.0, LARGE, -LARGE]) / deviation
    sigmoid = torch.sigmoid(levels)
    slopes = sigmoid * (1 + levels * (1 - sigmoid))
    weights = -deviation / GAIN * torch.tensor([1.0, -0.5, -0.5]) / slopes
    unet.conv_norm_out.weight.fill_(GAIN)
    unet.conv_norm_out.bias.fill_(BIAS)
    unet.conv_out.weight.mul_(0.02)
    for k in range(LATENTS):
        unet.conv_out.weight[k, 4 * k : 4 * k + 3, 1, 1] += weights
    rest = F.pad(levels * sigmoid, (0, 1), value=BIAS / (1 + math.exp(-BIAS))).repeat(LATENTS)
    unet.conv_out.bias.copy_(-unet.conv_out.weight.sum((2, 3)) @ rest)


def _let_displacement_in(unet: nn.Module) -> None:
    """Let the warp see the displacement: training hardly finds it in the midst of random features.

    Its two channels keep their size in both stages, and gate the hidden units of all feed-forward layers, each with
    another slope in another direction. So there are products of the displacement and the image from the first step on.
    """
    up, inner = unet.up_blocks[-1], WIDE - 2
    for stage, (block, transformer) in enumerate(zip(up.resnets, up.attentions, strict=True)):
        residual = block.spatial_res_block
        for i in range(2):
            source, target = ((7 * i, IMAGE + 4 * i), (IMAGE + 4 * i, 4 * i + 3))[stage]
            residual.conv1.weight[:, source, 1, 1] += 0.3 * torch.randn(WIDE)
            residual.conv_shortcut.weight[target] = 0
            _pick(residual.conv_shortcut, target, source)
            if stage == 0:
                for k, constant in ((1, MODERATE), (2, -MODERATE)):
                    residual.conv_shortcut.weight[target + k] = 0
                    residual.conv_shortcut.bias[target + k] = constant
            transformer.proj_in.weight[inner + i] = 0
            transformer.proj_in.weight[inner + i, target] = (2, 8)[stage]
        temporal = transformer.temporal_transformer_blocks[0]
        for layer in (transformer.transformer_blocks[0].ff, temporal.ff_in, temporal.ff):
            gate = layer.net[0].proj
            count = gate.out_features // 2
            angle, slope = torch.rand(count) * 2 * torch.pi, 0.5 + 2 * torch.rand(count)
            gate.weight[count:, inner:] = slope[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
            gate.bias[count:] = torch.rand(count) * 3 - 1.5
