import os
import subprocess
import sys
from pathlib import Path

import pytest

from svd_service.worker import process

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@pytest.fixture(autouse=True)
def _caches_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CACHES:
        monkeypatch.setenv(name, f"/elsewhere/{name}")


def test_compiled_kernels_are_cached_in_the_data_folder_and_not_in_a_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in CACHES:
        monkeypatch.delenv(name)
    process._keep_compiled(tmp_path)
    assert all(Path(os.environ[name]).is_relative_to(tmp_path / ".compiled") for name in CACHES)


def test_an_operators_cache_folders_are_kept(tmp_path: Path) -> None:
    process._keep_compiled(tmp_path)
    assert [os.environ[name] for name in CACHES] == [f"/elsewhere/{name}" for name in CACHES]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Replaces the environment of this process with one without any CUDA variable."""
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    return environment


def test_the_memory_of_a_cuda_device_does_not_fragment_between_videos_of_different_sizes(
    environment: dict[str, str],
) -> None:
    process._pin("0")
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert environment["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_an_operators_allocator_settings_are_kept(environment: dict[str, str], name: str) -> None:
    environment[name] = "max_split_size_mb:128"
    process._pin("0")
    assert {key: value for key, value in environment.items() if "ALLOC" in key} == {name: "max_split_size_mb:128"}


def test_a_mig_slice_is_pinned_by_its_uuid(environment: dict[str, str]) -> None:
    process._pin("MIG-6a1d3f0e-0000-5000-8000-000000000001")
    assert environment["CUDA_VISIBLE_DEVICES"] == "MIG-6a1d3f0e-0000-5000-8000-000000000001"


@pytest.mark.parametrize("devices", ["0,1", "MIG-6a1d3f0e-1,MIG-6a1d3f0e-2"])
def test_a_worker_has_a_process_per_cuda_device_and_its_parent_does_not_import_torch(devices: str) -> None:
    program = (
        "import sys; from svd_service import celeryconfig; from svd_service.worker import process; "
        "process._import_libraries(); print(celeryconfig.worker_concurrency, 'torch' in sys.modules)"
    )
    environment = {"PATH": os.environ["PATH"], "SVD_DEVICES": devices}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
