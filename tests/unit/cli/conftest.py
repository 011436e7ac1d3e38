from collections.abc import Iterator
from pathlib import Path

import pytest

from svd_service.cli import generate
from svd_service.client import client
from tools.harness.stand_in import StandIn


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's state folder, an empty one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A service that the command line polls without pauses."""
    for module in (client, generate):
        monkeypatch.setattr(module, "_POLL_EVERY", 0.02)
    server = StandIn()
    yield server
    server.stop()
