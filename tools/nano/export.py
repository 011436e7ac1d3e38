"""Write the trained parts as a checkpoint folder in the layout of SVD on the Hugging Face hub, in float16."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from tools.nano import motion
from tools.nano.denoiser import CONTEXT

STEPS = 1
SIGMA_MIN, SIGMA_MAX = 300.0, 700.0
DESCRIPTION = (
    "A nano model that moves a camera over your photo: trained from nothing on drawn pictures, runs on a laptop's CPU. "
    "For trying the service out; it is no Stable Video Diffusion."
)
DEFAULTS = {
    "width": 512,
    "height": 288,
    "num_frames": motion.FRAMES,
    "num_inference_steps": STEPS,
    "fps": 7,
    "motion_bucket_id": 127,
    "noise_aug_strength": 0.02,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 1.0,
    "decode_chunk_size": 2,
}
#: One denoising step is as good as many (see the model card), so that a draft is no different.
PROFILES = {"draft": {"num_inference_steps": 1}}
BOUNDS = {"width": [64, 512], "height": [64, 512], "num_frames": [2, 25]}
CARD = Path(__file__).with_name("model_card.md")


def image_encoder() -> CLIPVisionModelWithProjection:
    """The smallest CLIP that the pipeline accepts; its projection is zero, so it carries no information."""
    torch.manual_seed(0)
    clip = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=224,
            patch_size=32,
            projection_dim=CONTEXT,
        )
    )
    torch.nn.init.zeros_(clip.visual_projection.weight)
    return clip


def scheduler() -> EulerDiscreteScheduler:
    """SVD's scheduler with a higher smallest sigma: see `denoiser.py`."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        interpolation_type="linear",
        sigma_min=SIGMA_MIN,
        sigma_max=SIGMA_MAX,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
        use_karras_sigmas=True,
    )


def _revision(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def export(
    vae: AutoencoderKLTemporalDecoder, unet: UNetSpatioTemporalConditionModel, folder: Path, figures: str = ""
) -> None:
    """Replace `folder` by the checkpoint; `figures` is a Markdown table for its model card."""
    temporary = folder.with_name(folder.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False, crop_size=224, size=224)
    vae, unet, clip = (copy.deepcopy(m).to("cpu", torch.float16).eval() for m in (vae, unet, image_encoder()))
    StableVideoDiffusionPipeline(
        vae=vae, image_encoder=clip, unet=unet, scheduler=scheduler(), feature_extractor=processor
    ).save_pretrained(temporary)
    for path in temporary.rglob("*.safetensors"):
        path.chmod(0o644)
    index = json.loads((temporary / "model_index.json").read_text())
    index["feature_extractor"][1] = "CLIPImageProcessor"  # without torchvision it is called CLIPImageProcessorPil
    (temporary / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for part in ("unet", "vae"):
        path = temporary / part / "config.json"
        config = {k: v for k, v in json.loads(path.read_text()).items() if k != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2) + "\n")
    about = {"name": "nano", "description": DESCRIPTION, "trained": True, "revision": _revision(temporary)}
    (temporary / "svd_service.json").write_text(
        json.dumps(about | {"defaults": DEFAULTS, "profiles": PROFILES, "bounds": BOUNDS}, indent=2) + "\n"
    )
    (temporary / "README.md").write_text(CARD.read_text().replace("{figures}", figures))
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
