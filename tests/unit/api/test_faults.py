"""Faults of the API's dependencies, as its callers see them."""

import io
import threading
import time

import pytest
import redis

from svd_service.api import create_app
from svd_service.errors import UnavailableError
from svd_service.ledger.client import reachable


@pytest.fixture
def busy(redis_client, redis_url):
    """A Redis that a script keeps busy."""
    redis_client.config_set("busy-reply-threshold", 50)

    def work():
        with redis.Redis.from_url(redis_url) as client, pytest.raises(redis.ResponseError):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            redis_client.ping()
        except redis.ResponseError:
            break
    yield
    redis_client.script_kill()
    thread.join()


def test_a_busy_redis_is_503_in_transactions_too(http, redis_client, busy):
    pipe = redis_client.pipeline(transaction=True).hlen("svd:keys")
    with pytest.raises(UnavailableError), reachable():
        pipe.execute()
    pipe.reset()
    for path in ("/jobs", "/status/x", "/v1/videos"):
        answer = http.get(path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2"), path


@pytest.fixture
def become_replica(redis_client):
    """Makes Redis a replica, which answers reads and rejects writes."""
    yield lambda: redis_client.execute_command("REPLICAOF", "127.0.0.1", "1")
    redis_client.execute_command("REPLICAOF", "NO", "ONE")


def test_reads_work_with_a_redis_that_accepts_no_writes(http, submit, finish, become_replica):
    waiting, finished = submit(), submit()
    finish(finished)
    http.application.extensions["web"].keyring._cache.clear()
    become_replica()
    for path in [
        *(f"/status/{job}" for job in (waiting, finished)),
        *(f"/v1/videos/{job}" for job in (waiting, finished)),
        f"/results/{finished}",
        f"/v1/videos/{finished}/content",
        "/jobs",
        "/v1/videos",
        "/models",
        "/health",
        "/metrics",
    ]:
        assert http.get(path, buffered=True).status_code == 200, path
    assert http.delete(f"/jobs/{waiting}").status_code == 503


def test_a_full_disk_under_the_temporary_folder_is_503(http, photo, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("werkzeug.formparser.SpooledTemporaryFile", full)
    for path, field in (("/generate", "image"), ("/v1/videos", "input_reference"), ("/v2beta/image-to-video", "image")):
        answer = http.post(path, data={field: (io.BytesIO(photo), "x")})
        assert answer.status_code == 503, path
        assert answer.headers["Retry-After"]


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
