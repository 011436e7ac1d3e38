import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os
from svd_service import gunicorn
print(gunicorn._settings.multiprocess_dir, os.environ["PROMETHEUS_MULTIPROC_DIR"])
gunicorn.on_starting(None)
open(gunicorn._metrics_dir / "counter_1.db", "w").close()
gunicorn.on_exit(None)
"""


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[..., Path]:
    """Starts and ends gunicorn's configuration in `tmp_path`; returns the folder in which its processes count."""

    def run(**variables: str) -> Path:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SVD_DEVICES": "cpu", **variables}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        setting, exported = done.stdout.split()
        assert setting == exported
        return Path(setting)

    return run


def test_the_folder_of_the_counters_is_read_in_the_environment_and_in_the_env_file(
    folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PROMETHEUS_MULTIPROC_DIR=counts\n")
    assert folder_of() == tmp_path / "counts"
    assert folder_of(PROMETHEUS_MULTIPROC_DIR="") == tmp_path / "counts"
    assert folder_of(PROMETHEUS_MULTIPROC_DIR=f"{tmp_path}/others") == tmp_path / "others"


def test_without_a_setting_the_counters_are_in_a_temporary_folder_that_is_deleted_at_the_end(
    folder_of: Callable[..., Path],
) -> None:
    folder = folder_of()
    assert folder.name.startswith("svd-metrics-")
    assert not folder.exists()
