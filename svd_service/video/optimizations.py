"""Changes of the pipeline that make the same video in less time. Each can be enabled on its own.

`chosen` reads the setting `SVD_OPTIMIZATIONS`, `apply` changes a loaded pipeline. docs/architecture/7-generation.md has
how close each stays to the stock pipeline's result; a test checks it.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Any, Final

import torch
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0
from diffusers.models.resnet import AlphaBlender, ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from svd_service.video.compilation import Compiled
from svd_service.video.pipeline import Pipeline


class Optimization(StrEnum):
    """The optimizations by name, in the order in which they are applied."""

    #: Residual branches and attentions that add zero are skipped. Only models trained without them have such, as nano.
    ZERO_BRANCHES = "zero_branches"
    #: The image has one token, so the softmax over it is 1, and cross-attention is its value, whatever the query.
    CONSTANT_CROSS_ATTENTION = "constant_cross_attention"
    #: Query, key and value of self-attention in one product.
    FUSED_QKV = "fused_qkv"
    #: The spatial and temporal branches are blended in one pass instead of three.
    LERP = "lerp"
    #: Convolutions use the memory layout that tensor cores need.
    CHANNELS_LAST = "channels_last"
    #: The decoder computes in bfloat16, on CPUs whose matrix units (AMX) multiply such numbers.
    BFLOAT16_DECODER = "bfloat16_decoder"
    #: Whether guidance is needed is computed once, instead of twice per step on the device.
    CACHED_GUIDANCE = "cached_guidance"
    #: The image is resized for CLIP on the device.
    DEVICE_RESIZE = "device_resize"
    #: Frames are rounded to 8 bits before they leave the device.
    DEVICE_UINT8 = "device_uint8"
    #: Frames are encoded while the next are decoded.
    OVERLAPPED_ENCODING = "overlapped_encoding"
    #: The UNet and the decoder are compiled, for the model's own sizes.
    COMPILE = "compile"
    #: What is compiled is recorded as CUDA graphs, which the host starts at once. It takes more memory.
    CUDA_GRAPHS = "cuda_graphs"
    #: Flash attention where it applies, instead of torch's choice.
    FLASH_ATTENTION = "flash_attention"
    #: cuDNN's attention where it applies.
    CUDNN_ATTENTION = "cudnn_attention"


#: Optimizations that need a compiler: graphs are recorded of compiled code.
COMPILING: Final = frozenset({Optimization.COMPILE, Optimization.CUDA_GRAPHS})

#: Optimizations for CPUs; devices decode in half precision anyway.
CPU_ONLY: Final = frozenset({Optimization.BFLOAT16_DECODER})

#: Optimizations that are off until they have been measured on a device.
UNMEASURED: Final = frozenset({Optimization.CUDA_GRAPHS, Optimization.FLASH_ATTENTION, Optimization.CUDNN_ATTENTION})

#: Default optimizations by type of device.
AUTO: Final[dict[str, frozenset[Optimization]]] = {
    # The others gain nothing on a CPU (see docs/architecture/7-generation.md).
    "cpu": frozenset(
        {
            Optimization.ZERO_BRANCHES,
            Optimization.CHANNELS_LAST,
            Optimization.BFLOAT16_DECODER,
            Optimization.CACHED_GUIDANCE,
            Optimization.DEVICE_RESIZE,
            Optimization.DEVICE_UINT8,
            Optimization.OVERLAPPED_ENCODING,
        }
    ),
    "cuda": frozenset(Optimization) - UNMEASURED - CPU_ONLY,
}


def chosen(setting: str, place: torch.device) -> frozenset[Optimization]:
    """The optimizations that `SVD_OPTIMIZATIONS` selects on `place`.

    Its comma-separated words apply from left to right: `auto` (the initial value) and `none` stand for sets, `NAME`
    adds one and `-NAME` removes one.

    Raises:
        ValueError: a name is unknown.
    """
    optimizations = set(AUTO[place.type])
    for word in filter(None, (word.strip() for word in setting.split(","))):
        if word == "auto":
            optimizations = set(AUTO[place.type])
        elif word == "none":
            optimizations = set()
        elif word.startswith("-"):
            optimizations.discard(Optimization(word[1:]))
        else:
            optimizations.add(Optimization(word))
    return frozenset(optimizations)


def usable(optimizations: Collection[Optimization]) -> frozenset[Optimization]:
    """`optimizations` without those that need what is missing: compiling (for graphs) or AMX."""
    given = frozenset(optimizations)
    if Optimization.COMPILE not in given:
        given -= COMPILING
    if not torch.cpu.get_capabilities().get("amx_bf16"):
        # Without matrix units, a CPU converts such numbers to single precision and back.
        given -= {Optimization.BFLOAT16_DECODER}
    return given


def apply(pipe: Pipeline, optimizations: Collection[Optimization]) -> None:
    """Apply `optimizations` to `pipe`; the generator itself implements those that do not concern the pipeline."""
    for optimization in Optimization:
        if optimization in optimizations and optimization in _CHANGES:
            _CHANGES[optimization](pipe)
    if Optimization.COMPILE in optimizations:
        _compile(pipe, graphs=Optimization.CUDA_GRAPHS in optimizations)


def attention_kernels(optimizations: Collection[Optimization]) -> AbstractContextManager[None]:
    """A context in which attention uses the kernels of `optimizations` first, and the others where those do not apply.

    The VAE's heads, for example, are too large for flash attention and for cuDNN.
    """
    first = [kernel for optimization, kernel in _KERNELS.items() if optimization in optimizations]
    others = [kernel for kernel in (*_KERNELS.values(), *_OTHER_KERNELS) if kernel not in first]
    return sdpa_kernel([*first, *others], set_priority=True) if first else nullcontext()


_KERNELS: Final = {
    Optimization.CUDNN_ATTENTION: SDPBackend.CUDNN_ATTENTION,
    Optimization.FLASH_ATTENTION: SDPBackend.FLASH_ATTENTION,
}
_OTHER_KERNELS: Final = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


class _SpatialOnly(nn.Module):
    """A `SpatioTemporalResBlock` whose temporal branch adds zero: the blend of equal values is that value."""

    def __init__(self, block: SpatioTemporalResBlock) -> None:
        super().__init__()
        self.spatial_res_block = block.spatial_res_block

    def forward(
        self,
        hidden_states: torch.Tensor,
        temb: torch.Tensor | None = None,
        image_only_indicator: torch.Tensor | None = None,
    ) -> torch.Tensor:
        result: torch.Tensor = self.spatial_res_block(hidden_states, temb)
        return result


class _Shortcut(nn.Module):
    """A `ResnetBlock2D` whose branch adds zero."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.conv_shortcut = block.conv_shortcut or nn.Identity()

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        result: torch.Tensor = self.conv_shortcut(input_tensor)
        return result


