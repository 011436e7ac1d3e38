"""A tiny model, loaded once, and the image and parameters of a video."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants, hf_api
from PIL import Image

from svd_service.config import Settings
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Fit
from svd_service.video.loader import Generator, load
from tests.unit.video.loopback_hub import Hub
from tools.harness import tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model."""
    return tiny_model.build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as the hub stores its half-precision variant: no other files."""
    return tiny_model.build(tmp_path_factory.mktemp("models") / "tiny-half", variant="fp16")


@pytest.fixture(scope="session")
def tiny_both(tmp_path_factory: pytest.TempPathFactory, tiny: Path, tiny_half: Path) -> Path:
    """The tiny model as the hub stores a model: files of both precisions side by side."""
    folder = tmp_path_factory.mktemp("models") / "tiny-both"
    for source in (tiny, tiny_half):
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Hub], None]:
    """Makes the hub's client use a hub on the loopback interface, with an empty cache."""

    def connect_to(hub: Hub) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    return connect_to


@pytest.fixture(scope="session")
def load_model() -> Callable[..., Generator]:
    """Loads a model by its folder or hub id, as a worker on the CPU does; keywords are environment variables.

    On one thread: for so little work, several threads would mostly wait for each other.
    """

    def load_it(source: Path | str, device: str = "cpu", **variables: object) -> Generator:
        values = {"SVD_MODEL": str(source), "SVD_DEVICES": "cpu", "SVD_CPU_THREADS": 1}
        settings = Settings.from_mapping({name: str(value) for name, value in (values | variables).items()})
        return load(Model.of(settings), device, settings)

    return load_it


@pytest.fixture(scope="session")
def generator(tiny: Path, load_model: Callable[..., Generator]) -> Generator:
    """The tiny model, loaded, without the optimizations that round otherwise than the stock pipeline."""
    return load_model(tiny, SVD_OPTIMIZATIONS="auto,-channels_last,-bfloat16_decoder")


@pytest.fixture(scope="session")
def image() -> Image.Image:
    """64x64 pixels of soft colour."""
    y, x = np.mgrid[0:64, 0:64]
    return Image.fromarray(np.stack([4 * x, 4 * y, 128 + 60 * np.sin((x + y) / 9)], axis=-1).astype(np.uint8))


@pytest.fixture(scope="session")
def make_parameters() -> Callable[..., Parameters]:
    """Parameters of a video of 3 frames in 2 steps; keywords change them."""

    def parameters(**changes: object) -> Parameters:
        usual = {
            "seed": 7,
            "width": 64,
            "height": 64,
            "num_frames": 3,
            "num_inference_steps": 2,
            "fps": 7,
            "motion_bucket_id": 127,
            "noise_aug_strength": 0.02,
            "min_guidance_scale": 1.0,
            "max_guidance_scale": 1.0,
            "decode_chunk_size": 2,
            "fit": Fit.CROP,
        }
        return Parameters.from_dict(usual | changes)

    return parameters
