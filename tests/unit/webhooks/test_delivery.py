import base64
import ipaddress
import socket
import threading
from dataclasses import replace

import msgspec
import pytest
from standardwebhooks import Webhook

from svd_service import bootstrap
from svd_service.errors import UnavailableError
from svd_service.jobs.job import WebhookState
from svd_service.ledger.connection import connect
from svd_service.presentation import JobView
from svd_service.webhooks import delivery as under_test
from svd_service.webhooks.delivery import Deliverer, Outcome, send
from svd_service.webhooks.outbox import Outbox
from svd_service.webhooks.signing import WebhookSecrets
from tests.unit.ledger.samples import HOLDER, finish, submit
from tools.harness.local import free_port
from tools.harness.receiver import receiving

pytestmark = pytest.mark.enable_socket

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"


@pytest.fixture
def settings(make_settings, redis_url):
    return make_settings(REDIS_URL=redis_url, SVD_WEBHOOK_PRIVATE=True, SVD_WEBHOOK_TIMEOUT=30)


@pytest.fixture
def deliverer(redis_client, outbox, settings):
    return Deliverer(outbox, WebhookSecrets(redis_client, settings), settings)


@pytest.fixture
def delivery_to(ledger, outbox):
    """A claimed delivery of the end of a finished job to a URL."""

    def claim(url):
        submit(ledger, "a", webhook=url)
        finish(ledger, ledger.attempts.claim("a", HOLDER))
        return outbox.claim("a")

    return claim


def test_a_receiver_gets_the_native_status_signed(ledger, delivery_to, settings):
    with receiving(200) as receiver:
        assert send(delivery_to(f"{receiver.url}?token=1"), [SECRET], settings) == Outcome(200)
    (request,) = receiver.requests
    assert (request.path, request.headers["Content-Type"]) == ("/hook?token=1", "application/json")
    event = Webhook(SECRET).verify(request.body, request.headers)
    assert set(event) == {"id", "type", "timestamp", "data"}
    assert event["id"] == request.headers["webhook-id"] == "msg_a"
    assert event["type"] == "job.finished"
    assert event["timestamp"] == event["data"]["ended_at"]
    shown_now = msgspec.to_builtins(JobView.of(replace(ledger.jobs.find("a"), webhook=None)))
    assert event["data"] == msgspec.json.decode(msgspec.json.encode(shown_now))
    assert event["data"]["result"]["url"] == "/results/a.mp4"
    assert event["data"]["webhook"] is None


def test_credentials_of_the_url_are_a_header_and_no_part_of_the_request(delivery_to, settings):
    with receiving() as receiver:
        url = receiver.url.replace("http://", "http://me%40x:p%3Aw@")
        assert send(delivery_to(url), [SECRET], settings).delivered
    (request,) = receiver.requests
    assert request.headers["Authorization"] == f"Basic {base64.b64encode(b'me@x:p:w').decode()}"
    assert request.headers["Host"] == f"127.0.0.1:{receiver.server_port}"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(delivery_to, settings, status):
    with receiving() as elsewhere, receiving(status, headers={"Location": elsewhere.url}) as receiver:
        outcome = send(delivery_to(receiver.url), [SECRET], settings)
    assert (outcome, outcome.delivered) == (Outcome(status), False)
    assert elsewhere.requests == []


@pytest.mark.parametrize("status", [199, 300, 400, 404, 410, 429, 500, 503])
def test_only_a_2xx_acknowledges_a_delivery(status):
    assert not Outcome(status).delivered
    assert Outcome(200).delivered
    assert Outcome(299).delivered


def test_a_receiver_that_does_not_answer_in_time_is_a_failed_attempt(delivery_to, make_settings):
    release = threading.Event()

    def never() -> int:
        release.wait(60)
        return 200

    with receiving(never) as receiver:
        short_timeout = make_settings(SVD_WEBHOOK_PRIVATE=True, SVD_WEBHOOK_TIMEOUT=0.5)
        outcome = send(delivery_to(receiver.url), [SECRET], short_timeout)
        release.set()
    assert outcome == Outcome(None, "timed out")


