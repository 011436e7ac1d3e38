"""Submissions and results under moderation, in all three dialects."""

import time

import pytest

from svd_service.api import create_app
from svd_service.api.stability import ids
from svd_service.errors import ContentFilteredError
from svd_service.jobs.job import AttemptOutcome, Failure
from svd_service.moderation.verdict import HookError
from tests.unit.api.samples import HOLDER, png
from tests.unit.moderation.samples import serving

REASON = "rejected by moderation: a face"

#: Path, name of the image's field, and how the dialect presents a rejection.
DIALECTS = {
    "native": ("/generate", "image", 422, lambda body, _: body["error"]["code"] == "content_filtered"),
    "openai": (
        "/v1/videos",
        "input_reference",
        400,
        lambda body, _: (
            body["error"]
            == {"message": REASON, "type": "invalid_request_error", "param": None, "code": "moderation_blocked"}
        ),
    ),
    "stability": (
        "/v2beta/image-to-video",
        "image",
        403,
        lambda body, headers: (
            (body["name"], body["errors"], body["finish_reason"])
            == ("content_moderation", [REASON], "CONTENT_FILTERED")
            and headers["finish-reason"] == "CONTENT_FILTERED"
        ),
    ),
}


class Hook:
    """A stand-in for the operator's hook, whose `answer` is JSON or an error."""

    def __init__(self, answer):
        self.answer = answer
        self.questions = []

    def __call__(self, question):
        self.questions.append(question)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


REJECTING = b'{"verdict": "reject", "reason": "a face"}'
ALLOWING = b'{"verdict": "allow"}'


@pytest.fixture(name="moderated")
def _moderated(redis_url, make_settings):
    """Makes a client of a service whose hook gives this answer."""

    def make(answer, **variables):
        settings = make_settings(REDIS_URL=redis_url, SVD_MODERATION_COMMAND="stand-in", **variables)
        app = create_app(settings)
        web = app.extensions["web"]
        hook = Hook(answer)
        web.jobs.moderation._hook = hook
        return app.test_client(), web.jobs, hook

    return make


def submit(http, dialect):
    path, name, *_ = DIALECTS[dialect]
    return http.post(path, data={name: (png((1024, 576)), "image.png")})


def verdicts(jobs):
    return {key: count for key, count in jobs.ledger.stats.figures().moderation.items() if count}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_rejected_image_is_an_error_of_the_dialect_and_leaves_nothing(moderated, dialect):
    http, jobs, hook = moderated(REJECTING)
    _, _, status, is_right = DIALECTS[dialect]
    answer = submit(http, dialect)
    assert (answer.status_code, is_right(answer.json, answer.headers)) == (status, True), answer.json
    assert list(jobs.artifacts.names()) == []
    assert jobs.queries.page()[0] == []
    (question,) = hook.questions
    assert (question.type, question.images[0].media_type) == ("moderation.image", "image/png")
    figures = jobs.ledger.stats.figures()
    assert verdicts(jobs) == {("image", "reject"): 1}
    assert figures.rejected["content_filtered"] == 1


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("answer", [HookError("connection refused"), HookError("timed out"), b"nonsense"])
def test_by_default_a_submission_without_a_verdict_is_rejected(moderated, dialect, answer):
    http, jobs, _ = moderated(answer)
    found = submit(http, dialect)
    assert (found.status_code, found.headers["Retry-After"]) == (503, "2")
    assert "could not be moderated" in found.text
    assert list(jobs.artifacts.names()) == []
    assert jobs.queries.page()[0] == []
    assert verdicts(jobs) == {("image", "error"): 1}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_hook_may_fail_open(moderated, dialect):
    http, jobs, _ = moderated(HookError("connection refused"), SVD_MODERATION_ON_ERROR="open")
    assert submit(http, dialect).status_code in {200, 202}
    assert verdicts(jobs) == {("image", "error"): 1}
    assert len(jobs.queries.page()[0]) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_allowed_image_becomes_a_job(moderated, dialect):
    http, jobs, _ = moderated(ALLOWING)
    assert submit(http, dialect).status_code in {200, 202}
    assert verdicts(jobs) == {("image", "allow"): 1}


#: Behaviour of an HTTP hook that gives no verdict; `None`: nothing listens at its address.
NO_VERDICT = {
    "down": None,
    "slow": {"delay": 1.0},
    "failing": {"status": 500},
    "wrong": {"body": b'{"verdict": "perhaps"}'},
}


