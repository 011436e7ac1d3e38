import io
import math
import uuid
from unittest.mock import ANY

import pytest

from svd_service.artifacts.base import ArtifactsUnavailableError
from svd_service.jobs.job import AttemptOutcome, Failure, File, Phase, Progress, Result
from svd_service.jobs.job_files import preview_name, result_name
from svd_service.jobs.model import Defaults, Model
from svd_service.ledger.workers import WorkerStatus
from svd_service.parameters import Format
from tests.unit.api.samples import VIDEO, png


def stored(data_dir):
    return [path for path in data_dir.rglob("*") if path.is_file()]


def test_a_submission_is_accepted_with_its_effective_values(http, photo):
    answer = http.post(
        "/generate", data={"image": (io.BytesIO(photo), "cat.jpg"), "seed": "5", "fps": "", "num_frames": "4"}
    )
    assert answer.status_code == 202
    job = answer.json
    assert (job["status"], job["position"], job["attempt"]) == ("queued", 1, 0)
    assert (job["parameters"]["seed"], job["parameters"]["num_frames"], job["parameters"]["fps"]) == (5, 4, 7)
    assert (job["model"]["name"], job["model"]["trained"]) == ("nano", True)
    assert answer.headers["Location"] == f"/status/{job['task_id']}"
    assert http.get(answer.headers["Location"]).json == job


def test_a_request_may_name_one_of_the_available_models(http, jobs, photo):
    jobs.ledger.workers.introduce(Model("other", "org/other", defaults=Defaults(64, 64, num_frames=4)))

    def submit_to(name):
        return http.post("/generate", data={"image": (io.BytesIO(photo), "upload"), "model": name})

    for name, used in (("other", "other"), ("nano", "nano"), ("", "nano")):
        answer = submit_to(name)
        assert (answer.status_code, answer.json["model"]["name"]) == (202, used)
    assert (submit_to("other").json["parameters"]["width"], submit_to("other").json["position"]) == (64, 3)
    rejected = submit_to("unknown")
    assert (rejected.status_code, rejected.json["error"]["parameter"]) == (422, "model")
    assert rejected.json["error"]["message"] == "model: any of nano, other; got unknown"
    assert [model["name"] for model in http.get("/models").json["models"]] == ["nano", "other"]


def test_a_draft_uses_the_models_draft_steps_unless_the_caller_sets_a_number(http, photo):
    def used(**fields):
        answer = http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg"), **fields})
        return answer.json["parameters"]["profile"], answer.json["parameters"]["num_inference_steps"]

    assert used() == ("exact", 1)
    assert used(profile="draft") == ("draft", 1)
    assert used(profile="draft", num_inference_steps="3") == ("draft", 3)


def test_an_unknown_profile_is_rejected(http, photo):
    answer = http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg"), "profile": "fast"})
    assert (answer.status_code, answer.json["error"]["parameter"]) == (422, "profile")


def test_the_stored_image_has_the_size_to_be_generated(http, data_dir):
    http.post("/generate", data={"image": (png((100, 200)), "x")})
    (path,) = stored(data_dir)
    from PIL import Image

    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (288, 512))


def test_the_status_of_a_job_from_submission_to_its_end(http, jobs, submit, claim):
    job_id = submit()
    held = claim(job_id)
    jobs.ledger.attempts.report(held, Progress(Phase.SAMPLING, 3, 6))
    job = http.get(f"/status/{job_id}").json
    assert job["status"] == "started"
    assert job["progress"] == {
        "phase": "sampling",
        "step": 3,
        "steps": 6,
        "segment": 1,
        "segments": 1,
        "fraction": 0.42,
    }
    assert (job["attempts"][0]["worker"], job["attempts"][0]["outcome"]) == ("host/0", None)
    jobs.ledger.attempts.end_attempt(held, AttemptOutcome.FAILED, Failure("time_limit", "It took too long."))
    job = http.get(f"/status/{job_id}").json
    assert (job["status"], job["error"]) == ("failed", {"code": "time_limit", "message": "It took too long."})
    answer = http.get(f"/results/{job_id}", buffered=True)
    assert answer.status_code == 409
    assert answer.json["status"] == "failed"
    assert "It took too long." in answer.json["error"]["message"]


