"""A real Chromium on real services. No page may contact another host, log an error or violate a rule of axe."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, expect, sync_playwright

from svd_service.config import Settings
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.connection import connect
from tests.browser.visit import Visit
from tools.harness.local import CI, chromium_program
from tools.harness.stack import Stack

# The last four keep Chromium from contacting Google's hosts, which no test may do.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# On a slow machine the page may take long to update.
expect.set_options(timeout=20_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.enable_socket)
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = chromium_program()
    if chromium is None:
        (pytest.fail if CI else pytest.skip)("Chromium is not installed (Debian: apt install chromium-headless-shell)")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        except Error as error:
            pytest.fail(f"{chromium} does not start: {error}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def make_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Stack]]:
    """Make stacks that are stopped after the module. Keywords are environment variables."""
    stacks: list[Stack] = []

    def make(**variables: str) -> Stack:
        stacks.append(Stack(tmp_path_factory.mktemp("stack"), variables))
        return stacks[-1]

    yield make
    for stack in stacks:
        stack.stop_all()


@pytest.fixture(scope="module")
def stack(make_stack: Callable[..., Stack]) -> Stack:
    """The whole service, with the bundled model and short videos."""
    stack = make_stack(VIDEO_FRAMES="4")
    stack.start_all()
    return stack


@pytest.fixture(scope="module")
def desk(make_stack: Callable[..., Stack]) -> Stack:
    """Redis and the API only: jobs stay queued until the test claims and finishes them in place of a worker."""
    stack = make_stack()
    stack.start_redis()
    stack.start_api()
    return stack


@pytest.fixture
def ledger(desk: Stack) -> Iterator[Ledger]:
    """The ledger of `desk`, emptied."""
    desk.redis.flushall()
    settings = Settings.from_mapping(desk.environment)
    client = connect(settings)
    Keyring(client, settings).forget_all()  # a service that had keys requires them even after flushall
    desk.wait(lambda: desk.http.get("/jobs").status_code == 200, 20)
    yield open_ledger(client, settings)
    client.close()


@pytest.fixture
def visit(browser: Browser, thorough: bool) -> Iterator[Callable[..., Visit]]:
    """Open a service's page in a new browser window.

    In thorough runs a desktop's page is checked in both color schemes: each check takes a second of processor time.
    """
    visits: list[Visit] = []

    def open_page(stack: Stack, kind: str = "desktop") -> Visit:
        visits.append(Visit(browser, stack, kind, both_schemes=thorough and kind == "desktop"))
        return visits[-1]

    yield open_page
    for one in visits:
        one.close()
