import base64
import io
import uuid

import pytest

from svd_service.api.stability import ids
from svd_service.errors import UnknownJobError
from svd_service.jobs.job import AttemptOutcome, Failure, File, Result
from svd_service.jobs.job_files import result_name
from svd_service.parameters import Format
from tests.unit.api.samples import VIDEO, png

PATHS = ("/v2beta/image-to-video", "/v2alpha/generation/image-to-video")


@pytest.fixture
def create(http):
    def post(path=PATHS[0], size=(1024, 576), **fields):
        return http.post(path, data={"image": (png(size), "x.png"), **fields})

    return post


@pytest.fixture
def job_of(jobs):
    return lambda answer: jobs.queries.find(ids.shortened(answer.json["id"]))


def test_a_generation_has_an_id_of_64_characters(create):
    answer = create()
    assert (answer.status_code, set(answer.json), len(answer.json["id"])) == (200, {"id"}, 64)
    assert len(answer.headers.getlist("x-request-id")) == 1


def test_ids_and_jobs_correspond_one_to_one():
    job_id = str(uuid.uuid4())
    assert ids.shortened(ids.lengthened(job_id)) == job_id
    assert len({ids.lengthened(str(uuid.uuid4())) for _ in range(100)}) == 100
    good = ids.lengthened(job_id)
    for bad in ("", good[:32], good[:-1], good.upper(), good[:-1] + "x", "z" * 64, f"{good}0", job_id):
        with pytest.raises(UnknownJobError):
            ids.shortened(bad)


def test_the_defaults_are_those_of_each_version(create, job_of):
    for path, scale, motion in ((PATHS[0], 1.8, 127), (PATHS[1], 2.5, 40)):
        used = job_of(create(path)).parameters
        assert (used.max_guidance_scale, used.min_guidance_scale, used.motion_bucket_id) == (scale, 1.0, motion)


def test_requested_values_are_used(create, job_of):
    used = job_of(create(seed="7", cfg_scale="0.5", motion_bucket_id="3")).parameters
    assert (used.seed, used.max_guidance_scale, used.motion_bucket_id) == (7, 1.0, 3)
    assert len({job_of(create(seed="0")).parameters.seed for _ in range(3)}) == 3


def test_the_profile_is_accepted_as_an_extra_field(create, job_of):
    used = job_of(create(profile="draft")).parameters
    assert (used.profile, used.num_inference_steps) == ("draft", 1)
    assert job_of(create()).parameters.profile == "exact"
    assert create(profile="fast").status_code == 422


def test_a_model_for_smaller_sizes_uses_its_own_size_of_the_same_shape(create, job_of):
    for size, expected in (((1024, 576), (512, 288)), ((576, 1024), (288, 512)), ((768, 768), (384, 384))):
        answer = create(size=size)
        used = job_of(answer).parameters
        assert (used.width, used.height) == expected
        assert answer.headers["x-video-size"] == f"{expected[0]}x{expected[1]}"


@pytest.mark.parametrize(
    ("size", "fields", "status", "name", "word"),
    [
        ((1024, 575), {}, 400, "bad_request", "image"),
        ((64, 64), {}, 400, "bad_request", "1024x576"),
        ((768, 768), {"seed": "4294967295"}, 422, "unprocessable_entity", "seed"),
        ((768, 768), {"cfg_scale": "10.1"}, 422, "unprocessable_entity", "cfg_scale"),
        ((768, 768), {"cfg_scale": "nan"}, 422, "unprocessable_entity", "cfg_scale"),
        ((768, 768), {"motion_bucket_id": "0"}, 422, "unprocessable_entity", "motion_bucket_id"),
        ((768, 768), {"style": "x"}, 422, "unprocessable_entity", "style"),
    ],
)
def test_invalid_fields_are_rejected_in_stabilitys_shape(create, size, fields, status, name, word):
    answer = create(size=size, **fields)
    assert (answer.status_code, set(answer.json), answer.json["name"]) == (status, {"id", "name", "errors"}, name)
    assert word in answer.json["errors"][0]
    assert answer.headers.getlist("x-request-id") == [answer.json["id"]]


def test_a_request_without_an_image_or_with_an_invalid_one_is_rejected(http):
    for data, status in (({}, 400), ({"image": "text"}, 400), ({"image": (io.BytesIO(b"no"), "x.png")}, 415)):
        answer = http.post(PATHS[0], data=data)
        assert (answer.status_code, set(answer.json)) == (status, {"id", "name", "errors"})


@pytest.fixture
def finished(create, finish):
    generation_id = create(seed="42").json["id"]
    finish(ids.shortened(generation_id))
    return generation_id


