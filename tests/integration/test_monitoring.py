import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from svd_service.config import Settings
from svd_service.jobs.ledger import DeviceMemory, Ledger, connect
from svd_service.jobs.model import Model
from svd_service.jobs.request import Fit, Parameters
from tests import promql
from tests.conftest import CI, free_port
from tests.integration.stack import Stack

CONFIGURATION = Path(__file__).parents[2] / "docker" / "prometheus" / "prometheus.yml"

#: For each target: every metric, and the labels' values of each of its series.
Exposition = dict[str, dict[str, list[dict[str, str]]]]

needs_prometheus = pytest.mark.skipif(not CI and not shutil.which("prometheus"), reason="Prometheus is not here")


@pytest.fixture(scope="module")
def flower_port(stack: Stack) -> int:
    port = free_port()
    stack.environment["FLOWER_BASIC_AUTH"] = "svd:secret"
    celery = (sys.executable, "-m", "celery", "-A", "svd_service.celery_app")
    stack.start("flower", *celery, "flower", "--address=127.0.0.1", f"--port={port}")
    stack.wait(lambda: httpx2.get(f"http://127.0.0.1:{port}/healthcheck").status_code == 200, 60)
    return port


@pytest.fixture(scope="module")
def finished(stack: Stack, photo: bytes, flower_port: int) -> dict:
    return stack.wait_for(stack.submit(photo), "finished")


@pytest.fixture(scope="module")
def failed(stack: Stack, finished: dict) -> str:
    """A job whose picture is gone."""
    settings = Settings.from_mapping(stack.environment)
    parameters = Parameters(1, 64, 64, 2, 1, 7, 127, 0.02, 1.0, 1.0, 2, Fit.CROP)
    job_id = "00000000-0000-4000-8000-000000000000"
    model = Model.of(settings).summary()
    Ledger(connect(settings), settings).submit(job_id, parameters=parameters, model=model, input="inputs/gone.png")
    assert stack.wait_for(job_id, "failed")["error"]["code"] == "broken_input"
    return job_id


@pytest.fixture(scope="module")
def exposition(stack: Stack, flower_port: int, finished: dict, failed: str) -> Exposition:
    """What the running parts show to Prometheus, beside a worker that says it has a device with memory of its own."""
    settings = Settings.from_mapping(stack.environment)
    ledger = Ledger(connect(settings), settings)
    ports = {"api": stack.api_port, "exporter": stack.exporter_port, "flower": flower_port}

    def read() -> Exposition:
        worker = ledger.workers()[0]
        ledger.heartbeat(replace(worker, worker="gpu/0", device="a GPU", device_memory=DeviceMemory(100, 70, 50)))
        shown: Exposition = {}
        for name, port in ports.items():
            series = shown[name] = {}
            for family in text_string_to_metric_families(httpx2.get(f"http://127.0.0.1:{port}/metrics").text):
                for sample in family.samples:
                    series.setdefault(sample.name, []).append(sample.labels)
        return shown

    # Flower shows the tasks that a worker runs when that has said so.
    stack.wait(lambda: "flower_worker_number_of_currently_executing_tasks" in read()["flower"], 30)
    shown = read()
    # Prometheus keeps the ledger's figures of the exporter's alone.
    shown["api"] = {name: series for name, series in shown["api"].items() if not name.startswith("svd_")}
    return shown


def test_what_dashboard_and_rules_ask_for_is_what_the_running_parts_show(exposition: Exposition):
    queries = [(target["expr"], target.get("legendFormat", "")) for target in promql.targets()]
    queries += [(rule["expr"], "") for rule in promql.rules()]
    assert len(queries) > 40
    for query, legend in queries:
        asked, grouped = promql.selectors(query)
        assert asked, query
        labels = set().union(*(labels_of(each, exposition) for each in asked))
        assert grouped <= labels, query
        for each in asked:
            for label, operator, value in each.matchers:
                assert label in labels_of(each, exposition), query
                if operator == "=" and label != "job" and each.metric not in promql.OWN:
                    shown = exposition[str(each.value("job"))][each.metric]
                    assert value in {series.get(label) for series in shown}, query
        assert set(re.findall(r"\{\{ *(\w+) *\}\}", legend)) <= (grouped or labels), query


def labels_of(asked: promql.Asked, exposition: Exposition) -> set[str]:
    """The labels of a metric's series, as Prometheus has them."""
    if asked.metric in promql.OWN:
        return promql.OWN[asked.metric]
    if asked.metric in promql.recorded():
        return promql.recorded()[asked.metric]
    part = asked.value("job")
    assert part in exposition, f"{asked.metric}: of which part?"
    assert asked.metric in exposition[part], f"{part} shows no {asked.metric}"
    return {"job", "instance"}.union(*exposition[part][asked.metric])


def test_flower_is_behind_a_password_and_knows_the_job_by_its_id(stack: Stack, flower_port: int, finished: dict):
    url = f"http://127.0.0.1:{flower_port}/api/task/info/{finished['task_id']}"
    assert httpx2.get(url).status_code == 401
    task = stack.wait(lambda: httpx2.get(url, auth=("svd", "secret")), 30).json()
    assert (task["name"], task["state"]) == ("svd_service.generate", "SUCCESS")


@needs_prometheus
def test_a_real_prometheus_scrapes_every_part(stack: Stack, flower_port: int, finished: dict):
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

    def asked(query: str) -> dict[str, float]:
        # 503 while it starts.
        found = httpx2.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}).raise_for_status()
        answer = found.json()
        return {series["metric"]["job"]: float(series["value"][1]) for series in answer["data"]["result"]}

    stack.wait(lambda: asked("up == 1").keys() == ports.keys(), 60)
    stack.wait(lambda: asked('svd_jobs_ended_total{state="finished"}') == {"exporter": 1}, 30)
    stack.wait(lambda: asked('sum by (job) (flask_http_request_total{status="202"})') == {"api": 1}, 30)
    stack.wait(lambda: asked("flower_worker_online") == {"flower": 1}, 30)

    def evaluated() -> list[dict]:
        groups = httpx2.get(f"http://127.0.0.1:{port}/api/v1/rules").raise_for_status().json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    stack.wait(lambda: all(rule["health"] != "unknown" for rule in evaluated()), 30)
    assert len(evaluated()) == len(promql.rules())
    assert [rule for rule in evaluated() if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in evaluated() if rule.get("state") == "firing"] == []
    stack.stop("prometheus")


@needs_prometheus
def test_promtool_finds_nothing_wrong_with_the_metrics(stack: Stack, finished: dict):
    for url in (f"{stack.url}/metrics", f"http://127.0.0.1:{stack.exporter_port}/metrics"):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=httpx2.get(url).text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
