import importlib.util
import io
import shutil
import socket
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from rich.console import Console

from svd_service.cli import doctor
from svd_service.cli.doctor import Finding, Severity
from svd_service.cli.up import processes, registry
from svd_service.cli.up.preflight import only_one
from svd_service.config import Settings

MakeSettings = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch in a separate process takes seconds; only one test does it."""
    monkeypatch.setattr(doctor, "_torch", lambda _: iter(()))


def finding(settings: Settings, check: str) -> Finding:
    return next(each for each in doctor.examine(settings) if each.check == check)


def report() -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200)
    return doctor.run(console), console.file.getvalue()  # type: ignore[attr-defined]


def test_a_machine_without_problems_gives_status_0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = report()
    assert status == 0, text
    assert "\n→" not in text


def test_an_invalid_setting_is_reported_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVD_LEASE", "soon")
    status, text = report()
    assert status == 1
    assert "SVD_LEASE" in text


def test_missing_packages_are_listed_with_the_install_command(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in {"av", "flower"} else object())
    packages = finding(make_settings(), "Packages")
    assert packages.severity is Severity.WARNING
    assert "av" in packages.found
    assert "flower" in packages.found
    assert "pip install" in packages.advice


def test_a_missing_package_for_signatures_is_a_warning_unless_they_are_off(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "c2pa" else object())
    packages = finding(make_settings(), "Packages")
    assert (packages.severity, packages.found) == (Severity.WARNING, "missing: c2pa (c2pa)")
    assert finding(make_settings(SVD_C2PA="off"), "Packages").severity is Severity.OK


@pytest.mark.parametrize(
    "text", ["[fd00::1]:8000: in use", "pip install 'svd-service[local]'", "/data[/x]", "fd00:ab:1"]
)
def test_a_finding_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _: [Finding("Anything", Severity.PROBLEM, text, text)])
    status, shown = report()
    assert (status, shown.count(text)) == (1, 2)


def test_a_port_in_use_is_a_warning(make_settings: MakeSettings) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        bind = f"127.0.0.1:{listener.getsockname()[1]}"
        assert finding(make_settings(SVD_BIND=bind), "SVD_BIND").severity is Severity.WARNING
    assert finding(make_settings(SVD_BIND=bind), "SVD_BIND").severity is Severity.OK


def test_a_full_disk_is_a_warning(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    assert finding(make_settings(), "Data folder").severity is Severity.WARNING


@pytest.mark.parametrize("devices", ["0", "GPU-8932f937", "MIG-6a1d3f0e-1,MIG-6a1d3f0e-2"])
def test_a_missing_compiler_is_a_warning_if_the_worker_has_gpus(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, devices: str
) -> None:
    monkeypatch.setenv("PATH", "")
    assert finding(make_settings(SVD_DEVICES=devices), "C++ compiler").severity is Severity.WARNING


@pytest.mark.enable_socket
def test_a_redis_that_may_evict_jobs_is_a_problem(
    make_settings: MakeSettings, redis_url: str, redis_client: "redis.Redis"
) -> None:
    settings = make_settings(REDIS_URL=redis_url)
    assert finding(settings, "Redis").severity is Severity.WARNING  # no append-only file
    redis_client.config_set("maxmemory", "100mb")
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert finding(settings, "Redis").severity is Severity.PROBLEM
        assert "noeviction" in finding(settings, "Redis").advice
    finally:
        redis_client.config_set("maxmemory", "0")
        redis_client.config_set("maxmemory-policy", "noeviction")


def test_a_redis_that_cannot_be_reached_is_a_problem(make_settings: MakeSettings) -> None:
    unreachable = finding(make_settings(REDIS_URL="redis://:secret@127.0.0.1:1/0"), "Redis")
    assert unreachable.severity is Severity.PROBLEM
    assert "secret" not in unreachable.found


def test_the_redis_of_an_up_that_has_ended_is_no_problem(make_settings: MakeSettings) -> None:
    processes.redis_of(make_settings())
    assert "none configured" in finding(make_settings(), "Redis").found


def test_several_running_services_are_a_problem(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    one, other = (make_settings(SVD_DATA_DIR=str(tmp_path / name)) for name in ("one", "other"))
    with only_one(one.data_dir), only_one(other.data_dir):
        registry.note(one)
        registry.note(other)
        found = finding(make_settings(), "Redis")
    assert found.severity is Severity.PROBLEM
    assert "several services run" in found.found


def test_a_data_folder_that_cannot_be_read_is_a_problem(make_settings: MakeSettings) -> None:
    lock = make_settings().data_dir / "up.lock"
    lock.parent.mkdir()
    lock.symlink_to(lock.name)
    found = finding(make_settings(), "Redis")
    assert found.severity is Severity.PROBLEM
    assert "SVD_DATA_DIR" in found.found


@pytest.mark.enable_socket
def test_a_database_that_redis_does_not_have_is_a_problem(make_settings: MakeSettings, redis_url: str) -> None:
    found = finding(make_settings(REDIS_URL=f"{redis_url.rpartition('/')[0]}/99"), "Redis")
    assert found.severity is Severity.PROBLEM
    assert "DB index is out of range" in found.found


@pytest.mark.parametrize(
    ("make", "severity"),
    [(Path.mkdir, Severity.PROBLEM), (lambda folder: None, Severity.WARNING)],
    ids=["no model", "hub"],
)
def test_a_model_that_cannot_be_loaded_is_found(
    make: Callable[[Path], Any], severity: Severity, make_settings: MakeSettings, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "model"
    make(folder)
    source = str(folder) if folder.exists() else "stabilityai/stable-video-diffusion-img2vid-xt"
    assert finding(make_settings(SVD_MODEL=source), "Model").severity is severity


#: For every user, root too, the system rejects it as it does another user's folder: with an OSError.
UNREADABLE = "/" + "x" * 300


def test_a_model_folder_that_cannot_be_read_is_a_problem(make_settings: MakeSettings) -> None:
    found = finding(make_settings(SVD_MODEL=UNREADABLE), "Model")
    assert (found.severity, UNREADABLE in found.found, "SVD_MODEL" in found.advice) == (Severity.PROBLEM, True, True)


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_a_hub_cache_that_cannot_be_read_is_a_problem(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv(variable, UNREADABLE)
    found = finding(make_settings(SVD_MODEL="some/model"), "Model")
    assert (found.severity, UNREADABLE in found.found, variable in found.advice) == (Severity.PROBLEM, True, True)


def test_torch_is_imported_in_a_separate_process(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    settings = make_settings(SVD_MODEL="")
    monkeypatch.setattr(doctor, "_TORCH", "print('[\"2.13.0\", null, []]')")
    assert next(doctor._torch(settings)).found == "2.13.0, CPU build"
    monkeypatch.setattr(doctor, "_TORCH", "raise SystemExit('libcudart.so.13: cannot open shared object file')")
    broken = next(doctor._torch(settings))
    assert broken.severity is Severity.PROBLEM
    assert "libcudart" in broken.found
