"""What the client's tests share."""

from collections.abc import Iterator

import pytest

from tests.unit.client.stand_in import StandIn


@pytest.fixture
def service() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.stop()
