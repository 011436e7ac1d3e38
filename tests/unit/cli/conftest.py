from collections.abc import Iterator

import pytest

from svd_service.cli import generate
from svd_service.client import client
from tools.harness.stand_in import StandIn


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A service that the command line polls without pauses."""
    for module in (client, generate):
        monkeypatch.setattr(module, "_POLL_EVERY", 0.02)
    server = StandIn()
    yield server
    server.stop()
