import json

import pytest

from svd_service.errors import StaleAttemptError, UnavailableError
from svd_service.jobs.job import AttemptOutcome, Failure, State, WebhookState
from svd_service.ledger.client import connect
from svd_service.webhooks.outbox import DEFER, MARGIN, ROOM, ROOM_OF_HOST, ROOM_OF_OWNER, Outbox
from tests.unit.ledger.samples import HOLDER, finish, submit

pytestmark = pytest.mark.enable_socket

URL = "https://me:pw@Example.com:8443/hook?token=1"

SLOW = {
    "state": "pending", "url": "https://slow.example/", "type": "job.cancelled", "host": "slow.example",
    "owner": "one", "tries": "0", "job": '["state","cancelled"]',
}  # fmt: skip


@pytest.fixture
def settings(make_settings):
    return make_settings(SVD_WEBHOOK_GIVE_UP=1000)


@pytest.fixture
def pass_time(redis_client):
    """Moves what the outbox has noted into the past, as if seconds had gone by."""

    def advance(seconds: float) -> None:
        for name in ("outbox", "posted"):
            for member, score in redis_client.zrange(f"svd:{name}", 0, -1, withscores=True):
                redis_client.zadd(f"svd:{name}", {member: score - seconds})
        for key in redis_client.keys("svd:delivery:*"):
            for name, value in redis_client.hgetall(key).items():
                if name.startswith(("began:", "next", "created")):
                    redis_client.hset(key, name, f"{float(value) - seconds:.6f}")

    return advance


def cancelled(ledger, job_id="a", url=URL, **more):
    submit(ledger, job_id, webhook=url, **more)
    ledger.jobs.cancel(job_id)


def claimed(outbox, job_id="a"):
    outbox.post()
    delivery = outbox.claim(job_id)
    assert delivery is not None
    return delivery


def state(ledger, job_id="a"):
    return ledger.jobs.find(job_id).webhook.state


def test_a_job_without_a_webhook_leaves_nothing_in_the_outbox(ledger, outbox, redis_client):
    submit(ledger)
    ledger.jobs.cancel("a")
    assert ledger.jobs.find("a").webhook is None
    assert outbox.post() == []
    assert redis_client.keys("svd:delivery:*") == []


def test_a_webhook_waits_for_the_end_of_its_job(ledger, outbox):
    submit(ledger, webhook=URL)
    assert outbox.post() == []
    assert outbox.claim("a") is None
    assert state(ledger) is WebhookState.WAITING


def test_every_end_of_a_job_is_told_as_it_was(ledger, outbox):
    for job_id in ("finished", "failed", "cancelled", "lost"):
        submit(ledger, job_id, webhook=URL, owner="ann")
    finish(ledger, ledger.attempts.claim("finished", HOLDER))
    ledger.attempts.end_attempt(
        ledger.attempts.claim("failed", HOLDER), AttemptOutcome.FAILED, Failure("why", "Because of “this”.")
    )
    ledger.jobs.cancel("cancelled")
    for _ in range(3):
        ledger.attempts.end_attempt(ledger.attempts.claim("lost", HOLDER), AttemptOutcome.LOST)
    assert sorted(outbox.post()) == ["cancelled", "failed", "finished", "lost"]
    told = {job_id: outbox.claim(job_id) for job_id in ("finished", "failed", "cancelled", "lost")}
    assert {job_id: each.type for job_id, each in told.items()} == {
        "finished": "job.finished",
        "failed": "job.failed",
        "cancelled": "job.cancelled",
        "lost": "job.failed",
    }
    for job_id, each in told.items():
        now = ledger.jobs.find(job_id)
        assert (each.url, each.owner, each.number) == (URL, "ann", 1)
        assert each.job.observed_at == now.ended_at
        for name in ("state", "attempts", "failure", "result", "parameters", "created_at", "ended_at", "expires_at"):
            assert getattr(each.job, name) == getattr(now, name), name
    assert told["failed"].job.failure.message == "Because of “this”."


def test_what_is_told_does_not_change_though_the_job_does(ledger, outbox, redis_client):
    submit(ledger, webhook=URL)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    redis_client.zadd("svd:ended", {"a": 0})
    assert ledger.maintenance.expire() == ["a"]
    assert ledger.jobs.find("a").state is State.EXPIRED
    assert claimed(outbox).job.state is State.FINISHED
    assert outbox.claim("a") is None


