"""The ledger and what belongs to it, over the session's Redis and as the test's `settings` say."""

import pytest
import redis

from svd_service.config import Settings
from svd_service.ledger import Ledger, open_ledger
from svd_service.webhooks.outbox import Outbox


@pytest.fixture
def ledger(redis_client: "redis.Redis", settings: Settings) -> Ledger:
    return open_ledger(redis_client, settings)


@pytest.fixture
def outbox(redis_client: "redis.Redis", settings: Settings) -> Outbox:
    return Outbox(redis_client, settings)
