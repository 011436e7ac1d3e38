"""Results under moderation: nothing of a rejected video is ever visible."""

import base64
import io
from dataclasses import replace

import pytest
from PIL import Image

from svd_service import bootstrap
from svd_service.errors import NoPreviewError, NotReadyError
from svd_service.jobs.job import State, Still
from svd_service.moderation.verdict import HookError
from svd_service.parameters import Format
from svd_service.worker import attempt
from svd_service.worker.attempt import run_job
from tests.unit.worker.samples import rendering, submitted

REJECTING = b'{"verdict": "reject", "reason": "a face"}'
ALLOWING = b'{"verdict": "allow"}'


@pytest.fixture(name="worker_context")
def _slot(worker_context, make_settings, redis_url):
    settings = make_settings(REDIS_URL=redis_url, SVD_MODERATION_COMMAND="stand-in", SVD_MODERATION_RESULTS="true")
    jobs = bootstrap.use_cases(worker_context.jobs.ledger, worker_context.jobs.artifacts, settings, lambda *_: None)
    jobs.moderation._hook = lambda question: ALLOWING

    def render(image, parameters, path, report, *, on_preview=None, **more):
        assert on_preview is None, "a preview would be visible before the verdict"
        made = rendering(image, parameters, path, report, **more)
        return replace(made, samples=tuple(Image.new("RGB", (64, 64), name) for name in ("red", "lime", "blue")))

    return replace(worker_context, jobs=jobs, settings=settings, render=render)


def test_a_rejected_video_is_never_visible(worker_context):
    job = submitted(worker_context.jobs)
    questions = []

    def hook(question):
        questions.append(question)
        # When the hook is called, only the caller's image is in the store, and no route serves any result.
        assert [name.partition("/")[0] for name, _ in worker_context.jobs.artifacts.names()] == ["inputs"]
        for kind in (Format.MP4, *Still):
            with pytest.raises(NotReadyError):
                worker_context.jobs.results.open(job.id, kind=kind)
        with pytest.raises(NoPreviewError):
            worker_context.jobs.results.read_preview(job.id)
        return REJECTING

    worker_context.jobs.moderation._hook = hook
    assert run_job(job.id, worker_context) == "failed"
    ended = worker_context.jobs.queries.find(job.id)
    assert (ended.state, ended.failure.code) == (State.FAILED, "content_filtered")
    assert ended.failure.message == "rejected by moderation: a face"
    assert list(worker_context.jobs.artifacts.names()) == []
    (question,) = questions
    assert (question.type, question.job_id) == ("moderation.video", job.id)
    with_color = [
        Image.open(io.BytesIO(base64.b64decode(each.data))).resize((1, 1)).tobytes() for each in question.images
    ]
    assert [color.index(max(color)) for color in with_color] == [0, 1, 2]
    assert worker_context.jobs.ledger.stats.figures().moderation[("video", "reject")] == 1


def test_an_allowed_video_is_published(worker_context):
    job = submitted(worker_context.jobs)
    assert run_job(job.id, worker_context) == "finished"
    assert worker_context.jobs.ledger.stats.figures().moderation[("video", "allow")] == 1


def test_a_result_waits_for_an_unavailable_hook(worker_context, monkeypatch):
    monkeypatch.setattr(attempt, "STORE_PAUSE", 0.05)
    job = submitted(worker_context.jobs)
    answers = [HookError("down"), b"nonsense", ALLOWING]

    def hook(question):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    worker_context.jobs.moderation._hook = hook
    assert run_job(job.id, worker_context) == "finished"
    assert answers == []


def test_without_a_verdict_the_job_is_retried_and_then_fails(worker_context, monkeypatch):
    monkeypatch.setattr(attempt, "STORE_PAUSE", 0.01)
    monkeypatch.setattr(attempt, "STORE_PATIENCE", 0.03)
    job = submitted(worker_context.jobs)

    def hook(question):
        raise HookError("down")

    worker_context.jobs.moderation._hook = hook
    for _ in range(worker_context.settings.max_attempts):
        assert run_job(job.id, worker_context) == "retried"
    ended = worker_context.jobs.queries.find(job.id)
    assert (ended.state, ended.failure.code) == (State.FAILED, "moderation_unavailable")
    assert [name for name, _ in worker_context.jobs.artifacts.names() if name.startswith("results")] == []


def test_results_are_moderated_only_if_the_setting_is_on(worker_context, make_settings, redis_url):
    settings = make_settings(REDIS_URL=redis_url, SVD_MODERATION_COMMAND="stand-in")
    jobs = bootstrap.use_cases(worker_context.jobs.ledger, worker_context.jobs.artifacts, settings, lambda *_: None)
    questions = []

    def hook(question):
        questions.append(question.type)
        return ALLOWING

    jobs.moderation._hook = hook
    job = submitted(jobs)
    assert run_job(job.id, replace(worker_context, jobs=jobs, settings=settings, render=rendering)) == "finished"
    assert questions == ["moderation.image"]