def test_a_delivery_is_given_out_once_and_again_when_its_message_is_lost(ledger, outbox, pass_time):
    cancelled(ledger)
    assert outbox.post() == ["a"]
    assert outbox.post() == []
    pass_time(60)
    assert outbox.post() == ["a"]


def test_a_delivery_in_hand_is_nobody_elses_until_its_time_is_over(ledger, outbox, pass_time, settings):
    cancelled(ledger)
    first = claimed(outbox)
    assert outbox.claim("a") is None
    pass_time(settings.webhook_timeout + MARGIN - 5)
    assert outbox.post() == []
    pass_time(6)
    assert outbox.post() == ["a"]
    second = outbox.claim("a")
    assert (second.number, ledger.jobs.find("a").webhook.attempts[0].error) == (
        2,
        "worker lost during the delivery",
    )
    for tell in (lambda: outbox.deliver(first, 200), lambda: outbox.fail(first, 500, "", pause=0)):
        with pytest.raises(StaleAttemptError):
            tell()
    assert state(ledger) is WebhookState.PENDING
    outbox.deliver(second, 202)
    assert state(ledger) is WebhookState.DELIVERED


def test_a_failed_try_is_repeated_after_its_pause_and_not_before(ledger, outbox, pass_time):
    cancelled(ledger)
    delivery = claimed(outbox)
    outbox.fail(delivery, 503, "", pause=100)
    webhook = ledger.jobs.find("a").webhook
    assert (webhook.state, webhook.attempts[0].status_code) == (WebhookState.PENDING, 503)
    assert webhook.next_attempt_at == pytest.approx(webhook.attempts[0].at + 100, abs=5)
    assert outbox.post() == []
    assert outbox.claim("a") is None  # a second message of the first try
    pass_time(101)
    assert claimed(outbox).number == 2
    assert ledger.jobs.find("a").webhook.next_attempt_at is None


def test_a_delivery_is_given_up_when_the_next_attempt_would_be_too_late(ledger, outbox, pass_time):
    cancelled(ledger)
    outbox.fail(claimed(outbox), None, "connection refused", pause=100)
    pass_time(950)
    outbox.fail(claimed(outbox), 500, "", pause=100)
    webhook = ledger.jobs.find("a").webhook
    assert webhook.state is WebhookState.GIVEN_UP
    assert webhook.next_attempt_at is None
    assert [(each.status_code, each.error) for each in webhook.attempts] == [
        (None, "connection refused"),
        (500, None),
    ]
    pass_time(10_000)
    assert outbox.post() == []
    assert outbox.claim("a") is None


def test_the_time_runs_from_the_first_try_on(ledger, outbox, pass_time):
    cancelled(ledger)
    pass_time(100_000)
    outbox.fail(claimed(outbox), 500, "", pause=100)
    assert state(ledger) is WebhookState.PENDING


def test_couriers_that_die_over_it_do_not_keep_it_for_ever(ledger, outbox, pass_time):
    cancelled(ledger)
    claimed(outbox)
    pass_time(2_000)  # nobody was there; that is not the receiver's fault
    assert outbox.post() == ["a"]
    assert outbox.claim("a").number == 2
    pass_time(100)
    assert outbox.post() == []
    assert state(ledger) is WebhookState.GIVEN_UP


def test_what_kills_one_courier_after_another_is_tried_ever_more_seldom(ledger, outbox, pass_time, settings):
    cancelled(ledger)
    claimed(outbox)
    for pause in (0, 5, 15, 45):
        pass_time(settings.webhook_timeout + MARGIN + 1)
        assert outbox.post() == (["a"] if pause == 0 else [])
        if pause:
            pass_time(pause - 2)
            assert outbox.post() == []
            pass_time(3)
            assert outbox.post() == ["a"]
        assert outbox.claim("a")


def test_a_receiver_that_is_gone_is_not_asked_again(ledger, outbox, pass_time):
    cancelled(ledger)
    outbox.give_up(claimed(outbox), 410, "")
    pass_time(100)
    assert outbox.post() == []
    assert state(ledger) is WebhookState.GIVEN_UP