@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_a_result_is_the_video(http, submit, finish, suffix):
    job_id = submit()
    finish(job_id)
    answer = http.get(f"/results/{job_id}{suffix}", buffered=True)
    assert (answer.status_code, answer.data, answer.mimetype) == (200, VIDEO, "video/mp4")
    assert answer.headers["ETag"] == f'"{"ab" * 32}"'
    assert answer.headers["Content-Length"] == str(len(VIDEO))
    assert http.get(f"/status/{job_id}").json["result"]["url"] == f"/results/{job_id}.mp4"


@pytest.fixture
def finished(jobs, submit, claim):
    """A finished job whose video is stored as an MP4, a GIF and a ZIP."""
    job_id = submit(formats="zip,mp4, gif")
    held = claim(job_id)
    name = result_name(job_id, held.token)
    further = {}
    for kind in ("mp4", "gif", "zip"):
        content = VIDEO if kind == "mp4" else f"as a {kind}".encode()
        jobs.artifacts.put(name.replace("mp4", kind), content)
        further[Format(kind)] = File(len(content), kind[0] * 64)
    del further[Format.MP4]
    jobs.ledger.attempts.finish(
        held, Result(name, len(VIDEO), "ab" * 32, 256, 144, 8, {}, further), device="cpu", seconds={}, steps=6
    )
    return job_id


@pytest.mark.parametrize("path", ["/results/{}.gif", "/results/{}?format=gif"])
def test_a_result_is_served_in_the_requested_formats(http, finished, path):
    answer = http.get(path.format(finished), buffered=True)
    assert (answer.status_code, answer.data, answer.mimetype) == (200, b"as a gif", "image/gif")
    assert answer.headers["ETag"] == f'"{"g" * 64}"'
    assert answer.headers["Content-Disposition"] == f"inline; filename={finished}.gif"
    part = http.get(path.format(finished), headers={"Range": "bytes=-3"}, buffered=True)
    assert (part.status_code, part.data) == (206, b"gif")
    known = http.get(path.format(finished), headers={"If-None-Match": answer.headers["ETag"]}, buffered=True)
    assert (known.status_code, known.data) == (304, b"")
    archive = http.get(f"/results/{finished}.zip", buffered=True)
    assert (archive.mimetype, archive.headers["Content-Disposition"].partition(";")[0]) == (
        "application/zip",
        "attachment",
    )
    assert http.get(f"/results/{finished}.mp4", buffered=True).data == VIDEO


def test_the_status_lists_the_files(http, finished):
    job = http.get(f"/status/{finished}").json
    assert job["parameters"]["formats"] == ["gif", "zip"]
    assert [(file["format"], file["media_type"], file["bytes"]) for file in job["result"]["files"]] == [
        ("mp4", "video/mp4", len(VIDEO)),
        ("gif", "image/gif", 8),
        ("zip", "application/zip", 8),
    ]
    for file in job["result"]["files"]:
        assert len(http.get(file["url"], buffered=True).data) == file["bytes"]


def test_a_format_that_was_not_requested_is_404_with_the_available_formats(http, submit, finished):
    for job_id, made in ((finished, "mp4, gif, zip"), (submit(formats="webm"), "mp4, webm"), (submit(), "mp4;")):
        answer = http.get(f"/results/{job_id}.webp", buffered=True)
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "format_not_made")
        assert made in answer.json["error"]["message"]
    assert http.get(f"/results/{finished}?format=avi").status_code == 422
    assert http.get(f"/results/{finished}.avi").status_code == 404
    waiting = http.get(f"/results/{submit(formats='gif')}.gif")
    assert (waiting.status_code, waiting.json["status"]) == (409, "queued")


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("", []),
        ("mp4", []),
        ("gif,webp", ["webp", "gif"]),
        (["gif", "zip"], ["gif", "zip"]),
        (["webm, gif"], ["webm", "gif"]),
    ],
)
def test_formats_are_a_list_with_commas_or_a_repeated_field(http, submit, given, made):
    assert http.get(f"/status/{submit(formats=given)}").json["parameters"]["formats"] == made


def test_a_preview_is_served_while_the_job_runs(http, jobs, submit, claim):
    job_id = submit()
    assert http.get(f"/jobs/{job_id}/preview").status_code == 404
    held = claim(job_id)
    assert http.get(f"/status/{job_id}").json["preview"] is None
    name = preview_name(job_id, held.token)
    jobs.artifacts.put(name, b"a preview")
    before = http.get(f"/status/{job_id}").json
    jobs.ledger.attempts.show_preview(held, name)
    assert http.get(f"/status/{job_id}").json == before | {"preview": 1, "eta_seconds": ANY}
    answer = http.get(f"/jobs/{job_id}/preview")
    assert (answer.status_code, answer.data, answer.mimetype) == (200, b"a preview", "image/webp")
    assert answer.headers["Cache-Control"] == "no-store"
    jobs.ledger.attempts.end_attempt(held, AttemptOutcome.FAILED, Failure("time_limit", "It took too long."))
    gone = http.get(f"/jobs/{job_id}/preview")
    assert (gone.status_code, gone.json["error"]["code"], gone.json["status"]) == (404, "no_preview", "failed")
    assert http.get(f"/status/{job_id}").json["preview"] is None


