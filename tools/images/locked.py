"""Compare the packages of an image with the lock (requirements/). Needs only Python's standard library."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

#: Extras of each image, as its Dockerfile installs them.
EXTRAS: Final = {"api": ("api", "c2pa", "jxl", "monitoring", "s3", "otel"), "worker": ("worker", "c2pa", "s3", "otel")}

#: Program that runs in the image, whose Python and platform select the requirements. Argument: requirements as JSON.
LISTING: Final = """
import json, sys
from importlib import metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
locked = [one for one in map(Requirement, json.loads(sys.argv[1])) if one.marker is None or one.marker.evaluate()]
print(json.dumps({
    "locked": {canonicalize_name(one.name): next(iter(one.specifier)).version for one in locked},
    "installed": {canonicalize_name(one.metadata["Name"]): one.version for one in metadata.distributions()},
}))
"""


def requirements(names: Iterable[str], folder: Path = ROOT / "requirements") -> list[str]:
    """Return the requirement lines of these files, without hashes."""
    texts = (folder.joinpath(f"{name}.txt").read_text() for name in names)
    return sorted({line for text in texts for line in re.findall(r"^([a-z0-9].*?)(?: \\)?$", text, re.MULTILINE)})


def differences(locked: Mapping[str, str], torch: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Return a line for each package that is missing, has another version or is not in the lock.

    `torch` has the versions of PyTorch and of the libraries that only its CUDA build brings; a build's variant
    (`2.13.0+cpu`) does not count.
    """
    found = {name: version.partition("+")[0] for name, version in installed.items() if name != "svd-service"}
    required = {**locked, **({"torch": torch["torch"]} if torch else {})}
    allowed = {**torch, **locked}
    missing = [f"{name} is missing" for name in required if name not in found]
    other = [
        f"{name} is {version}, locked as {allowed.get(name)}"
        for name, version in found.items()
        if version != allowed.get(name)
    ]
    return sorted([*missing, *other])


def compare(image: str, run: Callable[..., str]) -> tuple[int, list[str]]:
    """Return the number of packages in an image (`api`, `worker`) and its differences from the lock.

    `run` runs a command in the image and returns its output.
    """
    pytorch = requirements(["torch"]) if image == "worker" else []
    lock, torch = (
        json.loads(run("python", "-c", LISTING, json.dumps(lines))) for lines in (requirements(EXTRAS[image]), pytorch)
    )
    return len(lock["installed"]), differences(lock["locked"], torch["locked"], lock["installed"])
