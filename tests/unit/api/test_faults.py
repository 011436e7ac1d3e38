"""Faults of the API's dependencies, as its callers see them."""

import io
import threading
import time

import pytest
import redis

from svd_service.errors import UnavailableError
from svd_service.ledger.connection import reachable


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
