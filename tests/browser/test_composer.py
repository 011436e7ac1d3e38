"""Making a video: the empty page, the settings with their names in the API, the crop, drafts, and the upload."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from svd_service.ledger import Ledger
from tests.browser.steps import CAT, Open, add, card, drawn, ids, send
from tests.browser.visit import EVERY, KINDS, Visit
from tools.harness.stack import Stack

#: Resolves to whether the first draft in IndexedDB has this zoom.
STORED = """(zoom) => new Promise((resolve) => {
    const opening = indexedDB.open('svd-service');
    opening.onsuccess = () => {
        const all = opening.result.transaction('drafts').objectStore('drafts').getAll();
        all.onsuccess = () => {
            opening.result.close();
            resolve(all.result[0]?.place.zoom === zoom);
        };
    };
})"""


def box(place: Locator) -> dict[str, float]:
    found = place.bounding_box()
    assert found is not None
    return {"x": found["x"], "y": found["y"], "width": found["width"], "height": found["height"]}


def input_of(stack: Stack, job_id: str) -> Image.Image:
    """The image that the service stored for the model."""
    with Image.open(Path(stack.environment["SVD_DATA_DIR"]) / "inputs" / f"{job_id}.png") as image:
        return image.convert("RGB")


@contextmanager
def slow_upload(window: Visit, bytes_per_second: int) -> Iterator[None]:
    """Limit the page's uploads while the block runs."""
    client = window.context.new_cdp_session(window.page)
    client.send("Network.enable")
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_second}
    client.send("Network.emulateNetworkConditions", limits)
    yield
    client.detach()


