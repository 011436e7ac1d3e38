import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.conftest import CI, free_port
from tests.integration.stack import Stack

CONFIGURATION = Path(__file__).parents[2] / "docker" / "prometheus" / "prometheus.yml"
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
    ours = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": scraped}
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
        answer = httpx2.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}).json()
        return {series["metric"]["job"]: float(series["value"][1]) for series in answer["data"]["result"]}

    stack.wait(lambda: asked("up == 1").keys() == ports.keys(), 60)
    stack.wait(lambda: asked('svd_jobs_ended_total{state="finished"}') == {"exporter": 1}, 30)
    stack.wait(lambda: asked('sum by (job) (flask_http_request_total{status="202"})') == {"api": 1}, 30)
    stack.wait(lambda: asked("flower_worker_online") == {"flower": 1}, 30)
    stack.stop("prometheus")


@needs_prometheus
def test_promtool_finds_nothing_wrong_with_the_metrics(stack: Stack, finished: dict):
    for url in (f"{stack.url}/metrics", f"http://127.0.0.1:{stack.exporter_port}/metrics"):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=httpx2.get(url).text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
