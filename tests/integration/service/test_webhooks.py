"""Webhooks are delivered whatever fails: a real Redis, real webhook workers, a receiver that is down at times."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from svd_service.config import Settings
from svd_service.jobs.job import Webhook as JobWebhook
from svd_service.jobs.job import WebhookState
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.connection import connect
from svd_service.webhooks.signing import WebhookSecrets
from tests.unit.ledger.samples import submit
from tools.harness.local import free_port
from tools.harness.receiver import receiving
from tools.harness.stack import Stack

#: The backoff is so short that each round of maintenance makes a delivery attempt.
VARIABLES = {"SVD_WEBHOOK_PRIVATE": "true", "SVD_WEBHOOK_BACKOFF": "0.01", "SVD_WEBHOOK_TIMEOUT": "2"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"), VARIABLES)
    stack.start_redis()
    yield stack
    stack.stop_all()


@pytest.fixture
def ledger(stack: Stack, make_settings: Callable[..., Settings]) -> Iterator[Ledger]:
    stack.redis.flushall()  # a rerun must not find what the first run left
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


def webhook(ledger: Ledger, job_id: str) -> JobWebhook:
    found = ledger.jobs.find(job_id).webhook
    assert found is not None
    return found


def until_delivered(stack: Stack, ledger: Ledger, job_id: str) -> JobWebhook:
    stack.wait(lambda: webhook(ledger, job_id).state is WebhookState.DELIVERED, 60)
    return webhook(ledger, job_id)


def test_a_receiver_that_is_down_for_five_attempts_gets_the_event_later(stack, ledger, make_settings, webhook_worker):
    port = free_port()
    end(ledger, "late", f"http://127.0.0.1:{port}/hook")
    # An attempt that has started but not failed yet may still reach the receiver.
    stack.wait(lambda: sum(each.error is not None for each in webhook(ledger, "late").attempts) >= 5, 60)
    with receiving(port=port) as receiver:
        delivered = until_delivered(stack, ledger, "late")
    assert [each.error for each in delivered.attempts[:5]] == ["connection refused"] * 5
    assert delivered.attempts[-1].status_code == 204
    (request,) = receiver.requests
    settings = make_settings(REDIS_URL=stack.redis_url)
    with connect(settings) as client:
        (secret,) = WebhookSecrets(client, settings).of("")
    event = Webhook(secret).verify(request.body, request.headers)
    assert (event["id"], event["type"]) == (request.headers["webhook-id"], "job.cancelled")
    assert (event["data"]["task_id"], event["data"]["status"]) == ("late", "cancelled")


def test_an_event_survives_a_worker_killed_during_its_delivery_and_a_restart_of_redis(stack, ledger):
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
        stack.redis.zadd("svd:posted", {"held": 0})  # as if the claim, which lasts for over a minute, had expired
        stack.stop("redis")
        stack.start_redis()
        assert webhook(ledger, "held").state is WebhookState.PENDING
        stack.start_webhook_worker()
        delivered = until_delivered(stack, ledger, "held")
        stack.stop("webhooks")
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len({request.body for request in receiver.requests}) == 1
    assert delivered.attempts[0].error == "worker lost during the delivery"


@pytest.mark.thorough
def test_a_stopped_webhook_worker_finishes_its_delivery(stack, ledger):
    stopping = threading.Event()

    def answer_when_the_worker_is_stopping() -> int:
        stopping.wait(60)
        return 200

    with receiving(answer_when_the_worker_is_stopping) as receiver:
        process = stack.start_webhook_worker(SVD_WEBHOOK_TIMEOUT="60")
        end(ledger, "stopped", receiver.url)
        stack.wait(lambda: receiver.requests, 60)
        process.send_signal(signal.SIGTERM)
        log = Path(stack.folder / "webhooks.log")
        stack.wait(lambda: "Warm shutdown" in log.read_text(), 60)
        stopping.set()
        assert stack.processes.pop("webhooks").wait(60) == 0
    delivered = webhook(ledger, "stopped")
    assert delivered.state is WebhookState.DELIVERED
    assert len(delivered.attempts) == len(receiver.requests) == 1
