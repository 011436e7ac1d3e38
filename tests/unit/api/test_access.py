"""Checking a key, and links that work without a key."""

import io
import math
import time
from datetime import datetime

import pytest

from svd_service.config import Settings
from svd_service.ledger.jobs import UNPIN_GRACE
from tests.unit.api.samples import VIDEO


@pytest.fixture
def keyring(app):
    return app.extensions["web"].keyring


@pytest.fixture
def ann(keyring):
    key, secret = keyring.create("ann", priority=1)
    return key, {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def job_of_ann(http, photo, ann, finish):
    answer = http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg")}, headers=ann[1])
    finish(answer.json["task_id"])
    return answer.json["task_id"]


def link(http, job_id, headers=None, **fields):
    answer = http.post(f"/jobs/{job_id}/share", data=fields, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json["url"]


def test_a_key_is_checked(http, keyring):
    without = http.get("/key").json
    assert without == without | {"required": False, "id": "", "name": "", "priority": 2, "lists_jobs": False}
    key, secret = keyring.create("ann", priority=1)
    shown = http.get("/key", headers={"Authorization": f"Bearer {secret}"}).json
    assert shown == shown | {"required": True, "id": key.id, "name": "ann", "priority": 1, "lists_jobs": True}
    assert http.get("/key", headers={"Authorization": "Bearer sk-svd-wrong"}).status_code == 401


def test_a_link_works_without_a_key_also_for_ranges(http, ann, job_of_ann):
    url = link(http, job_of_ann, ann[1])
    whole = http.get(url, buffered=True)
    assert (whole.status_code, whole.mimetype, whole.data) == (200, "video/mp4", VIDEO)
    assert whole.headers["Referrer-Policy"] == "no-referrer"
    part = http.get(url, headers={"Range": "bytes=0-3"}, buffered=True)
    assert (part.status_code, part.data) == (206, VIDEO[:4])
    # A format that was not made is missing, as it is with the key.
    assert http.get(url.replace(".mp4", ".gif")).status_code == 404


@pytest.mark.parametrize(
    ("before", "after"), [("signature=", "signature=0"), ("expires=1", "expires=2"), ("&signature=", "&signature=%ff")]
)
def test_a_changed_link_is_rejected(http, ann, job_of_ann, before, after):
    url = link(http, job_of_ann, ann[1])
    changed = http.get(url.replace(before, after)[: len(url)])
    assert (changed.status_code, changed.json["error"]["code"]) == (403, "invalid_link")


@pytest.mark.parametrize("appended", ["&fbclid=IwAR0abc", "&utm_source=newsletter&utm_medium=email", "&x", "&gclid="])
def test_a_link_works_with_the_parameters_that_others_append(http, ann, job_of_ann, appended):
    url = link(http, job_of_ann, ann[1])
    assert http.get(url + appended, buffered=True).data == VIDEO
    path, _, query = url.partition("?")
    assert http.get(f"{path}?{appended[1:]}&{query}", buffered=True).data == VIDEO
    assert http.get(path + "?" + appended[1:]).status_code == 422


def test_a_link_is_valid_for_one_job_only(http, photo, ann, job_of_ann, finish):
    other = http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg")}, headers=ann[1]).json["task_id"]
    finish(other)
    url = link(http, job_of_ann, ann[1])
    assert http.get(url.replace(job_of_ann, other)).status_code == 403


def test_a_link_expires(app, http, ann, job_of_ann):
    end = int(time.time()) - 1
    signature = app.extensions["web"].share_links.sign(job_of_ann, end)
    answer = http.get(f"/shared/{job_of_ann}.mp4?expires={end}&signature={signature}")
    assert (answer.status_code, answer.json["error"]["code"]) == (410, "link_expired")


def test_a_link_is_invalid_once_its_key_is_revoked(http, keyring, ann, job_of_ann):
    url = link(http, job_of_ann, ann[1])
    keyring.revoke(ann[0].id)
    assert http.get(url).status_code == 403


def test_a_link_depends_on_the_key_that_made_it_not_on_others_of_the_owner(http, keyring, ann, job_of_ann):
    second, secret = keyring.create("server", owner=ann[0].id)
    other = {"Authorization": f"Bearer {secret}"}
    assert http.get(f"/status/{job_of_ann}", headers=other).json["status"] == "finished"
    urls = [link(http, job_of_ann, headers) for headers in (ann[1], other)]
    keyring.revoke(ann[0].id)
    assert [http.get(url, buffered=True).status_code for url in urls] == [403, 200]
    forged = urls[0].replace(ann[0].id, second.id)
    assert http.get(forged).status_code == 403


def test_jobs_and_links_survive_the_rotation_of_their_key(http, keyring, ann, job_of_ann):
    url = link(http, job_of_ann, ann[1])
    new, secret = keyring.rotate(ann[0].id, grace=0)
    keyring._cache.clear()
    assert http.get("/key", headers=ann[1]).status_code == 401
    headers = {"Authorization": f"Bearer {secret}"}
    assert http.get("/key", headers=headers).json["owner"] == ann[0].id
    assert [job["task_id"] for job in http.get("/jobs", headers=headers).json["jobs"]] == [job_of_ann]
    assert http.get(url, buffered=True).status_code == 200
    keyring.revoke(new.id)
    assert http.get(url).status_code == 403


def test_a_link_of_an_earlier_release_works(app, http, ann, job_of_ann):
    end = int(time.time()) + 100
    signature = app.extensions["web"].share_links.sign(job_of_ann, end)
    assert http.get(f"/shared/{job_of_ann}.mp4?expires={end}&signature={signature}", buffered=True).status_code == 200


def test_a_link_of_an_open_service_is_invalid_once_there_is_a_key(http, submit, finish, keyring):
    job_id = submit()
    finish(job_id)
    url = link(http, job_id)
    assert http.get(url, buffered=True).status_code == 200
    keyring.create("ann")
    keyring._cache.clear()
    assert http.get(url).status_code == 403


def test_a_link_expires_with_its_result_at_the_latest_and_ends_with_its_job(http, ann, job_of_ann):
    status = http.get(f"/status/{job_of_ann}", headers=ann[1]).json
    answer = http.post(f"/jobs/{job_of_ann}/share", data={"expires_in": 2_000_000}, headers=ann[1]).json
    assert answer["expires_at"][:19] == status["expires_at"][:19]
    http.delete(f"/jobs/{job_of_ann}", headers=ann[1])
    assert http.get(answer["url"]).status_code == 404


def test_a_key_can_share_only_its_own_videos(http, photo, ann, job_of_ann, keyring):
    waiting = http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg")}, headers=ann[1]).json["task_id"]
    assert http.post(f"/jobs/{waiting}/share", headers=ann[1]).status_code == 409
    bob = {"Authorization": f"Bearer {keyring.create('bob')[1]}"}
    assert http.post(f"/jobs/{job_of_ann}/share", headers=bob).status_code == 404
    assert http.post(f"/jobs/{job_of_ann}/share", data={"expires_in": 1}, headers=ann[1]).status_code == 422


def test_a_pinned_video_outlives_its_retention_until_it_is_unpinned(http, jobs, submit, finish, redis_client):
    job_id = submit()
    finish(job_id)
    pinned = http.put(f"/jobs/{job_id}/pin").json
    assert (pinned["pinned"], pinned["expires_at"]) == (True, None)
    assert http.put(f"/jobs/{job_id}/pin").json["pinned"] is True  # again: no change
    redis_client.hset(f"svd:job:{job_id}", "expires", "1")
    jobs.maintenance.expire()
    assert http.get(f"/results/{job_id}", buffered=True).status_code == 200
    assert http.get(f"/status/{job_id}").json["status"] == "finished"

    unpinned = http.delete(f"/jobs/{job_id}/pin").json
    assert unpinned["pinned"] is False
    left = datetime.fromisoformat(unpinned["expires_at"]).timestamp() - time.time()
    assert left == pytest.approx(UNPIN_GRACE, abs=30)
    redis_client.zadd("svd:ended", {job_id: 1})
    jobs.maintenance.expire()
    assert http.get(f"/results/{job_id}", buffered=True).status_code == 410
    assert http.put(f"/jobs/{job_id}/pin").status_code == 410


def test_a_pin_survives_the_repair_of_the_set_of_ended_jobs(http, jobs, submit, finish, redis_client):
    job_id = submit()
    finish(job_id)
    http.put(f"/jobs/{job_id}/pin")
    redis_client.zadd("svd:ended", {job_id: 1})
    jobs.maintenance.expire()
    assert http.get(f"/status/{job_id}").json["status"] == "finished"
    assert redis_client.zscore("svd:ended", job_id) == math.inf


def test_a_key_pins_no_more_videos_than_the_limit(http, submit, finish, redis_client):
    redis_client.zadd("svd:pinned:", {f"other-{number}": 1 for number in range(Settings().max_pinned_per_key - 1)})
    first, second = submit(), submit()
    for job_id in (first, second):
        finish(job_id)
    assert http.put(f"/jobs/{first}/pin").status_code == 200
    answer = http.put(f"/jobs/{second}/pin")
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "pin_limit")
    assert http.delete(f"/jobs/{first}").status_code == 204
    assert http.put(f"/jobs/{second}/pin").status_code == 200


@pytest.mark.parametrize("method", ["put", "delete"])
def test_a_job_without_a_video_cannot_be_pinned(http, submit, method):
    assert getattr(http, method)(f"/jobs/{submit()}/pin").status_code == 409
    assert getattr(http, method)("/jobs/00000000-0000-4000-8000-000000000000/pin").status_code == 404
