"""Quotas, expiry and permissions of keys, in all three dialects, and the maximum number of event streams."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from werkzeug.test import TestResponse

from svd_service.api import create_app
from svd_service.jobs.allowance import Allowance
from svd_service.ledger.api_keys import Keyring
from tests.unit.api.samples import png

pytestmark = pytest.mark.enable_socket

PATHS = {"native": "/generate", "openai": "/v1/videos", "stability": "/v2beta/image-to-video"}


@pytest.fixture
def keyring(app) -> Keyring:
    web = app.extensions["web"]
    assert isinstance(web.keyring, Keyring)
    return web.keyring


@pytest.fixture
def send(http) -> Callable[..., TestResponse]:
    def post(dialect: str, secret: str, **fields: object) -> TestResponse:
        openai = dialect == "openai"
        image = {"input_reference" if openai else "image": (png((1024, 576)), "red.png")}
        prompt = {"prompt": "a cat"} if openai else {}
        headers = {"Authorization": f"Bearer {secret}"}
        answer: TestResponse = http.post(PATHS[dialect], data={**image, **prompt, **fields}, headers=headers)
        return answer

    return post


def seconds_until_tomorrow() -> float:
    now = datetime.now(UTC)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(1)
    return (midnight - now).total_seconds()


def test_a_job_above_the_quota_is_rejected_in_each_dialect_with_the_time_of_the_reset(send, keyring):
    ann, bob = (keyring.create(name, allowance=Allowance(jobs_per_day=3))[1] for name in ("ann", "bob"))
    for secret in (ann, bob):
        assert [send(dialect, secret).status_code < 300 for dialect in PATHS] == [True] * 3
    answers = {dialect: send(dialect, ann) for dialect in PATHS}
    for answer in answers.values():
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) == pytest.approx(seconds_until_tomorrow(), abs=30)
    native, openai, stability = (answers[dialect].json for dialect in PATHS)
    assert native["error"]["code"] == "quota_exceeded"
    assert native["error"]["message"].startswith("3 jobs a day, used up until 20")
    assert (openai["error"]["type"], openai["error"]["code"]) == ("insufficient_quota", "insufficient_quota")
    assert openai["error"]["message"].startswith("You exceeded your current quota: 3 jobs a day")
    assert stability["name"] == "insufficient_credits"
    assert stability["errors"][0].startswith("You lack sufficient credits to make this request: 3 jobs a day")


def test_all_keys_of_an_owner_share_its_quota(send, http, keyring):
    key, first = keyring.create("laptop", owner="team", allowance=Allowance(jobs_per_day=3))
    second = keyring.create("server", owner="team")[1]
    assert [send("native", secret).status_code for secret in (first, second, first)] == [202] * 3
    new = keyring.rotate(key.id)[1]
    for secret in (first, second, new):
        assert send("native", secret).status_code == 429
        headers = {"Authorization": f"Bearer {secret}"}
        assert http.get("/usage", headers=headers).json["total"]["submitted"] == 3


def test_quotas_change_without_a_restart(send, keyring, monkeypatch):
    monkeypatch.setattr("svd_service.ledger.api_keys.CACHE_TTL", 0.0)
    key, secret = keyring.create("ann", allowance=Allowance(jobs_per_day=1))
    assert send("native", secret).status_code == 202
    assert send("native", secret).status_code == 429
    keyring.change(key.id, lambda key: replace(key, allowance=Allowance(jobs_per_day=2)))
    assert send("native", secret).status_code == 202


@pytest.mark.parametrize("dialect", PATHS)
def test_an_expired_key_is_unauthorized(send, keyring, dialect):
    _, secret = keyring.create("ann", expires_at=1_700_000_000.0)
    answer = send(dialect, secret)
    assert answer.status_code == 401
    assert "this API key expired on 2023-11-14" in answer.text


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize(
    ("allowance", "message"),
    [
        (Allowance(profiles=("draft",)), "this key must not use the profile exact, only draft"),
        (Allowance(models=("svd-xt",)), "this key must not use the model nano, only svd-xt"),
    ],
)
def test_a_model_or_profile_that_a_key_must_not_use_is_forbidden(send, keyring, dialect, allowance, message):
    _, secret = keyring.create("ann", allowance=allowance)
    answer = send(dialect, secret)
    assert answer.status_code == 403
    assert message in answer.text


def test_a_key_limited_to_drafts_makes_drafts_by_default(send, keyring):
    _, secret = keyring.create("ann", allowance=Allowance(profiles=("draft",)))
    assert send("native", secret, profile="draft").status_code == 202
    assert send("native", secret, profile="exact").status_code == 403


def test_a_key_shows_its_limits(http, keyring):
    _, secret = keyring.create("ann", allowance=Allowance(jobs_per_day=3, models=("nano",)), expires_at=4e9)
    shown: dict[str, Any] = http.get("/key", headers={"Authorization": f"Bearer {secret}"}).json
    assert shown["limits"]["jobs_per_day"] == 3
    assert shown["limits"]["models"] == ["nano"]
    assert shown["expires_at"] == "2096-10-02T07:06:40Z"


def test_event_streams_are_limited_for_each_caller(redis_url, make_settings):
    app = create_app(make_settings(REDIS_URL=redis_url, SVD_STREAMS_PER_KEY=2, SVD_API_STREAMS=5))
    keys = [app.extensions["web"].keyring.create(name)[1] for name in ("ann", "bob")]
    http, opened = app.test_client(), []

    def stream(secret):
        answer = http.get("/events", headers={"Authorization": f"Bearer {secret}"})
        if answer.status_code == 200:
            opened.append(answer)
        return answer

    try:
        assert [stream(keys[0]).status_code for _ in range(3)] == [200, 200, 429]
        rejected = stream(keys[0])
        assert rejected.json["error"]["code"] == "too_many_streams"
        assert rejected.headers["Retry-After"]
        assert stream(keys[1]).status_code == 200
        opened.pop(0).close()
        assert stream(keys[0]).status_code == 200
    finally:
        for answer in opened:
            answer.close()


def test_without_keys_event_streams_are_limited_for_each_address(redis_url, make_settings):
    app = create_app(make_settings(REDIS_URL=redis_url, SVD_STREAMS_PER_KEY=1, SVD_TRUSTED_PROXIES=1))
    http = app.test_client()
    answers = [http.get("/events", headers={"X-Forwarded-For": f"192.0.2.{last}"}) for last in (1, 1, 2)]
    assert [answer.status_code for answer in answers] == [200, 429, 200]
    for answer in answers:
        answer.close()
