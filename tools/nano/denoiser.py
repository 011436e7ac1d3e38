"""The denoiser: `UNetSpatioTemporalConditionModel`, trained to move the camera over its conditioning image.

The target video is a function of (image, bucket), see `motion.py`, so the best prediction is sharp even from pure
noise. The sampler therefore stays where the noise is far stronger than the video (sigma 300 to 700): there
the prediction hardly contains the noise itself, and successive frames do not flicker. The denoiser starts as the
still image: its skip connection carries the conditioning latents to the output, through the last GroupNorm as
(s, K, -K), three channels a group, so that brightness survives the normalization.

Sigmas, preconditioning and v-prediction are those of Karras et al. (2022) as `EulerDiscreteScheduler` writes them:
input x / sqrt(sigma² + 1), denoised = x / (sigma² + 1) - output * sigma / sqrt(sigma² + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.embeddings import Timesteps
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn

from tools.nano import motion
from tools.nano.autoencoder import LATENTS, PatchBasis
from tools.nano.training import Crops, Optimizer, Run, bfloat16

BLOCKS = (96, 128)
CONTEXT = 32
"""Width of the image embedding, which is all zeros: the conditioning latents carry the image."""
SIGMAS = (100.0, 700.0)
K, BIAS, GAIN = 5.0, 4.0, 2.0
ALL_FRAMES_FROM, FULL_FROM = 0.6, 0.85
LONGEST = 25


def build() -> UNetSpatioTemporalConditionModel:
    """The untrained denoiser: 10.1 million parameters, which predicts a still video."""
    unet = UNetSpatioTemporalConditionModel(
        sample_size=32,
        in_channels=2 * LATENTS,
        out_channels=LATENTS,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * len(BLOCKS),
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * len(BLOCKS),
        block_out_channels=BLOCKS,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        layers_per_block=1,
        cross_attention_dim=CONTEXT,
        num_attention_heads=tuple(width // 32 for width in BLOCKS),
        num_frames=motion.FRAMES,
    )
    _start_as_still_image(unet)
    return unet


@torch.no_grad()
def _start_as_still_image(unet: UNetSpatioTemporalConditionModel) -> None:
    for module in unet.modules():
        if isinstance(module, (ResnetBlock2D, TemporalResnetBlock)):
            module.conv2.weight.mul_(0.1)
            nn.init.zeros_(module.conv2.bias)
        if isinstance(module, TransformerSpatioTemporalModel):
            module.proj_out.weight.mul_(0.1)
            nn.init.zeros_(module.proj_out.bias)
    width, first = BLOCKS[0], unet.conv_in
    first.weight[:, :LATENTS] = 0
    first.weight[:LATENTS] = 0
    nn.init.zeros_(first.bias)
    for k in range(LATENTS):
        first.weight[k, LATENTS + k, 1, 1] = 1
    skip = unet.up_blocks[-1].resnets[-1].spatial_res_block.conv_shortcut
    skip.weight.mul_(0.02)
    nn.init.zeros_(skip.bias)
    for k in range(LATENTS):
        skip.weight[3 * k, width + k] = 1
        skip.bias[3 * k + 1], skip.bias[3 * k + 2] = K, -K
    deviation = (2 * K * K / 3 + 1 / 3) ** 0.5
    levels = BIAS + GAIN * torch.tensor([0.0, K, -K]) / deviation
    sigmoid = torch.sigmoid(levels)
    slopes = sigmoid * (1 + levels * (1 - sigmoid))
    weights = -deviation / GAIN * torch.tensor([1.0, -0.5, -0.5]) / slopes
    unet.conv_norm_out.weight.fill_(GAIN)
    unet.conv_norm_out.bias.fill_(BIAS)
    unet.conv_out.weight.mul_(0.02)
    for k in range(LATENTS):
        unet.conv_out.weight[k, 3 * k : 3 * k + 3, 1, 1] += weights
    rest = unet.conv_out.weight.sum((2, 3)) @ (levels * sigmoid).repeat(LATENTS)
    unet.conv_out.bias.copy_(-rest)


def optimizer(unet: nn.Module, lr: float, muon_lr: float) -> Optimizer:
    """Muon for hidden matrices, AdamW for the first and last layers, skips, embeddings, norms and biases."""
    outer = ("conv_in", "conv_out", "conv_shortcut", "time_embedding", "add_embedding", "time_pos_embed")
    matrices, others = [], []
    for name, parameter in unet.named_parameters():
        hidden = parameter.ndim >= 2 and not any(part in name for part in outer)
        (matrices if hidden else others).append(parameter)
    return Optimizer(matrices, others, lr, muon_lr)


class ChosenFrames(Timesteps):
    """Stands in for the embedding of the frames' numbers, 0, 1, 2, ...: embeds `numbers` instead.

    With it the denoiser is trained on a few frames of a clip, at their true times, at a fraction of the cost.
    """

    numbers: Tensor

    def forward(self, timesteps: Tensor) -> Tensor:
        """(batch * frames,) consecutive numbers → (batch * frames, channels) embeddings of the chosen ones."""
        return super().forward(self.numbers[timesteps])


def _choose_frames(unet: nn.Module, numbers: Tensor) -> None:
    for module in unet.modules():
        if isinstance(module, TransformerSpatioTemporalModel):
            if not isinstance(module.time_proj, ChosenFrames):
                module.time_proj = ChosenFrames(module.in_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
            module.time_proj.numbers = numbers


def _random_frames(count: int, device: torch.device) -> Tensor:
    """The sorted numbers of `count` different frames, now and then of a longer video, (count,)."""
    longest = motion.FRAMES if torch.rand(()) < 0.85 else LONGEST
    return torch.randperm(longest, device=device)[:count].sort().values


def _conditions(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random (fps - 1, bucket, noise_aug_strength) of shape (count, 3), and which images are dropped, (count,)."""
    bucket = torch.rand(count, device=device) * 255
    usual = torch.rand(count, device=device) < 0.7
    augmentation = torch.where(usual, 0.02, torch.rand(count, device=device) * 0.2)
    fps = torch.where(usual, 6.0, torch.randint(4, 30, (count,), device=device).float())
    return torch.stack([fps, bucket, augmentation], 1), torch.rand(count, device=device) < 0.06


