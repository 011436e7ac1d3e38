import base64
import io
import json
import uuid

import pytest
from PIL import Image
from werkzeug.test import encode_multipart

from svd_service.api import create_app
from svd_service.api.http import forms
from svd_service.api.openai.schema import VideoForm
from svd_service.jobs.job import AttemptOutcome, Failure, Phase, Progress, Still
from svd_service.jobs.job_files import file_name
from svd_service.jobs.model import Defaults, Model
from tests.unit.api.samples import VIDEO, png


@pytest.fixture
def create(http, photo):
    def post(**fields):
        fields = {"prompt": "a cat", "input_reference": (io.BytesIO(photo), "upload"), **fields}
        answer = http.post("/v1/videos", data={name: value for name, value in fields.items() if value is not None})
        assert answer.status_code == 200, answer.text
        return answer

    return post


def data_url(content: bytes, media_type: str = "image/jpeg") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def test_a_video_is_queued_with_all_fields_that_the_openai_clients_expect(create):
    answer = create(model="sora-2", seconds="1", size="256x144", seed="5", fps="8")
    video = answer.json
    uuid.UUID(video["id"])
    expected = {
        "object": "video",
        "model": "nano",
        "status": "queued",
        "progress": 0,
        "completed_at": None,
        "expires_at": None,
        "error": None,
        "prompt": "a cat",
        "seconds": "1",
        "size": "256x144",
        "queue_position": 1,
    }
    assert video | expected == video
    assert type(video["created_at"]) is int
    assert (video["parameters"]["seed"], video["parameters"]["num_frames"]) == (5, 8)
    assert int(answer.headers["openai-poll-after-ms"]) >= 100


def test_the_profile_is_one_of_the_extras(create):
    used = create(profile="draft").json["parameters"]
    assert (used["profile"], used["num_inference_steps"]) == ("draft", 1)


def test_a_model_of_a_worker_makes_the_video_with_its_own_defaults(create, jobs):
    jobs.ledger.workers.introduce(Model("other", "org/other", defaults=Defaults(64, 64, fps=10)))
    video = create(model="other", prompt=None, seconds="2").json
    assert (video["model"], video["warnings"], video["size"]) == ("other", [], "64x64")
    assert video["parameters"]["num_frames"] == 20


def test_fields_without_effect_are_reported_as_warnings(create):
    warnings = create(model="sora-2").json["warnings"]
    assert ["takes no text" in warnings[0], "not by sora-2" in warnings[1], len(warnings)] == [True] * 2 + [2]
    assert create(prompt=None, model="nano").json["warnings"] == []


def test_json_with_a_data_url_makes_the_same_job_as_a_form_with_a_file(http, create, photo):
    form = create(seconds="1", seed="3").json
    for reference in (data_url(photo), {"image_url": data_url(photo, "text/plain")}):
        body = {"prompt": "a cat", "input_reference": reference, "seconds": "1", "seed": 3, "size": None}
        video = http.post("/v1/videos", json=body).json
        assert (video["parameters"], video["prompt"]) == (form["parameters"], "a cat")


def test_a_form_may_hold_a_data_url_larger_than_the_usual_limit_of_forms(http):
    noise = io.BytesIO()
    Image.effect_noise((900, 900), 90).save(noise, "PNG")
    assert len(noise.getvalue()) > 600_000
    for field in ("input_reference", "input_reference[image_url]"):
        boundary, body = encode_multipart({"prompt": "x", field: data_url(noise.getvalue())})
        answer = http.post("/v1/videos", data=body, content_type=f"multipart/form-data; boundary={boundary}")
        assert answer.status_code == 200, answer.text


