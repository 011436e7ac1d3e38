import pytest

from svd_service.errors import (
    StaleAttemptError,
)
from svd_service.jobs.job import AttemptOutcome, Failure, State, WebhookState
from svd_service.webhooks.outbox import MARGIN
from tests.unit.ledger.samples import HOLDER, URL, cancelled, claimed, finish, submit, webhook_state

pytestmark = pytest.mark.enable_socket


def test_a_claimed_delivery_cannot_be_claimed_until_the_claim_expires(ledger, outbox, clock, settings):
    cancelled(ledger)
    first = claimed(outbox)
    assert outbox.claim("a") is None
    clock.advance(settings.webhook_timeout + MARGIN - 5)
    assert outbox.choose_due() == []
    clock.advance(6)
    assert outbox.choose_due() == ["a"]
    second = outbox.claim("a")
    assert (second.number, ledger.jobs.find("a").webhook.attempts[0].error) == (
        2,
        "worker lost during the delivery",
    )
    for settle in (lambda: outbox.deliver(first, 200), lambda: outbox.fail(first, 500, "", pause=0)):
        with pytest.raises(StaleAttemptError):
            settle()
    assert webhook_state(ledger) is WebhookState.PENDING
    outbox.deliver(second, 202)
    assert webhook_state(ledger) is WebhookState.DELIVERED


def test_a_webhook_waits_for_the_end_of_its_job(ledger, outbox):
    submit(ledger, webhook=URL)
    assert outbox.choose_due() == []
    assert outbox.claim("a") is None
    assert webhook_state(ledger) is WebhookState.WAITING


def test_every_end_of_a_job_is_delivered_with_its_record(ledger, outbox):
    for job_id in ("finished", "failed", "cancelled", "lost"):
        submit(ledger, job_id, webhook=URL, owner="ann")
    finish(ledger, ledger.attempts.claim("finished", HOLDER))
    ledger.attempts.end_attempt(
        ledger.attempts.claim("failed", HOLDER), AttemptOutcome.FAILED, Failure("why", "Because of “this”.")
    )
    ledger.jobs.cancel("cancelled")
    for _ in range(3):
        ledger.attempts.end_attempt(ledger.attempts.claim("lost", HOLDER), AttemptOutcome.LOST)
    assert sorted(outbox.choose_due()) == ["cancelled", "failed", "finished", "lost"]
    deliveries = {job_id: outbox.claim(job_id) for job_id in ("finished", "failed", "cancelled", "lost")}
    assert {job_id: each.type for job_id, each in deliveries.items()} == {
        "finished": "job.finished",
        "failed": "job.failed",
        "cancelled": "job.cancelled",
        "lost": "job.failed",
    }
    for job_id, each in deliveries.items():
        now = ledger.jobs.find(job_id)
        assert (each.url, each.owner, each.number) == (URL, "ann", 1)
        assert each.job.observed_at == now.ended_at
        for name in ("state", "attempts", "failure", "result", "parameters", "created_at", "ended_at", "expires_at"):
            assert getattr(each.job, name) == getattr(now, name), name
    assert deliveries["failed"].job.failure.message == "Because of “this”."


def test_the_event_does_not_change_when_the_result_expires(ledger, outbox, redis_client):
    submit(ledger, webhook=URL)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    redis_client.zadd("svd:ended", {"a": 0})
    assert ledger.maintenance.expire() == ["a"]
    assert ledger.jobs.find("a").state is State.EXPIRED
    assert claimed(outbox).job.state is State.FINISHED
    assert outbox.claim("a") is None
