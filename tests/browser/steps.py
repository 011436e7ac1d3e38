"""Steps of a user on the page, and of a worker where a test takes its place."""

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import av
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect

from svd_service.artifacts.local import LocalArtifacts
from svd_service.config import Settings
from svd_service.jobs.job import Claim, Holder, Result, Still
from svd_service.jobs.job_files import file_name, result_name
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.connection import connect
from tests.browser.visit import Visit
from tests.samples import IMAGES
from tools.harness.stack import Stack

CAT, ASTRONAUT = IMAGES / "chelsea.jpg", IMAGES / "astronaut.jpg"
SECONDS = 120_000  # long, since the machine may be slow

Open = Callable[..., Visit]


def card(page: Page, name: str) -> Locator:
    return page.locator(".card").filter(has=page.get_by_role("heading", name=name, exact=True))


def add(page: Page, *images: Path | FilePayload) -> None:
    page.locator("#files").set_input_files(list(images))  # type: ignore[arg-type]
    # An open editor shows the previous draft until the files are read.
    expect(page.locator("#composer")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#editor")).to_be_visible()


def send(page: Page) -> None:
    """Submit, and wait until all images are uploaded; they stay in the form."""
    page.locator("#submit").click()
    expect(page.locator("#submit")).to_be_enabled(timeout=SECONDS)
    expect(page.locator("#submit")).to_have_text(re.compile(r"^Make (another video|\d+ more videos)$"))


def ids(page: Page) -> list[str]:
    return [str(item.get_attribute("data-id")) for item in page.locator(".card").all()]


def claim(ledger: Ledger, page: Page, place: int = 0) -> Claim:
    held = ledger.attempts.claim(ids(page)[place], Holder("host/0", "cpu", "instance", 1))
    assert held is not None
    return held


def drawn(width: int, height: int, left: str, right: str) -> FilePayload:
    """An image whose left and right halves have these colors."""
    image = Image.new("RGB", (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"name": "halves.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def finish(stack: Stack, page: Page, place: int = 0) -> Claim:
    """Finish the job at `place`, by default the newest, in place of a worker: commit a video of one second."""
    settings = Settings.from_mapping(stack.environment)
    client = connect(settings)
    held = claim(open_ledger(client, settings), page, place)
    name = result_name(held.job_id, held.token)
    video = one_second()
    artifacts = LocalArtifacts(settings.data_dir)
    artifacts.put(name, video)
    artifacts.put(file_name(name, Still.THUMBNAIL), thumbnail())
    result = Result(name, len(video), hashlib.sha256(video).hexdigest(), 256, 144, 7)
    open_ledger(client, settings).attempts.finish(held, result, device="cpu", seconds={"sampling": 1.0}, steps=6)
    client.close()
    return held


def thumbnail() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (256, 144), "teal").save(buffer, "WEBP")
    return buffer.getvalue()


def one_second(comment: str = "") -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        container.metadata.update({"comment": comment})
        stream = container.add_stream("libx264", rate=7, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        for shade in range(0, 210, 30):
            frame = av.VideoFrame.from_image(Image.new("RGB", (256, 144), (shade, 80, 120)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
