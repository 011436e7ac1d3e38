"""Several videos of one image: `n` and `seeds` at `/generate`, and `/groups`."""

import io
import json

import pytest
from PIL import Image

from svd_service.jobs.allowance import Allowance
from svd_service.jobs.job import Still
from svd_service.jobs.job_files import file_name
from svd_service.ledger.controls import Pausable

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def post(http, photo):
    def send(_headers=None, **fields):
        data = {"image": (io.BytesIO(photo), "cat.jpg"), **fields}
        return http.post("/generate", data=data, headers=_headers, buffered=True)

    return send


def seeds(answer):
    return [job["parameters"]["seed"] for job in answer.json["jobs"]]


def inputs(data_dir):
    return [path for path in data_dir.rglob("*.png") if path.is_file()]


def test_n_videos_of_one_image_are_a_group(http, post, data_dir):
    answer = post(n="4", fps="9")
    group = answer.json
    assert (answer.status_code, group["status"], group["n"], group["counts"]) == (202, "queued", 4, {"queued": 4})
    assert answer.headers["Location"] == f"/groups/{group['group_id']}"
    assert http.get(answer.headers["Location"]).json == group
    assert len({*seeds(answer)}) == 4
    assert {job["parameters"]["fps"] for job in group["jobs"]} == {9}
    assert len(inputs(data_dir)) == 4
    listed = http.get("/jobs").json["jobs"]
    assert [job["task_id"] for job in listed] == [job["task_id"] for job in reversed(group["jobs"])]
    assert {job["group_id"] for job in listed} == {group["group_id"]}
    assert (group["contact_sheet"], group["webhook"], group["progress"]) == (None, None, 0)


def test_seeds_are_listed_or_counted_from_the_first(http, post, photo):
    assert seeds(post(seeds="3, 1,2")) == [3, 1, 2]
    assert seeds(post(n="3", seed="4294967294")) == [4294967294, 4294967295, 0]
    assert seeds(post(seeds="7")) == [7]
    assert seeds(post(n="2", seeds=["5", "6"])) == [5, 6]
    import base64

    image = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
    assert seeds(http.post("/generate", json={"image": image, "seeds": [8, 9]})) == [8, 9]
    assert "task_id" in post(n="1").json


def test_the_groups_route_always_answers_with_a_group(http, photo):
    def send(**fields):
        return http.post("/groups", data={"image": (io.BytesIO(photo), "cat.jpg"), **fields}).json

    assert send(n="2")["n"] == 2
    assert [job["parameters"]["seed"] for job in send(seed="7")["jobs"]] == [7]


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"n": "9"}, "n"),
        ({"n": "0"}, "n"),
        ({"n": "x"}, "n"),
        ({"n": "3", "seeds": "1,2"}, "n"),
        ({"seeds": "1,1"}, "seeds"),
        ({"seeds": "1,2,3,4,5,6,7,8,9"}, "seeds"),
        ({"seeds": "1,x"}, "seeds"),
        ({"seeds": "-1"}, "seeds"),
        ({"seeds": "4294967296"}, "seeds"),
        ({"seeds": "1,2", "seed": "1"}, "seed"),
    ],
)
def test_an_invalid_group_is_rejected(post, data_dir, fields, parameter):
    answer = post(**fields)
    assert (answer.status_code, answer.json["error"]["parameter"]) == (422, parameter)
    assert inputs(data_dir) == []


def test_a_full_queue_accepts_no_part_of_a_group(app, http, post, jobs, data_dir, make_settings, redis_url):
    from svd_service.api import create_app

    small = create_app(make_settings(REDIS_URL=redis_url, SVD_MAX_QUEUED=3)).test_client()
    answer = small.post("/generate", data={"image": (io.BytesIO(b"x"), "cat.jpg"), "n": "4"})
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (429, "queue_full")
    assert http.get("/jobs").json["jobs"] == []
    assert inputs(data_dir) == []


