"""The gallery: expiry and pinning, selecting several videos, and the list in a browser that submitted none of them."""

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from svd_service.ledger import Ledger
from tests.browser.steps import ASTRONAUT, CAT, Open, add, card, finish, ids, send
from tests.browser.visit import KINDS, SETTLED
from tools.harness.stack import Stack


def expire_in(stack: Stack, job_id: str, seconds: float) -> None:
    stack.redis.hset(f"svd:job:{job_id}", "expires", str(time.time() + seconds))


def made(stack: Stack, page: Page) -> str:
    add(page, CAT)
    send(page)
    finish(stack, page)
    expect(card(page, "chelsea")).to_have_attribute("data-status", "finished")
    return ids(page)[0]


@KINDS
def test_a_card_shows_when_its_video_expires_and_that_it_has_expired(
    desk: Stack, ledger: Ledger, visit: Open, kind: str
):
    window = visit(desk, kind)
    page = window.page
    job_id = made(desk, page)
    expect(card(page, "chelsea").locator(".expiry")).to_contain_text("Kept until tomorrow")
    expire_in(desk, job_id, 1800)
    page.reload()
    expect(card(page, "chelsea").locator(".expiry")).to_have_text("Deleted in 30 minutes: download it")
    window.look("soon")
    expire_in(desk, job_id, 5)
    page.reload()
    expect(card(page, "chelsea").locator(".expiry")).to_contain_text("Deleted in 5 seconds")
    expect(card(page, "chelsea")).to_have_attribute("data-status", "expired", timeout=40_000)


@KINDS
def test_the_keep_button_pins_and_unpins_a_video(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    job_id = made(desk, page)
    shown = card(page, "chelsea")
    shown.get_by_role("button", name="Keep").click()
    expect(shown.get_by_role("button", name="Keep")).to_have_attribute("aria-pressed", "true")
    expect(shown.locator(".expiry")).to_have_text("Kept until you delete it")
    assert desk.status(job_id)["pinned"] is True
    window.look("kept")
    shown.get_by_role("button", name="Keep").click()
    expect(shown.locator(".expiry")).to_contain_text("Kept until tomorrow")
    assert desk.status(job_id)["pinned"] is False


@KINDS
def test_selected_videos_are_compared_and_deleted_together(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, CAT, ASTRONAUT)
    send(page)
    for place in (0, 1):
        finish(desk, page, place)
    expect(page.locator(".card[data-status=finished]")).to_have_count(2)
    page.get_by_role("button", name="Select", exact=True).click()
    page.get_by_label("Select chelsea").check()
    expect(page.locator("#selected")).to_have_text("1 selected")
    expect(page.locator("#selected-compare")).to_be_disabled()
    page.locator("#select-all").click()
    page.locator("#selected-compare").click()
    expect(page.locator("#compare video")).to_have_count(2)
    page.keyboard.press("Escape")
    delete = page.locator("#selected-delete")
    before = delete.bounding_box()
    delete.click()
    expect(delete).to_have_text("Delete for good?")
    assert delete.bounding_box() == before  # the confirmation is under the pointer
    window.look("deleting")
    expect(delete).to_have_text("Delete")  # the confirmation has timed out
    delete.click()
    delete.click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#gallery-message")).to_have_text("2 are deleted.")
    assert desk.http.get("/jobs").json()["jobs"] == []


@KINDS
def test_the_confirmation_of_a_deletion_is_red_and_does_not_move(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    made(desk, page)
    delete = card(page, "chelsea").locator(".confirm")
    delete.scroll_into_view_if_needed()
    before = delete.bounding_box()
    usual = delete.evaluate("button => getComputedStyle(button).backgroundColor")
    delete.click()
    expect(delete).to_have_text("Delete for good?")
    assert delete.bounding_box() == before
    page.evaluate(SETTLED)
    red, green, blue = delete.evaluate("button => getComputedStyle(button).backgroundColor.match(/\\d+/g).map(Number)")
    assert red > 1.5 * max(green, blue), (red, green, blue, usual)
    window.look("delete-question")
    expect(delete).to_have_text("Delete", timeout=10_000)  # the confirmation has timed out


@pytest.fixture(scope="module")
def shared(make_stack: Callable[..., Stack]) -> Stack:
    """As `desk`, but the page lists every job of the service."""
    stack = make_stack(SVD_PAGE_LISTS_JOBS="1")
    stack.start_redis()
    stack.start_api()
    return stack


@pytest.mark.thorough
@KINDS
def test_a_new_browser_lists_all_jobs_only_with_svd_page_lists_jobs(
    desk: Stack, ledger: Ledger, shared: Stack, visit: Open, kind: str
):
    for stack, count in ((desk, 0), (shared, 1)):
        stack.redis.flushall()
        with CAT.open("rb") as image:
            assert stack.http.post("/generate", files={"image": image}).status_code == 202
        window = visit(stack, kind)
        page = window.page
        expect(page.locator("#about")).to_contain_text("nano")
        page.wait_for_timeout(500)
        expect(page.locator(".card")).to_have_count(count)
        window.look(f"listed-{count}")