def test_other_notations_of_data_urls_are_accepted(http):
    content = png((64, 64)).getvalue()
    quoted = "".join(f"%{byte:02x}" for byte in content)
    for url in (f"data:,{quoted}", f"DATA:image/png;x=y;BASE64,{base64.b64encode(content).decode()}"):
        answer = http.post("/v1/videos", json={"input_reference": url})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input_reference": None}, 400, None),
        ({"input_reference": "nonsense"}, 422, "input_reference"),
        ({"input_reference": "data:image/png;base64,!!"}, 422, "input_reference"),
        ({"input_reference": "data:image/png;base64,aGVsbG8="}, 415, None),
        ({"input_reference": "https://example.org/cat.jpg"}, 422, "input_reference"),
        ({"input_reference": {"file_id": "file-1"}}, 422, "input_reference"),
        ({"input_reference": 5}, 422, "input_reference"),
        ({"seconds": "60"}, 422, "seconds"),
        ({"seconds": "0"}, 422, "seconds"),
        ({"seconds": "nan"}, 422, "seconds"),
        ({"seconds": "inf"}, 422, "seconds"),
        ({"size": "9998x100"}, 422, "size"),
        ({"size": "101x100"}, 422, "size"),
        ({"size": "wide"}, 422, "size"),
        ({"seed": "-1"}, 422, "seed"),
        ({"voice": "loud"}, 422, "voice"),
        ({"prompt": 5}, 422, "prompt"),
    ],
)
def test_invalid_fields_are_rejected_in_openais_shape(http, photo, fields, status, param):
    answer = http.post("/v1/videos", json={"prompt": "x", "input_reference": data_url(photo), **fields})
    assert answer.status_code == status, answer.text
    assert set(answer.json) == {"error"}
    error = answer.json["error"]
    assert (set(error), error["param"]) == ({"message", "type", "param", "code"}, param)
    assert error["type"] == "invalid_request_error"


def test_bodies_that_are_no_json_object_are_rejected(http):
    for body in (b"", b"{", b"[]", b"7", b"[" * 100_000, b'{"prompt": "\xff"}'):
        answer = http.post("/v1/videos", data=body, content_type="application/json")
        assert (answer.status_code, set(answer.json)) == (400, {"error"}), body[:20]
    assert http.post("/v1/videos").status_code == 400


def test_the_status_of_a_video_from_creation_to_its_end(http, jobs, create, claim):
    video_id = create().json["id"]
    held = claim(video_id)
    jobs.ledger.attempts.report(held, Progress(Phase.SAMPLING, 3, 6))
    answer = http.get(f"/v1/videos/{video_id}")
    assert (answer.json["status"], answer.json["progress"], answer.json["queue_position"]) == ("in_progress", 42, None)
    assert "openai-poll-after-ms" in answer.headers
    jobs.ledger.attempts.end_attempt(held, AttemptOutcome.FAILED, Failure("time_limit", "It took too long."))
    answer = http.get(f"/v1/videos/{video_id}")
    assert answer.json["error"] == {"code": "time_limit", "message": "It took too long."}
    assert (answer.json["status"], answer.json["completed_at"]) == ("failed", None)
    assert "openai-poll-after-ms" not in answer.headers


def test_a_cancelled_job_is_failed_with_that_reason(http, jobs, create):
    video_id = create().json["id"]
    jobs.removal.cancel(video_id)
    video = http.get(f"/v1/videos/{video_id}").json
    assert (video["status"], video["error"]["code"]) == ("failed", "cancelled")


def test_content_is_served_in_all_variants(http, jobs, create, finish):
    video_id = create().json["id"]
    assert http.get(f"/v1/videos/{video_id}/content").status_code == 409
    finish(video_id)
    video = http.get(f"/v1/videos/{video_id}").json
    assert (video["status"], video["progress"]) == ("completed", 100)
    assert video["created_at"] <= video["completed_at"] < video["expires_at"]
    name = jobs.queries.find(video_id).result.artifact
    jobs.artifacts.put(file_name(name, Still.THUMBNAIL), b"thumb")
    jobs.artifacts.put(file_name(name, Still.SPRITESHEET), b"sheet")
    tags = set()
    for query, content, kind in (
        ("", VIDEO, "video/mp4"),
        ("?variant=video", VIDEO, "video/mp4"),
        ("?variant=thumbnail", b"thumb", "image/webp"),
        ("?variant=spritesheet", b"sheet", "image/jpeg"),
    ):
        answer = http.get(
            f"/v1/videos/{video_id}/content{query}", headers={"Accept": "application/binary"}, buffered=True
        )
        assert (answer.status_code, answer.data, answer.content_type) == (200, content, kind)
        tags.add(answer.headers["ETag"])
    assert len(tags) == 3
    assert http.get(f"/v1/videos/{video_id}/content?variant=audio").status_code == 422
    assert http.get(f"/results/{video_id}/thumbnail", buffered=True).data == b"thumb"
    assert http.get(f"/results/{video_id}/spritesheet", buffered=True).data == b"sheet"


