"""The `svd-service` command as a whole: the packages it imports, and its message if one is not installed."""

import subprocess
import sys

import pytest

SERVERS_PACKAGES = ("av", "celery", "diffusers", "flask", "kombu", "msgspec", "PIL", "redis", "torch")

#: Runs the command in an environment without these packages.
WITHOUT_THEM = f"""
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVERS_PACKAGES}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Nothing())
from svd_service.cli.main import main
main()
"""


def python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_the_client_imports_no_package_of_the_server() -> None:
    code = "import sys, svd_service.cli.main; print(*sys.modules)"
    loaded = set(python(code).stdout.split())
    assert not loaded & {*SERVERS_PACKAGES, "svd_service.config", "svd_service.jobs", "svd_service.cli.up"}


@pytest.mark.parametrize("command", ["up", "exporter", "flower"])
def test_without_the_servers_packages_it_shows_how_to_install_them(command: str) -> None:
    done = python(WITHOUT_THEM, command)
    assert done.returncode == 1
    assert "pip install 'svd-service[" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_command() -> None:
    done = subprocess.run([sys.executable, "-m", "svd_service", "--help"], capture_output=True, text=True, check=True)
    for command in ("generate", "status", "up", "exporter", "flower"):
        assert command in done.stdout
