"""Extending the video of a finished job, in the native dialect and in OpenAI's."""

import io
import json
import os
import uuid

import pytest

from svd_service.jobs.job import AttemptOutcome, Failure
from svd_service.jobs.job_files import input_video_name
from tests.unit.api.samples import VIDEO


@pytest.fixture
def extend(http):
    def post(**fields):
        headers = fields.pop("headers", {})
        return http.post("/generate", data=fields, headers=headers)

    return post


@pytest.fixture
def finished(submit, finish):
    def make(**fields):
        job_id = submit(**fields)
        finish(job_id)
        return job_id

    return make


def stored(jobs, name):
    with jobs.artifacts.open(name) as file:
        return file.read()


def inputs(jobs):
    return [name for name, _ in jobs.artifacts.names("inputs")]


def test_an_extension_is_a_separate_job_with_a_copy_of_the_video(extend, finished, jobs):
    source = finished(seed=5, fps=9)
    answer = extend(extend=source, seconds="2")
    assert answer.status_code == 202
    shown = answer.json
    assert (shown["status"], shown["parameters"]["extend"], shown["parameters"]["fps"]) == ("queued", source, 9)
    assert shown["parameters"]["extend_as"] == "joined"
    assert shown["video"]["frames"] - 8 == pytest.approx(18, rel=0.05)
    assert stored(jobs, input_video_name(shown["task_id"])) == VIDEO


def test_the_extended_video_may_be_deleted_while_the_job_waits(extend, finished, jobs, http, claim):
    source = finished()
    job_id = extend(extend=source).json["task_id"]
    assert http.delete(f"/jobs/{source}").status_code == 204
    for name in inputs(jobs):
        os.utime(jobs.settings.data_dir / name, (1, 1))  # old enough to be an orphan
    jobs.maintenance.sweep_orphans()
    job = jobs.queries.find(job_id)
    assert stored(jobs, job.input) == VIDEO
    jobs.ledger.attempts.end_attempt(claim(job_id), AttemptOutcome.FAILED, Failure("x", "x"))
    http.delete(f"/jobs/{job_id}")
    assert inputs(jobs) == []


def test_a_cancelled_extension_leaves_no_video(extend, finished, jobs, http):
    job_id = extend(extend=finished()).json["task_id"]
    inputs_before = [name for name in inputs(jobs) if job_id in name]
    assert http.delete(f"/jobs/{job_id}").status_code == 200
    assert (len(inputs_before), [name for name in inputs(jobs) if job_id in name]) == (1, [])


def test_a_repeated_extension_is_the_same_job_even_if_the_video_is_gone(extend, finished, http):
    source, headers = finished(), {"Idempotency-Key": "one"}
    first = extend(extend=source, headers=headers).json["task_id"]
    http.delete(f"/jobs/{source}")
    assert extend(extend=source, headers=headers).json["task_id"] == first
    assert extend(extend=source, seed="1", headers=headers).json["error"]["code"] == "idempotency_conflict"
    http.delete(f"/jobs/{first}")
    http.delete(f"/jobs/{first}")
    assert extend(extend=source, headers=headers).status_code == 404


@pytest.mark.parametrize("path", ["/generate", "/v1/videos/extensions"])
def test_a_job_that_cannot_be_extended_is_rejected_with_the_reason(
    http, submit, finished, jobs, redis_client, claim, path
):
    def post(job_id, **fields):
        name = "extend" if path == "/generate" else "video[id]"
        answer = http.post(path, data={name: job_id, **fields})
        return answer.status_code, answer.json["error"]["code"]

    assert post(str(uuid.uuid4())) == (404, "unknown_job")
    assert post("no id") == (404, "unknown_job")
    failed = submit()
    assert post(failed) == (409, "not_ready")
    jobs.ledger.attempts.end_attempt(claim(failed), AttemptOutcome.FAILED, Failure("x", "x"))
    assert post(failed) == (409, "not_ready")
    loop = finished(loop="pingpong")
    assert post(loop) == (422, "invalid_parameter")
    source = finished()
    assert post(source, size="64x64") == (422, "invalid_parameter")
    redis_client.hset(f"svd:job:{source}", "expires", 1)
    assert post(source) == (410, "expired")
    assert [name for name in inputs(jobs) if name.endswith(".mp4")] == []


def test_extending_a_queued_job_is_rejected_with_retry_after(extend, submit):
    answer = extend(extend=submit())
    assert (answer.status_code, answer.json["status"]) == (409, "queued")
    assert int(answer.headers["Retry-After"]) >= 1