class _NoAttention(nn.Module):
    """An attention that adds zero: a scalar, which the addition that follows broadcasts."""

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states.new_zeros(())


def _zero_branches(pipe: Pipeline) -> None:
    for model in (pipe.unet, pipe.vae):
        for module in list(model.modules()):
            if isinstance(module, BasicTransformerBlock | TemporalBasicTransformerBlock):
                _skip_zero_attention(module)
            for name, block in list(module.named_children()):
                if isinstance(block, SpatioTemporalResBlock) and _adds_zero(block.temporal_res_block):
                    setattr(module, name, _SpatialOnly(block))
                elif isinstance(block, ResnetBlock2D) and _adds_zero(block):
                    setattr(module, name, _Shortcut(block))


def _skip_zero_attention(block: BasicTransformerBlock | TemporalBasicTransformerBlock) -> None:
    if _is_zero(block.attn1.to_out[0]):
        block.attn1, block.norm1 = _NoAttention(), nn.Identity()
    if block.attn2 is not None and _is_zero(block.attn2.to_out[0]):
        block.attn2 = None


def _adds_zero(block: ResnetBlock2D | TemporalResnetBlock) -> bool:
    """Whether the branch of a residual block ends in a convolution of zeros, and nothing rescales its sum."""
    return _is_zero(block.conv2) and getattr(block, "output_scale_factor", 1) == 1


def _is_zero(layer: nn.Module) -> bool:
    return not any(parameter.is_meta or parameter.any() for parameter in layer.parameters())


