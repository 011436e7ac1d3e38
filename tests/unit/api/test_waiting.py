"""`POST /generate` with JSON bodies, `Prefer` and `Cancel-After`."""

import base64
import io
import threading
import time

import pytest

from svd_service.errors import UnavailableError
from svd_service.jobs.job import AttemptOutcome, Failure
from svd_service.ledger.estimates import Estimates
from tests.unit.api.samples import VIDEO


@pytest.fixture
def post(http, photo):
    def send(fields=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.post(
            "/generate",
            data={"image": (io.BytesIO(photo), "cat.jpg"), **(fields or {})},
            headers=headers,
            buffered=True,
        )

    return send


@pytest.fixture
def soon(jobs):
    """Acts as a worker on the next job as soon as there is one."""
    threads = []

    def act(what):
        def run():
            deadline = time.monotonic() + 20
            while not (found := jobs.queries.page()[0]) and time.monotonic() < deadline:
                time.sleep(0.02)
            what(found[0].id)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield act
    for thread in threads:
        thread.join()


def data_url(photo):
    return "data:image/jpeg;base64," + base64.b64encode(photo).decode()


def test_a_submission_that_waits_returns_the_video(post, soon, finish):
    soon(finish)
    answer = post(Prefer="wait=20")
    assert (answer.status_code, answer.mimetype, answer.data) == (200, "video/mp4", VIDEO)
    assert answer.headers["Preference-Applied"] == "wait=20"
    job_id = answer.headers["Location"].removeprefix("/status/")
    assert answer.headers["Content-Location"] == f"/results/{job_id}.mp4"


def test_a_client_that_accepts_only_json_gets_the_finished_job(post, soon, finish):
    soon(finish)
    answer = post(Prefer="wait=20", Accept="application/json")
    assert (answer.status_code, answer.json["status"]) == (200, "finished")


def test_a_job_that_takes_longer_than_the_wait_is_202(post):
    began = time.monotonic()
    answer = post(Prefer="respond-async, wait=1")
    assert time.monotonic() - began >= 1
    assert (answer.status_code, answer.json["status"]) == (202, "queued")
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert answer.headers["Location"] == f"/status/{answer.json['task_id']}"


def test_a_job_that_fails_during_the_wait_is_an_error_that_names_the_job(post, soon, jobs, claim):
    soon(lambda job_id: jobs.ledger.attempts.end_attempt(claim(job_id), AttemptOutcome.FAILED, Failure("x", "Why.")))
    answer = post(Prefer="wait=20")
    assert (answer.status_code, answer.json["status"]) == (409, "failed")
    assert "Why." in answer.json["error"]["message"]
    assert answer.headers["Location"].startswith("/status/")


@pytest.mark.parametrize(
    "preference", ["", "wait", "wait=0", "wait=-1", "wait=x", 'wait="', "return=minimal", "wait=²"]
)
def test_an_invalid_preference_is_ignored(post, preference):
    answer = post(Prefer=preference)
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


def test_the_wait_has_a_maximum(post, change_settings):
    change_settings(max_wait=1)
    answer = post(Prefer='Wait="600"; x=y')
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=1")
    change_settings(max_wait=0)
    assert "Preference-Applied" not in post(Prefer="wait=600").headers


def test_above_the_limit_of_waiting_requests_a_submission_does_not_wait(post, app, soon, finish):
    hub = app.extensions["events"]
    boxes = [hub.open(owner="somebody", caller=f"{number}") for number in range(hub._capacity)]
    answer = post(Prefer="wait=20")
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers
    for box in boxes:
        hub.shut(box)


def test_a_waiting_caller_gets_the_job_id_although_redis_is_away(post, monkeypatch, jobs):
    def fail(*_, **__):
        raise UnavailableError("away")

    real = type(jobs.queries).find
    calls = []

    def find(self, job_id, *, owner=""):
        calls.append(job_id)
        return real(self, job_id, owner=owner) if len(calls) == 1 else fail()

    monkeypatch.setattr(type(jobs.queries), "find", find)
    answer = post(Prefer="wait=1")
    assert (answer.status_code, answer.json["status"]) == (202, "queued")


def test_an_image_in_json_is_a_data_url(http, photo):
    answer = http.post("/generate", json={"image": data_url(photo), "seed": 5, "formats": ["gif"], "fps": None})
    assert answer.status_code == 202
    assert (answer.json["parameters"]["seed"], answer.json["parameters"]["formats"]) == (5, ["gif"])


def test_an_image_in_a_form_may_be_a_data_url(http, photo):
    assert http.post("/generate", data={"image": data_url(photo)}).status_code == 202


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "missing_image"),
        ([], 400, "bad_request"),
        ({"image": "cat.jpg"}, 422, "invalid_parameter"),
        ({"image": 5}, 422, "invalid_parameter"),
        ({"image": "https://127.0.0.1/cat.jpg"}, 422, "invalid_parameter"),
        ({"image": "data:image/png;base64,AAAA"}, 415, "not_an_image"),
        ({"image": "data:,", "sed": 1}, 422, "invalid_parameter"),
    ],
)
def test_a_json_body_without_a_usable_image_is_rejected(http, body, status, code):
    answer = http.post("/generate", json=body)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)


