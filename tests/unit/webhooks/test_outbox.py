import pytest

from svd_service.errors import (
    UnavailableError,
)
from svd_service.ledger.connection import connect
from svd_service.webhooks.outbox import Outbox
from tests.unit.ledger.samples import (
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_a_job_without_a_webhook_leaves_nothing_in_the_outbox(ledger, outbox, redis_client):
    submit(ledger)
    ledger.jobs.cancel("a")
    assert ledger.jobs.find("a").webhook is None
    assert outbox.choose_due() == []
    assert redis_client.keys("svd:delivery:*") == []


def test_without_redis_every_method_raises_unavailable(make_settings):
    away = make_settings(REDIS_URL="redis://127.0.0.1:1/0")
    outbox = Outbox(connect(away), away)
    for call in (outbox.choose_due, lambda: outbox.claim("a")):
        with pytest.raises(UnavailableError):
            call()
