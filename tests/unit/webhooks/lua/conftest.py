"""The outbox of these tests has its own clock."""

from collections.abc import Callable

import pytest

from svd_service.config import Settings
from tests.unit.ledger.clocked import clock, ledger, ledger_of, outbox, scripts

__all__ = ["clock", "ledger", "ledger_of", "outbox", "scripts"]


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(SVD_WEBHOOK_GIVE_UP=1000)