def test_an_image_by_url_is_fetched_where_the_settings_allow_it(http, photo, change_settings, monkeypatch):
    from svd_service.api.http import fetch

    monkeypatch.setattr(fetch, "fetch", lambda url, **_: photo)
    change_settings(fetch_urls=True)
    assert http.post("/generate", json={"image": "https://example.com/cat.jpg"}).status_code == 202


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), (" 5m ", 300), ("1H", 3600)])
def test_a_job_has_the_deadline_of_its_cancel_after_header(post, jobs, text, seconds):
    answer = post(Cancel_After=text)
    job = jobs.queries.find(answer.json["task_id"])
    assert job.deadline_at == pytest.approx(job.created_at + seconds, abs=0.1)
    assert answer.json["deadline_at"] is not None


@pytest.mark.parametrize("text", ["0", "-5", "soon", "5 minutes", "1.5", "99999999", "8d", "700000"])
def test_an_invalid_deadline_is_rejected(post, text):
    answer = post(Cancel_After=text)
    assert (answer.status_code, answer.json["error"]["parameter"]) == (422, "Cancel-After")


def test_without_the_header_there_is_no_deadline(post):
    assert post().json["deadline_at"] is None


def test_a_queued_job_past_its_deadline_is_shown_as_failed_before_maintenance_runs(post, redis_client, http):
    job_id = post(Cancel_After="60").json["task_id"]
    redis_client.hset(f"svd:job:{job_id}", "deadline", 1)
    job = http.get(f"/status/{job_id}").json
    assert (job["status"], job["error"]["code"], job["position"]) == ("failed", "deadline_exceeded", None)
    assert http.delete(f"/jobs/{job_id}").status_code == 204
    assert http.get(f"/status/{job_id}").status_code == 404


def test_a_strict_submission_is_rejected_if_the_job_would_end_too_late(post, monkeypatch, jobs, data_dir):
    monkeypatch.setattr(Estimates, "until_end", lambda *_: 100.0)
    answer = post(Prefer="handling=strict", Cancel_After="60")
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "deadline_unreachable")
    assert "Retry-After" in answer.headers
    assert jobs.queries.page()[0] == []
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []
    assert post(Cancel_After="60").status_code == 202
    assert post(Prefer="handling=strict", Cancel_After="2m").status_code == 202


def test_a_repeated_strict_submission_gets_its_job(post, monkeypatch):
    first = post({"seed": "1"}, Idempotency_Key="k", Cancel_After="60", Prefer="handling=strict")
    monkeypatch.setattr(Estimates, "until_end", lambda *_: 100.0)
    again = post({"seed": "1"}, Idempotency_Key="k", Cancel_After="60", Prefer="handling=strict")
    assert (again.status_code, again.json["task_id"]) == (202, first.json["task_id"])
