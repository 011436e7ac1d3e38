import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from svd_service.api import create_app
from svd_service.bootstrap import UseCases
from svd_service.config import Settings
from svd_service.jobs.job import AttemptOutcome, Holder, Phase, Progress
from svd_service.ledger.workers import WorkerStatus
from svd_service.telemetry import logs, tracing
from svd_service.worker.attempt import run_job
from svd_service.worker.interruptions import DeviceLostError
from svd_service.worker.lease import Lease
from svd_service.worker.process import WorkerContext
from svd_service.worker.shared_memory import Drain
from tests.samples import IMAGES
from tests.unit.worker.samples import rendering

PHOTO = IMAGES / "chelsea.jpg"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


@pytest.fixture
def spans(make_settings: Callable[..., Settings]) -> Iterator[Callable[[], list[ReadableSpan]]]:
    """The collector: all finished spans, in the order of their start."""
    exporter = InMemorySpanExporter()
    tracing.configure(make_settings(SVD_TRACING="true"), "tests", SimpleSpanProcessor(exporter))
    yield lambda: sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
    tracing.stop()


@pytest.fixture
def app(redis_url: str, make_settings: Callable[..., Settings]) -> Flask:
    return create_app(make_settings(REDIS_URL=redis_url))


@pytest.fixture
def worker_context(app: Flask) -> WorkerContext:
    jobs: UseCases = app.extensions["web"].jobs
    holder = Holder("host/0", "cpu", "instance", os.getpid())
    status = WorkerStatus("host/0", "cpu", "instance", os.getpid(), "nano", True, 0.0, 1.0)
    return WorkerContext(holder, all_phases, jobs, Lease(jobs.ledger, status, 10, Drain()), jobs.settings)


def all_phases(image: Any, parameters: Any, path: Path, on_progress: Callable[[Progress], None], **further: Any) -> Any:
    on_progress(Progress(Phase.PREPARING))
    rendered = rendering(image, parameters, path, on_progress, **further)
    on_progress(Progress(Phase.DECODING))
    return rendered


def submit(app: Flask, **headers: str) -> str:
    form = {"image": (io.BytesIO(PHOTO.read_bytes()), "cat.jpg")}
    answer = app.test_client().post("/generate", data=form, headers=headers)
    assert answer.status_code == 202
    return str((answer.get_json() or {})["task_id"])


