"""Unmodified clients of OpenAI's video API, with its lengths and sizes: the clients of its package, and LiteLLM."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest

from tests.integration.clients.packages import installed_by_pip
from tests.samples import IMAGES
from tools.harness.local import LONG
from tools.harness.stack import Stack

SECONDS = ("4", "8", "12")
SIZES = ("720x1280", "1280x720", "1024x1792", "1792x1024")

#: Creates a video of each length in each size, deletes all but the first, waits for that and downloads it.
OPENAI = """
import asyncio, base64, itertools, json, sys, openai
url, path, lengths, sizes = sys.argv[1:]
async def main():
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    async def create(seconds, size):
        with open(path, "rb") as image:
            return await client.videos.create(
                model="sora-2", prompt="it comes alive", input_reference=image, seconds=seconds, size=size
            )
    wanted = itertools.product(lengths.split(","), sizes.split(","))
    first, *others = await asyncio.gather(*(create(*each) for each in wanted))
    for video in others:
        await client.videos.delete(video.id)
    done = await client.videos.poll(first.id)
    content = await (await client.videos.download_content(done.id)).aread()
    created = [video.to_dict() for video in (first, *others)]
    print(json.dumps([created, done.to_dict(), base64.b64encode(content).decode()]))
asyncio.run(main())
"""

#: Creates, polls and downloads the videos `seconds:size,…` concurrently; every other one with the synchronous client.
OPENAI_JOBS = """
import asyncio, base64, json, sys, openai
url, path, wanted = sys.argv[1:]
to = {"base_url": f"{url}/v1", "api_key": "none"}
def request(each):
    seconds, size = each.split(":")
    return dict(model="sora-2", prompt="it comes alive", seconds=seconds, size=size)
def sync(each):
    client = openai.OpenAI(**to)
    with open(path, "rb") as image:
        video = client.videos.create_and_poll(input_reference=image, **request(each))
    return video.to_dict(), client.videos.download_content(video.id).read()
async def without_waiting(each):
    client = openai.AsyncOpenAI(**to)
    with open(path, "rb") as image:
        video = await client.videos.create_and_poll(input_reference=image, **request(each))
    return video.to_dict(), await (await client.videos.download_content(video.id)).aread()
async def main():
    jobs = enumerate(wanted.split(","))
    calls = [asyncio.to_thread(sync, each) if number % 2 else without_waiting(each) for number, each in jobs]
    done = await asyncio.gather(*calls)
    print(json.dumps([[video, base64.b64encode(content).decode()] for video, content in done]))
asyncio.run(main())
"""

#: Creates, polls and downloads one video with LiteLLM.
LITELLM = """
import base64, json, sys, time, litellm
url, path, seconds, size = sys.argv[1:]
to = {"api_base": f"{url}/v1", "api_key": "none"}
with open(path, "rb") as image:
    video = litellm.video_generation(
        model="openai/sora-2", prompt="it comes alive", input_reference=image, seconds=seconds, size=size, **to
    )
created, done = video.model_dump(), video
while done.status in ("queued", "in_progress"):
    time.sleep(0.5)
    done = litellm.video_status(video.id, **to)
content = litellm.video_content(video.id, **to)
print(json.dumps([[created], done.model_dump(), base64.b64encode(content).decode()], default=str))
"""


def run(folder: Path, program: str, *arguments: str, timeout: float = 220) -> Any:
    """Run a program with the package in `folder`, and return the JSON on its last line of output."""
    # Otherwise LiteLLM fetches prices from the network.
    environment = {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def measured(content: str) -> tuple[str, Any]:
    """Size and duration in seconds of an MP4 in Base64."""
    with av.open(io.BytesIO(base64.b64decode(content)), "r") as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        frames = sum(1 for _ in container.decode(stream))
        return f"{stream.width}x{stream.height}", float(frames / stream.average_rate)


def test_openais_async_client_creates_videos_of_each_length_and_size(request: pytest.FixtureRequest, stack: Stack):
    folder = installed_by_pip(request, "openai==3.52.0")
    wanted = [(seconds, size) for seconds in SECONDS for size in SIZES]
    created, done, content = run(
        folder, OPENAI, stack.url, str(IMAGES / "chelsea.jpg"), ",".join(SECONDS), ",".join(SIZES)
    )
    assert [(video["seconds"], video["size"]) for video in created] == wanted
    for (seconds, _), video in zip(wanted, created, strict=True):
        assert video["duration_seconds"] == pytest.approx(float(seconds), rel=0.05)
    assert (done["id"], done["status"], done["error"]) == (created[0]["id"], "completed", None)
    size, length = measured(content)
    assert (size, length) == (SIZES[0], pytest.approx(4, rel=0.05))


@pytest.mark.thorough
@pytest.mark.timeout(2_400)
def test_openais_clients_complete_each_length_and_size_with_the_bundled_model(
    request: pytest.FixtureRequest, tmp_path: Path
):
    """One of the twelve combinations; all of them (SVD_TEST_LONG=1) are 630 frames, which take eight minutes."""
    wanted = ["4:720x1280"]
    if LONG:
        wanted = [f"{seconds}:{size}" for seconds in SECONDS for size in SIZES]
    folder = installed_by_pip(request, "openai==3.52.0")
    stack = Stack(tmp_path, {})
    try:
        stack.start_all()
        done = run(folder, OPENAI_JOBS, stack.url, str(IMAGES / "chelsea.jpg"), ",".join(wanted), timeout=2_300)
    finally:
        stack.stop_all()
    for each, (video, content) in zip(wanted, done, strict=True):
        seconds, size = each.split(":")
        assert (video["status"], video["error"], video["size"]) == ("completed", None, size)
        assert measured(content) == (size, pytest.approx(float(seconds), rel=0.05))


@pytest.mark.skipif(
    "SVD_TEST_LITELLM" not in os.environ,
    reason="LiteLLM is 350 MB with its dependencies: SVD_TEST_LITELLM=1 installs it",
)
def test_litellm_creates_polls_and_downloads_a_video(request: pytest.FixtureRequest, stack: Stack):
    folder = installed_by_pip(request, "litellm==1.110.2")
    (created,), done, content = run(folder, LITELLM, stack.url, str(IMAGES / "chelsea.jpg"), "8", "1280x720")
    assert (created["seconds"], created["size"]) == ("8", "1280x720")
    assert (done["status"], done["error"]) == ("completed", None)
    size, length = measured(content)
    assert (size, length) == ("1280x720", pytest.approx(8, rel=0.05))
