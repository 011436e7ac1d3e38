import json

import pytest

from svd_service.jobs.job import State, WebhookState
from tests.unit.ledger.samples import URL, cancelled, claimed, submit, webhook_state

pytestmark = pytest.mark.enable_socket


def test_a_failed_delivery_attempt_is_retried_after_its_pause(ledger, outbox, clock):
    cancelled(ledger)
    delivery = claimed(outbox)
    outbox.fail(delivery, 503, "", pause=100)
    webhook = ledger.jobs.find("a").webhook
    assert (webhook.state, webhook.attempts[0].status_code) == (WebhookState.PENDING, 503)
    assert webhook.next_attempt_at == pytest.approx(webhook.attempts[0].at + 100, abs=5)
    assert outbox.choose_due() == []
    assert outbox.claim("a") is None  # a second message of the first attempt
    clock.advance(101)
    assert claimed(outbox).number == 2
    assert ledger.jobs.find("a").webhook.next_attempt_at is None


def test_a_delivery_is_given_up_when_the_next_attempt_would_be_too_late(ledger, outbox, clock):
    cancelled(ledger)
    outbox.fail(claimed(outbox), None, "connection refused", pause=100)
    clock.advance(950)
    outbox.fail(claimed(outbox), 500, "", pause=100)
    webhook = ledger.jobs.find("a").webhook
    assert webhook.state is WebhookState.GIVEN_UP
    assert webhook.next_attempt_at is None
    assert [(each.status_code, each.error) for each in webhook.attempts] == [
        (None, "connection refused"),
        (500, None),
    ]
    clock.advance(10_000)
    assert outbox.choose_due() == []
    assert outbox.claim("a") is None


def test_the_time_limit_begins_with_the_first_delivery_attempt(ledger, outbox, clock):
    cancelled(ledger)
    clock.advance(100_000)
    outbox.fail(claimed(outbox), 500, "", pause=100)
    assert webhook_state(ledger) is WebhookState.PENDING


def test_a_receiver_that_answered_410_gets_no_more_requests(ledger, outbox, clock):
    cancelled(ledger)
    outbox.give_up(claimed(outbox), 410, "")
    clock.advance(100)
    assert outbox.choose_due() == []
    assert webhook_state(ledger) is WebhookState.GIVEN_UP


def test_the_webhook_of_a_deleted_job_is_delivered_and_leaves_nothing(ledger, outbox, redis_client):
    for job_id in ("delivered", "given up"):
        cancelled(ledger, job_id)
        assert ledger.jobs.forget(job_id)
    submit(ledger, "insisted", webhook=URL)
    ledger.jobs.forget("insisted", insist=True)
    assert len(outbox.choose_due()) == 3
    for job_id in ("delivered", "insisted"):
        delivery = outbox.claim(job_id)
        assert delivery.job.state is State.CANCELLED
        outbox.deliver(delivery, 200)
        outbox.deliver(delivery, 200)  # repeated, as after a lost answer
    outbox.give_up(outbox.claim("given up"), 410, "")
    assert redis_client.keys("svd:delivery:*") == []
    assert redis_client.zcard("svd:outbox") == redis_client.zcard("svd:posted") == 0


def test_the_record_of_a_webhook_is_deleted_with_its_job(ledger, outbox, redis_client):
    cancelled(ledger)
    outbox.deliver(claimed(outbox), 200)
    assert json.dumps(redis_client.hgetall("svd:delivery:a")).count('"job"') == 0  # the copy is no longer of use
    ledger.jobs.forget("a")
    assert redis_client.keys("svd:delivery:*") == []
