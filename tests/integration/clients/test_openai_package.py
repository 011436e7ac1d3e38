"""The unmodified `openai` package against the real service, in two versions, each installed in its own folder."""

import base64
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from svd_service.config import Settings
from svd_service.ledger.api_keys import Keyring
from tests.integration.clients.packages import installed_by_pip
from tests.samples import IMAGES
from tools.harness.stack import Stack

#: The response of a proxy whose upstream connection broke.
BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

PROGRAM = Path(__file__).with_name("openai_program.py")


#: Creates videos with each key until that is rejected; prints each error.
REJECTED = """
import sys, warnings, openai
warnings.simplefilter("ignore", DeprecationWarning)
url, path, *keys = sys.argv[1:]
for key in keys:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    try:
        for _ in range(2):
            client.videos.create(prompt="x", input_reference=open(path, "rb"))
    except openai.APIStatusError as error:
        print(type(error).__name__, error.code, "Retry-After" in error.response.headers)
"""

#: Creates one video, then three concurrently, with the package's automatic retries; prints the ids.
WITH_RETRIES = """
import concurrent.futures, json, sys, warnings, openai
warnings.simplefilter("ignore", DeprecationWarning)
url, path = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
def create(_):
    with open(path, "rb") as image:
        return client.videos.create(prompt="x", input_reference=image).id
with concurrent.futures.ThreadPoolExecutor(3) as threads:
    print(json.dumps([create(0), *threads.map(create, range(3))]))
"""


@pytest.fixture(scope="module", params=["3.52.0", pytest.param("2.6.1", marks=pytest.mark.thorough)])
def package(request: pytest.FixtureRequest) -> Path:
    """The folder of one version of the package."""
    return installed_by_pip(request, f"openai=={request.param}")


def run(package: Path, stack: Stack, *arguments: str, timeout: float = 100) -> str:
    """Run Python with this version of the package, and return its output."""
    program = subprocess.run(
        [sys.executable, *arguments],
        env={"PYTHONPATH": str(package), "PATH": os.environ["PATH"]},
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert program.returncode == 0, f"{program.stderr}\n{stack.logs()}"
    return program.stdout


@pytest.fixture(scope="module")
def done(package: Path, stack: Stack) -> dict[str, Any]:
    """The output of `openai_program.py`."""
    known = {video["id"] for video in stack.http.get("/v1/videos?limit=100").json()["data"]}
    output = run(package, stack, str(PROGRAM), stack.url, str(IMAGES / "chelsea.jpg"), timeout=200)
    return {"known": known, "expected_version": package.name.rpartition("-")[2], **json.loads(output)}


def test_images_are_accepted_as_files_bytes_and_data_urls(done):
    assert done["version"] == done["expected_version"]
    for video in done["created"]:
        assert (video["object"], video["model"], video["size"], video["progress"]) == ("video", "tiny", "64x64", 0)
        assert video["status"] in {"queued", "in_progress"}
        assert "takes no text" in video["warnings"][0]
    of_file, of_bytes, *_ = done["created"]
    assert (of_file["seconds"], of_file["prompt"]) == ("1", "a cat")
    parameters = of_file["parameters"]
    assert parameters["seed"] == 5
    # A segment begins with the last frame of the previous one.
    frames = parameters["segments"] * (parameters["num_frames"] - 1) + 1
    assert frames / parameters["playback_fps"] == pytest.approx(1, rel=0.05)
    assert "sora-2" in of_file["warnings"][1]
    assert of_bytes["parameters"]["seed"] == 5
    assert done["retrieved"]["id"] == of_file["id"]
    assert done["models"] == ["tiny", "sora-2", "sora-2-pro"]


def test_create_and_poll_returns_the_completed_video(done):
    video = done["done"]
    assert (video["status"], video["progress"], video["error"], video["prompt"]) == ("completed", 100, None, "a dog")
    assert video["created_at"] <= video["completed_at"] < video["expires_at"]
    assert video["parameters"]["seed"] == 7


def test_an_extension_completes_although_its_source_is_deleted_meanwhile(done):
    if done["version"] < "3":
        assert done["extended"] is None
        return
    submitted, ended = done["extended"]
    assert submitted["status"] in {"queued", "in_progress"}
    assert (ended["status"], ended["error"]) == ("completed", None)
    assert ended["parameters"]["extend"] == done["done"]["id"]
    before = float(done["done"]["seconds"])
    assert float(ended["seconds"]) == pytest.approx(before + 4, abs=0.01)
    assert ended["duration_seconds"] == pytest.approx(before + 4, rel=0.05)


def test_all_three_variants_of_the_content_are_downloaded(done):
    kinds = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}
    assert {name: kind for name, (kind, _) in done["contents"].items()} == kinds
    contents = {name: io.BytesIO(base64.b64decode(content)) for name, (_, content) in done["contents"].items()}
    with av.open(contents["video"], "r") as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    for name, kind, size in (("thumbnail", "WEBP", (64, 64)), ("spritesheet", "JPEG", (128, 128))):
        with Image.open(contents[name]) as image:
            assert (image.format, image.size) == (kind, size)


