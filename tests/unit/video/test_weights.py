import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from PIL import Image

from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters
from svd_service.video.loader import Generator
from svd_service.video.weights import ModelLoadError, find
from tests.unit.video.loopback_hub import COMMIT, Hub

HUB_MODEL = Model(name="someone/svd", source="someone/svd")

Connect = Callable[[Hub], None]


def refusing(folder: Path, status: int, reason: str) -> Hub:
    return Hub(folder, error_status=status, reason=reason)


def test_a_folder_with_both_precisions_gives_each_device_its_own(tiny_both: Path) -> None:
    model = Model(name="tiny", source=str(tiny_both), revision="seed-0")
    assert find(model, half=True).variant == "fp16"
    assert find(model, half=False).variant is None
    assert find(model, half=False).revision == "seed-0"


def test_a_folder_with_one_precision_gives_that(tiny: Path, tiny_half: Path) -> None:
    assert find(Model(name="tiny", source=str(tiny)), half=True).variant is None
    assert find(Model(name="tiny", source=str(tiny_half)), half=False).variant == "fp16"


def test_a_folder_laid_out_as_the_hubs_half_precision_variant_loads_and_generates(
    tiny_half: Path,
    load_model: Callable[..., Generator],
    image: Image.Image,
    make_parameters: Callable[..., Parameters],
) -> None:
    names = {path.name for path in tiny_half.glob("*/*.safetensors")}
    assert names == {"diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"}
    generator = load_model(tiny_half)
    frames = list(generator.generate(image, make_parameters(), lambda _: None))
    assert len(frames) == 3
    assert generator.origin["precision"] == "float32"


def test_the_half_precision_files_of_a_hub_model_are_fetched_for_cuda(connect: Connect, tiny_both: Path) -> None:
    with Hub(tiny_both).running() as hub:
        connect(hub)
        weights = find(HUB_MODEL, half=True)
    assert weights.variant == "fp16"
    fetched = {path.name for path in weights.folder.glob("*/*.safetensors")}
    assert fetched == {"diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"}


def test_a_hub_model_without_half_precision_is_fetched_in_single_precision(connect: Connect, tiny: Path) -> None:
    with Hub(tiny).running() as hub:
        connect(hub)
        weights = find(HUB_MODEL, half=True)
    assert weights.variant is None
    assert {path.name for path in weights.folder.glob("unet/*")} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }


def test_a_hub_model_is_loaded_and_its_commit_is_known(
    connect: Connect, tiny_both: Path, load_model: Callable[..., Generator]
) -> None:
    with Hub(tiny_both).running() as hub:
        connect(hub)
        generator = load_model("someone/svd", SVD_MODEL_REVISION="main")
    assert generator.origin["model"] == {
        "name": "someone/svd",
        "source": "someone/svd",
        "revision": COMMIT,
        "trained": True,
    }


def test_a_cached_model_loads_without_the_hub(connect: Connect, tiny_both: Path) -> None:
    with Hub(tiny_both).running() as hub:
        connect(hub)
        fetched = find(HUB_MODEL, half=True)
    assert find(HUB_MODEL, half=True) == fetched


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "GatedRepo"), (403, "GatedRepo"), (401, "RepoNotFound"), (403, "")]
)
def test_the_message_for_denied_access_names_the_licence_and_the_token(
    connect: Connect, tiny: Path, status: int, reason: str
) -> None:
    with refusing(tiny, status, reason).running() as hub:
        connect(hub)
        with pytest.raises(ModelLoadError, match=r"licence on https://huggingface.co/someone/svd and set HF_TOKEN"):
            find(HUB_MODEL, half=True)


def test_denied_access_to_the_files_only_has_the_same_message(connect: Connect, tiny: Path) -> None:
    with Hub(tiny, error_status=401, reason="GatedRepo", failing="/resolve/").running() as hub:
        connect(hub)
        with pytest.raises(ModelLoadError, match="set HF_TOKEN"):
            find(HUB_MODEL, half=True)


@pytest.mark.parametrize("reason", ["RepoNotFound", "RevisionNotFound"])
def test_the_message_for_an_unknown_model_names_the_settings(connect: Connect, tiny: Path, reason: str) -> None:
    with refusing(tiny, 404, reason).running() as hub:
        connect(hub)
        with pytest.raises(ModelLoadError, match="SVD_MODEL or SVD_MODEL_REVISION"):
            find(Model(name="someone/svd", source="someone/svd", revision="v9"), half=True)


def test_a_hub_model_of_another_kind_is_reported_as_such(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with Hub(tmp_path / "other").running() as hub:
        connect(hub)
        with pytest.raises(ModelLoadError, match="someone/svd cannot be fetched from the hub as Stable Video"):
            find(HUB_MODEL, half=True)


def test_the_message_without_network_and_cache_suggests_a_folder(connect: Connect, tiny: Path) -> None:
    with Hub(tiny).running() as hub:
        connect(hub)
    with pytest.raises(ModelLoadError, match=r"cannot be reached: .*refused.*SVD_MODEL=/path/to/it"):
        find(HUB_MODEL, half=True)


def test_a_failing_hub_is_reported_as_unreachable(connect: Connect, tiny: Path) -> None:
    with refusing(tiny, 500, "").running() as hub:
        connect(hub)
        with pytest.raises(ModelLoadError, match=r"cannot be reached.*SVD_MODEL=/path/to/it"):
            find(HUB_MODEL, half=True)


def test_the_message_of_offline_mode_without_cache_suggests_a_folder(
    connect: Connect, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub(tiny).running() as hub:
        connect(hub)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelLoadError, match="SVD_MODEL=/path/to/it"):
            find(HUB_MODEL, half=True)
        assert hub.requests == []


def test_pickled_weights_are_not_downloaded(connect: Connect, tmp_path: Path, tiny: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "pickled"))
    for path in list(folder.glob("*/*.safetensors")):
        path.rename(path.with_suffix(".bin"))
    with Hub(folder).running() as hub:
        connect(hub)
        with pytest.raises(ModelLoadError, match="safetensors"):
            find(HUB_MODEL, half=False)
        assert not any(line.endswith(".bin") for line in hub.requests)


@pytest.mark.parametrize("source", ["/no/such/folder", "./folder", "svd", "a/b/c"])
def test_a_source_that_is_neither_a_folder_nor_a_hub_id_is_reported_as_such(source: str) -> None:
    with pytest.raises(ModelLoadError, match="no such folder"):
        find(Model(name="x", source=source), half=False)