class _OneToken:
    """Cross-attention to one token, of shape (rows, 1, channels): softmax over one score is 1, which leaves its value.

    It is the same for every query, so it is computed once per row, and the addition that follows broadcasts it.
    """

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, *_: Any, **__: Any
    ) -> torch.Tensor:
        value: torch.Tensor = attn.to_out[0](attn.to_v(encoder_hidden_states)) / attn.rescale_output_factor
        return value


def _constant_cross_attention(pipe: Pipeline) -> None:
    for block in pipe.unet.modules():
        if isinstance(block, BasicTransformerBlock | TemporalBasicTransformerBlock) and block.attn2 is not None:
            block.attn2.set_processor(_OneToken())
            # The queries and their normalization are no longer needed.
            block.norm2 = nn.Identity()
            block.attn2.to_q = block.attn2.to_k = None


def _fused_qkv(pipe: Pipeline) -> None:
    # The model's own `fuse_qkv_projections` supports a newer kind of attention only, and has no effect on this one.
    for attention in pipe.unet.modules():
        if isinstance(attention, Attention) and not attention.is_cross_attention:
            attention.fuse_projections()
            attention.set_processor(FusedAttnProcessor2_0())
            attention.to_q = attention.to_k = attention.to_v = None


class _Lerp(nn.Module):
    """What `AlphaBlender` does for a video, in which no frame is marked as a still image."""

    def __init__(self, blender: AlphaBlender) -> None:
        super().__init__()
        self.mix_factor = blender.mix_factor
        self._switched = blender.switch_spatial_to_temporal_mix
        self._learned = blender.merge_strategy != "fixed"

    def forward(
        self, x_spatial: torch.Tensor, x_temporal: torch.Tensor, image_only_indicator: torch.Tensor | None = None
    ) -> torch.Tensor:
        alpha = (torch.sigmoid(self.mix_factor) if self._learned else self.mix_factor).to(x_spatial.dtype)
        start, end = (x_spatial, x_temporal) if self._switched else (x_temporal, x_spatial)
        return torch.lerp(start, end, alpha)


def _lerp(pipe: Pipeline) -> None:
    for model in (pipe.unet, pipe.vae.decoder):
        for module in list(model.modules()):
            if isinstance(getattr(module, "time_mixer", None), AlphaBlender):
                module.time_mixer = _Lerp(module.time_mixer)


def _channels_last(pipe: Pipeline) -> None:
    # Layer by layer, because a model with both kinds of layers cannot be converted as a whole.
    for model in (pipe.unet, pipe.vae):
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            elif isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def _bfloat16_decoder(pipe: Pipeline) -> None:
    def convert(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(_in_bfloat16, args)), {name: _in_bfloat16(value) for name, value in kwargs.items()}

    def convert_back(_: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output.float()

    decoder = pipe.vae.decoder.to(torch.bfloat16)
    decoder.register_forward_pre_hook(convert, with_kwargs=True)
    decoder.register_forward_hook(convert_back)


def _in_bfloat16(value: Any) -> Any:
    return value.to(torch.bfloat16) if isinstance(value, torch.Tensor) else value


def _cached_guidance(pipe: Pipeline) -> None:
    pipe.cached_guidance = True


def _device_resize(pipe: Pipeline) -> None:
    pipe.device_resize = True


def _compile(pipe: Pipeline, *, graphs: bool) -> None:
    # Only the VAE's decoder: the whole VAE is converted to single precision and back for every image.
    Compiled(pipe.vae.decoder)
    # Graphs for the UNet alone, which runs in every step: their memory is not shared with anything else.
    Compiled(pipe.unet, graphs=graphs)


_CHANGES: Final[dict[Optimization, Callable[[Pipeline], None]]] = {
    Optimization.ZERO_BRANCHES: _zero_branches,
    Optimization.CONSTANT_CROSS_ATTENTION: _constant_cross_attention,
    Optimization.FUSED_QKV: _fused_qkv,
    Optimization.LERP: _lerp,
    Optimization.CHANNELS_LAST: _channels_last,
    Optimization.BFLOAT16_DECODER: _bfloat16_decoder,
    Optimization.CACHED_GUIDANCE: _cached_guidance,
    Optimization.DEVICE_RESIZE: _device_resize,
}
