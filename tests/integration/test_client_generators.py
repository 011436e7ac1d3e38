"""Generators of clients take the OpenAPI document as it is: no errors, no operations left out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from svd_service.api import create_app
from svd_service.config import Settings
from tests.integration.packages import installed
from tools.harness.local import CI

#: npm packages, with the arguments that generate a client of DOCUMENT below OUT.
FROM_NPM = {
    "openapi-typescript@7.13.0": ("openapi-typescript", "DOCUMENT", "-o", "OUT/client.d.ts"),
    "@hey-api/openapi-ts@0.99.0": ("openapi-ts", "-i", "DOCUMENT", "-o", "OUT"),
    "orval@8.38.0": ("orval", "--input", "DOCUMENT", "--output", "OUT/client.ts"),
}

#: What they write with; @hey-api/openapi-ts does not start with a newer one.
TYPESCRIPT = "typescript@5.9.3"

PYTHON = "openapi-python-client==0.29.1"

#: Media types that must be listed as files for this one.
FILES = ("video/mp4", "video/webm", "image/webp", "image/gif", "image/jpeg", "application/zip")

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("document")
    app = create_app(Settings.from_mapping({"SVD_DATA_DIR": str(folder / "data")}))
    path = folder / "openapi.json"
    path.write_text(app.test_client().get("/openapi.json").text)
    return path


def operations(document: Path) -> list[dict[str, Any]]:
    paths = json.loads(document.read_text())["paths"].values()
    return [each for path in paths for method, each in path.items() if method in {"get", "post", "put", "delete"}]


def generate(*command: str, folder: Path, **environment: str) -> str:
    """Run a generator; returns what it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def text_of(folder: Path, ending: str) -> str:
    return "".join(path.read_text() for path in folder.rglob(f"*{ending}"))


@pytest.mark.parametrize("package", FROM_NPM)
def test_a_typescript_client_has_every_path(
    request: pytest.FixtureRequest, document: Path, tmp_path: Path, package: str
):
    if shutil.which("npm") is None:
        (pytest.fail if CI else pytest.skip)("there is no npm")
    npm = ("npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts")
    folder = installed(request, package, lambda folder: (*npm, "--prefix", str(folder), package, TYPESCRIPT))
    program, *arguments = FROM_NPM[package]
    words = {"DOCUMENT": str(document), "OUT": str(tmp_path)}
    filled = [each if each.startswith("-") else _filled(each, words) for each in arguments]
    output = generate(str(folder / "node_modules" / ".bin" / program), *filled, folder=tmp_path)
    assert "error" not in output.lower()
    made = text_of(tmp_path, ".ts")
    for path in json.loads(document.read_text())["paths"]:
        assert path.partition("{")[0] in made, path


def test_a_python_client_has_every_operation(request: pytest.FixtureRequest, document: Path, tmp_path: Path):
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    folder = installed(request, PYTHON, lambda folder: (*pip, "--target", str(folder), PYTHON))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"content_type_overrides": dict.fromkeys(FILES, "application/octet-stream")}))
    command = (sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document), "--meta", "none")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it formats what it made with ruff
    environment = {"PYTHONPATH": str(folder), "PATH": path}
    output = generate(*command, "--config", str(config), "--output-path", "made", folder=tmp_path, **environment)
    assert "WARNING" not in output, output
    made = {path.stem for path in (tmp_path / "made" / "api").rglob("*.py")}
    assert {each["operationId"] for each in operations(document)} <= made


def _filled(argument: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        argument = argument.replace(word, value)
    return argument
