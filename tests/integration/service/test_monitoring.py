import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from svd_service.config import Settings
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters
from svd_service.jobs.submission import Submission
from svd_service.ledger import open_ledger
from svd_service.ledger.connection import connect
from svd_service.ledger.key import digest_of, id_of
from svd_service.ledger.workers import DeviceMemory
from svd_service.parameters import Fit
from tests import promql
from tools.harness.local import CI, ROOT, free_port
from tools.harness.stack import Stack

pytestmark = pytest.mark.thorough

CONFIGURATION = ROOT / "docker" / "prometheus" / "prometheus.yml"

#: For each scrape target, by metric: the labels of each series.
Exposition = dict[str, dict[str, list[dict[str, str]]]]

KEY = "sk-svd-a-secret-that-no-log-may-hold"
KEY_ID = id_of(digest_of(KEY))

#: The trace and the span of the caller that submits the job.
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

needs_prometheus = pytest.mark.skipif(not CI and not shutil.which("prometheus"), reason="Prometheus is not installed")


@dataclass
class Collector:
    """Receives spans like OpenTelemetry's collector: OTLP over HTTP."""

    port: int = 0
    spans: list[tuple[str, Any]] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        """Keep the spans, each with the name of the service that sent it."""
        for of_service in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in of_service.resource.attributes}
            for scope in of_service.scope_spans:
                self.spans += [(named["service.name"], span) for span in scope.spans]

    def trace(self) -> dict[str, tuple[str, Any]]:
        """Spans of the trace TRACE by name, each with its service."""
        return {span.name: (service, span) for service, span in self.spans if span.trace_id.hex() == TRACE}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collector
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def stack(make_stack: Callable[..., Stack], collector: Collector) -> Stack:
    """A service with all observability features: keys, JSON logs, tracing, the exporter."""
    stack = make_stack(
        SVD_API_KEYS=f"ann:{digest_of(KEY)}",
        SVD_LOG_FORMAT="json",
        SVD_TRACING="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}",
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    stack.start_all()
    stack.http.headers["Authorization"] = f"Bearer {KEY}"
    return stack


@pytest.fixture(scope="module")
def flower_port(stack: Stack) -> int:
    port = free_port()
    variables = {"SVD_FLOWER_BIND": f"127.0.0.1:{port}", "SVD_FLOWER_BASIC_AUTH": "svd:secret"}
    stack.start("flower", sys.executable, "-m", "svd_service", "flower", **variables)
    stack.wait(lambda: httpx2.get(f"http://127.0.0.1:{port}/healthcheck").status_code == 200, 60)
    return port


@pytest.fixture(scope="module")
def finished(stack: Stack, photo: bytes, flower_port: int) -> dict:
    stack.http.headers["traceparent"] = f"00-{TRACE}-{CALLER}-01"
    job_id = stack.submit(photo)
    del stack.http.headers["traceparent"]
    return stack.wait_for(job_id, "finished")


@pytest.fixture(scope="module")
def failed(stack: Stack, finished: dict) -> str:
    """The id of a job that failed because its stored image is missing."""
    settings = Settings.from_mapping(stack.environment)
    parameters = Parameters(1, 64, 64, 2, 1, 7, 127, 0.02, 1.0, 1.0, 2, Fit.CROP)
    job_id = "00000000-0000-4000-8000-000000000000"
    model = Model.of(settings).summary()
    ledger = open_ledger(connect(settings), settings)
    ledger.jobs.submit(Submission(job_id, parameters=parameters, model=model, input="inputs/gone.png", owner=KEY_ID))
    assert stack.wait_for(job_id, "failed")["error"]["code"] == "broken_input"
    return job_id


@pytest.fixture(scope="module")
def exposition(stack: Stack, flower_port: int, finished: dict, failed: str) -> Exposition:
    """The metrics of the running processes, which include a fake worker whose device reports its memory."""
    settings = Settings.from_mapping(stack.environment)
    ledger = open_ledger(connect(settings), settings)
    ports = {"api": stack.api_port, "exporter": stack.exporter_port, "flower": flower_port}

    def read() -> Exposition:
        worker = ledger.workers.ready()[0]
        ledger.workers.heartbeat(
            replace(worker, worker="gpu/0", device="a GPU", device_memory=DeviceMemory(100, 70, 50))
        )
        shown: Exposition = {}
        for name, port in ports.items():
            series = shown[name] = {}
            for family in text_string_to_metric_families(httpx2.get(f"http://127.0.0.1:{port}/metrics").text):
                for sample in family.samples:
                    series.setdefault(sample.name, []).append(sample.labels)
        return shown

    # Flower exports this metric only after an event of the worker.
    stack.wait(lambda: "flower_worker_number_of_currently_executing_tasks" in read()["flower"], 60)
    shown = read()
    ledger.workers.leave("gpu/0")
    # Prometheus keeps the ledger's metrics from the exporter only.
    shown["api"] = {name: series for name, series in shown["api"].items() if not name.startswith("svd_")}
    return shown


def test_dashboard_and_rules_use_only_metrics_labels_and_values_that_are_exported(exposition: Exposition):
    queries = [(target["expr"], target.get("legendFormat", "")) for target in promql.targets()]
    queries += [(rule["expr"], "") for rule in promql.rules()]
    assert len(queries) > 40
    for query, legend in queries:
        selectors, grouped = promql.selectors(query)
        assert selectors, query
        labels = set().union(*(labels_of(each, exposition) for each in selectors))
        assert grouped <= labels, query
        for each in selectors:
            for label, operator, value in each.matchers:
                assert label in labels_of(each, exposition), query
                if operator == "=" and label != "job" and each.metric not in promql.OWN:
                    shown = exposition[str(each.value("job"))][each.metric]
                    assert value in {series.get(label) for series in shown}, query
        assert set(re.findall(r"\{\{ *(\w+) *\}\}", legend)) <= (grouped or labels), query


def labels_of(selector: promql.MetricSelector, exposition: Exposition) -> set[str]:
    """Labels of a metric's series after Prometheus has scraped it."""
    if selector.metric in promql.OWN:
        return promql.OWN[selector.metric]
    if selector.metric in promql.recorded():
        return promql.recorded()[selector.metric]
    target = selector.value("job")
    assert target in exposition, f"{selector.metric}: the query must name its scrape target by the label job"
    assert selector.metric in exposition[target], f"{target} does not export {selector.metric}"
    return {"job", "instance"}.union(*exposition[target][selector.metric])


def test_flower_requires_a_password_and_finds_the_task_by_the_jobs_id(stack: Stack, flower_port: int, finished: dict):
    url = f"http://127.0.0.1:{flower_port}/api/task/info/{finished['task_id']}"
    assert httpx2.get(url).status_code == 401
    task = stack.wait(lambda: httpx2.get(url, auth=("svd", "secret")), 60).json()
    assert (task["name"], task["state"]) == ("svd_service.generate", "SUCCESS")


@needs_prometheus
def test_prometheus_scrapes_every_process_and_evaluates_every_rule(stack: Stack, flower_port: int, finished: dict):
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    ports = {"api": stack.api_port, "exporter": stack.exporter_port, "flower": flower_port}
    scraped = [job for job in configuration["scrape_configs"] if job["job_name"] in ports]
    assert len(scraped) == len(ports)
    for job in scraped:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    rules = [str(CONFIGURATION.parent / pattern) for pattern in configuration["rule_files"]]
    ours = {"global": every, "scrape_configs": scraped, "rule_files": rules}
    (stack.folder / "prometheus.yml").write_text(yaml.safe_dump(ours))
    port = free_port()
    stack.start(
        "prometheus",
        "prometheus",
        f"--config.file={stack.folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={stack.folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )

    def result(query: str) -> dict[str, float]:
        # 503 while it starts.
        found = httpx2.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}).raise_for_status()
        answer = found.json()
        return {series["metric"]["job"]: float(series["value"][1]) for series in answer["data"]["result"]}

    stack.wait(lambda: result("up == 1").keys() == ports.keys(), 60)
    stack.wait(lambda: result('svd_jobs_ended_total{state="finished"}') == {"exporter": 1}, 60)
    stack.wait(lambda: result('sum by (job) (flask_http_request_total{status="202"})') == {"api": 1}, 60)
    stack.wait(lambda: result("flower_worker_online") == {"flower": 1}, 60)

    def evaluated() -> list[dict]:
        groups = httpx2.get(f"http://127.0.0.1:{port}/api/v1/rules").raise_for_status().json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    stack.wait(lambda: all(rule["health"] != "unknown" for rule in evaluated()), 60)
    assert len(evaluated()) == len(promql.rules())
    assert [rule for rule in evaluated() if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in evaluated() if rule.get("state") == "firing"] == []
    stack.stop("prometheus")


