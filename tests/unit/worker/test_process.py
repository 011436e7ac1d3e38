import os
from pathlib import Path

import pytest

from svd_service.worker import process

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CACHES:
        monkeypatch.setenv(name, f"/elsewhere/{name}")


def test_what_inductor_and_triton_compile_is_kept_with_the_data_and_not_in_a_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in CACHES:
        monkeypatch.delenv(name)
    process._keep_compiled(tmp_path)
    assert all(Path(os.environ[name]).is_relative_to(tmp_path / ".compiled") for name in CACHES)


def test_who_wants_it_kept_elsewhere_is_heard(tmp_path: Path) -> None:
    process._keep_compiled(tmp_path)
    assert [os.environ[name] for name in CACHES] == [f"/elsewhere/{name}" for name in CACHES]
