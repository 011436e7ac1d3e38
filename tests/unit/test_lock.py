"""The versions in requirements/ cover every extra and are what is installed."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.harness.local import CI, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"])

#: Packages that a virtual environment always has, and those that are chosen by device instead of by hash.
UNLOCKED = {"pip", "setuptools", "wheel", "svd-service"}


def locked(name: str) -> dict[str, Requirement]:
    """The requirements of `requirements/{name}.txt` that apply to this Python and platform, by package."""
    lines = re.findall(r"^([a-z0-9].*?)(?: \\)?$", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE)
    found = map(Requirement, lines)
    return {canonicalize_name(one.name): one for one in found if one.marker is None or one.marker.evaluate()}


def declared(extra: str) -> Iterator[Requirement]:
    """What `svd-service[extra]` requires directly, other extras of ours included."""
    for requirement in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]):
        if canonicalize_name(requirement.name) == "svd-service":
            for other in requirement.extras:
                yield from declared(other)
        else:
            yield requirement


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_requirement_of_an_extra_is_locked_within_its_bounds(extra: str) -> None:
    versions = locked(extra) | locked("torch")
    for requirement in declared(extra):
        pin = versions[canonicalize_name(requirement.name)]
        (version,) = (each.version for each in pin.specifier)
        assert requirement.specifier.contains(version), f"{requirement} is locked as {pin}: run scripts/lock.sh"


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_locked_package_but_pytorch_has_a_hash(extra: str) -> None:
    text = (ROOT / "requirements" / f"{extra}.txt").read_text()
    for entry in re.split(r"\n(?=[a-z0-9])", text)[1:]:
        assert "--hash=sha256:" in entry, entry


def test_no_file_names_a_package_index() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(), path.name


@pytest.mark.skipif(not CI, reason="a contributor may have installed more")
def test_installed_versions_are_the_locked_ones() -> None:
    installed = {str(canonicalize_name(each.metadata["Name"])): each.version for each in metadata.distributions()}
    pins = {str(name): next(iter(pin.specifier)).version for name, pin in locked("test").items()}
    torch = {str(name): next(iter(pin.specifier)).version for name, pin in locked("torch").items()}
    differing = {name: installed.get(name) for name, version in pins.items() if installed.get(name) != version}
    assert differing == {}
    # A CPU build of PyTorch has none of the CUDA libraries, and its version ends with a plus sign and the variant.
    assert installed["torch"].partition("+")[0] == torch["torch"]
    assert set(installed) - set(pins) - set(torch) - UNLOCKED == set()
