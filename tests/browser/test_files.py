"""Files that the page accepts, chosen, pasted or dropped; it lists each rejected file with the reason."""

import base64
import io

import pillow_heif
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from svd_service.jobs.images.scan import FORMATS
from svd_service.ledger import Ledger
from tests.browser.steps import CAT, Open, add, drawn, ids, send
from tests.browser.visit import KINDS
from tools.harness.stack import Stack

MOVIE = b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(200)


pillow_heif.register_heif_opener()


def payload(name: str, content: bytes, media_type: str = "") -> FilePayload:
    return {"name": name, "mimeType": media_type, "buffer": content}


def encoded(kind: str, *, frames: int = 1, **options: object) -> bytes:
    pages = [Image.new("RGB", (320, 180), colour) for colour in ("red", "blue", "green")[:frames]]
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": pages[1:]} if frames > 1 else {}
    pages[0].save(buffer, "HEIF" if kind == "HEIC" else kind, **more, **options)
    return buffer.getvalue()


def truncated() -> FilePayload:
    content = CAT.read_bytes()
    return payload("cut.jpg", content[: len(content) // 2], "image/jpeg")


REJECTED = {
    "notes.txt": (b"some text", "not an image"),
    "paper.pdf": (b"%PDF-1.7 ", "not an image"),
    "live.mov": (MOVIE, "not an image"),
    "moving.gif": (encoded("GIF", frames=3), "animated"),
    "moving.webp": (encoded("WEBP", frames=3), "animated"),
    "moving.png": (encoded("PNG", frames=3), "animated"),
    "nothing.jpg": (b"", "empty"),
}


def give(page: Page, way: str, *files: FilePayload) -> None:
    """Choose, photograph, paste or drop files on the page; pasted and dropped files have no media type."""
    if way in {"files", "photo"}:
        page.locator(f"#{way}").set_input_files(list(files))
        return
    page.evaluate(
        """([way, files]) => {
            const data = new DataTransfer();
            for (const [name, content] of files) {
                data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
            }
            const Kind = way === 'paste' ? ClipboardEvent : DragEvent;
            const holder = way === 'paste' ? 'clipboardData' : 'dataTransfer';
            document.dispatchEvent(new Kind(way, { [holder]: data, bubbles: true, cancelable: true }));
        }""",
        [way, [[file["name"], base64.b64encode(file["buffer"]).decode()] for file in files]],
    )


@KINDS
@pytest.mark.parametrize(
    "way", ["files", *(pytest.param(way, marks=pytest.mark.thorough) for way in ("paste", "drop"))]
)
def test_rejected_files_are_listed_with_reasons_and_valid_ones_are_added(
    desk: Stack, ledger: Ledger, visit: Open, kind: str, way: str
):
    window = visit(desk, kind)
    page = window.page
    give(page, way, *(payload(name, content) for name, (content, _) in REJECTED.items()))
    rows = page.locator("#rejected li")
    expect(rows).to_have_count(len(REJECTED))
    for row, (name, (_, reason)) in zip(rows.all(), REJECTED.items(), strict=True):
        expect(row).to_be_visible()
        expect(row).to_contain_text(name)
        expect(row).to_contain_text(reason)
    expect(page.locator("#editor")).to_be_hidden()
    window.look(f"rejected-{way}")
    give(page, way, payload("cat.jpg", CAT.read_bytes()), payload("notes.txt", b"some text"))
    expect(page.get_by_role("button", name="Edit cat")).to_be_visible()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#rejected")).to_be_hidden()


def test_files_from_the_camera_are_checked_by_the_same_rules(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk, "phone").page
    give(page, "photo", payload("IMG_1.MOV", MOVIE))
    expect(page.locator("#rejected")).to_contain_text("IMG_1.MOV")


def test_the_page_recognizes_every_format_of_the_service_by_content(desk: Stack, visit: Open):
    page = visit(desk).page
    script = "async (data) => (await import('/page/intake.js')).kindOf(Uint8Array.from(data))"
    for kind in FORMATS:
        assert page.evaluate(script, list(encoded(kind)[:64])) == kind
    assert set(page.evaluate("async () => (await import('/page/intake.js')).READABLE")) == set(FORMATS)


@KINDS
def test_a_damaged_file_is_sent_uncropped_so_that_the_service_rejects_it(
    desk: Stack, ledger: Ledger, visit: Open, kind: str
):
    window = visit(desk, kind)
    window.expected.append("422")
    page = window.page
    add(page, truncated(), payload("cat.jpg", CAT.read_bytes()))
    expect(page.locator("#crop")).to_contain_text("damaged or cut short")
    expect(page.locator("#zoom")).to_be_disabled()
    window.look("damaged")
    page.locator("#submit").click()
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator("#composer-fault")).to_contain_text("cut: The")
    expect(page.get_by_role("button", name="Edit cut")).to_have_attribute("aria-pressed", "true")


def test_a_file_that_the_browser_cannot_show_is_sent_unchanged(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk).page
    add(page, payload("scan.tif", encoded("TIFF")))
    expect(page.locator("#crop")).to_contain_text("cannot be shown by this browser")
    send(page)
    assert desk.status(ids(page)[0])["status"] == "queued"


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_pasting_or_dropping_without_a_file_is_reported(desk: Stack, visit: Open, way: str):
    page = visit(desk).page
    give(page, way)
    expect(page.locator("#rejected li")).to_have_count(1)
    add(page, drawn(320, 180, "red", "blue"))
    expect(page.locator("#rejected")).to_be_hidden()
