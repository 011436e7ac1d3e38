"""The autoencoder: an analytic encoder and a trained decoder, in `AutoencoderKLTemporalDecoder`'s own layers.

The encoder is a principal component analysis of 8x8 pixel patches, written exactly into the weights of diffusers'
encoder, so it needs no training and the denoiser's targets never move:

- three stride-2 convolutions rearrange space to depth, all residual branches are zero;
- the last GroupNorm gets each component s as (s, -s, K, -K) with a large K, so it divides by about K and keeps s;
- the SiLU after it is undone by silu(s) - silu(-s) = s.

The last latent channel is a constant 1, a *reference*. Classifier-free guidance g multiplies a latent whose
unconditional prediction is zero by g, reference included; the decoder is trained on scaled latents, learns to divide by
the reference, and guidance does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.resnet import SpatioTemporalResBlock
from torch import Tensor, nn

from tools.nano.measures import patch_pattern
from tools.nano.training import Crops, Optimizer, Run, bfloat16

LATENTS = 32
COMPONENTS = LATENTS - 1
BLOCKS = (64, 64, 128, 128)
LARGE = 20.0
LOG_VARIANCE = -12.0
WHITENING = 0.75
"""1: every component gets unit variance; 0: components keep their proportions in pixels."""
MAX_GUIDANCE = 3.0
LEFT_OUT = ((2, 1), (3, 1))
"""The decoder's residual blocks, by up block and number, whose branches add zero, so that they need not be computed.

The last two up blocks, at half and at full resolution, have two residual blocks each, and GroupNorm needs 64 channels
(see README.md); with one block each the decoder takes half the time.
"""


def _space_to_depth(x: Tensor) -> Tensor:
    """(batch, 3, height, width) → (batch, 192, height/8, width/8), in the nested order of three stride-2 steps."""
    for _ in range(3):
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
        x = x.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * 4, height // 2, width // 2)
    return x


def _depth_to_space(x: Tensor) -> Tensor:
    """(batch, 192, height, width) → (batch, 3, 8 height, 8 width): the inverse of `_space_to_depth`."""
    for _ in range(3):
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels // 4, 2, 2, height, width)
        x = x.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // 4, height * 2, width * 2)
    return x


@dataclass(frozen=True)
class PatchBasis:
    """The leading components of 8x8 patches: `matrix` (31, 192) takes a patch in -1..1 to its latent."""

    matrix: Tensor

    @property
    def weights(self) -> Tensor:
        """The squared pixels, summed over the patch, that one squared unit of each latent stands for, (31,)."""
        return 1 / self.matrix.square().sum(1)

    @classmethod
    @torch.no_grad()
    def of(cls, vae: AutoencoderKLTemporalDecoder) -> PatchBasis:
        """The basis of an exported autoencoder, measured: what each pixel of a patch adds to its latent."""
        pixels = _depth_to_space(torch.eye(192)[..., None, None]) * 0.1
        response = (vae.encode(pixels).latent_dist.mean - vae.encode(-pixels).latent_dist.mean) / 0.2
        return cls(response[:, :COMPONENTS, 0, 0].T.contiguous())

    @classmethod
    def fit(cls, bank: np.ndarray, every: int = 2) -> PatchBasis:
        """Fit to images, uint8 (count, height, width, 3), made a little less colorful, as photographs are."""
        covariance, count = torch.zeros(192, 192, dtype=torch.float64), 0
        for start in range(0, len(bank), 50):
            images = torch.from_numpy(bank[start : start + 50 : every]).permute(0, 3, 1, 2).float() / 127.5 - 1
            grey = images.mean(1, keepdim=True)
            patches = _space_to_depth(grey + (images - grey) * 0.6).permute(1, 0, 2, 3).reshape(192, -1)
            covariance += (patches @ patches.T).double()
            count += patches.shape[1]
        values, vectors = torch.linalg.eigh(covariance / count)
        values, vectors = values.flip(0)[:COMPONENTS], vectors.flip(1)[:, :COMPONENTS]
        spread = (values / values[0]) ** ((1 - WHITENING) / 2)
        return cls((vectors * spread / values.sqrt()).T.float().contiguous())

    def encode(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) in -1..1 → (batch, 32, height/8, width/8): components, then the reference."""
        latents = torch.einsum("kc,bchw->bkhw", self.matrix.to(images), _space_to_depth(images))
        return torch.cat([latents, torch.ones_like(latents[:, :1])], 1)

    @classmethod
    def load_or_fit(cls, path: Path, bank: np.ndarray) -> PatchBasis:
        """Load the basis at `path`; fit and save it first if it does not exist."""
        if not path.exists():
            basis = cls.fit(bank)
            torch.save(basis.matrix, path)
        return cls(torch.load(path))


