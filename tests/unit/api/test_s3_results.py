"""Results, submissions and deletions over a store that is not on this machine's disk."""

import urllib.request
from collections.abc import Callable

import pytest
from flask import Flask

from svd_service.api import create_app
from svd_service.api.stability.ids import lengthened
from svd_service.config import Settings
from svd_service.jobs import maintenance
from tests.unit.api.samples import VIDEO, png
from tools.harness.local import free_port

#: How a video is requested in each dialect, and where its error code is.
SUBMISSIONS = {
    "/generate": ("image", {}, lambda body: body["error"]["code"], "artifacts_unavailable"),
    "/v1/videos": ("input_reference", {"prompt": "x"}, lambda body: body["error"]["code"], "artifacts_unavailable"),
    "/v2beta/image-to-video": ("image", {}, lambda body: body["name"], "service_unavailable"),
}


@pytest.fixture
def variables(redis_url: str, s3_variables: dict[str, str]) -> dict[str, str]:
    return {"REDIS_URL": redis_url, **s3_variables}


@pytest.fixture
def app(make_settings: Callable[..., Settings], variables: dict[str, str]) -> Flask:
    app = create_app(make_settings(**variables))
    app.testing = True
    return app


@pytest.fixture
def finished(submit, finish) -> str:
    job_id = submit()
    finish(job_id)
    return str(job_id)


@pytest.fixture
def redirecting(make_settings, variables):
    return create_app(make_settings(**variables, SVD_S3_REDIRECT="true", SVD_S3_REDIRECT_TTL="60")).test_client()


def names(jobs) -> set[str]:
    return {name for name, _ in jobs.artifacts.names()}


def followed(link: str, **headers: str) -> tuple[int, bytes, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(link, headers=headers), timeout=10) as answer:
        return answer.status, answer.read(), answer.headers["Content-Type"]


def test_a_result_is_served_whole_or_in_part_as_its_conditions_require(http, finished):
    whole = http.get(f"/results/{finished}.mp4", buffered=True)
    assert (whole.status_code, whole.data, whole.mimetype) == (200, VIDEO, "video/mp4")
    assert whole.headers["Content-Length"] == str(len(VIDEO))
    for requested, part in (("bytes=5-9", VIDEO[5:10]), ("bytes=0-1", VIDEO[:2]), ("bytes=-7", VIDEO[-7:])):
        answer = http.get(f"/results/{finished}", headers={"Range": requested}, buffered=True)
        assert (answer.status_code, answer.data) == (206, part)
    etag = whole.headers["ETag"]
    assert http.get(f"/results/{finished}", headers={"If-None-Match": etag}, buffered=True).status_code == 304
    assert http.get(f"/results/{finished}", headers={"If-Match": '"other"'}, buffered=True).status_code == 412
    assert http.get(f"/results/{finished}", headers={"Range": "bytes=99999-"}, buffered=True).status_code == 416
    assert http.head(f"/results/{finished}").headers["Content-Length"] == str(len(VIDEO))


def test_a_result_may_be_downloaded_from_the_store_directly(redirecting, finished):
    for path in (f"/results/{finished}", f"/v1/videos/{finished}/content"):
        answer = redirecting.get(path)
        assert answer.status_code == 307
        assert answer.headers["Cache-Control"] == "no-store"
        link = answer.headers["Location"]
        assert "X-Amz-Expires=60" in link
        assert followed(link) == (200, VIDEO, "video/mp4")
        assert followed(link, Range="bytes=1-3")[:2] == (206, VIDEO[1:4])


def test_a_client_that_cannot_follow_the_redirect_gets_the_bytes(redirecting, finished):
    # A link is for GET only; a page's script must not read another origin; a store cannot send Stability's headers.
    assert redirecting.head(f"/results/{finished}").status_code == 200
    by_script = redirecting.get(f"/results/{finished}", headers={"Sec-Fetch-Mode": "cors"}, buffered=True)
    assert (by_script.status_code, by_script.data) == (200, VIDEO)
    stability = redirecting.get(f"/v2beta/image-to-video/result/{lengthened(finished)}", buffered=True)
    assert (stability.status_code, stability.data, stability.headers["finish-reason"]) == (200, VIDEO, "SUCCESS")


def test_a_result_missing_from_the_store_is_410_with_and_without_redirects(http, redirecting, jobs, finished):
    for name in names(jobs):
        jobs.artifacts.delete(name)
    for client in (http, redirecting):
        answer = client.get(f"/results/{finished}", buffered=True)
        assert (answer.status_code, answer.json["status"]) == (410, "expired")


def test_deleting_and_retention_empty_the_bucket(http, jobs, submit, finish, redis_client, monkeypatch):
    deleted, expired, cancelled = submit(), submit(), submit()
    finish(deleted)
    finish(expired)
    assert http.delete(f"/jobs/{cancelled}").status_code == 200
    assert f"inputs/{cancelled}.png" not in names(jobs)
    assert http.delete(f"/jobs/{deleted}").status_code == 204
    redis_client.zadd("svd:ended", {expired: 1})
    assert jobs.maintenance.expire() == 1
    assert names(jobs) == set()

    jobs.artifacts.put("results/unknown/token.mp4", b"left by a worker that died")
    jobs.artifacts.put("inputs/unknown.png", b"left by a submission")
    jobs.artifacts.put("another/thing.txt", b"not ours")
    monkeypatch.setattr(maintenance, "ORPHAN_AGE", -60.0)
    redis_client.set("svd:born", 0)
    assert jobs.maintenance.sweep_orphans() == 2
    assert names(jobs) == {"another/thing.txt"}


@pytest.fixture
def away(make_settings, variables):
    return create_app(make_settings(**variables | {"SVD_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}"})).test_client()


@pytest.mark.parametrize("path", SUBMISSIONS)
def test_while_the_store_is_away_a_submission_is_503_in_the_callers_dialect(away, jobs, path):
    field, more, code, expected = SUBMISSIONS[path]
    answer = away.post(path, data={field: (png((1024, 576)), "image.png"), **more})
    assert (answer.status_code, code(answer.get_json())) == (503, expected), answer.text
    assert answer.headers["Retry-After"]
    assert "127.0.0.1" not in answer.text
    assert jobs.ledger.stats.figures().created == 0


def test_while_the_store_is_away_jobs_are_shown_and_cancelled_but_not_deleted(away, jobs, finished, submit):
    assert away.get(f"/status/{finished}").status_code == 200
    assert away.get(f"/results/{finished}").status_code == 503
    assert away.delete(f"/jobs/{finished}").status_code == 503
    assert away.delete(f"/v1/videos/{finished}").status_code == 503
    assert jobs.queries.find(finished).state == "finished"
    queued = submit()
    assert away.delete(f"/jobs/{queued}").status_code == 200
    assert jobs.queries.find(queued).state == "cancelled"
    health = away.get("/health")
    assert (health.status_code, health.json["status"], health.json["artifacts"]) == (200, "degraded", False)
