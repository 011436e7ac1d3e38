"""Client generators accept the OpenAPI document as it is, without errors and without omitting operations.

The generated clients complete jobs with the native API and with OpenAI's: the programs in `generated/` submit an image,
poll the status and download the video.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest

from svd_service.api import create_app
from svd_service.config import Settings
from tests.integration.clients.packages import installed, installed_by_pip
from tests.samples import IMAGES
from tools.harness.local import CI
from tools.harness.stack import Stack

PROGRAMS = Path(__file__).with_name("generated")


@dataclass(frozen=True)
class Generator:
    """An npm package: `arguments` generate from DOCUMENT a client at OUT, which `program` uses."""

    package: str
    program: str
    arguments: tuple[str, ...]


GENERATORS = (
    Generator(
        "openapi-typescript@7.13.0",
        "openapi_fetch.ts",
        # A request may omit fields that have a default.
        ("openapi-typescript", "DOCUMENT", "--default-non-nullable=false", "-o", "OUT/client.d.ts"),
    ),
    Generator("@hey-api/openapi-ts@0.99.0", "hey_api.ts", ("openapi-ts", "-i", "DOCUMENT", "-o", "OUT")),
    Generator("orval@8.38.0", "orval.ts", ("orval", "--input", "DOCUMENT", "--output", "OUT/client.ts")),
)

#: Packages to compile and run the clients and the programs; @hey-api/openapi-ts does not start with a newer TypeScript.
COMPANIONS = ("typescript@5.9.3", "axios@1.21.1", "openapi-fetch@0.17.0")

PYTHON = "openapi-python-client==0.29.1"

#: The compiler's options: Node's types are not installed.
COMPILER = {
    "types": [],
    "strict": True,
    "module": "commonjs",
    "moduleResolution": "node10",
    "target": "es2022",
    "lib": ["es2022", "dom", "dom.iterable"],
    "skipLibCheck": True,
    "esModuleInterop": True,
    "outDir": "compiled",
}

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(500)]


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
    """Run a generator and return its output."""
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


def require_videos(paths: list[Path]) -> None:
    """Assert that the files are MP4s of 3 frames."""
    for path in paths:
        assert path.read_bytes()[4:8] == b"ftyp"
        with av.open(path) as container:
            assert len(list(container.decode(video=0))) == 3


def compiled(folder: Path, program: str) -> Path:
    """Compile a program and the client that it imports, and return the script. Errors in the client are ignored."""
    for name in (program, "node.ts"):
        shutil.copy(PROGRAMS / name, folder)
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": COMPILER, "files": [program]}))
    command = (str(folder / "node_modules" / ".bin" / "tsc"), "--project", ".")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200)
    # orval's client has two errors: it puts objects into forms.
    assert not [line for line in done.stdout.splitlines() if line.startswith((program, "node.ts", "tsconfig"))], (
        done.stdout
    )
    return folder / "compiled" / Path(program).with_suffix(".js")


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda generator: generator.package)
def test_a_typescript_client_has_every_path_and_completes_jobs(
    request: pytest.FixtureRequest, document: Path, stack: Stack, tmp_path: Path, generator: Generator
) -> None:
    if shutil.which("npm") is None:
        (pytest.fail if CI else pytest.skip)("npm is not installed")
    npm = ("npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts")
    packages = (generator.package, *COMPANIONS)
    name = f"{generator.package}-and-companions"
    folder = installed(request, name, lambda folder: (*npm, "--prefix", str(folder), *packages))
    (tmp_path / "node_modules").symlink_to(folder / "node_modules")
    (tmp_path / "generated").mkdir()
    program, *arguments = generator.arguments
    values = {"DOCUMENT": str(document), "OUT": str(tmp_path / "generated")}
    filled = [each if each.startswith("-") else _filled(each, values) for each in arguments]
    output = generate(str(folder / "node_modules" / ".bin" / program), *filled, folder=tmp_path)
    assert "error" not in output.lower()
    generated = text_of(tmp_path / "generated", ".ts")
    for path in json.loads(document.read_text())["paths"]:
        assert path.partition("{")[0] in generated, path
    videos = [tmp_path / "native.mp4", tmp_path / "openai.mp4"]
    script = str(compiled(tmp_path, generator.program))
    generate("node", script, stack.url, str(IMAGES / "chelsea.jpg"), *map(str, videos), folder=tmp_path)
    require_videos(videos)


def test_a_python_client_has_every_operation_and_completes_jobs(
    request: pytest.FixtureRequest, document: Path, stack: Stack, tmp_path: Path
) -> None:
    folder = installed_by_pip(request, PYTHON)
    command = (sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document), "--meta", "none")
    path = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the generator formats its output with ruff
    )
    environment = {"PYTHONPATH": str(folder), "PATH": path}
    output = generate(*command, "--output-path", "generated", folder=tmp_path, **environment)
    assert "WARNING" not in output, output
    generated = {path.stem for path in (tmp_path / "generated" / "api").rglob("*.py")}
    assert {each["operationId"] for each in operations(document)} <= generated
    videos = [tmp_path / "native.mp4", tmp_path / "openai.mp4"]
    script = shutil.copy(PROGRAMS / "python_client.py", tmp_path)
    values = (stack.url, str(IMAGES / "chelsea.jpg"), *map(str, videos))
    generate(sys.executable, str(script), *values, folder=tmp_path, **environment)
    require_videos(videos)


def _filled(argument: str, values: dict[str, str]) -> str:
    for word, value in values.items():
        argument = argument.replace(word, value)
    return argument