def test_an_unsatisfiable_range_is_416_and_a_failed_condition_412(http, submit, finish):
    job_id = submit()
    finish(job_id)
    assert http.get(f"/results/{job_id}", headers={"Range": "bytes=1-3"}, buffered=True).data == VIDEO[1:4]
    beyond = http.get(f"/results/{job_id}", headers={"Range": "bytes=9999-"}, buffered=True)
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{len(VIDEO)}")
    assert http.get(f"/results/{job_id}", headers={"If-Match": '"other"'}, buffered=True).status_code == 412


def test_a_result_that_is_not_ready_is_409_with_the_status(http, submit):
    answer = http.get(f"/results/{submit()}", buffered=True)
    assert (answer.status_code, answer.json["status"], answer.json["error"]["code"]) == (409, "queued", "not_ready")


def test_a_request_for_an_unfinished_result_gets_retry_after_by_its_eta(http, jobs, submit, finish, claim):
    waiting = http.get(f"/results/{submit()}", buffered=True)
    assert waiting.headers["Retry-After"] == "5"  # nothing is known yet
    finish(submit())
    jobs.ledger.workers.heartbeat(WorkerStatus("host/0", "cpu", "instance", 1, "nano", True, 0.0, 1.0))
    job_id = submit()
    job = http.get(f"/status/{job_id}").json
    assert job["eta_seconds"] > 1
    assert http.get(f"/results/{job_id}").headers["Retry-After"] == str(math.ceil(job["eta_seconds"]))
    held = claim(job_id)
    jobs.ledger.attempts.end_attempt(held, AttemptOutcome.FAILED, Failure("time_limit", "It took too long."))
    assert "Retry-After" not in http.get(f"/results/{job_id}").headers


def test_an_expired_result_is_410_before_and_after_the_sweep(http, jobs, submit, finish, redis_client, data_dir):
    job_id = submit()
    finish(job_id)
    redis_client.hset(f"svd:job:{job_id}", "expires", "1")
    redis_client.zadd("svd:ended", {job_id: 1})
    for _ in range(2):
        answer = http.get(f"/results/{job_id}", buffered=True)
        assert (answer.status_code, answer.json["status"]) == (410, "expired")
        assert http.get(f"/status/{job_id}").json["status"] == "expired"
        jobs.maintenance.expire()
    assert not [path for path in stored(data_dir) if path.suffix == ".mp4"]


def test_a_result_missing_from_the_store_is_410(http, submit, finish, data_dir):
    job_id = submit()
    finish(job_id)
    next(path for path in stored(data_dir) if path.suffix == ".mp4").unlink()
    assert http.get(f"/results/{job_id}", buffered=True).status_code == 410


@pytest.mark.parametrize("path", ["/status/{}", "/results/{}", "/results/{}.mp4"])
@pytest.mark.parametrize("job_id", ["00000000-0000-4000-8000-000000000000", "nonsense", "../../etc/passwd"])
def test_an_unknown_id_is_404(http, path, job_id):
    answer = http.get(path.format(job_id))
    assert answer.status_code == 404
    assert set(answer.json) == {"error"}