def test_the_status_counts_although_the_body_never_ends(delivery_to, settings, monkeypatch):
    monkeypatch.setattr(under_test, "DISCARD_TIMEOUT", 0.05)
    with receiving(200, headers={"Content-Length": "1000000000"}) as receiver:
        assert send(delivery_to(receiver.url), [SECRET], settings) == Outcome(200)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:{port}/", "connection refused"),
        ("http://missing.invalid/", "host not found"),
        ("https://127.0.0.1:{server}/", "TLS connection failed"),
    ],
)
def test_the_error_states_why_there_is_no_answer(delivery_to, settings, monkeypatch, url, error):
    known = socket.getaddrinfo

    def resolve(host, *arguments, **more):
        if host == "missing.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return known(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with receiving() as receiver:
        outcome = send(delivery_to(url.format(port=free_port(), server=receiver.server_port)), [SECRET], settings)
    assert outcome.status_code is None
    assert outcome.error.startswith(error)


def test_a_resolved_address_that_is_not_public_is_rejected(delivery_to, make_settings, monkeypatch):
    known = socket.getaddrinfo

    def resolve(host, *arguments, **more):
        return known("127.0.0.1" if host == "innocent.example" else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with receiving() as receiver:
        url = f"http://innocent.example:{receiver.server_port}/"
        assert "public" in send(delivery_to(url), [SECRET], make_settings()).error
    assert receiver.requests == []


def test_the_checked_address_is_the_one_that_is_used(delivery_to, make_settings, monkeypatch):
    answers = iter(["127.0.0.1"])

    def rebinding(host, port, *_, **__):
        address = next(answers) if host == "hook.example" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(under_test, "is_public", lambda address: address == ipaddress.ip_address("127.0.0.1"))
    with receiving() as receiver:
        assert send(delivery_to(f"http://hook.example:{receiver.server_port}/"), [SECRET], make_settings()).delivered
    assert receiver.requests[0].headers["Host"] == f"hook.example:{receiver.server_port}"


def end(ledger, url, job_id="a"):
    submit(ledger, job_id, webhook=url)
    ledger.jobs.cancel(job_id)


def test_a_deliverer_delivers_a_due_delivery_once(ledger, deliverer):
    with receiving() as receiver:
        end(ledger, receiver.url)
        deliverer.deliver("a")
        deliverer.deliver("a")
        deliverer.deliver("nothing")
    assert len(receiver.requests) == 1
    assert ledger.jobs.find("a").webhook.state is WebhookState.DELIVERED


def test_a_failed_attempt_is_postponed_and_a_410_ends_the_delivery(ledger, deliverer):
    with receiving(500, 410) as receiver:
        end(ledger, receiver.url, "a")
        end(ledger, receiver.url, "b")
        deliverer.deliver("a")
        deliverer.deliver("b")
    postponed, gone = (ledger.jobs.find(job_id).webhook for job_id in "ab")
    assert (postponed.state, postponed.attempts[0].status_code) == (WebhookState.PENDING, 500)
    assert postponed.next_attempt_at
    assert (gone.state, gone.attempts[0].status_code) == (WebhookState.GIVEN_UP, 410)


def test_storing_the_outcome_is_retried_while_redis_is_away(ledger, deliverer, outbox, monkeypatch):
    monkeypatch.setattr(under_test, "SETTLE_PAUSE", 0.0)
    store_outcome = outbox.deliver
    answers = iter([UnavailableError("away"), UnavailableError("away")])

    def deliver(*arguments):
        for error in answers:
            raise error
        store_outcome(*arguments)

    monkeypatch.setattr(outbox, "deliver", deliver)
    with receiving() as receiver:
        end(ledger, receiver.url)
        deliverer.deliver("a")
    assert ledger.jobs.find("a").webhook.state is WebhookState.DELIVERED


def test_without_redis_nothing_is_raised(make_settings):
    away = make_settings(REDIS_URL="redis://127.0.0.1:1/0")
    client = connect(away)
    Deliverer(Outbox(client, away), WebhookSecrets(client, away), away).deliver("a")
    bootstrap.delivery_scheduler(away).round()


def test_a_round_enqueues_due_deliveries_for_the_deliverers(ledger, settings, redis_client):
    end(ledger, "https://example.com/")
    scheduler = bootstrap.delivery_scheduler(settings)
    scheduler.round()
    scheduler.round()
    (message,) = [msgspec.json.decode(each) for each in redis_client.lrange("svd-webhooks", 0, -1)]
    assert (message["headers"]["id"], message["headers"]["task"]) == ("msg_a", "svd_service.deliver")