def test_an_expired_video_stays_completed_and_has_no_content(http, create, finish, redis_client):
    video_id = create().json["id"]
    finish(video_id)
    redis_client.hset(f"svd:job:{video_id}", "expires", "1")
    assert http.get(f"/v1/videos/{video_id}").json["status"] == "completed"
    answer = http.get(f"/v1/videos/{video_id}/content")
    assert (answer.status_code, answer.json["error"]["code"]) == (410, "expired")


def test_the_list_has_pages_in_both_orders(http, create, submit):
    ids = [create().json["id"], submit(), create().json["id"]]
    first = http.get("/v1/videos?limit=2").json
    assert first | {"object": "list", "has_more": True, "first_id": ids[2], "last_id": ids[1]} == first
    rest = http.get(f"/v1/videos?limit=2&after={first['last_id']}").json
    assert ([video["id"] for video in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    assert [video["id"] for video in http.get("/v1/videos?order=asc").json["data"]] == ids
    assert (
        http.get(f"/v1/videos?after={ids[0]}").json | {"data": [], "first_id": None, "last_id": None}
        == http.get(f"/v1/videos?after={ids[0]}").json
    )
    for query, status in (("limit=0", 422), ("limit=x", 422), ("order=up", 422), ("after=x", 404)):
        assert http.get(f"/v1/videos?{query}").status_code == status


def test_deleting_an_ended_video_leaves_nothing(http, jobs, create, finish, data_dir):
    video_id = create().json["id"]
    finish(video_id)
    answer = http.delete(f"/v1/videos/{video_id}")
    assert answer.json == {"id": video_id, "object": "video.deleted", "deleted": True}
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []
    for method, path in (("get", ""), ("get", "/content"), ("delete", "")):
        assert getattr(http, method)(f"/v1/videos/{video_id}{path}").status_code == 404
    assert http.get("/v1/videos").json["data"] == []


def test_deleting_a_queued_job_removes_it_from_the_queue(http, jobs, create, data_dir):
    first, second = create().json["id"], create().json["id"]
    assert http.delete(f"/v1/videos/{first}").status_code == 200
    assert http.get(f"/v1/videos/{second}").json["queue_position"] == 1
    assert [path.stem for path in data_dir.rglob("*") if path.is_file()] == [second]


def test_deleting_a_started_job_cancels_it_and_hides_it_at_once(http, jobs, create, claim, data_dir):
    video_id = create().json["id"]
    held = claim(video_id)
    assert http.delete(f"/v1/videos/{video_id}").status_code == 200
    assert jobs.ledger.attempts.report(held)
    for path in (f"/v1/videos/{video_id}", f"/status/{video_id}"):
        assert http.get(path).status_code == 404
    assert http.delete(f"/v1/videos/{video_id}").status_code == 404
    jobs.ledger.attempts.end_attempt(held, AttemptOutcome.CANCELLED)
    assert jobs.maintenance.expire() == 1
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []


def test_operations_that_svd_cannot_do_are_a_400_in_the_same_shape(http, create):
    video_id = create().json["id"]
    for path in ("edits", "characters", f"{video_id}/remix"):
        answer = http.post(f"/v1/videos/{path}", json={"prompt": "x"})
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "not_supported")
    assert http.get("/v1/videos/characters/char_1").json["error"]["code"] == "not_supported"


def test_every_error_beneath_the_prefix_has_openais_shape(http, app, jobs, photo, monkeypatch):
    app.testing = False

    def broken(job_id):
        raise AssertionError("a bug")

    cases = [
        (http.get("/v1/nowhere"), 404),
        (http.get("/v1/videos/x"), 404),
        (http.put("/v1/videos"), 405),
        (http.get(f"/v1/videos/{uuid.uuid4()}"), 404),
        (http.post("/v1/videos", environ_overrides={"CONTENT_LENGTH": "30000000"}), 413),
        (http.post("/v1/videos", json={"input_reference": data_url(photo + bytes(20_000_000))}), 413),
    ]
    assert cases[2][0].headers["Allow"]
    monkeypatch.setattr(jobs.queries, "find", broken)
    cases.append((http.get(f"/v1/videos/{uuid.uuid4()}"), 500))
    for answer, status in cases:
        assert answer.status_code == status
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert cases[-1][0].json["error"]["type"] == "server_error"


def test_without_redis_it_is_503_in_the_same_shape(make_settings):
    from svd_service.api import create_app

    http = create_app(make_settings(REDIS_URL="redis://127.0.0.1:1/0")).test_client()
    answer = http.get("/v1/videos")
    assert answer.status_code == 503
    assert (answer.get_json() or {})["error"]["type"] == "server_error"
    assert answer.headers["Retry-After"]


def test_an_idempotency_key_gives_the_same_job(http, photo):
    def post():
        data = {"prompt": "x", "input_reference": (io.BytesIO(photo), "upload")}
        return http.post("/v1/videos", data=data, headers={"Idempotency-Key": "k"}).json["id"]

    assert post() == post()


def test_the_models_are_listed_as_the_openai_clients_expect(http):
    card = {"id": "nano", "object": "model", "created": 0, "owned_by": "svd-service"}
    cards = [card, {**card, "id": "sora-2"}, {**card, "id": "sora-2-pro"}]
    assert http.get("/v1/models").json == {"object": "list", "data": cards}
    assert http.get("/v1/models/nano").json == card
    assert http.get("/v1/models/sora-2-pro").json == cards[2]
    unknown = http.get("/v1/models/org/other")
    assert (unknown.status_code, unknown.json["error"]["type"]) == (404, "invalid_request_error")
    assert "there is no model org/other" in unknown.json["error"]["message"]


@pytest.mark.parametrize("body", ["{", "[]", "null", ""])
def test_json_that_is_no_object_is_rejected_with_that_message(http, body):
    answer = http.post("/v1/videos", data=body, content_type="application/json")
    assert answer.status_code == 400
    assert "the request's body must be a JSON object" in answer.json["error"]["message"]


def test_an_invalid_size_is_rejected_with_an_example(http, photo):
    data = {"prompt": "x", "size": "big", "input_reference": (io.BytesIO(photo), "upload")}
    error = http.post("/v1/videos", data=data).json["error"]
    assert (error["param"], error["message"]) == ("size", "size must be width x height, such as 1280x720; got 'big'")


@pytest.fixture
def send(http, photo):
    """Sends the same request as the `openai` package does after `sent_before` earlier attempts."""

    def post(sent_before, **headers):
        data = {"prompt": "x", "input_reference": (io.BytesIO(photo), "upload")}
        counted = {"x-stainless-retry-count": str(sent_before), **headers}
        return http.post("/v1/videos", data=data, headers=counted)

    return post


def listed(http):
    return {video["id"] for video in http.get("/v1/videos").json["data"]}


def test_a_retried_create_gets_the_job_of_the_first_attempt(http, send):
    first = send(0).json["id"]
    assert [send(times).json["id"] for times in (1, 2)] == [first] * 2
    assert listed(http) == {first}


def test_two_equal_creates_are_two_jobs(http, send):
    ids = {send(0).json["id"] for _ in range(2)}
    assert len(ids) == 2
    assert listed(http) == ids


def test_a_retry_is_recognized_by_its_fields_and_its_image(http, send, photo):
    first = send(0).json["id"]
    repeated = {"x-stainless-retry-count": "1"}
    for change in ({"prompt": "y"}, {"seed": "1"}, {"input_reference": (png((64, 64)), "upload")}):
        data = {"prompt": "x", "input_reference": (io.BytesIO(photo), "upload"), **change}
        assert http.post("/v1/videos", data=data, headers=repeated).json["id"] != first
    assert len(listed(http)) == 4


def test_a_create_as_json_can_be_retried_too(http, photo):
    body = {"prompt": "x", "input_reference": {"image_url": data_url(photo)}}
    ids = {http.post("/v1/videos", json=body, headers={"x-stainless-retry-count": count}).json["id"] for count in "012"}
    assert listed(http) == ids
    assert len(ids) == 1


def test_a_create_retried_while_the_first_attempt_runs_is_one_job(http, jobs, send, monkeypatch):
    put, repeated = jobs.artifacts.put, []

    def slow_put(name, content):
        put(name, content)
        monkeypatch.undo()
        repeated.append(send(1).json["id"])

    monkeypatch.setattr(jobs.artifacts, "put", slow_put)
    first = send(0).json["id"]
    assert repeated == [first]
    assert listed(http) == {first}
    assert jobs.artifacts.size(jobs.queries.find(first).input) > 0


def test_a_create_rejected_by_a_full_queue_makes_a_new_job_when_it_is_retried(make_settings, redis_url, photo):
    http = create_app(make_settings(REDIS_URL=redis_url, SVD_MAX_QUEUED=1)).test_client()

    def send(sent_before):
        data = {"prompt": "x", "input_reference": (io.BytesIO(photo), "upload")}
        return http.post("/v1/videos", data=data, headers={"x-stainless-retry-count": str(sent_before)})

    first = send(0).json["id"]
    assert send(0).status_code == 429
    http.delete(f"/jobs/{first}")  # makes room in the queue
    second = send(1)
    assert second.status_code == 200
    assert second.json["id"] != first


@pytest.mark.parametrize("path", ["/v1/videos/{}", "/v1/videos/{}/content"])
def test_a_job_that_the_client_has_read_is_not_the_one_of_a_retried_create(http, send, path):
    first = send(0).json["id"]
    http.get(path.format(first))
    assert send(1).json["id"] != first


def test_a_deleted_job_is_not_the_one_of_a_retried_create(http, send):
    first = send(0).json["id"]
    assert http.delete(f"/v1/videos/{first}").status_code == 200
    second = send(1)
    assert second.status_code == 200
    assert second.json["id"] != first


def test_an_idempotency_key_takes_precedence_over_a_retry_count(send):
    key = {"Idempotency-Key": "k"}
    assert send(0, **key).json["id"] == send(0, **key).json["id"] != send(1).json["id"]


@pytest.mark.parametrize("count", ["", "-1", "many", "9" * 5_000])
def test_an_invalid_retry_count_is_ignored(send, count):
    assert send(count).json["id"] != send(count).json["id"]


def test_a_job_made_here_is_visible_in_the_native_dialect(http, create):
    video_id = create(seed="9").json["id"]
    assert http.get(f"/status/{video_id}").json["parameters"]["seed"] == 9
    assert json.loads(http.get("/v1/videos").data)["data"][0]["id"] == video_id


@pytest.mark.parametrize(
    "change", [{"formats": "webm,gif"}, {"formats[]": ["gif", "webm"]}, {"formats": ["webm", "gif"]}], ids=str
)
def test_further_formats_are_extras_and_variants(http, jobs, create, change):
    video = create(**change).json
    assert video["parameters"]["formats"] == ["webm", "gif"]
    assert http.get(f"/v1/videos/{video['id']}/content?variant=gif").status_code == 409
    absent = http.get(f"/v1/videos/{video['id']}/content?variant=zip")
    assert (absent.status_code, absent.json["error"]["code"]) == (404, "format_not_made")


def test_a_list_of_formats_may_be_json(http, photo):
    url = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
    body = {"prompt": "x", "input_reference": {"image_url": url}, "formats": ["zip", "webp"]}
    answer = http.post("/v1/videos", json=body)
    assert answer.json["parameters"]["formats"] == ["webp", "zip"]
    assert http.post("/v1/videos", json=body | {"formats": ["avi"]}).status_code == 422


def test_fields_that_change_nothing_are_accepted(create):
    fields = {"n": "1", "num_outputs_per_prompt": "1", "user": "ann", "generate_audio": "false", "extra_body": "{}"}
    assert create(**fields).json["status"] == "queued"


def test_an_extra_body_sent_as_text_in_a_form_is_merged_into_it(create, http, photo):
    video = create(extra_body='{"seed": 7, "motion_bucket_id": 60}', motion_bucket_id="90").json
    parameters = video["parameters"]
    assert (parameters["seed"], parameters["motion_bucket_id"]) == (7, 90)
    for text, name in (('{"sed": 7}', "sed"), ("[7]", "extra_body"), ("seed", "extra_body"), ('{"seed": {}}', "seed")):
        data = {"prompt": "x", "input_reference": (io.BytesIO(photo), "upload"), "extra_body": text}
        answer = http.post("/v1/videos", data=data)
        assert (answer.status_code, answer.json["error"]["param"]) == (422, name)


def test_guidance_by_text_is_recorded_with_a_warning(create):
    warnings = " ".join(create(negative_prompt="blurry", guidance_scale="7.5").json["warnings"])
    assert "negative prompt" in warnings
    assert "guidance_scale" in warnings


@pytest.mark.parametrize(("name", "value"), [("n", "2"), ("generate_audio", "true"), ("negativ_prompt", "x")])
def test_fields_that_cannot_be_honored_are_rejected(http, photo, name, value):
    data = {"prompt": "x", "input_reference": (io.BytesIO(photo), "upload"), name: value}
    answer = http.post("/v1/videos", data=data)
    assert (answer.status_code, answer.json["error"]["param"]) == (422, name)


def test_the_image_may_be_called_image_reference(http, photo):
    as_file = http.post("/v1/videos", data={"prompt": "x", "image_reference": (io.BytesIO(photo), "upload")})
    assert as_file.status_code == 200, as_file.text
    as_object = {"prompt": "x", "image_reference": {"image_url": data_url(photo)}}
    assert http.post("/v1/videos", json=as_object).status_code == 200
    in_a_form = {"prompt": "x", "image_reference[image_url]": data_url(photo)}
    assert http.post("/v1/videos", data=in_a_form).status_code == 200


SIZES = ("720x1280", "1280x720", "1024x1792", "1792x1024")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seconds", ["4", "8", "12", "16", "20"])
def test_lengths_and_sizes_of_openai_are_accepted(create, seconds, size):
    video = create(model="sora-2", seconds=seconds, size=size).json
    assert (video["seconds"], video["size"]) == (seconds, size)
    assert video["duration_seconds"] == pytest.approx(float(seconds), rel=0.05)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seconds", [4, 8, 12, 16, 20])
def test_svd_xt_makes_lengths_and_sizes_of_openai_in_segments_at_its_own_size(seconds, size):
    form = forms.convert(VideoForm, {"seconds": seconds, "size": size})
    xt = Model(name="xt", source="stabilityai/stable-video-diffusion-img2vid-xt")
    parameters = form.request_to(xt).resolve(xt, (720, 1280))
    assert (parameters.width, parameters.height) in {(1024, 576), (576, 1024)}
    assert (parameters.height > parameters.width) == (size in {"720x1280", "1024x1792"})
    assert "x".join(map(str, parameters.output_size)) == size
    assert parameters.num_frames <= 25
    assert parameters.clip.seconds == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "shown", "length"),
    [
        # As clients of vLLM-Omni and SGLang send them.
        (
            {"width": 1280, "height": 720, "num_frames": 81, "fps": 16},
            {"size": "1280x720", "playback_fps": 16},
            81 / 16,
        ),
        (
            {"width": 854, "height": 480, "num_frames": 121, "fps": 24},
            {"size": "854x480", "playback_fps": 24},
            121 / 24,
        ),
        ({"num_frames": 200, "fps": 60}, {"playback_fps": 60, "fps": 30}, 200 / 60),
        ({"num_frames": 100, "interpolate": 2, "playback_fps": 30}, {"playback_fps": 30}, 200 / 30),
        ({"num_frames": 140}, {"fps": 7, "playback_fps": 7}, 20),
        ({"num_frames": 6, "fps": 3}, {"playback_fps": 3, "fps": 5, "num_frames": 6, "segments": 1}, 2),
        # A size and length that the model makes natively stay as they are.
        (
            {"width": 96, "height": 64, "num_frames": 4, "fps": 16},
            {"size": "96x64", "width": 96, "num_frames": 4, "playback_fps": 16},
            0.25,
        ),
    ],
    ids=str,
)
def test_sizes_frames_and_rates_of_other_servers_are_accepted(create, fields, shown, length):
    video = create(**fields).json
    assert shown == {name: {**video["parameters"], "size": video["size"]}[name] for name in shown}
    assert video["duration_seconds"] == pytest.approx(length, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"num_frames": 600, "fps": 12}, "seconds", "the maximum is 30 s"),
        ({"num_frames": 900, "fps": 24}, "seconds", "the maximum is 30 s"),
        ({"num_frames": 81, "seconds": "4"}, "num_frames", "either seconds or num_frames"),
        ({"num_frames": 81, "segments": 2}, "num_frames", "without segments"),
        ({"width": 853, "height": 480}, "size", "853x480"),
        ({"width": 1280}, "width", "width must lie between"),
    ],
    ids=str,
)
def test_contradictory_frames_and_sizes_are_rejected(http, photo, fields, param, part):
    data = {"prompt": "x", "input_reference": (io.BytesIO(photo), "upload"), **fields}
    answer = http.post("/v1/videos", data=data)
    assert (answer.status_code, answer.json["error"]["param"]) == (422, param)
    assert part in answer.json["error"]["message"]