def test_the_list_fetches_further_pages_automatically(done):
    ours = [video_id for video_id in done["listed"] if video_id not in done["known"]]
    assert ours == [done["done"]["id"], *reversed([video["id"] for video in done["created"]])]
    assert done["ascending"] == done["listed"][::-1]


def test_deleted_videos_are_not_listed(done):
    for answer in done["deleted"]:
        assert (answer["object"], answer["deleted"]) == ("video.deleted", True)
    assert done["deleted"][0]["id"] == done["done"]["id"]
    assert not {answer["id"] for answer in done["deleted"]} & {*done["left"]}
    assert {video["id"] for video in done["created"]} <= {*done["left"]}


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("missing_image", ["BadRequestError", 400, "missing_image", None]),
        ("remix", ["BadRequestError", 400, "not_supported", None]),
        ("unknown", ["NotFoundError", 404, "unknown_job", None]),
        ("unknown_content", ["NotFoundError", 404, "unknown_job", None]),
        ("unknown_delete", ["NotFoundError", 404, "unknown_job", None]),
        ("deleted", ["NotFoundError", 404, "unknown_job", None]),
        ("deleted_done", ["NotFoundError", 404, "unknown_job", None]),
        ("not_ready", ["ConflictError", 409, "not_ready", None]),
        ("size", ["UnprocessableEntityError", 422, "invalid_parameter", "size"]),
        ("seed", ["UnprocessableEntityError", 422, "invalid_parameter", "seed"]),
        ("not_an_image", ["APIStatusError", 415, "not_an_image", None]),
    ],
)
def test_errors_raise_the_packages_exception_classes(done, case, error):
    assert done["errors"][case] == error


def test_a_wrong_key_and_a_full_queue_raise_the_packages_exceptions(package: Path, make_stack: Callable[..., Stack]):
    stack = make_stack(SVD_MAX_QUEUED="1")
    stack.start_redis()
    stack.start_api()
    _, secret = Keyring(stack.redis, Settings.from_mapping(stack.environment)).create("ann")
    output = run(package, stack, "-c", REJECTED, stack.url, str(IMAGES / "chelsea.jpg"), "sk-wrong", secret)
    wrong, full = output.splitlines()
    assert wrong.split()[:2] == ["AuthenticationError", "unauthorized"]
    assert (full.split()[0], full.split()[2]) == ("RateLimitError", "True")


@contextmanager
def losing_responses(stack: Stack) -> Iterator[tuple[str, list[int]]]:
    """Run a proxy that loses the response to each request that is not a retry.

    Instead of the response it alternately drops the connection and answers 502. Yields its URL and the list of the
    lost responses' statuses.
    """
    lost: list[int] = []
    turn = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = stack.http.post(self.path, content=body, headers=dict(self.headers.items()))
            self.close_connection = True
            if self.headers["X-Stainless-Retry-Count"] != "0":
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.end_headers()
                self.wfile.write(answer.content)
                return
            with turn:
                lost.append(answer.status_code)
                if len(lost) % 2:
                    return
            self.wfile.write(BAD_GATEWAY)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", lost
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_retried_create_whose_response_was_lost_makes_one_job(package: Path, make_stack: Callable[..., Stack]):
    stack = make_stack()
    stack.start_redis()
    stack.start_api()
    with losing_responses(stack) as (url, lost):
        output = run(package, stack, "-c", WITH_RETRIES, url, str(IMAGES / "chelsea.jpg"))
    ids = json.loads(output)
    assert lost == [200] * 4, stack.logs()
    assert len(set(ids)) == len(ids) == 4
    assert sorted(video["id"] for video in stack.http.get("/v1/videos").json()["data"]) == sorted(ids)
