"""`svd-service doctor`: problems of this machine and their remedies, on one screen."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from svd_service import __version__
from svd_service.cli.up.preflight import StackError, address_of
from svd_service.cli.up.processes import is_folder, redis_program, with_running_redis, without_password
from svd_service.config import ConfigurationError, Settings
from svd_service.environment.sources import hub_variables
from svd_service.errors import RedisDeniedError, UnavailableError
from svd_service.ledger.connection import connect, reachable

#: Free bytes below which results may not fit, and those of a first download of SVD-XT in half precision.
LOW_DISK: Final = 2 * 10**9
XT_DOWNLOAD: Final = 5 * 10**9

#: Bytes of GPU memory below which SVD-XT fits with no memory plan, and of host memory for the nano model.
LEAST_GPU: Final = 6_100_000_000
LEAST_MEMORY: Final = 2 * 10**9

#: Queries torch in a separate process: importing it takes seconds, and a broken build must not break the report.
_TORCH: Final = """
import json, torch
devices = []
if torch.cuda.is_available():
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        devices.append([torch.cuda.get_device_name(index), free, total])
print(json.dumps([torch.__version__, torch.version.cuda, devices]))
"""


class Severity(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was found and, unless it is ok, the remedy."""

    check: str
    severity: Severity
    found: str
    advice: str = ""