@pytest.mark.parametrize("fields", [{"seconds": "8"}, {"size": "1280x720"}, {"num_frames": 81}, {"fps": 60}])
def test_strict_mode_accepts_only_what_the_model_makes_natively(make_settings, redis_url, photo, fields):
    http = create_app(make_settings(REDIS_URL=redis_url, SVD_OPENAI_STRICT="true")).test_client()
    data = {"prompt": "x", "input_reference": (io.BytesIO(photo), "upload"), **fields}
    answer = http.post("/v1/videos", data=data)
    assert (answer.status_code, (answer.json or {})["error"]["param"]) == (422, next(iter(fields)))


@pytest.mark.parametrize("field", ["image_reference", "input_reference"])
def test_a_form_may_hold_an_object_with_the_image_as_json(http, create, photo, field):
    as_file = create(seed="3").json["parameters"]
    for text in (json.dumps({"image_url": data_url(photo)}), f'\n {{"image_url": "{data_url(photo)}"}} '):
        answer = http.post("/v1/videos", data={"prompt": "x", "seed": "3", field: text})
        assert answer.status_code == 200, answer.text
        assert answer.json["parameters"] == as_file


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("{", 422),
        ('{"image_url": 7}', 422),
        ('{"image_url": "nonsense"}', 422),
        ('{"file_id": "file-1"}', 422),
        ("{}", 400),
        ('{"image_url": ' * 700 + '"x"' + "}" * 700, 422),
        ('{"image_url": ' + "[" * 90_000, 422),
        ('{"image_url": [' + "[]," * 200_000 + "[]]}", 422),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_invalid_object_in_a_form_is_a_client_error(http, text, status):
    boundary, body = encode_multipart({"prompt": "x", "input_reference": text})
    answer = http.post("/v1/videos", data=body, content_type=f"multipart/form-data; boundary={boundary}")
    assert answer.status_code == status, answer.text
    assert len(answer.text) < 1_000