@pytest.mark.enable_socket
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", NO_VERDICT)
def test_an_http_hook_that_gives_no_verdict_leaves_nothing(redis_url, make_settings, dialect, kind):
    with serving() as hook:
        url = "http://127.0.0.1:9/moderate?x=1" if kind == "down" else hook.url
        vars(hook).update(NO_VERDICT[kind] or {})
        patience = 0.3 if kind == "slow" else 60
        settings = make_settings(REDIS_URL=redis_url, SVD_MODERATION_URL=url, SVD_MODERATION_TIMEOUT=patience)
        app = create_app(settings)
        answer = submit(app.test_client(), dialect)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert kind in {"down", "slow"} or len(hook.received) == 1
    jobs = app.extensions["web"].jobs
    assert (list(jobs.artifacts.names()), jobs.queries.page()[0]) == ([], [])
    assert verdicts(jobs) == {("image", "error"): 1}


@pytest.mark.enable_socket
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_verdict_of_an_http_hook_is_applied(redis_url, make_settings, dialect):
    with serving() as hook:
        http = create_app(make_settings(REDIS_URL=redis_url, SVD_MODERATION_URL=hook.url)).test_client()
        assert submit(http, dialect).status_code in {200, 202}
        vars(hook).update(body=REJECTING)
        answer = submit(http, dialect)
    _, _, status, is_right = DIALECTS[dialect]
    assert (answer.status_code, is_right(answer.json, answer.headers)) == (status, True), answer.json


def test_a_slow_real_command_gives_no_verdict(redis_url, make_settings):
    settings = make_settings(REDIS_URL=redis_url, SVD_MODERATION_COMMAND="sleep 30", SVD_MODERATION_TIMEOUT=0.3)
    http = create_app(settings).test_client()
    began = time.monotonic()
    assert submit(http, "native").status_code == 503
    assert time.monotonic() - began < 15


@pytest.fixture(name="rejected")
def _rejected(moderated):
    """A service, and a job whose video was rejected."""
    http, jobs, _ = moderated(ALLOWING)
    job_id = submit(http, "native").json["task_id"]
    claim = jobs.ledger.attempts.claim(job_id, HOLDER)
    jobs.ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, Failure(ContentFilteredError.code, REASON))
    return http, job_id


def test_a_rejected_video_is_a_failed_job_in_the_native_dialect(rejected):
    http, job_id = rejected
    status = http.get(f"/status/{job_id}").json
    assert (status["status"], status["error"]) == ("failed", {"code": "content_filtered", "message": REASON})
    answer = http.get(f"/results/{job_id}")
    assert (answer.status_code, answer.json["error"]["code"], answer.json["status"]) == (
        409,
        "content_filtered",
        "failed",
    )


def test_a_rejected_video_is_blocked_in_openais_dialect(rejected):
    http, job_id = rejected
    video = http.get(f"/v1/videos/{job_id}").json
    assert (video["status"], video["error"]["code"]) == ("failed", "moderation_blocked")
    answer = http.get(f"/v1/videos/{job_id}/content")
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "moderation_blocked")


def test_a_video_without_a_verdict_is_a_failed_job_in_every_dialect(moderated):
    http, jobs, _ = moderated(ALLOWING)
    job_id = submit(http, "native").json["task_id"]
    failure = Failure("moderation_unavailable", "The moderation hook could not be reached in any attempt.")
    jobs.ledger.attempts.end_attempt(jobs.ledger.attempts.claim(job_id, HOLDER), AttemptOutcome.FAILED, failure)
    assert http.get(f"/status/{job_id}").json["error"]["code"] == "moderation_unavailable"
    assert http.get(f"/results/{job_id}").status_code == 409
    video = http.get(f"/v1/videos/{job_id}").json
    assert (video["status"], video["error"]["code"]) == ("failed", "moderation_unavailable")
    assert http.get(f"/v1/videos/{job_id}/content").status_code in {404, 409}
    answer = http.get(f"/v2beta/image-to-video/result/{ids.lengthened(job_id)}", headers={"Accept": "video/*"})
    assert answer.status_code >= 400
    assert "finish-reason" not in answer.headers  # no hook has rejected it


@pytest.mark.parametrize("accept", ["video/*", "application/json"])
def test_a_rejected_video_is_filtered_in_stabilitys_dialect(rejected, accept):
    http, job_id = rejected
    answer = http.get(f"/v2beta/image-to-video/result/{ids.lengthened(job_id)}", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["finish-reason"]) == (403, "CONTENT_FILTERED")
    assert (answer.json["name"], answer.json["finish_reason"]) == ("content_moderation", "CONTENT_FILTERED")


def test_the_image_of_a_group_is_moderated_once(moderated):
    http, jobs, hook = moderated(ALLOWING)
    assert http.post("/groups", data={"image": (png((64, 64)), "image.png"), "n": "3"}).status_code == 202
    assert len(hook.questions) == 1
    hook.answer = REJECTING
    rejected = http.post("/groups", data={"image": (png((64, 64)), "image.png"), "n": "3"})
    assert (rejected.status_code, rejected.json["error"]["code"]) == (422, "content_filtered")
    assert len(jobs.queries.page()[0]) == 3