def run(console: Console) -> int:
    """Print the findings as a table; the exit status is 1 if there is a problem."""
    try:
        findings = list(examine(Settings.load()))
    except ConfigurationError as error:
        findings = [Finding("Settings", Severity.PROBLEM, str(error), "correct it in the environment or in .env")]
    table = Table(title=f"svd-service {__version__}", title_justify="left", box=None, pad_edge=False)
    for heading in ("check", "", "found"):
        table.add_column(heading, overflow="fold")
    styles = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "red"}
    for each in findings:
        text = f"{each.found}\n→ {each.advice}" if each.advice else each.found
        # As Text: in a str, Rich takes brackets for markup.
        table.add_row(each.check, Text(str(each.severity), styles[each.severity]), Text(text))
    console.print(table)
    return int(any(each.severity is Severity.PROBLEM for each in findings))


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield all findings, the most important first."""
    yield _python()
    yield _packages(settings)
    yield from _torch(settings)
    yield _memory()
    yield _redis(settings)
    yield from (_port(name, bind) for name, bind in _binds(settings).items())
    yield _disk(settings)
    yield _model(settings)
    yield _compiler(settings)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", Severity.OK, f"{version} at {sys.executable}")


def _packages(settings: Settings) -> Finding:
    extras = {
        "worker": ("torch", "diffusers", "accelerate", "transformers", "av"),
        "api": ("flask", "gunicorn", "celery", "redis", "PIL"),
        "monitoring": ("flower",),
    }
    if settings.c2pa == "on":
        extras["c2pa"] = ("c2pa", "cryptography")
    missing = {
        extra: [name for name in names if importlib.util.find_spec(name) is None] for extra, names in extras.items()
    }
    absent = [f"{extra} ({', '.join(names)})" for extra, names in missing.items() if names]
    if not absent:
        return Finding("Packages", Severity.OK, "everything for `svd-service up` is installed")
    severity = Severity.PROBLEM if missing["api"] else Severity.WARNING
    return Finding("Packages", severity, f"missing: {'; '.join(absent)}", "pip install 'svd-service[local]'")


def _torch(settings: Settings) -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    try:
        done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=120, check=True)
        version, cuda, devices = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        reason = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
        yield Finding("PyTorch", Severity.PROBLEM, f"cannot be imported: {''.join(reason)}", "reinstall it")
        return
    yield Finding("PyTorch", Severity.OK, f"{version}, {f'CUDA {cuda}' if cuda else 'CPU build'}")
    yield from _gpus(settings, cuda, devices)


def _gpus(settings: Settings, cuda: str | None, devices: list[tuple[str, int, int]]) -> Iterator[Finding]:
    has_driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if not devices:
        if has_driver and cuda is None:
            advice = "install a CUDA build of PyTorch to use the GPU"
            yield Finding("GPU", Severity.WARNING, "there is an NVIDIA driver, but PyTorch is a CPU build", advice)
        elif has_driver:
            advice = "compare the driver's CUDA version (nvidia-smi) with PyTorch's, and update the driver"
            yield Finding("GPU", Severity.PROBLEM, "PyTorch cannot use the NVIDIA driver", advice)
        else:
            yield Finding("GPU", Severity.OK, "none: the service uses the nano model on the CPU")
    for index, (name, free, total) in enumerate(devices):
        found = f"{name}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        enough = free >= LEAST_GPU or settings.model is not None
        advice = "" if enough else "SVD-XT needs at least 6.1 GB: stop other programs or set SVD_MODEL"
        yield Finding(f"GPU {index}", Severity.OK if enough else Severity.WARNING, found, advice)


def _memory() -> Finding:
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return Finding("Memory", Severity.OK, "unknown on this system")
    if free < LEAST_MEMORY:
        return Finding("Memory", Severity.WARNING, f"{free / 1e9:.1f} GB available", "the worker needs 2 GB and more")
    return Finding("Memory", Severity.OK, f"{free / 1e9:.1f} GB available")


def _redis(settings: Settings) -> Finding:
    try:
        settings = with_running_redis(settings)
    except StackError as error:
        return Finding("Redis", Severity.PROBLEM, str(error), "set SVD_DATA_DIR to the data folder of your service")
    if not (settings.redis_url or settings.redis_host):
        try:
            return Finding("Redis", Severity.OK, f"none configured: `svd-service up` starts {redis_program()}")
        except StackError as error:
            return Finding("Redis", Severity.PROBLEM, str(error), "install redis-server or set REDIS_URL")
    return _configured_redis(settings)


def _configured_redis(settings: Settings) -> Finding:
    address = without_password(settings.redis)
    try:
        with connect(settings, timeout=3.0) as client, reachable():
            info = client.info()
    except RedisDeniedError as error:
        return Finding("Redis", Severity.PROBLEM, f"{address}: {error}", "correct REDIS_URL, or what its user may do")
    except UnavailableError as error:
        return Finding("Redis", Severity.PROBLEM, f"{address}: {error}", "start it, or correct REDIS_URL")
    found = f"{address}: version {info['redis_version']}"
    if (policy := info.get("maxmemory_policy")) != "noeviction" and info.get("maxmemory"):
        advice = "set maxmemory-policy to noeviction, or Redis deletes jobs when its memory is full"
        return Finding("Redis", Severity.PROBLEM, f"{found}, maxmemory-policy {policy}", advice)
    if not info.get("aof_enabled"):
        advice = "set appendonly to yes, or a crash of Redis loses the jobs of up to some minutes"
        return Finding("Redis", Severity.WARNING, f"{found}, without an append-only file", advice)
    return Finding("Redis", Severity.OK, found)


def _binds(settings: Settings) -> dict[str, str]:
    return {
        "SVD_BIND": settings.bind,
        "SVD_EXPORTER_BIND": settings.exporter_bind,
        "SVD_FLOWER_BIND": settings.flower_bind,
    }


def _port(name: str, bind: str) -> Finding:
    try:
        host, port = address_of(name, bind)
    except StackError as error:
        return Finding(name, Severity.PROBLEM, str(error), f"correct {name}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        advice = f"if that is not this service, stop the program that uses it or set {name}"
        return Finding(name, Severity.WARNING, f"{bind}: {error.strerror}", advice)
    return Finding(name, Severity.OK, f"{bind} is free")


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{settings.data_dir}: {free / 1e9:.1f} GB free"
    if not os.access(folder, os.W_OK):
        return Finding("Data folder", Severity.PROBLEM, f"{folder} cannot be written", "set SVD_DATA_DIR")
    if free < LOW_DISK:
        return Finding("Data folder", Severity.WARNING, found, "free some space or set SVD_DATA_DIR")
    return Finding("Data folder", Severity.OK, found)


def _model(settings: Settings) -> Finding:
    source = settings.model_source
    try:
        folder = Path(source).expanduser()
        if is_folder(folder):
            whole = (folder / "model_index.json").is_file()
            advice = "" if whole else "name a folder in diffusers' layout (it has a model_index.json)"
            return Finding("Model", Severity.OK if whole else Severity.PROBLEM, str(folder), advice)
    except OSError as error:
        found = f"{source} cannot be read: {error.strerror}"
        return Finding(
            "Model", Severity.PROBLEM, found, "set SVD_MODEL to a hub id, or a folder that this user can read"
        )
    try:
        return _hub_model(source)
    except OSError as error:
        found = f"the hub's cache {_hub_cache()} cannot be read: {error.strerror}"
        return Finding("Model", Severity.PROBLEM, found, "set HF_HOME or HF_HUB_CACHE to a folder of this user")


def _hub_model(source: str) -> Finding:
    cached = _hub_cache() / f"models--{source.replace('/', '--')}" / "snapshots"
    if is_folder(cached):
        return Finding("Model", Severity.OK, f"{source}, in {cached.parent}")
    free = shutil.disk_usage(next(each for each in (cached, *cached.parents) if each.exists())).free
    token = "a token is set" if _has_token() else "no HF_TOKEN is set"
    found = f"{source} is not downloaded yet; {token}"
    if free < XT_DOWNLOAD:
        return Finding("Model", Severity.PROBLEM, found, f"the download needs about 5 GB; {free / 1e9:.1f} GB are free")
    advice = "accept the licence on the model's page, set HF_TOKEN; the first start downloads about 5 GB"
    return Finding("Model", Severity.WARNING, found, advice)


def _compiler(settings: Settings) -> Finding:
    compilers = [name for name in ("c++", "g++", "clang++") if shutil.which(name)]
    if compilers:
        return Finding("C++ compiler", Severity.OK, compilers[0])
    if all(device == "cpu" for device in settings.worker_devices):
        return Finding("C++ compiler", Severity.OK, "none; only the optimization `compile` on a GPU needs one")
    advice = "without one, the worker runs without the optimization `compile` (Debian: apt install g++ python3-dev)"
    return Finding("C++ compiler", Severity.WARNING, "none", advice)


def _environment(name: str) -> str:
    return hub_variables().get(name, "")


def _hub_cache() -> Path:
    # Like the hub's client; Path.expanduser raises RuntimeError for a user without home folder.
    home = os.path.expanduser(_environment("HF_HOME") or "~/.cache/huggingface")  # noqa: PTH111
    return Path(os.path.expanduser(_environment("HF_HUB_CACHE") or f"{home}/hub"))  # noqa: PTH111


def _has_token() -> bool:
    return bool(_environment("HF_TOKEN")) or (_hub_cache().parent / "token").is_file()