def build(basis: PatchBasis) -> AutoencoderKLTemporalDecoder:
    """The autoencoder with its analytic encoder and an untrained decoder."""
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(BLOCKS),
        block_out_channels=BLOCKS,
        layers_per_block=1,
        latent_channels=LATENTS,
        sample_size=256,
        scaling_factor=1.0,
        force_upcast=False,
    )
    _write_encoder(vae, basis)
    _start_decoder(vae.decoder)
    return vae


@torch.no_grad()
def _write_encoder(vae: AutoencoderKLTemporalDecoder, basis: PatchBasis) -> None:
    encoder = vae.encoder
    for layer in (encoder.conv_in, encoder.conv_out, vae.quant_conv):
        layer.weight.zero_()
        layer.bias.zero_()
    for channel in range(3):
        encoder.conv_in.weight[channel, channel, 1, 1] = 1
    resnets = [r for block in encoder.down_blocks for r in block.resnets] + list(encoder.mid_block.resnets)
    for resnet in resnets:
        nn.init.zeros_(resnet.conv2.weight)
        nn.init.zeros_(resnet.conv2.bias)
        if resnet.conv_shortcut is not None:
            nn.init.dirac_(resnet.conv_shortcut.weight)
            nn.init.zeros_(resnet.conv_shortcut.bias)
    attention = encoder.mid_block.attentions[0].to_out[0]
    nn.init.zeros_(attention.weight)
    nn.init.zeros_(attention.bias)
    down = [block.downsamplers[0].conv for block in encoder.down_blocks[:3]]
    for conv in down:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    for conv, channels in ((down[0], 3), (down[1], 12)):
        for i in range(channels * 4):
            conv.weight[i, i // 4, i // 2 % 2, i % 2] = 1
    matrix, scale = basis.matrix.reshape(COMPONENTS, 48, 2, 2), (LARGE**2 / 2 + 0.5) ** 0.5
    for k in range(32):
        down[2].bias[4 * k + 2], down[2].bias[4 * k + 3] = LARGE, -LARGE
        if k < COMPONENTS:
            down[2].weight[4 * k, :48, :2, :2] = matrix[k]
            down[2].weight[4 * k + 1, :48, :2, :2] = -matrix[k]
            encoder.conv_out.weight[k, 4 * k, 1, 1] = scale
            encoder.conv_out.weight[k, 4 * k + 1, 1, 1] = -scale
            vae.quant_conv.weight[k, k] = 1
    vae.quant_conv.bias[COMPONENTS] = 1
    vae.quant_conv.bias[LATENTS:] = LOG_VARIANCE


@torch.no_grad()
def _start_decoder(decoder: nn.Module) -> None:
    """Temporal branches are the identity, spatial ones start small."""
    nn.init.zeros_(decoder.time_conv_out.weight)
    nn.init.zeros_(decoder.time_conv_out.bias)
    for channel in range(3):
        decoder.time_conv_out.weight[channel, channel, 1] = 1
    for module in decoder.modules():
        if isinstance(module, SpatioTemporalResBlock):
            nn.init.zeros_(module.temporal_res_block.conv2.weight)
            nn.init.zeros_(module.temporal_res_block.conv2.bias)
            module.spatial_res_block.conv2.weight.mul_(0.3)


def _left_out(decoder: nn.Module) -> list[SpatioTemporalResBlock]:
    return [decoder.up_blocks[block].resnets[number] for block, number in LEFT_OUT]


@torch.no_grad()
def _leave_out(decoder: nn.Module) -> None:
    for block in _left_out(decoder):
        for parameter in block.spatial_res_block.conv2.parameters():
            parameter.zero_()


@contextmanager
def spatial_only() -> Iterator[None]:
    """Skip the branches that add zero: the temporal ones, and spatial ones whose last convolution is zero."""

    def forward(self: SpatioTemporalResBlock, hidden_states: Tensor, temb: Tensor | None = None, **_: object) -> Tensor:
        spatial = self.spatial_res_block
        if spatial.conv_shortcut is None and not spatial.conv2.weight.requires_grad:
            return hidden_states
        return spatial(hidden_states, temb)

    original = SpatioTemporalResBlock.forward
    SpatioTemporalResBlock.forward = forward
    try:
        yield
    finally:
        SpatioTemporalResBlock.forward = original


def image_loss(output: Tensor, target: Tensor, smooth: float = 2) -> Tensor:
    """How far images (batch, 3, height, width) are apart, for the eye.

    It is the sum of

    - the absolute and the squared error,
    - the absolute error of the differences between neighbors (edges) at three scales, and of the colors of the
      patches and of four by four patches, the latter `smooth` times,
    - the difference of the amplitude spectra, which blur lowers,
    - what the errors of all 8x8 patches have in common: in smooth areas, it shows as a weave of lines.
    """
    error = output - target
    loss = error.abs().mean() + 2 * error.square().mean()
    amplitudes = [torch.fft.rfft2(images, norm="ortho").abs() for images in (output, target)]
    loss = loss + 0.1 * (amplitudes[0] - amplitudes[1]).abs().mean() + 2 * patch_pattern(error).abs().mean()
    for _ in range(3):
        across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
        loss = loss + 0.15 * (across.abs().mean() + down.abs().mean())
        error = F.avg_pool2d(error, 2)
    return loss + 0.5 * error.abs().mean() + smooth * F.avg_pool2d(error, 4).abs().mean()


def clear_sky(height: int, width: int) -> Tensor:
    """A linear gradient between two random colors in -1..1, (3, height, width), half of the time from top to bottom."""
    angle = (0.5 if torch.rand(()) < 0.5 else 2 * torch.rand(())) * torch.tensor(torch.pi)
    y, x = torch.linspace(-0.5, 0.5, height)[:, None], torch.linspace(-0.5, 0.5, width)
    share = (0.5 + (x * angle.cos() + y * angle.sin()) / (angle.cos().abs() + angle.sin().abs())).clamp(0, 1)
    first, second = (torch.rand(2, 3, 1, 1) * 2 - 1).unbind()
    return first + (second - first) * torch.rand(()) * share


def decoder_optimizer(decoder: nn.Module, lr: float, muon_lr: float) -> Optimizer:
    """Muon for the spatial branches' convolutions and the attention, AdamW for the rest of the spatial layers."""
    matrices, others = [], []
    left_out = {id(parameter) for block in _left_out(decoder) for parameter in block.parameters()}
    for name, parameter in decoder.named_parameters():
        spatial = id(parameter) not in left_out and not any(part in name for part in ("temporal", "time_"))
        parameter.requires_grad_(spatial)
        if spatial:
            hidden = parameter.ndim >= 2 and not any(p in name for p in ("conv_in", "conv_out", "conv_shortcut"))
            (matrices if hidden else others).append(parameter)
    return Optimizer(matrices, others, lr, muon_lr)


def random_guidance(count: int, device: torch.device, share: float = 0.15) -> Tensor:
    """(count, 1, 1, 1): mostly 1, for a `share` of them a guidance scale up to `MAX_GUIDANCE`."""
    scale = 1 + (torch.rand(count, device=device) < share) * torch.rand(count, device=device) * (MAX_GUIDANCE - 1)
    return scale[:, None, None, None]


WHOLE = ((288, 512), (512, 288))
"""The (height, width) of whole images, which the norms see as they will see those of videos."""
CROP = (128, 192)
"""The (height, width) of a part of an image."""


def batch_at(progress: float, step: int) -> tuple[int, int, int]:
    """(count, height, width) of a step's images: first many small ones, later also whole ones."""
    if progress < 0.5:
        return 12, 64, 64
    return (1, *WHOLE[step // 4 % 2]) if step % 4 == 0 else (4, *CROP)


def _begin(folder: Path, decoder: nn.Module, minutes: float, rates: tuple[float, float], decay: float) -> Run:
    """Begin or resume to train the decoder; `rates` are AdamW's and Muon's."""
    _leave_out(decoder)
    for conv in decoder.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    return Run(folder, decoder, decoder_optimizer(decoder, *rates), minutes, decay)


def decoding_loss(
    decoder: nn.Module, basis: PatchBasis, images: Tensor, smooth: float = 2, noise: float = 0.03
) -> Tensor:
    """`image_loss` of what the decoder makes of the images' latents, with noise of that deviation and guidance."""
    count, device = len(images), images.device
    latents = basis.encode(images)
    latents[:, :COMPONENTS] += noise * torch.randn_like(latents[:, :COMPONENTS])
    latents = (latents * random_guidance(count, device)).contiguous(memory_format=torch.channels_last)
    with bfloat16(device), spatial_only():
        output = decoder(latents, torch.zeros(1, count, device=device), count)
    return image_loss(output.float(), images, smooth)


def train(
    folder: Path,
    bank: np.ndarray,
    vae: AutoencoderKLTemporalDecoder,
    minutes: float,
    device: torch.device,
    rate: float = 1,
) -> nn.Module:
    """Train the decoder on single images; returns the averaged autoencoder. `rate` multiplies the learning rates."""
    basis, crops, vae = PatchBasis.of(vae), Crops(bank, device), vae.to(device)
    run = _begin(folder, vae.decoder, minutes, (1e-3 * rate, 0.01 * rate), decay=0.998)
    for step in run:
        count, height, width = batch_at(run.progress, step)
        images = crops(count, height, width)
        if sky := step % 4 == 0:
            images[0] = clear_sky(height, width)
        run.learn(decoding_loss(run.model, basis, images, 100 if sky and count == 1 else 2))
    vae.decoder.load_state_dict(run.averaged.state_dict())
    return vae


def train_skies(
    folder: Path, bank: np.ndarray, vae: AutoencoderKLTemporalDecoder, minutes: float, device: torch.device
) -> nn.Module:
    """Train a trained decoder further until whole clear skies are right; returns the averaged autoencoder.

    In a sky one sees errors of half a grey level, and larger steps than these small ones make such errors. Every step
    sees a sky and other images, so that these do not get worse.
    """
    basis, crops, vae = PatchBasis.of(vae), Crops(bank, device), vae.to(device)
    run = _begin(folder, vae.decoder, minutes, (3e-5, 3e-4), decay=0.99)
    for step in run:
        images = crops(1, *WHOLE[step % 2]) if step % 4 < 2 else crops(4, *CROP)
        decoding_loss(run.model, basis, images).backward()
        sky = clear_sky(*WHOLE[step // 2 % 2])[None].to(device)
        run.learn(decoding_loss(run.model, basis, sky, 50, 0.01))
    vae.decoder.load_state_dict(run.averaged.state_dict())
    return vae
