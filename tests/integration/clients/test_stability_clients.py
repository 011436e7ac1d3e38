"""Clients of Stability's image-to-video API: the documented curl calls, Python, and the npm package."""

import base64
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import av
import pytest
from PIL import Image

from tests.integration.clients.packages import installed
from tests.samples import IMAGES
from tools.harness.local import CI
from tools.harness.stack import Stack

PACKAGE = "stability-ai@0.7.0"
PROGRAM = Path(__file__).with_name("stability_program.cjs")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo in one of the sizes that Stability accepts."""
    path = tmp_path_factory.mktemp("image") / "cat.png"
    with Image.open(IMAGES / "chelsea.jpg") as photo:
        photo.resize((1024, 576)).save(path)
    return path


def program(name: str) -> str:
    """Path of an installed program; skip the test without it, or fail in CI."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if CI else pytest.skip)(f"{name} is not installed")
        raise AssertionError
    return path


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def size_of(video: bytes) -> tuple[int, int]:
    with av.open(io.BytesIO(video), "r") as container:
        context = container.streams.video[0].codec_context
        return context.width, context.height


def test_the_documented_curl_calls_work(stack: Stack, image: Path, tmp_path: Path):
    curl = (program("curl"), "--silent", "--show-error", "--fail-with-body")
    key = ("-H", "authorization: sk-MYAPIKEY")
    for path in ("/v2beta/image-to-video", "/v2alpha/generation/image-to-video"):
        form = ("-F", f"image=@{image}", "-F", "seed=0", "-F", "cfg_scale=1.8", "-F", "motion_bucket_id=127")
        accepted = json.loads(run(*curl, "--request", "POST", f"{stack.url}{path}", *key, *form, folder=tmp_path))
        url = f"{stack.url}{path}/result/{accepted['id']}"
        poll = (*curl, url, *key, "-H", "accept: video/*", "-o", "output.mp4", "-w", "%{http_code}")
        codes: list[str] = []
        stack.wait(lambda poll=poll, codes=codes: codes.append(run(*poll, folder=tmp_path)) or codes[-1] == "200", 90)
        assert {*codes[:-1]} <= {"202"}
        # The tiny model's maximum is 256 pixels; of the allowed sizes, 128x72 is nearest in area to its own 64x64.
        assert size_of((tmp_path / "output.mp4").read_bytes()) == (128, 72)


def test_a_result_is_served_as_video_or_as_json(stack: Stack, image: Path):
    headers = {"authorization": "sk-MYAPIKEY", "stability-client-id": "a-program", "stability-client-version": "1.2.1"}
    files, data = {"image": ("cat.png", image.read_bytes())}, {"seed": "7", "motion_bucket_id": "40"}
    accepted = stack.http.post("/v2beta/image-to-video", files=files, data=data, headers=headers)
    assert (accepted.status_code, accepted.headers["x-video-size"]) == (200, "128x72")
    url = f"/v2beta/image-to-video/result/{accepted.json()['id']}"
    pending = stack.http.get(url)
    if pending.status_code == 202:
        assert pending.json() == {"id": accepted.json()["id"], "status": "in-progress"}
    stack.wait(lambda: stack.http.get(url).status_code == 200, 90)
    video = stack.http.get(url, headers={**headers, "accept": "video/*, application/json"})
    assert (video.headers["content-type"], video.headers["seed"]) == ("video/mp4", "7")
    assert (video.headers["finish-reason"], bool(video.headers["x-request-id"])) == ("SUCCESS", True)
    result = stack.http.get(url, headers={**headers, "accept": "application/json"}).json()
    assert result | {"finish_reason": "SUCCESS", "seed": 7} == result
    assert base64.b64decode(result["video"]) == video.content


def test_the_npm_package_generates_a_video(request: pytest.FixtureRequest, stack: Stack, image: Path, tmp_path: Path):
    npm, node = program("npm"), program("node")
    quiet = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts")
    folder = installed(request, PACKAGE, lambda folder: (npm, "install", *quiet, "--prefix", str(folder), PACKAGE))
    output = json.loads(run(node, str(PROGRAM), str(folder), stack.url, str(image), folder=tmp_path))
    assert len(output["id"]) == 64
    assert {*output["statuses"]} <= {"in-progress"}
    assert output["result"]["seed"] == 42
    assert output["result"]["contentFiltered"] is False
    assert size_of(Path(output["result"]["filepath"]).read_bytes()) == (128, 72)
    assert output["unknown"]