@needs_prometheus
def test_promtool_finds_no_problems_in_the_metrics(stack: Stack, finished: dict):
    for url in (f"{stack.url}/metrics", f"http://127.0.0.1:{stack.exporter_port}/metrics"):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=httpx2.get(url).text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def logged(stack: Stack, part: str) -> list[dict[str, Any]]:
    """The entries in a process's log without the last line, which may be incomplete."""
    return [json.loads(line) for line in (stack.folder / f"{part}.log").read_text().split("\n")[:-1]]


def test_every_log_line_of_api_worker_and_exporter_is_a_json_event(stack: Stack, finished: dict, failed: str):
    stack.wait(lambda: any(line["message"].endswith("attempt 1 failed") for line in logged(stack, "worker")), 60)
    for part in ("api", "worker", "exporter"):
        lines = logged(stack, part)
        assert lines, part
        for line in lines:
            assert line.keys() >= {"time", "level", "logger", "pid", "message"}, line
    assert {"gunicorn.error", "gunicorn.access"} <= {line["logger"] for line in logged(stack, "api")}
    assert all("worker" in line for line in logged(stack, "worker"))


def test_logs_have_the_jobs_id_from_the_request_to_the_video(stack: Stack, finished: dict):
    job_id = finished["task_id"]

    def of_job(part: str) -> list[dict[str, Any]]:
        return [line for line in logged(stack, part) if line.get("job_id") == job_id]

    stack.wait(lambda: any("succeeded" in line["message"] for line in of_job("worker")), 60)
    accepted = next(line for line in of_job("api") if line["message"] == f"job {job_id}: accepted")
    answered = next(line for line in of_job("api") if line["message"] == "POST /generate 202")
    assert accepted["request_id"] == answered["request_id"]
    assert accepted["key_id"] == answered["key_id"] == KEY_ID
    assert accepted["trace_id"] == TRACE
    (worker,) = stack.workers()
    begun, ended = (line for line in of_job("worker") if line["logger"] == "svd_service.worker.attempt")
    assert begun["worker"] == ended["worker"] == worker
    assert ended["message"] == f"job {job_id}: attempt 1 finished"
    assert (ended["key_id"], ended["trace_id"]) == (KEY_ID, TRACE)
    celery = {line["logger"]: line["worker"] for line in of_job("worker") if line["logger"].startswith("celery.")}
    # The parent logs under the worker's name, the child process under that name and its index.
    assert celery["celery.app.trace"] == worker
    assert worker == f"{celery['celery.worker.strategy']}/0"


