"""The denoiser's trainings: the position and the warp, each for itself, and how they are put together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from tools.nano import motion
from tools.nano.autoencoder import PatchBasis, clear_sky
from tools.nano.denoiser import build
from tools.nano.layout import CONTEXT, MIDDLE, SIGNALS, WIDE, Masks, position_masks, warp_masks
from tools.nano.training import Crops, Optimizer, Run, bfloat16


class NoAttention:
    """The attention processor of layers that add zero."""

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """Return a zero."""
        return hidden_states.new_zeros(())


class Part:
    """A part of a model that is trained, while the rest stays what it is."""

    def __init__(self, model: nn.Module, masks: Masks):
        parameters = dict(model.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in masks)
        self._held = [
            (parameters[name], mask, parameters[name].detach() * (1 - mask))
            for name, mask in masks.items()
            if mask is not None
        ]
        self._names = set(masks)

    def hold(self) -> None:
        """Undo what a step changed outside the masks."""
        with torch.no_grad():
            for parameter, mask, rest in self._held:
                parameter.mul_(mask).add_(rest)

    def optimizer(self, model: nn.Module, lr: float, muon_lr: float) -> Optimizer:
        """Muon for hidden matrices, AdamW for the first and last layers, skips, embeddings, norms and biases."""
        outer = ("conv_in", "conv_out", "conv_shortcut", "time_")
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            if name in self._names:
                hidden = parameter.ndim >= 2 and not any(part in name for part in outer)
                (matrices if hidden else others).append(parameter)
        return Optimizer(matrices, others, lr, muon_lr)


def _without_attention(transformers: nn.ModuleList) -> None:
    for transformer in transformers:
        for block in (*transformer.transformer_blocks, *transformer.temporal_transformer_blocks):
            for attention in (block.attn1, block.attn2):
                attention.set_processor(NoAttention())


def position(unet: UNetSpatioTemporalConditionModel, height: int, width: int) -> Tensor:
    """Where the second level's pairs of latents are in a picture of (height, width) latents: (1, 2, height/2, width/2).

    To the right and down from the center, in `ZOOM_RADIUS`.
    """
    device = unet.conv_in.weight.device
    temb = torch.zeros(1, 4 * WIDE, device=device)
    x = torch.zeros(1, WIDE, -(-height // 2), -(-width // 2), device=device)
    skips = [x]
    for block in unet.down_blocks[1:]:
        x = block.resnets[0].spatial_res_block(x, temb)
        skips.append(x)
        if block.downsamplers:
            x = block.downsamplers[0](x)
            skips.append(x)
    x = unet.mid_block.resnets[0].spatial_res_block(x, temb)
    for block in unet.up_blocks[:2]:
        for resnet in block.resnets:
            x = resnet.spatial_res_block(torch.cat([x, skips.pop()], 1), temb)
        x = block.upsamplers[0](x, skips[-1].shape[2:])
    x = unet.up_blocks[2].resnets[0].spatial_res_block(torch.cat([x, skips.pop()], 1), temb)
    first = 3 * SIGNALS.index("x")
    return x[:, first : first + 4 : 3]


def train_position(folder: Path, minutes: float, device: torch.device) -> nn.Module:
    """Train the position; returns the averaged denoiser."""
    torch.manual_seed(0)
    unet = build().to(device)
    part = Part(unet, position_masks(unet))
    run = Run(folder, unet, part.optimizer(unet, 2e-3, 0.02), minutes, decay=0.998)
    for _ in run:
        height, width = _picture_size()
        x, y = (motion.centered(-(-n // 2), 16.0, device) + n % 2 * 4 for n in (width, height))
        target = torch.stack(torch.broadcast_tensors(x, y[:, None])) / motion.ZOOM_RADIUS
        run.learn(1000 * (position(run.model, height, width)[0] - target).square().mean())
        part.hold()
    return run.averaged


def _picture_size() -> tuple[int, int]:
    """(height, width) in latents: half of the time a usual one, otherwise any."""
    usual = ((36, 64), (64, 36), (18, 32), (32, 18), (64, 64), (32, 32), (48, 64), (64, 48))
    if torch.rand(()) < 0.5:
        return usual[int(torch.randint(len(usual), ()))]
    height, width = torch.randint(8, 65, (2,)).tolist()
    return height, width


def fetch(unet: UNetSpatioTemporalConditionModel, condition: Tensor, displacement: Tensor) -> Tensor:
    """What the warp returns for images' latents (count, 32, height, width) and where to look: latents, too.

    `displacement` is the second level's result, (count, 2, height/2, width/2), in `MAX_PIXELS`.
    """
    count, _, height, width = condition.shape
    temb = torch.zeros(count, 4 * WIDE, device=condition.device)
    x = unet.conv_in(torch.cat([torch.zeros_like(condition), condition], 1))
    skips = [x]
    for block in unet.down_blocks[0].resnets:
        x = block.spatial_res_block(x, temb)
        skips.append(x)
    x = torch.zeros(count, MIDDLE, *displacement.shape[2:], device=displacement.device)
    x[:, [0, 3]] = displacement
    x = unet.up_blocks[-2].upsamplers[0](x, (height, width))
    context = torch.zeros(count, 1, CONTEXT, device=condition.device)
    indicator = torch.zeros(count, 1, device=condition.device)
    for block, transformer in zip(unet.up_blocks[-1].resnets, unet.up_blocks[-1].attentions, strict=True):
        x = block.spatial_res_block(torch.cat([x, skips.pop()], 1), temb)
        x = transformer(x, context, indicator, return_dict=False)[0]
    with torch.autocast(condition.device.type, enabled=False):
        return -unet.conv_out(unet.conv_act(unet.conv_norm_out(x.float())))


def _shape_at(progress: float, step: int) -> tuple[int, int, int]:
    """(count, height, width) of a step's images: at first small ones, at the end whole ones, as the norms see."""
    if progress < 0.8:
        return ((6, 128, 192), (6, 192, 128))[step % 2]
    return ((1, 288, 512), (1, 512, 288), (4, 144, 256), (4, 256, 144))[step % 4]


