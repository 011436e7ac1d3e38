import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from PIL import Image
from safetensors import safe_open

from svd_service.config import Settings
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import VideoRequest
from svd_service.video.loader import load
from tools.benchmark.architectures import ARCHITECTURES
from tools.full_size import MODELS, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an SVD-XT whose parts are tiny."""
    return write(tmp_path_factory.mktemp("hub"), "svd-xt", "tiny")


def test_the_folder_has_the_files_of_the_hub(folder: Path):
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "image_encoder/config.json",
        "image_encoder/model.fp16.safetensors",
        "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
    }


def test_the_weights_are_those_of_the_architecture_in_half_precision(folder: Path):
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(**ARCHITECTURES["tiny"].unet)
    with safe_open(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    assert {name: each.shape for name, each in tensors.items()} == {
        name: each.shape for name, each in unet.state_dict().items()
    }
    assert {each.dtype for each in tensors.values()} == {torch.float16}


@pytest.mark.parametrize(("model", "frames"), [(name, frames) for name, (_, frames) in MODELS.items()])
def test_the_defaults_of_each_model_are_known_from_its_folder(tmp_path: Path, model: str, frames: int):
    described = Model.of(Settings.from_mapping({"SVD_MODEL": str(write(tmp_path, model, "tiny"))}))
    assert described.name == MODELS[model][0]
    assert (described.defaults.width, described.defaults.height, described.defaults.num_frames) == (1024, 576, frames)


def test_the_service_loads_it_and_makes_frames_that_vary(folder: Path):
    settings = Settings.from_mapping({"SVD_MODEL": str(folder), "SVD_CPU_THREADS": "1"})
    model = Model.of(settings)
    generator = load(model, "cpu", settings)
    request = VideoRequest(seed=7, width=64, height=64, num_frames=2, num_inference_steps=1)
    parameters = request.resolve(model, (64, 64))
    frames = np.stack(list(generator.generate(Image.new("RGB", (64, 64), "teal"), parameters, lambda _: None)))
    assert frames.shape == (2, 64, 64, 3)
    assert frames.std() > 1


def test_a_folder_that_exists_is_left_alone(folder: Path):
    before = json.loads((folder / "unet" / "config.json").read_text())
    with pytest.raises(FileExistsError):
        write(folder.parent, "svd-xt", "tiny")
    assert json.loads((folder / "unet" / "config.json").read_text()) == before