def test_a_host_that_is_slow_holds_up_only_itself(ledger, outbox, pass_time):
    for number in range(ROOM_OF_HOST + 10):
        cancelled(ledger, f"slow-{number:02}", f"https://me:{number}@slow.example/{number}")
    cancelled(ledger, "other", "https://other.example/", owner="another")
    posted = outbox.post()
    assert len(posted) == ROOM_OF_HOST + 1
    assert "other" in posted
    assert outbox.post() == []
    outbox.deliver(outbox.claim("slow-00"), 200)
    pass_time(DEFER)
    assert outbox.post() == [f"slow-{ROOM_OF_HOST:02}"]


def test_an_owner_with_many_slow_hosts_holds_up_no_other(ledger, outbox, pass_time):
    for number in range(40):
        cancelled(ledger, f"slow-{number:02}", f"https://slow-{number}.example/", owner="one")
    cancelled(ledger, "other", owner="another")
    posted = outbox.post()
    assert len(posted) == ROOM_OF_OWNER + 1
    assert "other" in posted
    outbox.fail(outbox.claim(posted[0]), None, "timed out", pause=500)
    pass_time(DEFER)
    assert len(outbox.post()) == 1


def test_due_deliveries_that_have_no_room_do_not_hide_those_behind_them(ledger, outbox, redis_client):
    for number in range(1_100):
        redis_client.hset(f"svd:delivery:slow-{number}", mapping=SLOW)
        redis_client.zadd("svd:outbox", {f"slow-{number}": number})
    cancelled(ledger, "other", owner="another")
    outbox.post()
    assert "other" in outbox.post()


def test_not_more_are_enqueued_than_there_is_room_for(ledger, outbox):
    for number in range(ROOM + 5):
        cancelled(ledger, f"{number}", f"https://host-{number}.example/", owner=f"owner-{number}")
    assert len(outbox.post()) == ROOM
    assert outbox.post() == []


def test_a_deleted_jobs_webhook_is_delivered_all_the_same_and_leaves_nothing_behind(ledger, outbox, redis_client):
    for job_id in ("delivered", "given up"):
        cancelled(ledger, job_id)
        assert ledger.jobs.forget(job_id)
    submit(ledger, "insisted", webhook=URL)
    ledger.jobs.forget("insisted", insist=True)
    assert len(outbox.post()) == 3
    for job_id in ("delivered", "insisted"):
        delivery = outbox.claim(job_id)
        assert delivery.job.state is State.CANCELLED
        outbox.deliver(delivery, 200)
        outbox.deliver(delivery, 200)  # once more, as after an answer that was lost
    outbox.give_up(outbox.claim("given up"), 410, "")
    assert redis_client.keys("svd:delivery:*") == []
    assert redis_client.zcard("svd:outbox") == redis_client.zcard("svd:posted") == 0


def test_what_became_of_a_webhook_goes_with_its_job(ledger, outbox, redis_client):
    cancelled(ledger)
    outbox.deliver(claimed(outbox), 200)
    assert json.dumps(redis_client.hgetall("svd:delivery:a")).count('"job"') == 0  # the copy is no longer of use
    ledger.jobs.forget("a")
    assert redis_client.keys("svd:delivery:*") == []


def test_the_figures_count_what_is_pending_and_what_became_of_the_others(ledger, outbox, pass_time):
    for job_id in "abc":
        cancelled(ledger, job_id)
    assert ledger.stats.figures().webhooks_pending == 3
    assert ledger.stats.figures().webhook_overdue < 60
    pass_time(100)
    assert ledger.stats.figures().webhook_overdue == pytest.approx(100, abs=30)
    outbox.post()
    outbox.deliver(outbox.claim("a"), 200)
    outbox.give_up(outbox.claim("b"), 410, "")
    outbox.fail(outbox.claim("c"), 500, "", pause=500)
    figures = ledger.stats.figures()
    assert figures.webhooks == {"delivered": 1, "given_up": 1}
    assert figures.webhook_tries == {"delivered": 1, "failed": 2}
    assert (figures.webhooks_pending, figures.webhook_overdue) == (1, 0)


def test_without_redis_everything_is_unavailable(make_settings):
    away = make_settings(REDIS_URL="redis://127.0.0.1:1/0")
    outbox = Outbox(connect(away), away)
    for ask in (outbox.post, lambda: outbox.claim("a")):
        with pytest.raises(UnavailableError):
            ask()
