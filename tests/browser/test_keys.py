"""The page of a service that requires keys: entering one, starting to require them, and links without a key."""

import hashlib
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from svd_service.config import Settings
from svd_service.ledger import Ledger
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.connection import connect
from tests.browser.steps import CAT, Open, add, card, finish, ids, send
from tests.browser.visit import KINDS
from tools.harness.stack import Stack

KEYS = {"anna": "sk-svd-anna", "ben": "sk-svd-ben"}


@pytest.fixture(scope="module")
def locked(make_stack: Callable[..., Stack]) -> Stack:
    """As `desk`, but with two keys, one of which is required."""
    known = (f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items())
    stack = make_stack(SVD_API_KEYS=",".join(known))
    stack.start_redis()
    stack.start_api()
    return stack


def enter(page: Page, key: str) -> None:
    page.locator("#key-open").click()
    page.get_by_label("Your key").fill(key)
    page.get_by_role("button", name="Use this key").click()


def test_the_page_requests_a_key_stores_it_and_sends_it_with_every_request(locked: Stack, visit: Open):
    window = visit(locked)
    page = window.page
    window.expected.append("401")
    expect(page.locator("#notices")).to_contain_text("asks for an API key")
    window.look("key-wanted")
    page.get_by_role("button", name="Enter a key").click()
    window.look("key-dialog")
    page.keyboard.press("Escape")
    enter(page, KEYS["anna"])
    expect(page.locator("#about")).to_contain_text("nano")
    expect(page.locator("#notices")).not_to_contain_text("API key")

    add(page, CAT)
    send(page)
    held = finish(locked, page)
    video = card(page, "chelsea").locator("video")
    expect(video).to_have_js_property("readyState", 4)
    assert str(video.get_attribute("src")).startswith("blob:")
    with page.expect_download() as download:
        card(page, "chelsea").get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "chelsea.mp4"

    # The gallery lists all jobs of the key, wherever they were submitted; the other key has its own.
    headers = {"Authorization": f"Bearer {KEYS['anna']}"}
    with CAT.open("rb") as image:
        data, files = {"n": "2"}, {"image": image}
        assert locked.http.post("/generate", data=data, files=files, headers=headers).status_code == 202
    page.reload()
    expect(page.locator(".card")).to_have_count(3)
    assert ids(page)[2] == held.job_id
    expect(page.locator("#gallery > li")).to_have_count(2)
    finish(locked, page)
    whole = page.locator(".batch > .about")
    expect(whole.locator(".standing")).to_contain_text("1 of 2 ready")
    # Jobs from elsewhere can be viewed, but not changed, since this browser does not have their image.
    ready = page.locator(".batch .card[data-status=finished]")
    expect(ready.get_by_role("button", name="Compare")).to_be_visible()
    expect(ready.get_by_role("button", name="Change")).to_have_count(0)
    window.look("from-elsewhere")
    with page.expect_download() as download:
        whole.get_by_role("link", name="Contact sheet").click()
    assert download.value.path().read_bytes()[:3] == b"\xff\xd8\xff"
    enter(page, KEYS["ben"])
    expect(page.locator(".card")).to_have_count(0)
    page.locator("#key-open").click()
    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#notices")).to_contain_text("asks for an API key")


@KINDS
def test_a_key_is_checked_before_the_dialog_closes(locked: Stack, visit: Open, kind: str):
    window = visit(locked, kind)
    window.expected.append("401")
    page = window.page
    add(page, CAT)
    page.locator("#submit").click()
    expect(page.locator("#composer-fault")).to_contain_text("asks for a valid API key")
    expect(page.locator("#key-dialog")).to_be_visible()
    page.get_by_label("Your key").fill("sk-svd-wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#key-fault")).to_contain_text("does not accept this key")
    expect(page.locator("#key-dialog")).to_be_visible()
    expect(page.locator("#key-open")).to_have_text("API key")
    expect(page.locator("#settings")).to_be_hidden()  # they depend on the model, which only holders of a key may read
    window.look("key-rejected")
    # The wrong key is not stored either.
    assert page.evaluate("localStorage.getItem('svd-service.key')") is None
    page.get_by_label("Your key").fill(KEYS["anna"])
    page.keyboard.press("Enter")
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.locator("#key-open")).to_have_text("API key ✓")
    expect(page.locator("#settings")).to_be_visible()
    expect(page.locator("#notices")).not_to_contain_text("API key")
    expect(page.locator("#composer-fault")).to_be_empty()
    send(page)


@KINDS
def test_the_page_requests_a_key_when_the_service_starts_to_require_one(
    desk: Stack, ledger: Ledger, visit: Open, kind: str
):
    window = visit(desk, kind)
    window.expected.append("401")
    page = window.page
    add(page, CAT)
    send(page)
    keyring = Keyring(connect(Settings.from_mapping(desk.environment)), Settings.from_mapping(desk.environment))
    _, secret = keyring.create("anna")
    expect(page.locator("#notices")).to_contain_text("This service asks for an API key")
    expect(page.locator("#notices")).not_to_contain_text("connection")
    expect(card(page, "chelsea").locator(".standing")).to_contain_text("Enter an API key")
    window.look("key-necessary")
    enter(page, secret)
    expect(page.locator("#key-open")).to_have_text("API key ✓")
    expect(page.locator("#notices")).not_to_contain_text("API key")
    add(page, CAT)
    send(page)
    expect(card(page, "chelsea").locator(".standing")).to_contain_text("in line")
    (key,) = keyring.list()
    keyring.revoke(key.id)
    expect(page.locator("#notices")).to_contain_text("does not accept this API key")
    expect(page.locator("#key-open")).to_have_text("API key rejected")


@KINDS
def test_a_copied_link_opens_without_the_key(locked: Stack, visit: Open, kind: str):
    locked.redis.flushall()
    window = visit(locked, kind)
    window.expected.append("401")
    page = window.page
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    enter(page, KEYS["anna"])
    expect(page.locator("#key-open")).to_have_text("API key ✓")
    add(page, CAT)
    send(page)
    finish(locked, page)
    card(page, "chelsea").get_by_role("button", name="Copy link").click()
    expect(card(page, "chelsea").locator(".message")).to_contain_text("Everybody who has it can watch the video until")
    window.look("link-copied")
    link = page.evaluate("window.copied")
    assert "sk-svd" not in link
    stranger = visit(locked, kind)  # opens the page without a key
    stranger.expected.append("401")
    video = stranger.page.evaluate(
        """async (link) => {
            const video = Object.assign(document.createElement('video'), { src: link, muted: true });
            await new Promise((resolve, reject) => { video.onloadeddata = resolve; video.onerror = reject; });
            return video.videoWidth;
        }""",
        link,
    )
    assert video == 256
