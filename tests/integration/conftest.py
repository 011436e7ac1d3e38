import fcntl
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.samples import IMAGES
from tools.harness.stack import Stack

#: A folder of all processes of one run of the tests.
SHARED = os.environ.get("SVD_TEST_SHARED")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.enable_socket)
            item.add_marker(pytest.mark.timeout(240))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(stack := item.funcargs.get("stack"), Stack):
        report.sections.append(("Logs of the service", stack.logs()))
    return report


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model. To build it takes seconds, for importing torch; the processes of `scripts/test.sh` share one."""
    folder = Path(SHARED) if SHARED else tmp_path_factory.mktemp("models")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "tiny").exists():
            from tools.harness.tiny_model import build

            build(folder / "partial").rename(folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="session")
def photo() -> bytes:
    return (IMAGES / "chelsea.jpg").read_bytes()


@pytest.fixture(scope="module")
def make_stack(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Callable[..., Stack]]:
    """Make stacks that are stopped after the module. Keywords are environment variables."""
    stacks: list[Stack] = []

    def make(**variables: str) -> Stack:
        stacks.append(Stack(tmp_path_factory.mktemp("stack"), {"SVD_MODEL": str(tiny_model), **variables}))
        return stacks[-1]

    yield make
    for stack in stacks:
        stack.stop_all()


@pytest.fixture(scope="module")
def workerless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Redis and the API with a lease of 3 s, for tests that start workers with a stand-in for the model."""
    stack = Stack(tmp_path_factory.mktemp("stack"), {"SVD_LEASE": "3"})
    stack.start_redis()
    stack.start_api()
    yield stack
    stack.stop_all()


@pytest.fixture(scope="module")
def _running_short_lease_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"), {"SVD_LEASE": "3", "SVD_WEBHOOK_PRIVATE": "true"})
    stack.start_redis()
    stack.start_api()
    yield stack
    stack.stop_all()


@pytest.fixture
def short_lease_stack(_running_short_lease_stack: Stack) -> Iterator[Stack]:
    """A service without workers, with a lease of 3 s.

    After each test, all processes but Redis and the API are killed, and the ledger is emptied.
    """
    yield _running_short_lease_stack
    _running_short_lease_stack.clear()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Stack]:
    """A running service with one worker process and the tiny model, for tests that do not stop or reconfigure it."""
    stack = Stack(tmp_path_factory.mktemp("stack"), {"SVD_MODEL": str(tiny_model)})
    try:
        stack.start_all()
        yield stack
    finally:
        stack.stop_all()