def test_a_result_is_pending_until_it_is_ready(http, create, claim, jobs):
    generation_id = create().json["id"]
    for path in PATHS:
        answer = http.get(f"{path}/result/{generation_id}")
        assert (answer.status_code, answer.json) == (202, {"id": generation_id, "status": "in-progress"})
    held = claim(ids.shortened(generation_id))
    assert http.get(f"{PATHS[0]}/result/{generation_id}").status_code == 202
    jobs.ledger.attempts.end_attempt(
        held, AttemptOutcome.FAILED, Failure("out_of_memory", "The device ran out of memory.")
    )
    answer = http.get(f"{PATHS[0]}/result/{generation_id}")
    assert (answer.status_code, answer.json["name"]) == (409, "conflict")
    assert "ran out of memory" in answer.json["errors"][0]


@pytest.mark.parametrize(
    "accept", [None, "*/*", "video/*", "video/mp4", "video/*, application/json", "application/json, video/*"]
)
def test_a_result_is_a_video_unless_json_is_preferred(http, finished, accept):
    headers = {"Accept": accept} if accept else {}
    answer = http.get(f"{PATHS[0]}/result/{finished}", headers=headers, buffered=True)
    assert (answer.status_code, answer.content_type, answer.data) == (200, "video/mp4", VIDEO)
    assert (answer.headers["finish-reason"], answer.headers["seed"]) == ("SUCCESS", "42")
    assert len(answer.headers.getlist("x-request-id")) == 1


@pytest.mark.parametrize("accept", ["application/json", "application/*", "application/json, video/*;q=0.5"])
def test_a_result_may_be_json(http, finished, accept):
    answer = http.get(f"{PATHS[1]}/result/{finished}", headers={"Accept": accept})
    expected = {"video": base64.b64encode(VIDEO).decode(), "finish_reason": "SUCCESS", "seed": 42}
    assert (answer.status_code, answer.json) == (200, expected)
    assert (answer.headers["finish-reason"], answer.headers["seed"]) == ("SUCCESS", "42")


def test_other_accepted_types_get_no_result(http, finished):
    answer = http.get(f"{PATHS[0]}/result/{finished}", headers={"Accept": "image/png"})
    assert (answer.status_code, answer.json["name"]) == (406, "not_acceptable")


def test_every_error_beneath_the_prefixes_has_stabilitys_shape(http, app, jobs, create, monkeypatch):
    app.testing = False

    def broken(*_, **__):
        raise AssertionError("a bug")

    cases = [
        (http.get("/v2beta/nowhere"), 404),
        (http.get("/v2alpha"), 404),
        (http.get(f"{PATHS[0]}/result/x"), 404),
        (http.get(f"{PATHS[1]}/result/{ids.lengthened(str(uuid.uuid4()))}"), 404),
        (http.get(PATHS[0]), 405),
        (http.post(PATHS[0], environ_overrides={"CONTENT_LENGTH": "21000000"}), 413),
    ]
    generation_id = create().json["id"]
    monkeypatch.setattr(jobs.queries, "find", broken)
    cases.append((http.get(f"{PATHS[0]}/result/{generation_id}"), 500))
    for answer, status in cases:
        assert (answer.status_code, set(answer.json)) == (status, {"id", "name", "errors"})
        assert answer.headers.getlist("x-request-id") == [answer.json["id"]]


def test_a_job_made_here_is_visible_in_the_other_dialects(http, create):
    job_id = ids.shortened(create(seed="9").json["id"])
    assert http.get(f"/status/{job_id}").json["parameters"]["seed"] == 9
    assert http.get(f"/v1/videos/{job_id}").json["prompt"] is None


def test_another_format_is_requested_with_the_image_and_with_the_result(http, jobs, claim, create):
    generation = create(seed="7", formats="gif").json["id"]
    job_id = ids.shortened(generation)
    path = f"{PATHS[0]}/result/{generation}"
    assert http.get(f"{path}?format=gif").status_code == 202
    held = claim(job_id)
    name = result_name(job_id, held.token)
    jobs.artifacts.put(name, VIDEO)
    jobs.artifacts.put(name.replace("mp4", "gif"), b"a gif")
    result = Result(name, len(VIDEO), "ab" * 32, 256, 144, 8, {}, {Format.GIF: File(5, "cd" * 32)})
    jobs.ledger.attempts.finish(held, result, device="cpu", seconds={}, steps=6)
    for accept in ("*/*", "video/*", "image/gif", "video/*, application/json"):
        answer = http.get(f"{path}?format=gif", headers={"Accept": accept}, buffered=True)
        assert (answer.status_code, answer.data, answer.mimetype) == (200, b"a gif", "image/gif"), accept
        assert answer.headers["seed"] == "7"
    answer = http.get(f"{path}?format=gif", headers={"Accept": "application/json"}).json
    assert base64.b64decode(answer["video"]) == b"a gif"
    assert http.get(path, buffered=True).data == VIDEO
    absent = http.get(f"{path}?format=zip", buffered=True)
    assert (absent.status_code, absent.json["name"]) == (404, "not_found")
    assert "mp4, gif" in absent.json["errors"][0]