@pytest.mark.parametrize(
    ("fields", "status", "code", "parameter"),
    [
        ({}, 400, "missing_image", None),
        ({"image": "text, not a file"}, 422, "invalid_parameter", "image"),
        ({"image": (io.BytesIO(b""), "x.jpg")}, 415, "not_an_image", None),
        ({"image": (io.BytesIO(b"%PDF-1.7"), "x.jpg")}, 415, "not_an_image", None),
    ],
)
def test_an_upload_that_is_no_image_is_rejected(http, data_dir, fields, status, code, parameter):
    answer = http.post("/generate", data=fields, content_type="multipart/form-data")
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)
    assert stored(data_dir) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "4294967296"),
        ("seed", "1.5"),
        ("num_frames", "1"),
        ("num_frames", "26"),
        ("num_inference_steps", "0"),
        ("fps", "four"),
        ("motion_bucket_id", "0"),
        ("noise_aug_strength", "1.01"),
        ("noise_aug_strength", "nan"),
        ("max_guidance_scale", "inf"),
        ("width", "72.5"),
        ("width", "68"),
        ("height", "1024"),
        ("fit", "stretch"),
        ("formats", "avi"),
        ("formats", "gif,"),
        ("prompt", "a cat"),
    ],
)
def test_an_invalid_parameter_is_named(http, data_dir, jobs, name, value):
    answer = http.post("/generate", data={"image": (png((64, 64)), "x"), name: value})
    assert answer.status_code == 422
    assert answer.json["error"]["code"] == "invalid_parameter"
    assert answer.json["error"]["parameter"] == name
    assert name in answer.json["error"]["message"]
    assert stored(data_dir) == []
    assert jobs.ledger.stats.figures().rejected == {"invalid_parameter": 1}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", "abc", "seed must be a whole number; got 'abc'"),
        ("seed", "-1", "seed must be a whole number >= 0; got '-1'"),
        ("noise_aug_strength", "1.5", "noise_aug_strength must be a number <= 1.0; got '1.5'"),
        ("width", "100", "width must be a whole number that's a multiple of 8; got '100'"),
        ("fit", "stretch", "fit must be one of auto, crop, pad; got 'stretch'"),
        ("profile", "fast", "profile must be one of exact, draft; got 'fast'"),
        ("Seed", "3", "there is no field Seed; do you mean seed?"),
        ("motion", "3", "there is no field motion"),
        ("fps", "x" * 5_000, "fps must be a whole number; got '" + "x" * 59 + "…"),
        ("fps", b"7", "fps must be a whole number; got a file"),
    ],
)
def test_the_message_for_an_invalid_parameter_states_what_is_valid(http, name, value, message):
    value = (io.BytesIO(value), "x") if isinstance(value, bytes) else value
    answer = http.post("/generate", data={"image": (png((64, 64)), "x"), name: value})
    assert (answer.status_code, answer.json["error"]["message"]) == (422, message)


def test_the_message_for_an_invalid_query_states_what_is_valid(http):
    messages = [http.get(f"/jobs?{query}").json["error"]["message"] for query in ("order=up", "limit=0", "page=2")]
    assert messages == [
        "order must be one of asc, desc; got 'up'",
        "limit must be a whole number >= 1; got '0'",
        "there is no field page",
    ]


def test_a_request_that_is_too_large_is_rejected(http, jobs, change_settings):
    change_settings(max_upload_bytes=1000)
    answer = http.post("/generate", data={"image": (io.BytesIO(bytes(400_000)), "cat.jpg")})
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "image_too_large")
    assert jobs.ledger.stats.figures().rejected == {"image_too_large": 1}


def test_an_idempotency_key_gives_the_same_job(http, photo, data_dir):
    def post(key, **fields):
        data = {"image": (io.BytesIO(photo), "cat.jpg"), **fields}
        return http.post("/generate", data=data, headers={"Idempotency-Key": key})

    first = post("k").json["task_id"]
    assert post("k").json["task_id"] == first
    assert post("other").json["task_id"] != first
    conflict = post("k", seed="1")
    assert (conflict.status_code, conflict.json["error"]["code"]) == (422, "idempotency_conflict")
    assert len(stored(data_dir)) == 2


def test_a_full_store_is_503_and_makes_no_job(http, jobs, photo, monkeypatch):
    def full(name, data):
        raise ArtifactsUnavailableError("no space left on device")

    monkeypatch.setattr(jobs.artifacts, "put", full)
    answer = http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg")})
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "artifacts_unavailable")
    assert answer.headers["Retry-After"]
    assert jobs.ledger.stats.figures().created == 0


def test_a_redis_with_full_memory_rejects_submissions_and_nothing_is_left_of_them(
    http, submit, photo, data_dir, redis_client
):
    job_id = submit()
    before = stored(data_dir)
    redis_client.config_set("maxmemory", "1mb")
    try:
        answer = http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg")})
        assert (answer.status_code, answer.json["error"]["code"]) == (503, "unavailable")
        assert answer.headers["Retry-After"]
        assert stored(data_dir) == before
        assert http.get(f"/status/{job_id}").status_code == 200
        assert http.delete(f"/jobs/{job_id}").json["status"] == "cancelled"
        http.delete(f"/jobs/{job_id}")
        assert http.get(f"/status/{job_id}").status_code == 404
    finally:
        redis_client.config_set("maxmemory", "0")