def test_an_exception_is_logged_as_one_line(stack: Stack, failed: str):
    def errors() -> list[dict[str, Any]]:
        return [line for line in logged(stack, "worker") if line.get("job_id") == failed and "exception" in line]

    (line,) = stack.wait(errors, 60)
    assert line["level"] == "ERROR"
    assert line["exception"].endswith("BrokenInputError: The stored image is missing or cannot be read.")


def test_no_log_contains_an_api_key(stack: Stack, finished: dict):
    answer = stack.http.get(f"/status/{finished['task_id']}", params={"api_key": KEY})
    wrong = stack.http.get("/jobs", headers={"Authorization": f"Bearer {KEY}-wrong"})
    assert wrong.status_code == 401
    for sent in (answer, wrong):
        name = sent.headers["X-Request-ID"]
        stack.wait(lambda name=name: any(line.get("request_id") == name for line in logged(stack, "api")), 60)
    for log in stack.folder.glob("*.log"):
        assert KEY not in log.read_text(), log.name


def test_one_trace_covers_request_queue_generation_and_upload(stack: Stack, collector: Collector, finished: dict):
    expected = {
        "POST /generate": "svd-api",
        **dict.fromkeys(("queue", "generation", "preparing", "sampling", "decoding", "publish"), "svd-worker"),
    }
    stack.wait(lambda: expected.keys() <= collector.trace().keys(), 60)
    trace = collector.trace()
    assert {name: service for name, (service, _) in trace.items()} == expected
    spans = {name: span for name, (_, span) in trace.items()}
    post, generation = spans["POST /generate"], spans["generation"]
    assert post.parent_span_id.hex() == CALLER
    assert {spans[name].parent_span_id for name in ("queue", "generation", "publish")} == {post.span_id}
    assert {spans[name].parent_span_id for name in ("preparing", "sampling", "decoding")} == {generation.span_id}
    order = [spans[name] for name in ("queue", "generation", "publish")]
    assert [span.start_time_unix_nano for span in order] == sorted(span.start_time_unix_nano for span in order)
    for span in order:
        (job_id,) = (each.value.string_value for each in span.attributes if each.key == "svd.job.id")
        assert job_id == finished["task_id"]
