import pytest

from svd_service.jobs.job import WebhookState
from svd_service.webhooks.outbox import DEFER, MARGIN, ROOM, ROOM_OF_HOST, ROOM_OF_OWNER
from tests.unit.ledger.samples import cancelled, claimed, webhook_state

pytestmark = pytest.mark.enable_socket

SLOW = {
    "state": "pending", "url": "https://slow.example/", "type": "job.cancelled", "host": "slow.example",
    "owner": "one", "tries": "0", "job": '["state","cancelled"]',
}  # fmt: skip


def test_a_delivery_is_enqueued_once_and_again_when_its_message_is_lost(ledger, outbox, clock):
    cancelled(ledger)
    assert outbox.choose_due() == ["a"]
    assert outbox.choose_due() == []
    clock.advance(60)
    assert outbox.choose_due() == ["a"]


def test_a_delivery_that_kills_each_worker_is_retried_ever_more_seldom(ledger, outbox, clock, settings):
    cancelled(ledger)
    claimed(outbox)
    for pause in (0, 5, 15, 45):
        clock.advance(settings.webhook_timeout + MARGIN + 1)
        assert outbox.choose_due() == (["a"] if pause == 0 else [])
        if pause:
            clock.advance(pause - 2)
            assert outbox.choose_due() == []
            clock.advance(3)
            assert outbox.choose_due() == ["a"]
        assert outbox.claim("a")


def test_a_delivery_whose_workers_die_is_requeued(ledger, outbox, clock):
    cancelled(ledger)
    claimed(outbox)
    clock.advance(2_000)  # no webhook worker was running; that does not count against the receiver
    assert outbox.choose_due() == ["a"]
    assert outbox.claim("a").number == 2
    clock.advance(100)
    assert outbox.choose_due() == []
    assert webhook_state(ledger) is WebhookState.GIVEN_UP


def test_an_owners_pending_deliveries_are_bounded(ledger_of, outbox, settings, redis_client, clock):
    ledger = ledger_of(settings, max_ended_per_owner=3)
    cancelled(ledger, "of another", owner="another")
    cancelled(ledger, "attempted", owner="one")
    assert set(outbox.choose_due()) == {"of another", "attempted"}
    attempted = outbox.claim("attempted")
    for number in range(6):
        clock.advance(1)
        cancelled(ledger, f"due-{number}", owner="one")
    assert set(outbox.choose_due()) == {"due-3", "due-4", "due-5"}
    assert webhook_state(ledger, "due-3") is WebhookState.PENDING
    outbox.deliver(attempted, 200)
    for number in range(3, 6):
        outbox.deliver(outbox.claim(f"due-{number}"), 200)
    assert webhook_state(ledger, "of another") is WebhookState.PENDING
    assert redis_client.keys("svd:pending_of:*") == ["svd:pending_of:another"]
    # Those that were given up ended with their jobs' records.
    assert redis_client.zcard("svd:outbox") == 0


def test_a_slow_host_delays_only_its_own_deliveries(ledger, outbox, clock):
    for number in range(ROOM_OF_HOST + 10):
        cancelled(ledger, f"slow-{number:02}", f"https://me:{number}@slow.example/{number}")
    cancelled(ledger, "other", "https://other.example/", owner="another")
    chosen = outbox.choose_due()
    assert len(chosen) == ROOM_OF_HOST + 1
    assert "other" in chosen
    assert outbox.choose_due() == []
    outbox.deliver(outbox.claim("slow-00"), 200)
    clock.advance(DEFER)
    assert outbox.choose_due() == [f"slow-{ROOM_OF_HOST:02}"]


def test_an_owner_with_many_slow_hosts_delays_no_other(ledger, outbox, clock):
    for number in range(40):
        cancelled(ledger, f"slow-{number:02}", f"https://slow-{number}.example/", owner="one")
    cancelled(ledger, "other", owner="another")
    chosen = outbox.choose_due()
    assert len(chosen) == ROOM_OF_OWNER + 1
    assert "other" in chosen
    outbox.fail(outbox.claim("slow-00"), None, "timed out", pause=500)
    clock.advance(DEFER)
    assert len(outbox.choose_due()) == 1


def test_due_deliveries_without_room_do_not_hide_others(ledger, outbox, redis_client):
    for number in range(1_100):
        redis_client.hset(f"svd:delivery:slow-{number}", mapping=SLOW)
        redis_client.zadd("svd:outbox", {f"slow-{number}": number})
    cancelled(ledger, "other", owner="another")
    outbox.choose_due()
    assert "other" in outbox.choose_due()


def test_the_number_of_enqueued_deliveries_is_limited(ledger, outbox):
    for number in range(ROOM + 5):
        cancelled(ledger, f"{number}", f"https://host-{number}.example/", owner=f"owner-{number}")
    assert len(outbox.choose_due()) == ROOM
    assert outbox.choose_due() == []
