"""The machine on which figures were measured."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

#: Libraries whose versions influence the times.
LIBRARIES = ("torch", "diffusers", "transformers", "av", "pillow", "celery", "redis", "gunicorn", "flask")


def describe() -> dict[str, Any]:
    """Return processor, cores, memory, load, system and versions; the device benchmark adds the CUDA device's name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def in_words(machine: dict[str, Any]) -> str:
    """Format the description as one line."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {machine['system']}, "
        f"Python {machine['python']}, torch {machine['versions'].get('torch', 'none')}; "
        f"load average {machine['load_average'][0]} at the start"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
