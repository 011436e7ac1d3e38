import io
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from svd_service.artifacts.local import LocalArtifacts
from svd_service.config import CUDA_MODEL
from svd_service.jobs.job import AttemptOutcome, Failure, Phase, Progress
from svd_service.jobs.job_files import preview_name
from svd_service.jobs.license import license_of
from svd_service.jobs.model import Defaults, Model
from svd_service.ledger import Ledger
from svd_service.ledger.attempts import StopReason
from svd_service.parameters import BOUNDS
from tests.browser.steps import ASTRONAUT, CAT, SECONDS, Open, add, card, claim, drawn, finish, ids, send
from tests.browser.visit import KINDS
from tools.harness.stack import Stack


@pytest.mark.thorough
def test_choosing_another_model_loads_its_settings(desk: Stack, ledger: Ledger, visit: Open):
    window = visit(desk)
    page = window.page
    expect(page.locator("#about")).to_contain_text("nano")
    add(page, CAT)
    expect(page.locator("#model-field")).to_be_hidden()

    ledger.workers.introduce(
        Model("other", "org/other", description="Another.", defaults=Defaults(512, 512, num_frames=9))
    )
    page.reload()
    add(page, CAT)
    expect(page.locator("#num_frames")).not_to_have_value("9")
    page.get_by_label("Model").select_option("other")
    expect(page.locator("#num_frames")).to_have_value("9")
    expect(page.locator("#model-help")).to_have_text("Another.")
    window.look("models")
    send(page)
    job = ledger.jobs.find(ids(page)[0])
    assert (job.model["name"], job.parameters.num_frames, job.parameters.width) == ("other", 9, 512)
    # Change keeps the job's model.
    ledger.jobs.cancel(job.id)
    page.reload()
    card(page, "chelsea").get_by_role("button", name="Change").click()
    expect(page.get_by_label("Model")).to_have_value("other")


def test_the_footer_shows_stabilitys_notice_while_its_model_is_served(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk).page
    footer = page.locator("footer")
    expect(footer).to_contain_text("nano")
    expect(footer).not_to_contain_text("Stability AI")
    ledger.workers.introduce(Model("svd-xt", CUDA_MODEL, license=license_of(CUDA_MODEL)))
    page.reload()
    expect(footer).to_contain_text("Powered by Stability AI")
    expect(footer).to_be_in_viewport()


@KINDS
def test_a_photo_becomes_a_video_that_can_be_played_downloaded_and_deleted(stack: Stack, visit: Open, kind: str):
    window = visit(stack, kind)
    page = window.page
    expect(page.locator("#about")).to_contain_text("nano")
    window.look("1-empty")

    add(page, CAT, ASTRONAUT)
    window.look("2-images")
    page.get_by_text("More settings").click()
    page.locator("#num_inference_steps").fill("16")  # long enough to check the progress and to cancel
    window.look("3-settings")
    send(page)
    cat, astronaut = card(page, "chelsea"), card(page, "astronaut")
    expect(astronaut.locator(".standing")).to_contain_text("in line")
    bar = cat.locator("progress")
    expect(cat).to_have_attribute("data-status", "started", timeout=SECONDS)
    expect(bar).not_to_have_js_property("value", 0, timeout=SECONDS)
    seen = bar.evaluate("bar => bar.value")
    astronaut.get_by_role("button", name="Cancel").click()
    window.look("4-running")
    expect(astronaut).to_have_attribute("data-status", "cancelled", timeout=SECONDS)

    cat.scroll_into_view_if_needed()  # the page fetches only videos in view
    video = cat.locator("video")
    expect(video).to_have_js_property("readyState", 4, timeout=SECONDS)
    expect(video).to_have_js_property("loop", True)
    expect(video).to_have_js_property("videoWidth", 512)
    assert seen < 1
    # With `prefers-reduced-motion` the video does not start by itself.
    expect(video).to_have_js_property("paused", kind == "phone")
    window.look("5-done")

    page.reload()
    cat.scroll_into_view_if_needed()  # the page fetches only videos in view
    expect(cat.locator("video")).to_have_js_property("readyState", 4, timeout=SECONDS)
    expect(astronaut).to_have_attribute("data-status", "cancelled")
    with page.expect_download() as download:
        cat.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "chelsea.mp4"
    video_file = Path(download.value.path()).read_bytes()
    assert b"ftyp" in video_file[:16]
    # WebP keeps one of equal frames: the camera starts slowly.
    for name, kind, frames in (("GIF", "gif", {4}), ("WebP", "webp", {3, 4})):
        with page.expect_download() as download:
            cat.get_by_role("link", name=name).click()
        assert download.value.suggested_filename == f"chelsea.{kind}"
        with Image.open(download.value.path()) as moving:
            assert moving.format == kind.upper()
            assert getattr(moving, "n_frames", 1) in frames

    page.locator("#files").set_input_files({"name": "my.mp4", "mimeType": "video/mp4", "buffer": video_file})
    expect(page.locator("#composer-message")).to_contain_text("The settings of my.mp4 are used")
    expect(page.locator("#num_inference_steps")).to_have_value("16")
    cat.get_by_role("button", name="Change").click()
    expect(page.locator("#seed")).to_have_value(re.compile(r"^\d+$"))
    cat.get_by_role("button", name="Delete").click()
    cat.get_by_role("button", name="Delete for good").click()
    expect(cat).to_have_count(0)
    page.reload()
    expect(astronaut).to_be_visible()
    expect(cat).to_have_count(0)


