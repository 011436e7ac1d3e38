"""Several videos of one image: variations side by side, and settings that belong to their image."""

import io
import re

from PIL import Image
from playwright.sync_api import Locator, expect

from svd_service.jobs.job import AttemptOutcome, Phase, Progress
from svd_service.ledger import Ledger
from tests.browser.steps import ASTRONAUT, CAT, Open, add, card, claim, drawn, finish, ids, one_second, send
from tests.browser.visit import KINDS
from tools.harness.stack import Stack


@KINDS
def test_four_variations_are_compared_side_by_side_within_nine_clicks(
    desk: Stack, ledger: Ledger, visit: Open, kind: str
):
    window = visit(desk, kind)
    page = window.page
    clicks: list[Locator | str] = []

    def click(target: Locator) -> None:
        clicks.append(target)
        target.click()

    page.on("filechooser", lambda _: None)
    with page.expect_file_chooser() as chooser:
        click(page.locator("label[for=files]").first)
    clicks.append("the file, in the system's dialog")
    chooser.value.set_files(CAT)
    expect(page.locator("#editor")).to_be_visible()
    click(page.locator("#variations").get_by_role("radio", name="4", exact=True))
    window.look("variations-chosen")
    expect(page.locator("#submit")).to_have_text("Make 4 videos")
    click(page.locator("#submit"))
    expect(page.locator(".card")).to_have_count(4)
    for _ in range(4):
        finish(desk, page, next(place for place, job in enumerate(ids(page)) if desk.status(job)["status"] == "queued"))
    expect(page.locator(".card[data-status=finished]")).to_have_count(4)
    click(page.locator(".card").first.get_by_role("button", name="Compare"))
    videos = page.locator("#compare video")
    expect(videos).to_have_count(4)
    for video in videos.all():
        expect(video).to_have_js_property("readyState", 4)
    submitted = [desk.status(job)["parameters"] for job in ids(page)]
    assert len({desk.status(job)["group_id"] for job in ids(page)} - {None}) == 1
    seeds, steps = {each["seed"] for each in submitted}, submitted[0]["num_inference_steps"]
    assert len(seeds) == 4
    assert page.locator("#compare figcaption").all_inner_texts() == [
        f"motion 127 · {steps} steps · seed {seed}" for seed in sorted(seeds)
    ]
    window.look("compared")
    boxes = [box for video in videos.all() if (box := video.bounding_box())]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]
    # All four fit into the window.
    assert max(box["y"] + box["height"] for box in boxes) <= page.evaluate("innerHeight")
    assert len(clicks) <= 9, clicks
    # They are one card, even after a reload.
    page.keyboard.press("Escape")
    page.reload()
    expect(page.locator("#gallery > li")).to_have_count(1)
    expect(page.get_by_role("heading", name="4 videos of chelsea")).to_be_visible()
    expect(page.locator(".batch > .about .standing")).to_have_text("4 ready")
    expect(page.locator(".batch video").first).to_have_js_property("readyState", 4)
    window.look("batch")
    with page.expect_download() as download:
        page.locator(".batch > .about").get_by_role("link", name="Contact sheet").click()
    with Image.open(download.value.path()) as sheet:
        assert (sheet.format, download.value.suggested_filename) == ("JPEG", "chelsea.jpg")
    page.locator(".batch > .about").get_by_role("button", name="Compare").click()
    expect(page.locator("#compare video")).to_have_count(4)

    page.locator("#compare").get_by_role("button", name="Enlarge").nth(1).click()
    expect(page.locator("#compare figure:visible")).to_have_count(1)
    window.look("enlarged")
    page.keyboard.press("Escape")
    expect(page.locator("#compare")).to_be_hidden()


