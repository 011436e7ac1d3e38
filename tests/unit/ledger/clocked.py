"""Fixtures: the ledger, its scripts and the outbox, whose time passes only when the test advances `clock`."""

from collections.abc import Callable

import pytest
import redis

from svd_service.config import Settings
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.constants import Constants
from svd_service.ledger.scripts import Scripts
from svd_service.webhooks.outbox import LUA as OUTBOX_LUA
from svd_service.webhooks.outbox import Outbox
from tests.unit.ledger.samples import Clock

__all__ = ["clock", "ledger", "ledger_of", "outbox", "scripts"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scripts(redis_client: "redis.Redis", settings: Settings, clock: Clock) -> Scripts:
    return Scripts(redis_client, settings.namespace, clock=clock)


@pytest.fixture
def ledger_of(redis_client: "redis.Redis", clock: Clock) -> Callable[..., Ledger]:
    """Opens a ledger with other settings or constants, on the same Redis and clock."""

    def make(settings: Settings, **constants: int) -> Ledger:
        scripts = Scripts(redis_client, settings.namespace, constants=Constants(**constants), clock=clock)  # type: ignore[arg-type]
        return open_ledger(redis_client, settings, scripts)

    return make


@pytest.fixture
def ledger(ledger_of: Callable[..., Ledger], settings: Settings) -> Ledger:
    return ledger_of(settings)


@pytest.fixture
def outbox(redis_client: "redis.Redis", settings: Settings, clock: Clock) -> Outbox:
    return Outbox(redis_client, settings, Scripts(redis_client, settings.namespace, OUTBOX_LUA, clock=clock))