# With an `Idempotency-Key` the ledger's script decides, after the images are stored; otherwise an earlier check does.
@pytest.mark.parametrize("more", [{}, {"Idempotency-Key": "k"}])
@pytest.mark.parametrize(
    ("allowance", "message"),
    [
        (Allowance(jobs_per_day=3), "3 jobs a day, too few left for 3 until 20"),
        (Allowance(concurrent_jobs=3), "3 jobs at a time, too few left for 3: retry when one of them has ended"),
    ],
)
def test_a_used_up_quota_accepts_no_part_of_a_group(app, http, post, data_dir, allowance, message, more):
    _, secret = app.extensions["web"].keyring.create("ann", allowance=allowance)
    mine = {"Authorization": f"Bearer {secret}"}
    single = post(mine).json["task_id"]
    answer = post({**mine, **more}, n="3")
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "quota_exceeded")
    assert answer.json["error"]["message"].startswith(message)
    assert int(answer.headers["Retry-After"]) > 0
    assert [job["task_id"] for job in http.get("/jobs", headers=mine).json["jobs"]] == [single]
    assert len(inputs(data_dir)) == 1
    assert post({**mine, **more}, n="2").status_code == 202
    assert post(mine).status_code == 429


def test_a_key_cannot_submit_a_group_with_a_profile_that_it_must_not_use(app, post, data_dir):
    _, secret = app.extensions["web"].keyring.create("ann", allowance=Allowance(profiles=("draft",)))
    mine = {"Authorization": f"Bearer {secret}"}
    assert post(mine, n="2").status_code == 403
    assert inputs(data_dir) == []
    assert post(mine, n="2", profile="draft").status_code == 202


@pytest.mark.parametrize("more", [{}, {"Idempotency-Key": "k"}])
def test_a_paused_intake_accepts_no_group(http, post, jobs, data_dir, more):
    jobs.ledger.controls.pause(Pausable.INTAKE, "nano", by="olga", reason="driver update")
    answer = post(more, n="3")
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "paused")
    assert "driver update" in answer.json["error"]["message"]
    assert http.get("/jobs").json["jobs"] == []
    assert inputs(data_dir) == []
    jobs.ledger.controls.resume(Pausable.INTAKE, "nano", by="olga")
    assert post(more, n="3").status_code == 202


def test_usage_counts_each_job_of_a_group(app, http, post, finish):
    _, secret = app.extensions["web"].keyring.create("ann")
    mine = {"Authorization": f"Bearer {secret}"}
    group = post(mine, n="3").json
    finish(group["jobs"][0]["task_id"])
    http.delete(f"/groups/{group['group_id']}", headers=mine)
    total = http.get("/usage", headers=mine).json["total"]
    assert (total["submitted"], total["finished"], total["cancelled"]) == (3, 1, 2)


def test_a_group_of_n_counts_as_n_requests(make_settings, redis_url, photo):
    from svd_service.api import create_app

    http = create_app(make_settings(REDIS_URL=redis_url, SVD_RATE_LIMIT=5)).test_client()

    def send(n):
        return http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg"), "n": n}).status_code

    assert [send("6"), send("4"), send("2")] == [429, 202, 429]


def test_the_same_key_gets_the_same_group(post, data_dir):
    first = post({"Idempotency-Key": "k"}, n="2").json
    assert post({"Idempotency-Key": "k"}, n="2").json["group_id"] == first["group_id"]
    assert len(inputs(data_dir)) == 2
    for fields in ({"n": "3"}, {}, {"seeds": "1,2"}):
        assert post({"Idempotency-Key": "k"}, **fields).status_code == 422


def test_a_group_is_cancelled_and_then_deleted(http, post, claim, data_dir):
    group = post(n="3").json
    path = f"/groups/{group['group_id']}"
    claim(group["jobs"][0]["task_id"])
    answer = http.delete(path)
    assert (answer.status_code, answer.json["status"]) == (202, "started")
    assert answer.json["counts"] == {"started": 1, "cancelled": 2}
    assert answer.json["jobs"][0]["cancel_requested"]
    other = post(n="2").json["group_id"]
    assert http.delete(f"/groups/{other}").status_code == 200
    assert http.delete(f"/groups/{other}").status_code == 204
    assert http.get(f"/groups/{other}").status_code == 404
    assert len(inputs(data_dir)) == 1


def test_cancelling_a_group_never_deletes_its_jobs(http, post, claim, finish):
    group = post(n="3").json
    path = f"/groups/{group['group_id']}/cancel"
    first, second = (job["task_id"] for job in group["jobs"][:2])
    finish(first)
    claim(second)
    for _ in range(2):
        answer = http.post(path)
        assert (answer.status_code, answer.json["counts"]) == (202, {"finished": 1, "started": 1, "cancelled": 1})
    ended = post(n="2").json["group_id"]
    for _ in range(2):
        answer = http.post(f"/groups/{ended}/cancel")
        assert (answer.status_code, answer.json["counts"]) == (200, {"cancelled": 2})
    assert http.get(f"/results/{first}", buffered=True).status_code == 200