def test_the_service_gets_the_part_of_the_image_inside_the_frame(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk).page
    add(page, drawn(1200, 300, "red", "blue"))
    page.locator("#crop").focus()
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    send(page)
    (job_id,) = ids(page)
    with Image.open(Path(desk.environment["SVD_DATA_DIR"]) / "inputs" / f"{job_id}.png") as fitted:
        assert fitted.size == (512, 288)
        red, _, blue = fitted.getpixel((4, 140))  # type: ignore[misc]
    assert (red < 60, blue > 195) == (True, True)


def test_dragging_moves_the_frame_and_portrait_submits_a_portrait_image(desk: Stack, ledger: Ledger, visit: Open):
    window = visit(desk)
    page = window.page
    add(page, drawn(800, 600, "red", "blue"))
    page.get_by_label("Portrait").check()
    box = page.locator("#crop").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    window.look("portrait")
    send(page)
    (job_id,) = ids(page)
    with Image.open(Path(desk.environment["SVD_DATA_DIR"]) / "inputs" / f"{job_id}.png") as fitted:
        assert fitted.size == (288, 512)
        red, _, blue = fitted.getpixel((280, 200))  # type: ignore[misc]
    assert (red > 195, blue < 60) == (True, True)


def test_keep_the_whole_image_pads_it_with_black(desk: Stack, ledger: Ledger, visit: Open):
    window = visit(desk)
    page = window.page
    add(page, CAT)
    page.get_by_text("More settings").click()
    page.get_by_label("Keep the whole image").check()
    window.look("whole")
    send(page)
    parameters = desk.status(ids(page)[0])["parameters"]
    assert (parameters["fit"], parameters["width"], parameters["height"]) == ("pad", 512, 288)


