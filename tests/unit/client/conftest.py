"""What the client's tests share."""

from collections.abc import Iterator

import pytest

from svd_service.client import client, commands
from tests.unit.client.stand_in import StandIn


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A service that the client asks as often as it can."""
    for module in (client, commands):
        monkeypatch.setattr(module, "_LOOK_EVERY", 0.02)
    server = StandIn()
    yield server
    server.stop()
