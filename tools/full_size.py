#!/usr/bin/env python3
"""Write a model folder with Stable Video Diffusion's real size and random weights in half precision.

`SVD_MODEL` accepts the folder: it has the same files, names, shapes and configurations as on the hub (4.5 GB), so that
loading and memory can be tested without accepting the licence and without the download. The videos are noise. Tensors
are written one by one, so the process needs little more memory than the largest of them (a minute, less than 1 GB).

usage: python -m tools.full_size FOLDER [--model svd|svd-xt|svd-xt-1.1]
"""

import argparse
import json
import math
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tools.benchmark.architectures import ARCHITECTURES, SCHEDULER

#: The hub's models by folder name, with their number of frames, the only difference between their files.
MODELS: Final = {
    "svd": ("stable-video-diffusion-img2vid", 14),
    "svd-xt": ("stable-video-diffusion-img2vid-xt", 25),
    "svd-xt-1.1": ("stable-video-diffusion-img2vid-xt-1-1", 25),
}

#: Required disk space in bytes, with a margin.
DISK_BYTES: Final = 5_000_000_000

#: Standard deviation of weights without a number of inputs: embeddings and the class token.
_EMBEDDED: Final = 0.02


@dataclass(frozen=True)
class Part:
    """A model on torch's meta device, and the file of its weights."""

    name: str
    model: torch.nn.Module
    config: dict[str, Any]
    file: str


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model's folder is created in it, named as on the hub")
    parser.add_argument("--model", choices=tuple(MODELS), default="svd-xt")
    arguments = parser.parse_args()
    print(write(arguments.folder, arguments.model))


def write(folder: Path, model: str = "svd-xt", architecture: str = "svd-xt") -> Path:
    """Write the model, always with the same weights, into a folder in `folder` named as on the hub; return that folder.

    Tests set a smaller `architecture`.

    Raises:
        OSError: the folder exists already, or the disk has too little space.
    """
    name, frames = MODELS[model]
    root = folder / name
    root.mkdir(parents=True)
    if architecture == "svd-xt" and shutil.disk_usage(root).free < DISK_BYTES:
        raise OSError(f"{root}: {DISK_BYTES / 1e9:.0f} GB of free space are needed")
    chance = torch.Generator().manual_seed(0)
    for part in _parts(architecture, frames):
        _write_json(root / part.name / "config.json", part.config)
        with (root / part.name / part.file).open("wb") as file:
            write_weights(file, part.model, chance)
    _write_json(root / "scheduler" / "scheduler_config.json", _config(EulerDiscreteScheduler(**SCHEDULER)))
    _write_json(root / "feature_extractor" / "preprocessor_config.json", _PROCESSOR)
    _write_json(root / "model_index.json", _INDEX)
    return root


def write_weights(file: IO[bytes], model: torch.nn.Module, chance: torch.Generator) -> None:
    """Write random weights for `model` as safetensors, in half precision, tensor by tensor.

    The format is the header's length in eight bytes, a header of JSON, and the values. The package `safetensors` needs
    all tensors in memory at once.
    """
    tensors = model.state_dict()
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        size = 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the values are aligned
    file.write(struct.pack("<Q", len(text)) + text)
    for name, tensor in tensors.items():
        file.write(_random(name, tensor.shape, chance).numpy().tobytes())


def _random(name: str, shape: torch.Size, chance: torch.Generator) -> torch.Tensor:
    """Return weights that keep the variance of activations, similar to torch's initialization."""
    if len(shape) > 1 and "embedding" not in name.rsplit(".", 2)[-2]:
        bound = 1 / math.sqrt(shape[1:].numel())
        return torch.empty(shape).uniform_(-bound, bound, generator=chance).half()
    if len(shape) > 1 or "class_embedding" in name:
        return (torch.randn(shape, generator=chance) * _EMBEDDED).half()
    if name.endswith("mix_factor"):
        return torch.full(shape, 0.5).half()
    return (torch.ones if name.endswith("weight") else torch.zeros)(shape).half()  # normalizations and biases


def _parts(architecture: str, frames: int) -> list[Part]:
    chosen = ARCHITECTURES[architecture]
    clip = CLIPVisionConfig(**chosen.image_encoder, image_size=224, hidden_act="gelu")
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(**{**chosen.unet, "num_frames": frames})
        vae = AutoencoderKLTemporalDecoder(
            **chosen.vae, down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4, force_upcast=True
        )
        image_encoder = CLIPVisionModelWithProjection(clip)
    diffusion = "diffusion_pytorch_model.fp16.safetensors"
    named = {"architectures": ["CLIPVisionModelWithProjection"], "torch_dtype": "float16"}
    return [
        Part("unet", unet, _config(unet), diffusion),
        Part("vae", vae, _config(vae), diffusion),
        Part("image_encoder", image_encoder, {**clip.to_diff_dict(), **named}, "model.fp16.safetensors"),
    ]


def _config(of: Any) -> dict[str, Any]:
    return dict(json.loads(of.to_json_string()))


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


_INDEX: Final = {
    "_class_name": "StableVideoDiffusionPipeline",
    "_diffusers_version": "0.24.0.dev0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
}

_PROCESSOR: Final = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}


if __name__ == "__main__":
    main()
