"""Webhooks that no death of anybody loses: a real Redis, real webhook workers, a receiver that comes and goes."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from svd_service.config import Settings
from svd_service.jobs.job import Webhook as Told
from svd_service.jobs.job import WebhookState
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.client import connect
from svd_service.webhooks.signing import WebhookSecrets
from tests.unit.ledger.samples import submit
from tools.harness.local import free_port
from tools.harness.receiver import receiving
from tools.harness.stack import Stack

#: Delivery attempts follow one another as fast as the rounds of maintenance.
VARIABLES = {"SVD_WEBHOOK_PRIVATE": "true", "SVD_WEBHOOK_BACKOFF": "0.01", "SVD_WEBHOOK_TIMEOUT": "2"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"), VARIABLES)
    stack.start_redis()
    yield stack
    stack.stop_all()


@pytest.fixture
def ledger(stack: Stack, make_settings: Callable[..., Settings]) -> Iterator[Ledger]:
    stack.redis.flushall()  # a test that is run once more must not find what it left
    settings = make_settings(REDIS_URL=stack.redis_url)
    with connect(settings) as client:
        yield open_ledger(client, settings)


@pytest.fixture
def webhook_worker(stack: Stack) -> Iterator[None]:
    stack.start_webhook_worker()
    yield
    stack.stop("webhooks")


def end(ledger: Ledger, job_id: str, url: str) -> None:
    submit(ledger, job_id, webhook=url)
    ledger.jobs.cancel(job_id)


def webhook(ledger: Ledger, job_id: str) -> Told:
    told = ledger.jobs.find(job_id).webhook
    assert told is not None
    return told


def until_delivered(stack: Stack, ledger: Ledger, job_id: str) -> Told:
    stack.wait(lambda: webhook(ledger, job_id).state is WebhookState.DELIVERED, 60)
    return webhook(ledger, job_id)


def test_a_receiver_that_is_down_for_five_attempts_gets_the_event_later(stack, ledger, make_settings, webhook_worker):
    port = free_port()
    end(ledger, "late", f"http://127.0.0.1:{port}/hook")
    # One that has begun and not ended yet may still meet the receiver.
    stack.wait(lambda: sum(each.error is not None for each in webhook(ledger, "late").attempts) >= 5, 60)
    with receiving(port=port) as receiver:
        told = until_delivered(stack, ledger, "late")
    assert [each.error for each in told.attempts[:5]] == ["connection refused"] * 5
    assert told.attempts[-1].status_code == 204
    (heard,) = receiver.requests
    settings = make_settings(REDIS_URL=stack.redis_url)
    with connect(settings) as client:
        (secret,) = WebhookSecrets(client, settings).of("")
    event = Webhook(secret).verify(heard.body, heard.headers)
    assert (event["id"], event["type"]) == (heard.headers["webhook-id"], "job.cancelled")
    assert (event["data"]["task_id"], event["data"]["status"]) == ("late", "cancelled")


def test_a_webhook_worker_that_is_killed_in_mid_delivery_and_a_redis_that_restarts_lose_nothing(stack, ledger):
    killed = threading.Event()

    def answer_too_late() -> int:
        killed.wait(60)
        return 204

    with receiving(answer_too_late, 204) as receiver:
        stack.start_webhook_worker(SVD_WEBHOOK_TIMEOUT="60")
        end(ledger, "held", receiver.url)
        stack.wait(lambda: receiver.requests, 60)
        stack.stop("webhooks", signal.SIGKILL)
        killed.set()
        stack.redis.zadd("svd:posted", {"held": 0})  # the minute and a bit that its claim still had are over
        stack.stop("redis")
        stack.start_redis()
        assert webhook(ledger, "held").state is WebhookState.PENDING
        stack.start_webhook_worker()
        told = until_delivered(stack, ledger, "held")
        stack.stop("webhooks")
    assert len({heard.headers["webhook-id"] for heard in receiver.requests}) == 1
    assert len({heard.body for heard in receiver.requests}) == 1
    assert told.attempts[0].error == "worker lost during the delivery"


@pytest.mark.thorough
def test_a_webhook_worker_that_is_stopped_finishes_what_it_has_in_hand(stack, ledger):
    asked = threading.Event()

    def answer_when_asked_to_end() -> int:
        asked.wait(60)
        return 200

    with receiving(answer_when_asked_to_end) as receiver:
        process = stack.start_webhook_worker(SVD_WEBHOOK_TIMEOUT="60")
        end(ledger, "stopped", receiver.url)
        stack.wait(lambda: receiver.requests, 60)
        process.send_signal(signal.SIGTERM)
        log = Path(stack.folder / "webhooks.log")
        stack.wait(lambda: "Warm shutdown" in log.read_text(), 60)
        asked.set()
        assert stack.processes.pop("webhooks").wait(60) == 0
    told = webhook(ledger, "stopped")
    assert told.state is WebhookState.DELIVERED
    assert len(told.attempts) == len(receiver.requests) == 1
