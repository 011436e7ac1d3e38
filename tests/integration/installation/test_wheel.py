"""The wheel, installed outside the checkout, contains everything that the service needs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from tests.samples import IMAGES
from tools.harness.local import ROOT, free_port

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, which uses this environment's packages as its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # pip builds in the source folder, and would include files in its `build/`; so build from a clone.
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(packages), str(wheel)], check=True)
    (packages / "required.pth").write_text(f"{Path(httpx2.__file__).parents[1]}\n")
    return folder / "venv" / "bin" / "python"


def test_the_service_runs_from_the_wheel_in_an_empty_folder(python: Path, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SVD_DEVICES": "cpu",
        "SVD_EXPORTER_BIND": f"127.0.0.1:{free_port()}",
    }
    log = (tmp_path / "up.log").open("wb")
    command = [str(python), "-m", "svd_service", "up", "--port", str(port)]
    up = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while "Ready" not in (tmp_path / "up.log").read_text():
            assert up.poll() is None, (tmp_path / "up.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "up.log").read_text()
            time.sleep(0.2)
        where = subprocess.run(
            [python, "-c", "import svd_service; print(svd_service.__file__)"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert str(ROOT) not in where.stdout
        for path in ("/", "/page/main.js", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/metrics"):
            assert httpx2.get(f"{url}{path}").status_code == 200, path
        generate = [
            str(python),
            "-m",
            "svd_service",
            "generate",
            str(IMAGES / "chelsea.jpg"),
            "-o",
            "out.mp4",
            "--server",
            url,
        ]
        subprocess.run(generate, cwd=tmp_path, env=environment, check=True, timeout=200, capture_output=True)
        assert (tmp_path / "out.mp4").read_bytes()[4:8] == b"ftyp"
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(timeout=60)
        log.close()