def test_the_page_can_be_used_by_keyboard_alone(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk).page
    expect(page.locator("#about")).to_contain_text("nano")

    def tab_to(locator) -> None:
        for _ in range(40):
            if locator.evaluate("element => element === document.activeElement"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {locator}")

    # Playwright intercepts file choosers only some time after the first listener was added, so add one early.
    page.on("filechooser", lambda _: None)
    tab_to(page.locator("#files"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(CAT)
    expect(page.locator("#crop")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#announcer")).to_contain_text("from the top")
    tab_to(page.locator("#motion_bucket_id"))
    page.keyboard.press("End")
    expect(page.locator("#motion_bucket_id-readout")).to_have_text("very lively")
    tab_to(page.locator("#submit"))
    page.keyboard.press("Enter")
    article = card(page, "chelsea").locator("article")
    expect(article).to_be_focused()
    tab_to(article.get_by_role("button", name="Cancel"))
    page.keyboard.press("Enter")
    expect(card(page, "chelsea")).to_have_attribute("data-status", "cancelled")
    expect(page.locator("#announcer")).to_contain_text("chelsea: Cancelled")
    delete = article.get_by_role("button", name="Delete")
    tab_to(delete)
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#gallery-title")).to_be_focused()
    assert desk.http.get("/jobs").json()["jobs"] == []


def test_images_can_be_pasted_and_dropped(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk).page
    for kind, holder in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        page.evaluate(
            """async ([kind, holder]) => {
                const canvas = Object.assign(document.createElement('canvas'), { width: 320, height: 180 });
                const blob = await new Promise((resolve) => canvas.toBlob(resolve));
                const data = new DataTransfer();
                data.items.add(new File([blob], `${kind}.png`, { type: 'image/png' }));
                const Kind = kind === 'paste' ? ClipboardEvent : DragEvent;
                document.dispatchEvent(new Kind(kind, { [holder]: data, bubbles: true, cancelable: true }));
            }""",
            [kind, holder],
        )
        expect(page.get_by_role("button", name=f"Edit {kind}")).to_be_visible()
    page.get_by_role("button", name="Remove paste").click()
    expect(page.get_by_role("button", name="Edit drop")).to_be_focused()
    expect(page.locator("#submit")).to_have_text("Make the video")


@pytest.mark.parametrize(
    "pushed", [pytest.param(True, id="pushed"), pytest.param(False, id="polled", marks=pytest.mark.thorough)]
)
def test_a_card_shows_the_state_and_progress_of_its_job(desk: Stack, ledger: Ledger, visit: Open, pushed: bool):
    window = visit(desk)
    page = window.page
    if not pushed:
        page.route("**/events", lambda route: route.fulfill(status=503))
        window.expected.append("503")
    expect(page.locator("#notices")).to_contain_text("No worker is running")
    add(page, CAT)
    send(page)
    shown = card(page, "chelsea")
    expect(shown.locator(".standing")).to_contain_text("Next in line")
    held = claim(ledger, page)
    ledger.attempts.report(held, Progress(Phase.SAMPLING, 2, 6))
    expect(shown.locator(".standing")).to_contain_text("step 3 of 6")
    expect(shown.locator("progress")).not_to_have_js_property("value", 0)
    name = preview_name(held.job_id, held.token)
    with Image.open(CAT) as cat:
        buffer = io.BytesIO()
        cat.resize((64, 36)).save(buffer, "WEBP")
    LocalArtifacts(Path(desk.environment["SVD_DATA_DIR"])).put(name, buffer.getvalue())
    ledger.attempts.show_preview(held, name)
    expect(shown.locator("img.preview")).to_have_js_property("naturalWidth", 64)
    ledger.attempts.report(held, Progress(Phase.DECODING, 5, 8))
    expect(shown.locator(".standing")).to_contain_text("frame 6 of 8")
    window.look("decoding")
    ledger.attempts.end_attempt(
        held, AttemptOutcome.FAILED, Failure("out_of_memory", "The device ran out of memory; request fewer frames.")
    )
    expect(shown.locator(".detail")).to_contain_text("request fewer frames")
    window.look("failed")
    shown.get_by_role("button", name="Try again").click()
    expect(page.locator(".card")).to_have_count(2)


def test_cancelling_a_started_job_stops_it_at_its_next_step(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk).page
    add(page, CAT)
    send(page)
    held = claim(ledger, page)
    shown = card(page, "chelsea")
    expect(shown).to_have_attribute("data-status", "started")
    shown.get_by_role("button", name="Cancel").click()
    expect(shown.locator(".standing")).to_contain_text("Stopping")
    assert ledger.attempts.report(held) is StopReason.CANCEL
    ledger.attempts.end_attempt(held, AttemptOutcome.CANCELLED)
    expect(shown.locator(".standing")).to_have_text("Cancelled")


def test_cancelling_keeps_a_video_that_is_finished_meanwhile(desk: Stack, visit: Open):
    page = visit(desk).page
    add(page, CAT)
    send(page)
    shown = card(page, "chelsea")

    def overtaken(route: Route) -> None:
        finish(desk, page)
        route.continue_()

    page.route("**/jobs/*/cancel", overtaken)
    with page.expect_response("**/jobs/*/cancel"):
        shown.get_by_role("button", name="Cancel").click()
    expect(shown).to_have_attribute("data-status", "finished")
    assert desk.status(ids(page)[0])["status"] == "finished"


def test_a_late_response_does_not_overwrite_the_state_of_an_ended_job(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk).page
    add(page, CAT)
    send(page)
    held = claim(ledger, page)
    shown = card(page, "chelsea")
    expect(shown).to_have_attribute("data-status", "started")

    def overtaken(route: Route) -> None:
        response = route.fetch()
        ledger.attempts.end_attempt(held, AttemptOutcome.CANCELLED)
        expect(shown).to_have_attribute("data-status", "cancelled")
        route.fulfill(response=response)

    page.route("**/jobs/*/cancel", overtaken)
    with page.expect_response("**/jobs/*/cancel"):
        shown.get_by_role("button", name="Cancel").click()
    page.wait_for_timeout(300)
    expect(shown).to_have_attribute("data-status", "cancelled")


def test_another_seed_submits_the_same_image_and_settings(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk).page
    add(page, CAT)
    page.get_by_role("button", name="Another seed").click()
    seed = int(page.locator("#seed").input_value())
    page.locator("#motion_bucket_id").fill("200")
    send(page)
    assert desk.status(ids(page)[0])["parameters"]["seed"] == seed
    card(page, "chelsea").get_by_role("button", name="Cancel").click()
    card(page, "chelsea").get_by_role("button", name="Another seed").click()
    expect(page.locator(".card")).to_have_count(2)
    new, old = (desk.status(job_id)["parameters"] for job_id in ids(page))
    assert new["seed"] != old["seed"]
    assert {**new, "seed": 0} == {**old, "seed": 0}
    assert new["motion_bucket_id"] == 200


def test_errors_are_shown_and_the_form_keeps_its_contents(desk: Stack, ledger: Ledger, visit: Open):
    window = visit(desk)
    page = window.page
    window.expected += ["422", "503"]
    page.route("**/generate", lambda route: _reject(route, 429, "queue is full (limit 1000)"))
    window.expected.append("429")
    add(page, CAT)
    page.locator("#submit").click()
    expect(page.locator("#composer-fault")).to_have_text("Queue is full (limit 1000). Try again in 30 seconds.")
    page.unroute("**/generate")
    page.locator("#seed").fill("many")
    page.locator("#submit").click()
    expect(page.locator("#seed")).to_be_focused()
    page.locator("#seed").fill("5")
    send(page)
    assert desk.status(ids(page)[0])["parameters"]["seed"] == 5


def _reject(route: Route, status: int, message: str) -> None:
    route.fulfill(
        status=status, headers={"Retry-After": "30"}, json={"error": {"code": "rejected", "message": message}}
    )


def test_the_form_has_the_bounds_of_the_service(desk: Stack, visit: Open):
    page = visit(desk).page
    expect(page.locator("#num_frames")).to_have_attribute("max", "25")
    sliders = page.locator("input[type=range]").all()
    names = [slider.get_attribute("id") or "" for slider in sliders]
    assert {"num_frames", "motion_bucket_id", "noise_aug_strength", "fps"} <= set(names)
    limits = {
        **BOUNDS,
        "seconds": (1, desk.http.get("/models").json()["limits"]["seconds"]),
    }  # only the service knows this one
    for name, slider in zip(names, sliders, strict=True):
        if name in limits:
            bounds = (float(slider.get_attribute("min") or ""), float(slider.get_attribute("max") or ""))
            assert bounds == limits[name], name