def test_a_job_is_accepted_although_the_broker_accepts_no_message(http, jobs, submit, monkeypatch):
    from svd_service.errors import UnavailableError

    def away(job_id, queue):
        raise UnavailableError("the broker is away")

    monkeypatch.setattr(jobs.dispatch, "_enqueue", away)
    assert http.get(f"/status/{submit()}").json["status"] == "queued"


def test_errors_of_the_router_have_the_same_shape(http):
    for method, path, status in (("get", "/generate", 405), ("get", "/nowhere", 404), ("post", "/status/x", 405)):
        answer = getattr(http, method)(path)
        assert (answer.status_code, set(answer.json)) == (status, {"error"})


def test_an_unexpected_exception_is_500_in_the_same_shape(http, jobs, app, monkeypatch):
    app.testing = False

    def broken(job_id):
        raise AssertionError("a bug")

    monkeypatch.setattr(jobs.queries, "find", broken)
    answer = http.get(f"/status/{uuid.uuid4()}")
    assert (answer.status_code, answer.json["error"]["code"]) == (500, "internal_server_error")
    assert "a bug" not in answer.text


def test_a_queued_job_is_cancelled_at_once_and_deleted_the_second_time(http, submit, data_dir):
    job_id = submit()
    answer = http.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    assert stored(data_dir) == []
    assert http.delete(f"/jobs/{job_id}").status_code == 204
    for again in (http.delete(f"/jobs/{job_id}"), http.get(f"/jobs/{job_id}"), http.get(f"/status/{job_id}")):
        assert again.status_code == 404


def test_cancelling_a_started_job_is_idempotent(http, jobs, submit, claim):
    job_id = submit()
    held = claim(job_id)
    for _ in range(2):
        answer = http.delete(f"/jobs/{job_id}")
        assert (answer.status_code, answer.json["status"], answer.json["cancel_requested"]) == (202, "started", True)
    jobs.ledger.attempts.end_attempt(held, AttemptOutcome.CANCELLED)
    assert http.get(f"/jobs/{job_id}").json["status"] == "cancelled"


def test_cancelling_never_deletes_a_job(http, submit, claim, finish):
    queued, started, finished = submit(), submit(), submit()
    finish(finished)
    claim(started)
    for job_id, status, state in (
        (queued, 200, "cancelled"),
        (started, 202, "started"),
        (finished, 200, "finished"),
    ):
        for _ in range(2):
            answer = http.post(f"/jobs/{job_id}/cancel")
            assert (answer.status_code, answer.json["status"], answer.json["task_id"]) == (status, state, job_id)
    assert http.get(f"/jobs/{started}").json["cancel_requested"] is True
    assert http.get(f"/results/{finished}", buffered=True).data == VIDEO


def test_cancelling_another_keys_job_or_an_unknown_one_is_404(app, http, submit):
    job_id = submit()
    _, secret = app.extensions["web"].keyring.create("ann")
    for path in (f"/jobs/{job_id}/cancel", f"/jobs/{uuid.uuid4()}/cancel", "/jobs/x/cancel"):
        answer = http.post(path, headers={"Authorization": f"Bearer {secret}"})
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "unknown_job")


def test_a_finished_job_is_deleted_with_its_video(http, submit, finish, data_dir):
    job_id = submit()
    finish(job_id)
    assert http.delete(f"/jobs/{job_id}").status_code == 204
    assert http.get(f"/results/{job_id}").status_code == 404
    assert stored(data_dir) == []


def test_jobs_are_listed_page_by_page(http, submit):
    made = [submit() for _ in range(3)]
    first = http.get("/jobs?limit=2").json
    assert ([job["task_id"] for job in first["jobs"]], first["has_more"]) == (made[:0:-1], True)
    second = http.get(first["next"]).json
    assert ([job["task_id"] for job in second["jobs"]], second["has_more"], second["next"]) == (made[:1], False, None)
    assert [job["task_id"] for job in http.get("/jobs?order=asc").json["jobs"]] == made
    assert first["jobs"][0] == http.get(f"/jobs/{made[-1]}").json


@pytest.mark.parametrize("query", ["limit=0", "limit=many", "order=up", "page=2"])
def test_an_invalid_page_is_rejected(http, query):
    answer = http.get(f"/jobs?{query}")
    assert (answer.status_code, answer.json["error"]["parameter"]) == (422, query.partition("=")[0])


def test_a_page_after_an_unknown_job_is_404(http):
    assert http.get("/jobs?after=nothing").status_code == 404
