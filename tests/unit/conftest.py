"""The ledger and the outbox, on the session's Redis and with the test's `settings`."""

from collections.abc import Mapping

import pytest
import redis

from svd_service.config import Settings
from svd_service.jobs.job import ResultFile
from svd_service.ledger import Ledger, open_ledger
from svd_service.marking import chain as chains
from svd_service.marking.chain import Chain
from svd_service.webhooks.outbox import Outbox


@pytest.fixture
def ledger(redis_client: "redis.Redis", settings: Settings) -> Ledger:
    return open_ledger(redis_client, settings)


@pytest.fixture
def outbox(redis_client: "redis.Redis", settings: Settings) -> Outbox:
    return Outbox(redis_client, settings)


@pytest.fixture(scope="session")
def chain() -> Chain:
    """A self-signed chain."""
    return chains.make()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[ResultFile, bytes]:
    """A video in every format, and its still images."""
    from tests.unit.marking.samples import make_files  # importing the encoders takes a second

    return make_files(tmp_path_factory.mktemp("files"))