def denoise(unet: nn.Module, x: Tensor, condition: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
    """The denoised latents of x (batch, frames, 32, height, width) at sigma (batch,)."""
    s = sigma[:, None, None, None, None]
    context = torch.zeros(len(x), 1, CONTEXT, device=x.device)
    inputs = torch.cat([x / (s * s + 1).sqrt(), condition], 2)
    output = unet(inputs, 0.25 * sigma.log(), context, ids).sample.float()
    return x / (s * s + 1) - output * s / (s * s + 1).sqrt()


def output_for(target: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """The output of the denoiser with which `denoise` returns `target`."""
    s = sigma[:, None, None, None, None]
    return (x / (s * s + 1) - target) * (s * s + 1).sqrt() / s


@dataclass(frozen=True)
class Shape:
    """What one step trains on."""

    clips: int
    frames: int
    height: int
    width: int


def shape_at(progress: float, step: int) -> Shape:
    """First a few frames of small clips, then all frames, at the end whole videos."""
    if progress < ALL_FRAMES_FROM:
        return Shape(2, 6, 96, 128)
    if progress < FULL_FROM:
        return Shape(2, motion.FRAMES, 96, 128)
    return Shape(1, motion.FRAMES, *((144, 256), (256, 144))[step % 2])


@dataclass(frozen=True)
class Batch:
    """Latents of clips (clips, frames, 32, height, width) and what the denoiser gets with them."""

    target: Tensor
    condition: Tensor
    sigma: Tensor
    """(clips,)"""
    ids: Tensor
    """(clips, 3)"""

    def noisy(self) -> Tensor:
        """The target with new noise."""
        return self.target + self.sigma[:, None, None, None, None] * torch.randn_like(self.target)


def draw_batch(basis: PatchBasis, crops: Crops, shape: Shape, numbers: Tensor, device: torch.device) -> Batch:
    """Draw clips: their frames of these numbers, (frames,)."""
    clips, frames = shape.clips, shape.frames
    ids, dropped = _conditions(clips, device)
    images = crops(clips, shape.height, shape.width)
    video = motion.pan(images, motion.displacement(ids[:, 1], numbers))
    target = basis.encode(video.flatten(0, 1)).unflatten(0, (clips, frames))
    noisy = images + ids[:, 2, None, None, None] * torch.randn_like(images)
    condition = basis.encode(noisy)[:, None].expand_as(target)
    keep = (~dropped).float()[:, None, None, None, None]
    target, condition = target * keep, condition * keep
    low, high = (torch.tensor(sigma).log() for sigma in SIGMAS)
    return Batch(target, condition, (low + torch.rand(clips, device=device) * (high - low)).exp(), ids)


def batch_loss(unet: nn.Module, basis: PatchBasis, crops: Crops, shape: Shape, device: torch.device) -> Tensor:
    """One batch: draw clips, noise them, denoise them; the squared error, weighted towards the components that show."""
    numbers = _random_frames(shape.frames, device)
    _choose_frames(unet, numbers)
    batch = draw_batch(basis, crops, shape, numbers, device)
    with bfloat16(device):
        denoised = denoise(unet, batch.noisy(), batch.condition, batch.sigma, batch.ids)
    weights = torch.cat([basis.weights.to(device) ** 0.7, torch.ones(1, device=device)])
    return (weights[:, None, None] / weights.mean() * (denoised - batch.target).pow(2)).mean()


def train(folder: Path, bank: np.ndarray, basis: PatchBasis, minutes: float, device: torch.device) -> nn.Module:
    """Train the denoiser; returns the averaged one."""
    torch.manual_seed(0)
    unet = build().to(device)
    for conv in unet.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())  # for sequences this short, faster than the fused kernel's backward pass
    run = Run(folder, unet, optimizer(unet, 8e-4, 0.012), minutes)
    crops = Crops(bank, device)
    for step in run:
        run.learn(batch_loss(run.model, basis, crops, shape_at(run.progress, step), device))
    trained = build().to(device)
    trained.load_state_dict(run.averaged.state_dict())
    return trained


@torch.no_grad()
def fit_last_layer(
    unet: nn.Module, basis: PatchBasis, bank: np.ndarray, device: torch.device, clips: int = 150, prior: float = 3e-4
) -> None:
    """Replace the last convolution by the one with the least squared error on `clips` whole videos.

    Training leaves errors of some percent in its gains. The reference was 6 % too large, for example, and the decoder
    divides by it, so the video had less contrast than the image. `prior` is the weight of what was trained.
    """
    torch.manual_seed(2)
    unet.to(device)
    layer, crops = unet.conv_out, Crops(bank, device)
    features: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    size = layer.weight[0].numel() + 1
    gram, product = (torch.zeros(size, n, dtype=torch.float64) for n in (size, LATENTS))
    frames = torch.arange(motion.FRAMES, device=device)
    for i in range(clips):
        batch = draw_batch(basis, crops, shape_at(1, i), frames, device)
        features.clear()
        x = batch.noisy()
        denoise(unet, x, batch.condition, batch.sigma, batch.ids)
        inputs = F.pad(F.unfold(features[0], 3, padding=1), (0, 0, 0, 1), value=1).transpose(0, 1).flatten(1).double()
        wanted = output_for(batch.target, x, batch.sigma)
        gram += (inputs @ inputs.T).cpu()
        product += (inputs @ wanted[0].transpose(0, 1).flatten(1).double().T).cpu()
    hook.remove()
    before = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1).T.double().cpu()
    damping = prior * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    solution = torch.linalg.solve(gram + damping, product + damping @ before).T.float()
    layer.weight.copy_(solution[:, :-1].reshape(layer.weight.shape))
    layer.bias.copy_(solution[:, -1])