def noise(width: int, height: int) -> bytes:
    """A PNG of random pixels, which cannot be compressed."""
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 100).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@EVERY
def test_the_empty_page_shows_an_example_and_offers_a_sample(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    expect(page.locator("#about")).to_contain_text("nano")
    example = page.locator("#example video")
    # With `prefers-reduced-motion` the video does not start by itself.
    expect(example).to_have_js_property("paused", kind == "phone")
    page.locator("#example-play").click()
    expect(example).to_have_js_property("paused", kind != "phone")
    window.look("empty")
    page.get_by_role("button", name="Try a sample").click()
    expect(page.get_by_role("button", name="Edit sample")).to_be_visible()
    window.look("filled")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if kind == "wide":
        assert box(page.locator("#composer"))["width"] > 1600
        expect(page.locator("#num_inference_steps")).to_be_visible()  # without opening "More settings"


@KINDS
def test_shape_size_length_and_formats_are_sent_as_chosen(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, CAT)
    page.get_by_label("Square").check()
    page.get_by_label("In seconds").check()
    page.locator("#seconds").fill("8")
    expect(page.locator("#drift")).to_be_visible()
    page.locator("#interpolate").get_by_role("radio", name="2×").check()
    page.get_by_text("More settings").click()
    page.locator("#size").select_option(label="720p · 720 × 720")
    page.locator("#loop").select_option("pingpong")
    page.get_by_label("GIF").uncheck()
    page.get_by_label("WebM").check()
    window.look("settings")
    names = set(page.locator("#settings .api:visible").all_inner_texts())
    assert {"motion_bucket_id", "seconds", "interpolate", "size", "loop", "formats", "seed", "profile", "fit"} <= names
    send(page)
    job = desk.status(ids(page)[0])
    video, parameters = job["video"], job["parameters"]
    assert (video["output_width"], video["output_height"]) == (720, 720)
    assert (parameters["width"], parameters["height"]) == (384, 384)
    assert video["duration_seconds"] == pytest.approx(8, rel=0.05)
    assert (parameters["interpolate"], parameters["loop"]) == (2, "pingpong")
    assert parameters["formats"] == ["webm", "webp"]

    # Change restores the settings.
    card(page, "chelsea").get_by_role("button", name="Cancel").click()
    card(page, "chelsea").get_by_role("button", name="Change").click()
    expect(page.get_by_label("Square")).to_be_checked()
    expect(page.locator("#size")).to_have_value("720")
    expect(page.locator("#loop")).to_have_value("pingpong")
    send(page)
    again = desk.status(ids(page)[0])
    assert again["parameters"] == parameters
    assert again["video"] == video


@KINDS
def test_a_custom_size_and_segments_are_sent(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, CAT)
    page.get_by_text("More settings").click()
    page.locator("#size").select_option("other")
    page.locator("#size-width").fill("321")
    page.locator("#size-height").fill("200")
    expect(page.locator("#size-fault")).to_contain_text("even number")
    page.locator("#submit").click()
    expect(page.locator("#size-width")).to_be_focused()
    window.look("size-fault")
    page.locator("#size-width").fill("320")
    page.locator("#segments").fill("2")
    expect(page.locator("#num_frames-readout")).to_have_text("7.0 s · 49 frames")
    expect(page.locator("#drift")).to_be_visible()
    send(page)
    video = desk.status(ids(page)[0])["video"]
    assert (video["output_width"], video["output_height"], video["segments"]) == (320, 200, 2)
    expect(card(page, "chelsea").locator(".detail")).to_contain_text("7.0 s · 49 frames · 2 segments")


@KINDS
def test_a_number_field_and_its_slider_update_each_other(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, CAT)
    number, slider = page.get_by_label("Motion, as a number"), page.locator("#motion_bucket_id")
    number.fill("77")
    expect(slider).to_have_value("77")
    slider.fill("30")
    expect(number).to_have_value("30")
    number.fill("900")
    number.press("Tab")
    expect(number).to_have_value("255")
    window.look("number")
    send(page)
    assert desk.status(ids(page)[0])["parameters"]["motion_bucket_id"] == 255


@pytest.mark.parametrize("kind", ["desktop", "phone"])
def test_the_submit_button_is_in_view_and_no_element_has_a_fixed_position(
    desk: Stack, ledger: Ledger, visit: Open, kind: str
):
    window = visit(desk, kind)
    page = window.page
    add(page, CAT)
    page.evaluate("scrollTo(0, 0)")
    height = page.evaluate("innerHeight")
    submit = box(page.locator("#submit"))
    assert 0 <= submit["y"] <= height - submit["height"]
    send(page)
    assert (
        page.evaluate(
            "[...document.body.querySelectorAll('*')].filter(e => getComputedStyle(e).position === 'fixed').length"
        )
        == 0
    )


@KINDS
def test_small_and_very_wide_images_show_a_warning(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, drawn(60, 40, "red", "blue"))
    expect(page.locator("#image-warning")).to_contain_text("will look soft")
    window.look("tiny")
    page.get_by_role("button", name="Remove halves").click()
    add(page, drawn(2000, 300, "red", "blue"))
    expect(page.locator("#image-warning")).to_contain_text("6.7 times as long as wide: 27 % of it is used")
    page.get_by_role("button", name="Remove halves").click()
    add(page, CAT)
    expect(page.locator("#image-warning")).to_be_hidden()


@KINDS
def test_a_rotated_image_is_sent_rotated_and_change_restores_the_whole_file(
    desk: Stack, ledger: Ledger, visit: Open, kind: str
):
    window = visit(desk, kind)
    page = window.page
    add(page, drawn(800, 600, "red", "blue"))
    page.get_by_role("button", name="Rotate").click()
    expect(page.get_by_label("Portrait")).to_be_checked()
    window.look("turned")
    send(page)
    image = input_of(desk, ids(page)[0])
    assert image.size == (288, 512)
    top, bottom = image.getpixel((140, 20)), image.getpixel((140, 490))
    assert (top[0] > 195, bottom[2] > 195) == (True, True)  # type: ignore[index]
    card(page, "halves").get_by_role("button", name="Cancel").click()
    card(page, "halves").get_by_role("button", name="Change").click()
    shown = page.locator("#crop img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert shown == [600, 800]
    # The second click comes before the first rotation is drawn and still counts: from 90 degrees to 270.
    page.get_by_role("button", name="Rotate").evaluate("button => { button.click(); button.click(); }")
    expect(page.get_by_role("status").last).to_have_text("Turned to 270 degrees.")
    expect(page.get_by_label("Portrait")).to_be_checked()
    page.get_by_role("button", name="Rotate").click()
    expect(page.get_by_label("Landscape")).to_be_checked()


def test_two_fingers_zoom_about_their_middle_and_one_finger_moves_the_frame(desk: Stack, ledger: Ledger, visit: Open):
    window = visit(desk, "phone")
    page = window.page
    add(page, drawn(800, 450, "red", "blue"))
    page.evaluate("scrollTo(0, 0)")
    stage = box(page.locator("#crop"))
    x, y = stage["x"] + stage["width"] * 0.75, stage["y"] + stage["height"] / 2
    touch(page, *([(x - apart, y), (x + apart, y)] for apart in (20, 25, 30, 40)))
    expect(page.locator("#zoom")).to_have_value("2")
    frame = box(page.locator("#crop .frame"))
    middle = {"x": frame["x"] + frame["width"] / 2, "y": frame["y"] + frame["height"] / 2}
    assert middle == {"x": pytest.approx(stage["x"] + stage["width"] * 0.625, abs=3), "y": pytest.approx(y, abs=3)}
    touch(page, *([(x - apart, y), (x + apart, y)] for apart in (40, 38)))
    expect(page.locator("#zoom")).to_have_value("1.9")
    touch(page, [(x, y)], [(x + 30, y)], [(x + 60, y)])
    assert box(page.locator("#crop .frame"))["x"] > frame["x"] + 20
    window.look("pinched")
    send(page)
    image = input_of(desk, ids(page)[0])
    assert image.getpixel((60, 70))[2] > 195  # type: ignore[index]


def touch(page: Page, *moments: list[tuple[float, float]]) -> None:
    """Touch the page with one finger per point, move the fingers to the points of each moment, and lift them."""
    client = page.context.new_cdp_session(page)
    for number, points in enumerate(moments):
        fingers = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(points)]
        kind = "touchMove" if number else "touchStart"
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    client.detach()


def test_a_submission_before_the_models_are_loaded_has_the_services_defaults(desk: Stack, ledger: Ledger, visit: Open):
    window = visit(desk)
    page = window.page
    window.expected.append("503")
    page.route("**/models", lambda route: route.fulfill(status=503))
    page.reload()
    add(page, CAT)
    expect(page.locator("#settings")).to_be_hidden()
    expect(page.locator("#image-warning")).to_be_hidden()
    send(page)
    defaults = desk.http.get("/models").json()["models"][0]["defaults"]
    parameters = desk.status(ids(page)[0])["parameters"]
    assert {name: parameters[name] for name in defaults} == defaults
    page.unroute("**/models")
    expect(page.locator("#num_frames")).to_have_value(str(defaults["num_frames"]))


@pytest.mark.thorough
def test_a_file_that_is_still_read_is_sent_with_the_others(desk: Stack, ledger: Ledger, visit: Open):
    page = visit(desk).page
    add(page, CAT)
    page.evaluate("""() => {
        const read = File.prototype.arrayBuffer;
        File.prototype.arrayBuffer = async function () {
            await new Promise((resolve) => setTimeout(resolve, 2000));
            return read.call(this);
        };
    }""")
    page.locator("#files").set_input_files([drawn(800, 450, "red", "blue")])
    page.locator("#submit").click()
    expect(page.locator(".card")).to_have_count(2, timeout=20_000)


@pytest.mark.thorough
def test_an_unexpected_error_while_a_file_is_read_leaves_a_form_that_works(desk: Stack, ledger: Ledger, visit: Open):
    window = visit(desk)
    window.expected.append("no more URLs")
    page = window.page
    page.evaluate("""() => {
        const create = URL.createObjectURL;
        URL.createObjectURL = () => { URL.createObjectURL = create; throw new Error("no more URLs"); };
    }""")
    page.locator("#files").set_input_files([CAT])
    expect(page.locator("#composer")).not_to_have_attribute("aria-busy", "true")
    add(page, CAT)
    send(page)
    assert len(ids(page)) == 1


def test_the_wheel_zooms_about_the_pointer_only_while_the_crop_has_focus(desk: Stack, ledger: Ledger, visit: Open):
    window = visit(desk)
    page = window.page
    add(page, drawn(800, 450, "red", "blue"))
    stage = box(page.locator("#crop"))
    page.mouse.move(stage["x"] + stage["width"] * 0.9, stage["y"] + stage["height"] / 2)
    page.locator("#key-open").focus()
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(200)
    expect(page.locator("#zoom")).to_have_value("1")  # without focus, the wheel scrolls the page
    page.locator("#crop").focus()
    page.mouse.wheel(0, -500)
    expect(page.locator("#zoom")).not_to_have_value("1")
    window.look("zoomed")
    send(page)
    image = input_of(desk, ids(page)[0])
    assert image.getpixel((200, 70))[2] > 195  # type: ignore[index]


@KINDS
def test_drafts_survive_a_reload_and_images_stay_after_a_submission(
    desk: Stack, ledger: Ledger, visit: Open, kind: str
):
    page = visit(desk, kind).page
    add(page, CAT)
    page.locator("#zoom").fill("2")
    desk.wait(lambda: page.evaluate(STORED, 2), 20)
    page.reload()
    expect(page.get_by_role("button", name="Edit chelsea")).to_be_visible()
    expect(page.locator("#zoom")).to_have_value("2")
    send(page)
    expect(page.locator("#zoom")).to_have_value("2")
    send(page)
    first, second = (desk.status(job)["parameters"]["seed"] for job in ids(page))
    assert first != second
    # A new image replaces the submitted ones.
    add(page, drawn(320, 180, "red", "blue"))
    expect(page.get_by_role("button", name="Edit chelsea")).to_have_count(0)
    expect(page.locator("#submit")).to_have_text("Make the video")


@KINDS
def test_a_slow_upload_shows_its_progress_and_can_be_cancelled(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    page.locator("#files").set_input_files({"name": "noise.png", "mimeType": "image/png", "buffer": noise(1000, 562)})
    expect(page.locator("#editor")).to_be_visible()
    with slow_upload(window, 20_000):  # slow enough to check the progress
        page.locator("#submit").click()
        expect(page.locator("#upload-readout")).to_contain_text("Uploading noise")
        expect(page.locator("#upload-bar")).not_to_have_js_property("value", 0)
        window.look("uploading")
        page.get_by_role("button", name="Cancel the upload").click()
        expect(page.locator("#composer-message")).to_contain_text("Your images are still here")
        expect(page.locator("#uploading")).to_be_hidden()
        expect(page.locator("#composer-fault")).to_be_empty()
        assert _cards(page) == 0
    send(page)
    assert _cards(page) == 1
    assert len(desk.http.get("/jobs").json()["jobs"]) == 1


def _cards(page: Page) -> int:
    return page.locator(".card").count()


@KINDS
def test_variations_differ_in_motion_if_that_is_chosen(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, CAT)
    expect(page.locator("#vary")).to_be_hidden()  # for variations only
    page.locator("#variations").get_by_role("radio", name="4", exact=True).check()
    page.locator("#vary").select_option("motion")
    send(page)
    jobs = [desk.status(job) for job in ids(page)]
    submitted = [job["parameters"] for job in jobs]
    assert sorted(each["motion_bucket_id"] for each in submitted) == [40, 100, 160, 220]
    assert len({each["seed"] for each in submitted}) == 1
    # The jobs of an API group differ only in the seed, so these are no group; the page shows them as one all the same.
    assert {job["group_id"] for job in jobs} == {None}
    expect(page.locator("#gallery > li")).to_have_count(1)
    page.locator(".batch > .about").get_by_role("button", name="Cancel all").click()
    expect(page.locator(".card[data-status=cancelled]")).to_have_count(4)
    # Cancelled jobs have no video to compare.
    expect(page.locator(".card").get_by_role("button", name="Compare")).to_have_count(0)
    window.look("variations-cancelled")
