"""Stable Video Diffusion's architecture with random weights; speed does not depend on the weights' values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from svd_service.jobs.model import Bounds, Defaults, Model
from svd_service.video.pipeline import Pipeline


@dataclass(frozen=True)
class Architecture:
    """The configuration of each part, under the names of the library, and the model's defaults."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    image_encoder: dict[str, Any]
    model: Model


#: The scheduler of the published models.
SCHEDULER: Final = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}

ARCHITECTURES: Final[dict[str, Architecture]] = {
    # stabilityai/stable-video-diffusion-img2vid-xt; its UNet has the defaults of diffusers' class.
    "svd-xt": Architecture(
        unet={"sample_size": 96, "num_frames": 25, "num_attention_heads": (5, 10, 20, 20)},
        vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 768},
        image_encoder={
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "patch_size": 14,
            "projection_dim": 1024,
        },
        model=Model("svd-xt, random weights", "svd-xt", trained=False),
    ),
    # To try the benchmark.
    "tiny": Architecture(
        unet={
            "sample_size": 32,
            "num_frames": 3,
            "block_out_channels": (32, 64, 64, 64),
            "layers_per_block": 1,
            "num_attention_heads": (2, 4, 4, 4),
            "cross_attention_dim": 32,
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 96,
        },
        vae={"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "sample_size": 64},
        image_encoder={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 56,
            "projection_dim": 32,
        },
        model=Model(
            "tiny, random weights",
            "tiny",
            trained=False,
            defaults=Defaults(width=64, height=64, num_frames=3, num_inference_steps=2, decode_chunk_size=2),
            bounds=Bounds(width=(64, 256), height=(64, 256), num_frames=(2, 25)),
        ),
    ),
}


def build(architecture: Architecture, place: torch.device, precision: torch.dtype) -> Pipeline:
    """Build a pipeline on `place` with random weights, which are the same each time on one kind of device."""
    with torch.random.fork_rng(), place:
        torch.manual_seed(0)
        parts = models(architecture, precision)
    pipe = pipeline(parts)
    pipe.to(place, precision)
    return pipe


def models(architecture: Architecture, precision: torch.dtype) -> dict[str, Any]:
    """Build the parts that have weights on the current device; return them by name."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)
    try:
        return {
            "vae": _vae(architecture),
            "image_encoder": _inference_only(lambda: CLIPVisionModelWithProjection(_clip(architecture))),
            "unet": _inference_only(lambda: UNetSpatioTemporalConditionModel(**architecture.unet)),
        }
    finally:
        torch.set_default_dtype(before)


def pipeline(parts: dict[str, Any]) -> Pipeline:
    """Build a pipeline from these parts."""
    pipe = Pipeline(
        **parts,
        # The scheduler's tables stay on the host, where they become NumPy arrays.
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(crop_size=224, size={"shortest_edge": 224}),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _inference_only(make: Callable[[], Any]) -> Any:
    return make().eval().requires_grad_(requires_grad=False)


def _vae(architecture: Architecture) -> Any:
    blocks = ("DownEncoderBlock2D",) * 4
    return _inference_only(
        lambda: AutoencoderKLTemporalDecoder(
            **architecture.vae, down_block_types=blocks, latent_channels=4, force_upcast=True
        )
    )


def _clip(architecture: Architecture) -> CLIPVisionConfig:
    return CLIPVisionConfig(**architecture.image_encoder, image_size=224, hidden_act="gelu")
