"""Faults, each shown once and for as long as it lasts; progress in the title and notifications."""

import time

from playwright.sync_api import Route, expect

from svd_service.jobs.job import AttemptOutcome, Phase, Progress
from svd_service.ledger import Ledger
from svd_service.ledger.controls import Pausable
from svd_service.ledger.workers import Preparing
from tests.browser.steps import CAT, Open, add, card, claim, finish, ids, send
from tests.browser.visit import KINDS
from tools.harness.stack import Stack

NOTIFICATIONS = """
    window.shown = [];
    window.Notification = class {
        static permission = 'granted';
        static requestPermission = async () => 'granted';
        constructor(title) {
            if (window.workersOnly) throw new TypeError('Illegal constructor');
            window.shown.push(title);
        }
        addEventListener() {}
    };
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => window.away ?? false });
"""


@KINDS
def test_a_job_of_a_stopped_worker_is_not_shown_as_lost(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    add(page, CAT)
    send(page)
    standing = card(page, "chelsea").locator(".standing")
    ledger.attempts.end_attempt(claim(ledger, page), AttemptOutcome.RELEASED)
    expect(standing).to_contain_text("Its worker was shut down; starting again")
    claim(ledger, page)
    desk.redis.zadd("svd:leases", {ids(page)[0]: 1})
    ledger.maintenance.reap()
    expect(standing).to_contain_text("Its worker was lost; starting again")
    window.look("lost")


@KINDS
def test_the_page_shows_why_jobs_do_not_start(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    expect(page.locator("#notices")).to_have_text(
        "No worker is running, so jobs wait. What you send starts once the operator has started one."
    )
    ledger.workers.prepare(Preparing("host/0", "loading the model", time.time() - 120))
    expect(page.locator("#notices")).to_contain_text("The worker is loading the model, for 2 minutes now.")
    expect(page.locator("#notices .notice")).to_have_count(1)
    window.look("loading")


@KINDS
def test_pauses_are_shown_with_their_reasons_until_they_end(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    ledger.controls.pause(Pausable.INTAKE, "", by="olga", reason="driver update")
    ledger.controls.pause(Pausable.DISPATCH, "nano", by="olga", reason="")
    window = visit(desk, kind)
    page = window.page
    window.expected.append("503")
    notice = page.locator("#notices .notice", has_text="an operator has paused")
    expect(notice).to_have_text(
        "Queued jobs of nano do not start: an operator has paused the service. "
        "New jobs are not accepted: an operator has paused the service (driver update)."
    )
    add(page, CAT)
    page.locator("#submit").click()
    expect(page.locator("#composer-fault")).to_contain_text("driver update")
    window.look("paused")
    ledger.controls.resume(Pausable.INTAKE, "", by="olga")
    ledger.controls.resume(Pausable.DISPATCH, "nano", by="olga")
    expect(notice).to_have_count(0)


@KINDS
def test_an_outage_shows_one_notice_until_it_ends(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    window.expected.append("Failed to load resource")
    add(page, CAT)
    send(page)
    expect(card(page, "chelsea").locator(".standing")).to_contain_text("Next in line")

    def fail(route: Route) -> None:
        route.abort()

    failing_paths = ("**/generate", "**/health", "**/status/*", "**/events")
    for path in failing_paths:
        page.route(path, fail)
    page.locator("#submit").click()
    expect(page.locator("#composer-fault")).to_contain_text("The service does not answer")
    expect(page.locator("#notices .notice.bad")).to_have_count(1)
    expect(card(page, "chelsea").locator(".standing")).to_have_text("Waiting for the service …")
    window.look("away")
    for path in failing_paths:
        page.unroute(path)
    expect(page.locator("#notices .notice.bad")).to_have_count(0)
    expect(page.locator("#composer-fault")).to_be_empty()
    expect(card(page, "chelsea").locator(".standing")).to_contain_text("Next in line")


@KINDS
def test_the_title_shows_progress_and_a_notification_the_end(desk: Stack, ledger: Ledger, visit: Open, kind: str):
    window = visit(desk, kind)
    page = window.page
    window.context.add_init_script(NOTIFICATIONS)
    page.reload()
    page.evaluate("window.workersOnly = true")  # some phones allow notifications only from service workers
    page.get_by_role("button", name="Notify me").click()
    expect(page.locator("#composer-message")).to_contain_text("This browser shows no notifications")
    expect(page.locator("#notify")).to_have_attribute("aria-pressed", "false")
    page.evaluate("window.workersOnly = false")
    page.get_by_role("button", name="Notify me").click()
    expect(page.locator("#notify")).to_have_attribute("aria-pressed", "true")
    window.look("notified")
    add(page, CAT)
    send(page)
    page.wait_for_function("() => document.title.startsWith('Waiting')")
    held = claim(ledger, page)
    ledger.attempts.report(held, Progress(Phase.SAMPLING, 3, 6))
    page.wait_for_function("() => /^[1-9]\\d? %/.test(document.title)")
    ledger.attempts.end_attempt(held, AttemptOutcome.RELEASED)
    page.evaluate("window.away = true")
    finish(desk, page)
    page.wait_for_function("() => document.title.startsWith('✓ 1 ready')")
    assert page.evaluate("window.shown") == ["You will be notified like this.", "chelsea: Ready"]
    page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function("() => document.title === 'Image to video · svd-service'")
