"""`/docs`: a request with only an image, and the rules of axe in light and dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from svd_service.ledger import Ledger
from tests.browser.steps import CAT, Open
from tests.browser.visit import SETTLED
from tools.harness.stack import Stack


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["desktop", "phone"])
def test_trying_generate_with_only_an_image_submits_a_job(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    page.goto("/docs")
    operations = page.locator(".opblock")
    expect(operations.first).to_contain_text("/generate")
    generate = page.locator("#operations-native-post_generate")
    generate.locator(".opblock-summary-control").click()
    generate.get_by_role("button", name="Try it out").click()
    reset = generate.get_by_role("button", name="Reset").bounding_box()
    assert reset is not None
    assert page.viewport_size is not None
    assert reset["x"] + reset["width"] <= page.viewport_size["width"]
    generate.locator("input[type=file]").set_input_files(CAT)
    with page.expect_response("**/generate") as sent:
        generate.get_by_role("button", name="Execute").click()
    assert sent.value.status == 202, sent.value.text()
    job = sent.value.json()
    assert job["parameters"]["num_frames"] == desk.http.get("/models").json()["models"][0]["defaults"]["num_frames"]
    # Unsupported operations are not listed, and the schemas are collapsed.
    assert "/v1/videos/edits" not in page.locator(".opblock-summary-path").all_inner_texts()
    expect(page.locator("section.models.is-open .model-container .brace-open")).to_have_count(0)
    for scheme in ("light", "dark") if kind == "desktop" else ("dark",):
        page.emulate_media(color_scheme=scheme)
        page.evaluate(SETTLED)
        found = Axe().run(page).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in {"critical", "serious"}]
        assert not serious, f"{scheme}: {serious}"
