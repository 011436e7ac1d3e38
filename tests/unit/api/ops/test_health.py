import io
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import redis
from flask import Flask

from svd_service.api import create_app
from svd_service.api.ops.health import GunicornMetrics, StoreWatch
from svd_service.artifacts.base import ArtifactsUnavailableError
from svd_service.artifacts.local import LocalArtifacts
from svd_service.ledger.workers import Preparing, WorkerStatus
from svd_service.telemetry.disk import disk_trouble


def reasons(http):
    health = http.get("/health").json
    assert (health["status"] == "ok") == (not health.get("reasons")) == (health.get("message") is None)
    return health.get("reasons", [])


def test_health_is_degraded_until_a_worker_has_loaded_the_apis_own_model(http, jobs):
    assert reasons(http) == ["no_worker_ready"]
    jobs.ledger.workers.prepare(Preparing("w/0", "loading", time.time()))
    assert reasons(http) == ["model_loading"]
    other = WorkerStatus("w/0", "cpu", "i", 1, "other", True, 1.0, 2.0)
    jobs.ledger.workers.heartbeat(other)
    assert reasons(http) == ["model_not_served"]
    health = http.get("/health").json
    assert (health["status"], health["workers_ready"]) == ("degraded", 1)
    assert "no worker holds nano, but other" in health["message"]
    jobs.ledger.workers.heartbeat(replace(other, worker="w/1", model="nano"))
    assert reasons(http) == []


def test_health_shows_hosts_devices_and_causes_only_locally_or_with_a_key(make_settings, redis_url, tmp_path):
    (tmp_path / "file").touch()
    settings = make_settings(REDIS_URL=redis_url, SVD_ARTIFACTS=tmp_path / "file" / "x", SVD_TRUSTED_PROXIES=1)
    app = create_app(settings)
    http, service = app.test_client(), app.extensions["web"].jobs
    service.ledger.workers.heartbeat(WorkerStatus("gpu-host-7/0", "RTX", "i", 1, "nano", True, 1.0, 2.0))
    _, secret = app.extensions["web"].keyring.create("ann")
    stranger = {"REMOTE_ADDR": "192.0.2.1"}
    hidden = ("gpu-host-7", "RTX", "Not a directory")
    for environ, headers in [(stranger, {}), ({}, {"X-Forwarded-For": "::1"}), (stranger, {"Authorization": "x"})]:
        health = http.get("/health", environ_overrides=environ, headers=headers)
        assert not [word for word in hidden if word in health.text]
        view = health.get_json() or {}
        assert view == view | {"reasons": ["store_unavailable"], "workers_ready": 1}
        metrics = http.get("/metrics", environ_overrides=environ, headers=headers).text
        assert "svd_ledger_up 1.0" in metrics
        assert not [word for word in hidden if word in metrics]
    for environ, headers in [({}, {}), (stranger, {"Authorization": f"Bearer {secret}"})]:
        health = http.get("/health", environ_overrides=environ, headers=headers)
        assert all(word in health.text for word in hidden)
        metrics = http.get("/metrics", environ_overrides=environ, headers=headers).text
        assert 'svd_worker_ready{device="RTX",model="nano",worker="gpu-host-7/0"} 1.0' in metrics


def test_a_name_that_was_pointed_at_this_machine_shows_no_more_than_to_strangers(make_settings, redis_url):
    app = create_app(make_settings(REDIS_URL=redis_url, SVD_ALLOWED_HOSTS="svd.lan"))
    http = app.test_client()
    app.extensions["web"].jobs.ledger.workers.heartbeat(WorkerStatus("gpu-7/0", "RTX", "i", 1, "nano", True, 1.0, 2.0))
    _, secret = app.extensions["web"].keyring.create("ann")
    key = {"Authorization": f"Bearer {secret}"}
    own = ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "app.localhost", socket.gethostname(), "svd.lan:80")
    for host, headers, shown in [
        *((host, {}, True) for host in own),
        ("rebind.evil.example:8000", {"Sec-Fetch-Site": "same-origin"}, False),
        ("api:8000", {}, False),
        ("x]y", {}, False),
        ("api:8000", key, True),
    ]:
        for path in ("/health", "/metrics"):
            answer = http.get(path, headers={"Host": host, **headers})
            assert (answer.status_code, "gpu-7" in answer.text) == (200, shown), (path, host)