def test_the_fields_of_other_models_in_vllm_omnis_example_are_recorded_with_warnings(create):
    video = create(
        prompt="A bear playing with yarn, smooth motion",
        negative_prompt="low quality, blurry, static",
        width="832",
        height="480",
        num_frames="33",
        fps="16",
        num_inference_steps="40",
        guidance_scale="1.0",
        guidance_scale_2="1.0",
        boundary_ratio="0.875",
        flow_shift="12.0",
        seed="42",
    ).json
    assert (video["size"], video["parameters"]["num_inference_steps"]) == ("832x480", 40)
    warnings = " ".join(video["warnings"])
    for name in ("guidance_scale", "guidance_scale_2", "boundary_ratio", "flow_shift"):
        assert f"{name} is " in warnings


@pytest.mark.parametrize(
    ("name", "value"),
    [("boundary_ratio", "1.5"), ("flow_shift", "1e9"), ("guidance_scale_2", "high"), ("guidance_scale", "9e99")],
)
def test_a_recorded_number_is_bounded(http, photo, name, value):
    data = {"prompt": "x", "input_reference": (io.BytesIO(photo), "upload"), name: value}
    answer = http.post("/v1/videos", data=data)
    assert (answer.status_code, answer.json["error"]["param"]) == (422, name)


@pytest.mark.parametrize("frames", ["9" * 20, "9" * 400, "432001", "1e9", "-5"])
def test_the_number_of_frames_is_bounded(http, photo, frames):
    form = {"input_reference": (io.BytesIO(photo), "upload"), "num_frames": frames}
    answer = http.post("/v1/videos", data=form)
    assert (answer.status_code, answer.json["error"]["param"]) == (422, "num_frames")
    if frames.isdecimal():
        body = f'{{"input_reference": "{data_url(photo)}", "num_frames": {frames}}}'
        answer = http.post("/v1/videos", data=body, content_type="application/json")
        assert (answer.status_code, answer.json["error"]["param"]) == (422, "num_frames")


def test_more_frames_than_the_longest_video_has_are_rejected(http, photo):
    for more in ({"fps": "1"}, {"fps": "120"}, {}):
        form = {"input_reference": (io.BytesIO(photo), "upload"), "num_frames": "432000", **more}
        assert http.post("/v1/videos", data=form).status_code == 422