def _draw_fields(count: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random moves of a crop of a video: where its pixels come from, and the second level's displacement."""
    numbers = torch.randint(len(motion.MOVES), (count,), device=device)
    vector = motion.vectors(device)[numbers] + 0.1 * torch.randn(count, 4, device=device)
    share = torch.rand(count, device=device) * 1.05
    share = torch.where(torch.rand(count, device=device) < 0.25, 0.04 * share, share)[:, None, None, None]
    x0, y0 = ((torch.rand(()) - 0.5) * max(0, 512 - size) for size in (width, height))
    fields = []
    for step in (1, 16):
        x = motion.centered(width // step, step, device) + x0
        y = motion.centered(height // step, step, device) + y0
        fields.append(share * motion.field(vector, x, y).clamp(-1.35, 1.35))
    return motion.MAX_PIXELS * fields[0], fields[1]


def warp_loss(unet: nn.Module, basis: PatchBasis, crops: Crops, shape: tuple[int, int, int]) -> Tensor:
    """Draw images, move them, and let the warp do the same with their latents.

    The squared error, weighted towards the components that show, and that of four by four patches, for the skies.
    Some images are empty, as for guidance.
    """
    device = crops.device
    count, height, width = shape
    images = crops(count, height, width)
    if torch.rand(()) < 0.25:
        images[0] = clear_sky(height, width)
    pixels, displacement = _draw_fields(count, height, width, device)
    target = basis.encode(motion.warp(images, pixels))
    usual = torch.rand(count, device=device) < 0.8
    noise = torch.where(usual, 0.02, torch.rand(count, device=device) * 0.1)[:, None, None, None]
    keep = (torch.rand(count, device=device) > 0.05)[:, None, None, None]
    condition = basis.encode(images + noise * torch.randn_like(images)) * keep
    with bfloat16(device):
        result = fetch(unet, condition, displacement)
    weights = torch.cat([basis.weights.to(device) ** 0.7, torch.ones(1, device=device)])[:, None, None]
    # A picture that hardly moves should be sharp, so its errors, which are smaller, count more.
    weights = weights / weights.mean() * (1 + 2 * (displacement.abs().amax((1, 2, 3)) < 0.1))[:, None, None, None]
    error = weights.sqrt() * (result - target * keep)
    return error.square().mean() + 4 * F.avg_pool2d(error, 4).square().mean()


def train_warp(folder: Path, bank: np.ndarray, basis: PatchBasis, minutes: float, device: torch.device) -> nn.Module:
    """Train the warp; returns the averaged denoiser."""
    torch.manual_seed(0)
    unet = build().to(device)
    _without_attention(unet.up_blocks[-1].attentions)
    part = Part(unet, warp_masks(unet))
    run = Run(folder, unet, part.optimizer(unet, 1e-3, 0.015), minutes, decay=0.998)
    crops = Crops(bank, device)
    for step in run:
        run.learn(warp_loss(run.model, basis, crops, _shape_at(run.progress, step)))
        part.hold()
    return run.averaged


def joined(position_unet: nn.Module, warp_unet: nn.Module) -> nn.Module:
    """The denoiser with the position of one and the warp of the other."""
    unet = build()
    state, names = position_unet.state_dict(), warp_masks(unet)
    state |= {name: value for name, value in warp_unet.state_dict().items() if name in names}
    unet.load_state_dict(state)
    return unet