def test_a_503_names_neither_hosts_nor_causes(make_settings):
    http = create_app(make_settings(REDIS_URL="redis://127.0.0.1:1/0")).test_client()
    for path in ("/jobs", "/v1/videos", "/v2beta/image-to-video/result/x"):
        answer = http.get(path)
        assert answer.status_code == 503
        assert "127.0.0.1" not in answer.text
    health = http.get("/health", headers={"X-Forwarded-For": "192.0.2.1"})
    assert (health.status_code, (health.get_json() or {})["reasons"]) == (503, ["redis_unavailable"])
    assert "127.0.0.1" not in health.text


def test_health_reports_that_redis_lost_the_keys(http, redis_client):
    http.application.extensions["web"].keyring.create("ann")
    assert "keys_lost" not in reasons(http)
    redis_client.flushall()
    assert "keys_lost" in reasons(http)


def test_health_shows_redis_and_the_workers(http, jobs):
    before = http.get("/health").json
    assert before | {"status": "degraded", "redis": True, "workers_ready": 0, "workers": []} == before
    jobs.ledger.workers.heartbeat(WorkerStatus("w/0", "cpu", "i", 1, "nano", True, 1.0, 2.0, memory="lean"))
    health = http.get("/health").json
    assert health["workers_ready"] == 1
    assert health["workers"] == [
        {
            "worker": "w/0",
            "device": "cpu",
            "model": "nano",
            "trained": True,
            "ready_since": 1.0,
            "memory": "lean",
            "profiles": [],
            "content_credentials": "",
        }
    ]


def test_health_reports_an_unreachable_store_and_stays_200(make_settings, redis_url, tmp_path):
    (tmp_path / "file").touch()
    app = create_app(make_settings(REDIS_URL=redis_url, SVD_DATA_DIR=tmp_path / "file" / "data"))
    answer = app.test_client().get("/health")
    assert answer.status_code == 200
    assert (answer.get_json() or {}) | {"status": "degraded", "artifacts": False} == answer.get_json()
    assert "Not a directory" in (answer.get_json() or {})["message"]


def test_the_store_is_checked_every_few_seconds_however_often_health_is_requested(tmp_path, monkeypatch):
    store = LocalArtifacts(tmp_path)
    checks: list[float] = []

    def away() -> None:
        checks.append(time.monotonic())
        raise ArtifactsUnavailableError("away")

    monkeypatch.setattr(store, "ready", away)
    watch = StoreWatch(store)
    assert [watch.trouble() for _ in range(3)] == ["away"] * 3
    assert len(checks) == 1
    monkeypatch.setattr(watch, "_next", 0.0)
    monkeypatch.setattr(store, "ready", lambda: None)
    assert watch.trouble() is None