def by_name(spans: list[ReadableSpan]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


def parent(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


def own(span: ReadableSpan) -> str:
    assert span.context
    return f"{span.context.span_id:016x}"


def traces(spans: list[ReadableSpan]) -> set[str]:
    return {f"{span.context.trace_id:032x}" for span in spans if span.context}


def test_one_trace_covers_the_callers_span_to_the_published_video(
    app: Flask, worker_context: WorkerContext, spans: Callable[[], list[ReadableSpan]]
) -> None:
    job_id = submit(app, traceparent=TRACEPARENT)
    assert run_job(job_id, worker_context) == "finished"
    found = by_name(spans())
    assert list(found) == [
        *("POST /generate", "queue", "generation", "preparing", "sampling", "decoding"),
        "publish",
    ]
    assert traces(spans()) == {TRACE}
    post = found["POST /generate"]
    assert parent(post) == CALLER
    assert {parent(found[name]) for name in ("queue", "generation", "publish")} == {own(post)}
    assert {parent(found[name]) for name in ("preparing", "sampling", "decoding")} == {own(found["generation"])}
    assert {(span.attributes or {}).get("svd.job.id", job_id) for span in spans()} == {job_id}
    assert dict(post.attributes or {}) == {
        "http.request.method": "POST",
        "url.path": "/generate",
        "http.route": "/generate",
        "http.response.status_code": 202,
        "svd.job.id": job_id,
    }
    assert (found["generation"].attributes or {})["svd.worker"] == "host/0"
    job = worker_context.jobs.queries.find(job_id)
    assert found["queue"].start_time == pytest.approx(job.created_at * 1e9, abs=1e4)
    assert found["queue"].end_time == pytest.approx(job.attempts[0].started_at * 1e9, abs=1e4)
    assert (found["generation"].end_time or 0) <= (found["publish"].start_time or 0)
    assert all(span.status.status_code is StatusCode.UNSET for span in spans())


def test_every_attempt_has_a_wait_and_a_generation_span_also_if_its_worker_died(
    app: Flask, worker_context: WorkerContext, spans: Callable[[], list[ReadableSpan]]
) -> None:
    job_id = submit(app)

    def lose_the_device(*_: Any, **further: Any) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    with pytest.raises(DeviceLostError):
        run_job(job_id, replace(worker_context, render=lose_the_device))
    claim = worker_context.jobs.ledger.attempts.claim(job_id, Holder("host/1", "cpu", "instance", 1))
    assert claim
    worker_context.jobs.ledger.attempts.end_attempt(
        claim, AttemptOutcome.LOST
    )  # as its parent does when it finds that the process has died
    assert run_job(job_id, worker_context) == "finished"
    assert Counter(span.name for span in spans())["queue"] == 2  # only the end of the lost attempt is known
    generations = [span for span in spans() if span.name == "generation"]
    assert [(span.attributes or {})["svd.attempt"] for span in generations] == [1, 2, 3]
    assert [(span.attributes or {})["svd.worker"] for span in generations] == ["host/0", "host/1", "host/0"]
    assert [span.status.description for span in generations] == [
        "RuntimeError: CUDA error: unspecified launch failure",
        "the worker was lost",
        None,
    ]
    assert len(traces(spans())) == 1


def test_a_cancelled_attempt_is_no_error(
    app: Flask, worker_context: WorkerContext, spans: Callable[[], list[ReadableSpan]]
) -> None:
    job_id = submit(app)

    def cancelled(
        image: Any, parameters: Any, path: Path, on_progress: Callable[[Progress], None], **further: Any
    ) -> Any:
        worker_context.jobs.removal.cancel(job_id)
        on_progress(Progress(Phase.SAMPLING, 1, 2))

    assert run_job(job_id, replace(worker_context, render=cancelled)) == "cancelled"
    generation = by_name(spans())["generation"]
    assert (generation.attributes or {})["error.type"] == "CancelRequested"
    assert generation.status.status_code is StatusCode.UNSET
    assert "publish" not in by_name(spans())


def test_a_job_submitted_without_a_trace_has_one_that_begins_with_its_wait(
    app: Flask, worker_context: WorkerContext, make_settings: Callable[..., Settings]
) -> None:
    job_id = submit(app)
    exporter = InMemorySpanExporter()
    tracing.configure(make_settings(SVD_TRACING="true"), "tests", SimpleSpanProcessor(exporter))
    try:
        run_job(job_id, worker_context)
    finally:
        tracing.stop()
    found = by_name(list(exporter.get_finished_spans()))
    assert parent(found["queue"]) == ""
    assert parent(found["generation"]) == parent(found["publish"]) == own(found["queue"])


def test_reads_are_traced_only_if_the_caller_traces(app: Flask, spans: Callable[[], list[ReadableSpan]]) -> None:
    http = app.test_client()
    http.get("/models")
    assert spans() == []
    http.get("/models", headers={"traceparent": TRACEPARENT})
    assert [span.name for span in spans()] == ["GET /models"]
    http.delete("/jobs/no-such-job")
    assert spans()[-1].name == "DELETE /jobs/<task_id>"
    http.post("/nowhere", headers={"traceparent": "made up"})
    assert spans()[-1].name == "POST"
    assert parent(spans()[-1]) == ""


def test_a_server_error_is_an_error_of_its_span(
    make_settings: Callable[..., Settings], spans: Callable[[], list[ReadableSpan]]
) -> None:
    app = create_app(make_settings(REDIS_URL="redis://127.0.0.1:1/0"))
    answer = app.test_client().post("/generate", data={"image": (io.BytesIO(b"x"), "x")})
    (span,) = spans()
    assert answer.status_code == 503
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "status 503")


def test_log_lines_have_the_trace_id(
    app: Flask, worker_context: WorkerContext, spans: Callable[[], list[ReadableSpan]]
) -> None:
    trace_ids: list[str] = []

    def render(*arguments: Any, **further: Any) -> Any:
        trace_ids.append((logs._context.get() or {})["trace_id"])
        return all_phases(*arguments, **further)

    run_job(submit(app, traceparent=TRACEPARENT), replace(worker_context, render=render))
    assert trace_ids == [TRACE]


def test_without_tracing_no_trace_is_stored_and_opentelemetry_is_not_imported(
    app: Flask, worker_context: WorkerContext
) -> None:
    job_id = submit(app, traceparent=TRACEPARENT)
    assert worker_context.jobs.queries.find(job_id).trace == {}
    program = """
import sys
from svd_service.telemetry import tracing
from svd_service.config import Settings
tracing.configure(Settings(), "svd-api")
span = tracing.begin("one", {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
with tracing.present(span):
    span.set({"a": 1})
    span.rename("two")
    print(tracing.carrier(), span.carrier(), repr(span.trace_id))
span.end()
tracing.stop()
print("opentelemetry" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["{} {} ''", "False"]


def test_tracing_without_the_packages_names_what_to_install() -> None:
    program = """
import sys
sys.modules["opentelemetry.exporter"] = None
from svd_service.telemetry import tracing
from svd_service.config import ConfigurationError, Settings
from tests.samples import IMAGES
try:
    tracing.configure(Settings(tracing=True), "svd-api")
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("SVD_TRACING=true needs the package opentelemetry.exporter")
    assert done.stdout.endswith(": pip install 'svd-service[otel]'\n")