@KINDS
def test_change_restores_the_whole_image_its_crop_and_its_settings(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, drawn(1200, 300, "red", "blue"))
    page.locator("#zoom").fill("2")
    page.locator("#seed").fill("5")
    page.locator("#motion_bucket_id").fill("200")
    send(page)
    card(page, "halves").get_by_role("button", name="Cancel").click()
    page.reload()
    add(page, CAT)
    page.locator("#motion_bucket_id").fill("60")
    card(page, "halves").get_by_role("button", name="Change").click()
    expect(page.locator("#seed")).to_have_value("5")
    expect(page.locator("#motion_bucket_id")).to_have_value("200")
    expect(page.locator("#zoom")).to_have_value("2")
    assert page.locator("#crop img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1200, 300]
    window.look("changed")
    # The other image keeps its own settings.
    page.get_by_role("button", name="Edit chelsea").click()
    expect(page.locator("#motion_bucket_id")).to_have_value("60")
    expect(page.locator("#seed")).to_have_value("")
    send(page)
    submitted = [desk.status(job)["parameters"] for job in ids(page)[:2]]
    found = {parameters["motion_bucket_id"]: parameters["seed"] for parameters in submitted}
    assert set(found) == {60, 200}
    assert found[200] == 5 != found[60]
    add(page, ASTRONAUT)
    expect(page.locator("#seed")).to_have_value("")


@KINDS
def test_a_card_shows_its_settings_and_has_the_shape_of_its_video(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    buffer = io.BytesIO()
    Image.new("RGB", (300, 500), "teal").save(buffer, "PNG")
    add(page, {"name": "tall.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    page.locator("#seed").fill("7")
    send(page)
    expect(card(page, "tall").locator(".detail")).to_contain_text(re.compile(r"motion 127 · \d+ steps · seed 7"))
    window.look("tall")
    box = card(page, "tall").locator(".screen").bounding_box()
    assert box is not None
    assert box["height"] > box["width"]


@KINDS
def test_a_dropped_video_restores_its_settings(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    expect(page.locator("#about")).to_contain_text("nano")
    comment = '{"model": {"name": "nano"}, "parameters": {"seed": 77, "motion_bucket_id": 33, "num_frames": 9}}'
    video = one_second(comment)
    page.locator("#files").set_input_files({"name": "old.mp4", "mimeType": "video/mp4", "buffer": video})
    expect(page.locator("#composer-message")).to_contain_text("The settings of old.mp4 are used")
    add(page, CAT)
    window.look("restored")
    expect(page.locator("#seed")).to_have_value("77")
    expect(page.locator("#motion_bucket_id")).to_have_value("33")
    expect(page.locator("#num_frames")).to_have_value("9")


@KINDS
def test_jobs_without_a_video_are_cleared_together(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, CAT, ASTRONAUT)
    send(page)
    for name in ("chelsea", "astronaut"):
        card(page, name).get_by_role("button", name="Cancel").click()
        expect(card(page, name)).to_have_attribute("data-status", "cancelled")
    window.look("expired")
    page.get_by_role("button", name="Clear expired").click()
    expect(page.locator(".card")).to_have_count(0)
    assert desk.http.get("/jobs").json()["jobs"] == []


@KINDS
def test_variations_are_cancelled_and_deleted_together(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, CAT)
    page.locator("#variations").get_by_role("radio", name="2", exact=True).check()
    send(page)
    held = claim(ledger, page)
    ledger.attempts.report(held, Progress(Phase.SAMPLING, 3, 6))
    whole = page.locator(".batch > .about")
    expect(whole.locator(".standing")).to_have_text("0 of 2 ready")
    expect(whole.locator("progress")).not_to_have_js_property("value", 0)
    window.look("batch-running")
    ledger.attempts.end_attempt(held, AttemptOutcome.RELEASED)
    group = desk.status(held.job_id)["group_id"]
    requests: list[tuple[str, str]] = []
    page.on("request", lambda request: requests.append((request.method, request.url)))
    whole.get_by_role("button", name="Cancel all").click()
    expect(page.locator(".card[data-status=cancelled]")).to_have_count(2)
    expect(whole.locator(".standing")).to_have_text("0 ready")
    whole.get_by_role("button", name="Delete all").click()
    whole.get_by_role("button", name="Delete for good").click()
    expect(page.locator("#gallery > li")).to_have_count(0)
    assert desk.http.get("/jobs").json()["jobs"] == []
    changes = [(method, url.removeprefix(desk.url)) for method, url in requests if method != "GET"]
    assert changes == [("POST", f"/groups/{group}/cancel"), ("DELETE", f"/groups/{group}")]