def test_metrics_wait_for_the_file_that_another_process_is_creating(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    metrics = GunicornMetrics(Flask("any"), path=None)
    created = tmp_path / "counter_1.db"
    created.touch()
    completing = threading.Timer(0.1, os.truncate, (created, 65_536))
    completing.start()
    text, content_type = metrics.generate_metrics("text/plain")
    completing.join()
    assert content_type.startswith("text/plain")
    assert not text


def test_without_redis_health_is_503_and_metrics_are_still_served(make_settings):
    http = create_app(make_settings(REDIS_URL="redis://127.0.0.1:1/0")).test_client()
    answer = http.get("/health")
    assert answer.status_code == 503
    assert (answer.get_json() or {}) | {"status": "unavailable", "redis": False} == answer.get_json()
    metrics = http.get("/metrics")
    assert metrics.status_code == 200
    assert "svd_ledger_up 0.0" in metrics.text
    posted = http.post("/generate", data={"image": (io.BytesIO(b"no image"), "x")})
    assert (posted.status_code, (posted.get_json() or {})["error"]["code"]) == (503, "unavailable")


def test_health_shows_why_a_worker_is_not_ready(http, jobs):
    jobs.ledger.workers.prepare(Preparing("w/0", "warming up", 5.0))
    health = http.get("/health").get_json()
    assert (health["workers_ready"], health["workers"]) == (0, [])
    assert health["workers_preparing"] == [{"worker": "w/0", "doing": "warming up", "since": 5.0}]
    jobs.ledger.workers.heartbeat(WorkerStatus("w/0", "cpu", "i", 1, "nano", True, 1.0, 2.0))
    health = http.get("/health").get_json()
    assert health["workers_ready"] == 1
    assert "workers_preparing" not in health


def test_the_model_is_described(http):
    answer = http.get("/models").get_json()
    assert answer
    (model,) = answer["models"]
    assert model["name"] == "nano"
    assert model["source"] == "nano"  # and not the folder on this host
    assert model["defaults"]["width"] == 512
    assert model["bounds"]["num_frames"] == [2, 25]
    assert model["profiles"] == {
        "exact": {"num_inference_steps": 1, "schedule": "model"},
        "draft": {"num_inference_steps": 1, "schedule": "model"},
    }


def test_metrics_include_http_and_the_ledger(http, submit):
    submit()
    http.get("/status/x")
    text = http.get("/metrics").text
    assert 'flask_http_request_total{method="POST",status="202"} 1.0' in text
    assert 'url_rule="/status/<task_id>"' in text
    assert re.search(r'flask_http_request_duration_seconds_bucket\{le="300.0",method="POST",.*\} 1.0', text)
    assert "svd_jobs_created_total 1.0" in text


def test_openmetrics_output_has_one_end_marker(http):
    text = http.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
    assert text.count("# EOF") == 1
    assert text.endswith("# EOF\n")


def test_the_application_starts_without_redis(make_settings, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import wsgi; print(wsgi.application.name)"],
        env={"REDIS_URL": "redis://127.0.0.1:1/0", "SVD_DEVICES": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "svd_service\n"


def test_health_is_degraded_before_the_disk_is_full(http, monkeypatch):
    usage = SimpleNamespace(total=20_000_000_000, used=19_100_000_000, free=900_000_000)
    monkeypatch.setattr("svd_service.telemetry.disk.shutil.disk_usage", lambda _: usage)
    health = http.get("/health").json
    assert (health["status"], health["reasons"][0]) == ("degraded", "disk_almost_full")
    usage.free = 1_100_000_000
    assert "disk_almost_full" not in http.get("/health").json["reasons"]


def test_a_small_disk_is_almost_full_by_its_share(tmp_path, monkeypatch):
    usage = SimpleNamespace(total=1_000_000_000, used=940_000_000, free=60_000_000)
    monkeypatch.setattr("svd_service.telemetry.disk.shutil.disk_usage", lambda _: usage)
    assert disk_trouble(tmp_path) is None
    usage.free = 40_000_000
    assert disk_trouble(tmp_path) == "the disk of the data folder is almost full: 40 MB free of 1000 MB"
    monkeypatch.undo()
    assert disk_trouble(tmp_path / "missing") is None


def test_health_is_degraded_while_redis_cannot_save(http, redis_client):
    folder = Path(redis_client.config_get("dir")["dir"])
    (folder / "dump.rdb").mkdir()
    try:
        with suppress(redis.ResponseError):
            redis_client.bgsave()
        while redis_client.info("persistence")["rdb_last_bgsave_status"] != "err":
            time.sleep(0.05)
        health = http.get("/health").json
    finally:
        (folder / "dump.rdb").rmdir()
    assert (health["status"], health["redis"], health["reasons"][0]) == ("degraded", True, "redis_cannot_save")
    redis_client.bgsave()
    while redis_client.info("persistence")["rdb_last_bgsave_status"] != "ok":
        time.sleep(0.05)
    (folder / "dump.rdb").unlink()
    assert "redis_cannot_save" not in http.get("/health").json["reasons"]