def test_the_contact_sheet_has_the_finished_videos(http, post, finish, jobs):
    group = post(seeds="1,2,3").json
    path = f"/groups/{group['group_id']}/contact-sheet"
    answer = http.get(path)
    assert (answer.status_code, answer.json["error"]["code"], answer.json["status"]) == (409, "not_ready", "queued")
    for job in group["jobs"][:2]:
        finish(job["task_id"])
        thumbnail = io.BytesIO()
        Image.new("RGB", (256, 144), "red").save(thumbnail, "WEBP")
        result = jobs.queries.find(job["task_id"]).result
        jobs.artifacts.put(file_name(result.artifact, Still.THUMBNAIL), thumbnail.getvalue())
    assert http.get(f"/groups/{group['group_id']}").json["contact_sheet"] == path
    answer = http.get(path)
    with Image.open(io.BytesIO(answer.data)) as sheet:
        assert (sheet.format, sheet.size) == ("JPEG", (2 * 264 + 8, 144 + 20 + 16))
        pixels = [sheet.convert("RGB").tobytes()[3 * (80 * sheet.width + x) :][:2] for x in (100, 400)]
    assert all(red > 200 and green < 60 for red, green in pixels)
    assert http.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert http.get(path, headers={"If-Match": '"other"'}).json["error"]["code"] == "precondition_failed"


def test_a_group_is_404_for_other_keys(app, http, post):
    keyring = app.extensions["web"].keyring
    _, ann = keyring.create("ann")
    _, bob = keyring.create("bob")
    mine, others = ({"Authorization": f"Bearer {secret}"} for secret in (ann, bob))
    path = f"/groups/{post(mine, n='2').json['group_id']}"
    assert http.get(path, headers=mine).status_code == 200
    for request in (http.get, http.delete):
        answer = request(path, headers=others)
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "unknown_group")
    assert http.get(f"{path}/events", headers=others).status_code == 404
    assert http.post(f"{path}/cancel", headers=others).status_code == 404
    assert http.get(f"{path}/contact-sheet", headers=others).status_code == 404


@pytest.mark.parametrize("group_id", ["x", "00000000-0000-0000-0000-000000000000"])
def test_an_unknown_group_is_404(http, group_id):
    for path in ("", "/events", "/contact-sheet"):
        assert http.get(f"/groups/{group_id}{path}").status_code == 404
    assert http.delete(f"/groups/{group_id}").status_code == 404
    assert http.post(f"/groups/{group_id}/cancel").status_code == 404


def test_one_stream_follows_all_jobs_of_a_group(http, post, finish):
    group = post(n="2").json
    first, second = (job["task_id"] for job in group["jobs"])
    answer = http.get(f"/groups/{group['group_id']}/events")
    events = filter(lambda part: b"data:" in part, answer.response)

    def read():
        fields = dict(line.split(": ", 1) for line in next(events).decode().strip().splitlines())
        return fields["id"], json.loads(fields["data"])

    assert read()[1]["counts"] == {"queued": 2}
    finish(first)
    while (shown := read()[1])["counts"] != {"finished": 1, "queued": 1}:
        pass
    assert shown["status"] == "started"
    finish(second)
    while (last := read())[1]["status"] != "finished":
        pass
    assert next(events, None) is None
    answer.close()
    again = http.get(f"/groups/{group['group_id']}/events", headers={"Last-Event-ID": last[0]})
    assert again.status_code == 204


def test_a_request_that_waits_for_a_group_returns_it_ended(post, jobs, finish):
    import threading
    import time

    def work():
        while len(found := jobs.queries.page()[0]) < 2:
            time.sleep(0.02)
        for job in found:
            finish(job.id)

    worker = threading.Thread(target=work)
    worker.start()
    answer = post({"Prefer": "wait=20"}, n="2")
    worker.join()
    assert (answer.status_code, answer.json["status"]) == (200, "finished")
    assert answer.headers["Preference-Applied"] == "wait=20"
