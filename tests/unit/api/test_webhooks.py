"""Webhook URLs of jobs and keys, in each dialect, and what the status shows of them."""

import io

import pytest

from svd_service.api.stability import ids
from svd_service.webhooks.outbox import Outbox
from tests.unit.api.samples import png

URL = "https://me:pw@example.com/hook?token=1"
SHOWN = "https://example.com/hook?…"

#: The path that makes a job in each dialect, the field of its image, and where its answer has the id.
DIALECTS = {
    "/generate": ("image", lambda answer: answer["task_id"]),
    "/v1/videos": ("input_reference", lambda answer: answer["id"]),
    "/v2beta/image-to-video": ("image", lambda answer: ids.shortened(answer["id"])),
    "/v2alpha/generation/image-to-video": ("image", lambda answer: ids.shortened(answer["id"])),
}


@pytest.fixture
def post(http):
    def post(path="/generate", headers=None, **fields):
        image = (png((1024, 576)), "x.png")
        return http.post(path, data={DIALECTS[path][0]: image, **fields}, headers=headers)

    return post


@pytest.fixture
def key(app):
    return app.extensions["web"].keyring.create("ann", webhook_url=URL)


@pytest.mark.parametrize("path", DIALECTS)
def test_every_dialect_accepts_a_webhook(jobs, post, path):
    answer = post(path, webhook_url=URL)
    assert answer.status_code in {200, 202}, answer.text
    assert jobs.ledger.jobs.find(DIALECTS[path][1](answer.json)).webhook.url == URL
    without = post(path)
    assert jobs.ledger.jobs.find(DIALECTS[path][1](without.json)).webhook is None


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("url", ["http://localhost/", "http://10.0.0.1/", "nonsense", "ftp://example.com/"])
def test_a_webhook_url_that_is_not_allowed_is_rejected_in_the_dialects_shape(jobs, post, path, url):
    answer = post(path, webhook_url=url)
    assert answer.status_code == 422
    message = answer.json["errors"][0] if path.startswith("/v2") else answer.json["error"]["message"]
    assert message.startswith("webhook_url: ")
    if not path.startswith("/v2"):
        assert "webhook_url" in answer.json["error"].values()
    assert jobs.queries.page() == ([], False)


def test_a_private_address_is_accepted_if_a_setting_allows_it(change_settings, post):
    change_settings(webhook_private=True)
    assert post(webhook_url="http://localhost/").status_code == 202


def test_a_key_may_have_a_webhook_for_all_of_its_jobs(jobs, post, key):
    header = {"Authorization": f"Bearer {key[1]}"}
    for path, (_, id_of) in DIALECTS.items():
        assert jobs.ledger.jobs.find(id_of(post(path, header).json)).webhook.url == URL
    other = post("/generate", header, webhook_url="https://example.org/").json["task_id"]
    assert jobs.ledger.jobs.find(other).webhook.url == "https://example.org/"


def test_the_status_shows_the_webhooks_deliveries_without_secrets(http, jobs, post, redis_client):
    job = post(webhook_url=URL).json
    assert job["webhook"] == {"url": SHOWN, "state": "waiting", "attempts": [], "next_attempt_at": None}
    http.delete(f"/jobs/{job['task_id']}")
    outbox = Outbox(redis_client, jobs.settings)
    outbox.choose_due()
    delivery = outbox.claim(job["task_id"])
    assert delivery
    outbox.fail(delivery, 503, "", pause=60)
    for path in (f"/status/{job['task_id']}", f"/v1/videos/{job['task_id']}"):
        answer = http.get(path)
        assert not [secret for secret in ("pw", "token") if secret in answer.text]
        webhook = answer.json["webhook"]
        assert (webhook["url"], webhook["state"]) == (SHOWN, "pending")
        (attempt,) = webhook["attempts"]
        assert (attempt["status_code"], attempt["error"]) == (503, None)
        assert attempt["at"] < webhook["next_attempt_at"]


def test_without_a_webhook_the_status_has_none(http, submit):
    assert http.get(f"/status/{submit()}").json["webhook"] is None


def test_the_webhook_is_not_part_of_the_idempotency_fingerprint(http, photo):
    def post(**fields):
        data = {"image": (io.BytesIO(photo), "cat.jpg"), "seed": "1", **fields}
        return http.post("/generate", data=data, headers={"Idempotency-Key": "k"}).json

    first = post(webhook_url=URL)
    again = post(webhook_url="https://example.org/")
    assert (again["task_id"], again["webhook"]["url"]) == (first["task_id"], SHOWN)
