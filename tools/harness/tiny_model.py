"""A toy-sized Stable Video Diffusion with random weights, in the layout of the real model."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from svd_service.jobs.model import DESCRIPTION_FILE

#: Content of the file `svd_service.json` beside the weights.
DESCRIPTION = {
    "name": "tiny",
    "revision": "seed-0",
    "description": "Random weights, for tests.",
    "trained": False,
    "defaults": {
        "width": 64,
        "height": 64,
        "num_frames": 3,
        "num_inference_steps": 2,
        "max_guidance_scale": 1.0,
        "decode_chunk_size": 2,
    },
    "bounds": {"width": [64, 256], "height": [64, 256], "num_frames": [2, 25]},
}


def build(folder: Path, *, variant: str | None = None, described: bool = True, force_upcast: bool = True) -> Path:
    """Write the model into `folder`, always with the same weights; takes about a second.

    With `variant="fp16"` its weights are in half precision and in files like those on the hub
    (`unet/diffusion_pytorch_model.fp16.safetensors`).
    """
    pipe = pipeline(force_upcast=force_upcast)
    if variant == "fp16":
        pipe.to(dtype=torch.float16)
    pipe.save_pretrained(folder, variant=variant)
    _name_the_usual_processor(folder)
    if described:
        (folder / DESCRIPTION_FILE).write_text(json.dumps(DESCRIPTION, indent=2))
    return folder


def pipeline(*, force_upcast: bool = True) -> StableVideoDiffusionPipeline:
    """Return the model in single precision; torch's global random state stays unchanged."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StableVideoDiffusionPipeline(
            vae=_vae(force_upcast=force_upcast),
            image_encoder=_image_encoder(),
            unet=_unet(),
            scheduler=_scheduler(),
            feature_extractor=CLIPImageProcessor(crop_size=224, size={"shortest_edge": 224}),
        )


def _unet() -> UNetSpatioTemporalConditionModel:
    return UNetSpatioTemporalConditionModel(
        sample_size=32,
        num_frames=3,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        num_attention_heads=(2, 4, 4, 4),
        cross_attention_dim=32,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
    )


def _vae(*, force_upcast: bool) -> AutoencoderKLTemporalDecoder:
    return AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        sample_size=64,
        force_upcast=force_upcast,
    )


def _image_encoder() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=56,
            image_size=224,  # the only size that the pipeline resizes to
            projection_dim=32,
        )
    )


def _scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
    )


def _name_the_usual_processor(folder: Path) -> None:
    # Without torchvision, the name of its replacement is saved, which not every installation has.
    for name in ("model_index.json", "feature_extractor/preprocessor_config.json"):
        path = folder / name
        if path.is_file():
            path.write_text(path.read_text().replace("CLIPImageProcessorPil", "CLIPImageProcessor"))