def test_the_job_of_another_key_does_not_exist(app, photo, jobs):
    keyring = app.extensions["web"].keyring
    (_, ann), (_, bob) = keyring.create("ann"), keyring.create("bob")
    http = app.test_client()

    def post(secret, **fields):
        return http.post("/generate", data=fields, headers={"Authorization": f"Bearer {secret}"})

    source = post(ann, image=(io.BytesIO(photo), "cat.jpg")).json["task_id"]
    assert post(ann, extend=source).status_code == 409
    assert post(bob, extend=source).status_code == 404


def test_an_image_and_a_job_to_extend_exclude_each_other(extend, finished, photo):
    answer = extend(extend=finished(), image=(io.BytesIO(photo), "cat.jpg"))
    assert (answer.status_code, answer.json["error"]["parameter"]) == (422, "extend")
    answer = extend(seed="1")
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "missing_image")


def test_a_full_queue_rejects_extensions_and_stores_nothing(extend, finished, jobs, redis_client):
    source, job = finished(), extend(extend=finished()).json["task_id"]
    redis_client.hset("svd:states", "queued", jobs.settings.max_queued)
    assert extend(extend=source).status_code == 429
    assert extend(extend=source, headers={"Idempotency-Key": "one"}).status_code == 429
    assert [name for name in inputs(jobs) if name.endswith(".mp4")] == [input_video_name(job)]


FORMS = {
    "form": {"data": lambda fields: {**fields, "video[id]": fields["video"]["id"], "video": ""}},
    "form with JSON": {"data": lambda fields: {**fields, "video": json.dumps(fields["video"])}},
    "form with an id": {"data": lambda fields: {**fields, "video": fields["video"]["id"]}},
    "JSON": {"json": lambda fields: fields},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_openais_extension_has_both_parts_and_their_total_length(http, finished, form):
    source = finished(seconds="1", seed="3")
    ((kind, fields),) = form.items()
    body = fields({"prompt": "go on", "seconds": "2", "video": {"id": source}, "model": "sora-2"})
    answer = http.post("/v1/videos/extensions", **{kind: body})
    assert answer.status_code == 200, answer.text
    video = answer.json
    assert (video["object"], video["status"], video["prompt"]) == ("video", "queued", "go on")
    assert video["parameters"]["extend"] == source
    assert "openai-poll-after-ms" in answer.headers
    assert float(video["seconds"]) == pytest.approx(3, rel=0.1)
    assert "takes no text" in video["warnings"][0]


def test_openais_total_length_is_the_sum_of_the_requested_lengths(http, finish, photo):
    form = {"input_reference": (io.BytesIO(photo), "cat.jpg"), "seconds": "4", "size": "720x1280"}
    first = http.post("/v1/videos", data=form).json
    finish(first["id"])
    video = http.post("/v1/videos/extensions", json={"video": {"id": first["id"]}, "seconds": 4, "prompt": "x"}).json
    assert (video["seconds"], video["size"]) == ("8", "720x1280")
    body = {"video": {"id": first["id"]}, "seconds": 4, "extend_as": "alone"}
    assert http.post("/v1/videos/extensions", json=body).json["seconds"] == "4"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"seconds": "4"}, 422, "invalid_parameter"),
        ({"video": {"name": "x"}}, 422, "invalid_parameter"),
        ({"video": 7}, 422, "invalid_parameter"),
        ({"video": "{"}, 404, "unknown_job"),
    ],
)
def test_openais_extension_needs_a_video(http, body, status, code):
    answer = http.post("/v1/videos/extensions", json=body)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)


def test_an_uploaded_video_is_not_extended(http):
    answer = http.post("/v1/videos/extensions", data={"prompt": "x", "video": (io.BytesIO(VIDEO), "video.mp4")})
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "not_supported")


def test_openais_create_route_does_not_extend(http, finished):
    answer = http.post("/v1/videos", data={"extend": finished()})
    assert (answer.status_code, answer.json["error"]["param"]) == (422, "extend")


def test_an_extension_that_the_client_retries_is_one_job(http, finished):
    source = finished()

    def post(count):
        body, headers = {"video": {"id": source}, "prompt": "x"}, {"X-Stainless-Retry-Count": str(count)}
        return http.post("/v1/videos/extensions", json=body, headers=headers).json["id"]

    first = post(0)
    assert post(1) == first
    assert post(0) != first


def test_the_path_extensions_is_not_taken_for_a_job_id(http):
    for method in ("get", "delete"):
        answer = getattr(http, method)("/v1/videos/extensions")
        assert (answer.status_code, {*answer.headers["Allow"].split(", ")}) == (405, {"POST", "OPTIONS"})


def test_a_field_without_a_name_is_unknown(extend, finished):
    answer = extend(**{"extend": finished(), "": "x"})
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "invalid_parameter")
