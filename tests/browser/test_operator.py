"""The operators' page: it requires a key with the scope admin, shows tables and plots, and performs operations."""

import threading
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from svd_service.config import Settings
from svd_service.jobs.job import AttemptOutcome, Failure, Holder
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.connection import connect
from svd_service.ledger.key import ADMIN
from svd_service.ledger.workers import DeviceMemory, WorkerStatus
from tests.browser.steps import CAT, Open
from tests.browser.visit import KINDS
from tools.harness.stack import Stack

HOLDER = Holder("gpu@host/0", "NVIDIA H200", "instance", 1)


@pytest.fixture(scope="module")
def service(make_stack: Callable[..., Stack]) -> Stack:
    stack = make_stack()
    stack.start_redis()
    stack.start_api()
    return stack


@pytest.fixture
def ledger(service: Stack) -> Iterator[Ledger]:
    settings = Settings.from_mapping(service.environment)
    client = connect(settings)
    yield open_ledger(client, settings)
    client.close()


@pytest.fixture
def keys(service: Stack) -> tuple[str, str]:
    """The secrets of an operator's key and of a key without scopes."""
    ring = Keyring(service.redis, Settings.from_mapping(service.environment))
    return ring.create("olga", scopes=(ADMIN,))[1], ring.create("ann")[1]


class Heartbeats(threading.Thread):
    """Heartbeats of a worker process that has loaded the model and stays idle."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._ledger = ledger
        self.over = threading.Event()

    def beat(self) -> None:
        memory = DeviceMemory(141 << 30, 30 << 30, 20 << 30)
        self._ledger.workers.heartbeat(
            WorkerStatus(HOLDER.worker, HOLDER.device, "instance", 1, "nano", True, 0.0, 1.0, device_memory=memory)
        )

    def run(self) -> None:
        while not self.over.wait(1):
            self.beat()


@pytest.fixture
def heartbeats(ledger: Ledger) -> Iterator[Heartbeats]:
    worker = Heartbeats(ledger)
    worker.start()
    yield worker
    worker.over.set()
    worker.join()


@pytest.mark.thorough
@KINDS
def test_an_operator_sees_the_service_pauses_it_and_retries_a_job(
    service: Stack, ledger: Ledger, keys: tuple[str, str], visit: Open, heartbeats: Heartbeats, kind: str
):
    operator, other = keys
    service.http.headers["Authorization"] = f"Bearer {other}"
    failed, _ = (service.submit(CAT.read_bytes()) for _ in range(2))
    heartbeats.beat()
    claim = ledger.attempts.claim(failed, HOLDER)
    assert claim
    ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, Failure("out_of_memory", "The device ran out of memory."))

    window = visit(service, kind)
    page = window.page
    window.expected += ["401", "403"]
    page.goto("/operator")
    page.get_by_label("Key with the scope").fill(other)
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#problem")).to_contain_text("requires an API key with the scope admin")
    window.look("operator-key")
    page.get_by_label("Key with the scope").fill(operator)
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#failures")).to_contain_text("out_of_memory")
    expect(page.locator("#workers")).to_contain_text("30.0 of 141.0 GiB")
    expect(page.locator("#queues")).to_contain_text("nano")
    expect(page.get_by_role("img", name="Videos per hour in the last day")).to_be_visible()

    page.get_by_label("Reason").fill("driver update")
    page.get_by_role("button", name="Pause the dispatch").click()
    expect(page.locator("#pauses")).to_contain_text("driver update")
    expect(page.locator("#acts")).to_contain_text("pause dispatch")
    page.get_by_role("button", name=f"Quarantine {HOLDER.worker}").click()
    expect(page.locator("#workers")).to_contain_text("quarantine")
    window.look("operator")
    page.get_by_role("button", name=f"Release {HOLDER.worker}").click()
    page.get_by_role("button", name="Resume the dispatch of all models").click()
    expect(page.locator("#pauses")).to_contain_text("accepted and started")

    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name=f"Retry {failed}").click()
    expect(page.locator("#acts")).to_contain_text(f"retry{failed}")
    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#view")).to_be_hidden()
