"""Several hosts: Redis with TLS and a user of its own, failover of Redis, wrong clocks."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import redis
import trustme

from svd_service.config import Settings
from svd_service.ledger.connection import connect
from tools.harness.local import ROOT, free_port, redis_program
from tools.harness.stack import Stack

OPERATIONS = ROOT / "docs" / "operations.md"

ONE_SECOND: dict[str, Any] = {"num_inference_steps": 10, "width": 64, "height": 64}
FOUR_SECONDS = ONE_SECOND | {"num_inference_steps": 40}

PASSWORD = "what a URL: does not/like @ all"

#: Commands that the user may call but that a short run does not call, with what calls them.
NOT_CALLED_HERE = {
    "select": "a database other than 0",
    "watch": "Celery, when it requeues a message",
    "unwatch": "Celery, when it requeues a message",
    "discard": "Celery, when it aborts a transaction",
    "rpop": "Celery, when it fetches one message without waiting",
    "pexpire": "Celery, for queues that expire",
    "unsubscribe": "an event stream that ends",
    "punsubscribe": "Flower, when it stops",
    "expire": "Idempotency-Key, rate limit",
    "incr": "rate limit",
    "zincrby": "leases, after an outage of Redis",
    "zscore": "a claim of another attempt",
    "zscan": "svd-service check-ledger",
    "ttl": "the end of a webhook",
    "zrevrank": "further pages of the list of jobs",
    "zrevrange": "the list of jobs",
}

#: Commands that need no permission, and those of the test itself.
WITHOUT_PERMISSION = {"auth", "hello", "config|resetstat", "acl|log", "acl|setuser"}


@dataclass
class SecuredStack:
    """A service whose Redis requires TLS, a client certificate and a password."""

    stack: Stack
    flower: str


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredStack]:
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("worker@example.org")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "another.pem")
    server.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    client.cert_chain_pems[0].write_to_path(folder / "client.pem")
    client.private_key_pem.write_to_path(folder / "client.key")
    port, flower = free_port(), free_port()
    stack = Stack(
        folder,
        {
            "SVD_LEASE": "3",
            "REDIS_URL": f"rediss://svd:{quote(PASSWORD, safe='')}@localhost:{port}/0",
            "REDIS_CA_FILE": str(folder / "ca.pem"),
            "REDIS_CERT_FILE": str(folder / "client.pem"),
            "REDIS_KEY_FILE": str(folder / "client.key"),
            "SVD_FLOWER_BASIC_AUTH": "operator:secret",
            "SVD_FLOWER_BIND": f"127.0.0.1:{flower}",
        },
    )
    try:
        stack.start_redis()
        if tuple(map(int, str(stack.redis.info("server")["redis_version"]).split(".")[:2])) < (7, 2):
            pytest.skip("this Redis is older than 7.2: the documented user has the permission `client|setinfo`")
        stack.redis.execute_command("ACL", "SETUSER", "svd", "reset", "on", f">{PASSWORD}", *documented_rules())
        stack.redis.config_resetstat()
        proxy = (sys.executable, str(Path(__file__).with_name("tls_proxy.py")), str(port), str(stack.redis_port))
        stack.start("tls", *proxy, str(folder / "server.pem"), str(folder / "ca.pem"))
        stack.start("flower", sys.executable, "-m", "svd_service", "flower")
        stack.start_stand_in()
        stack.start_exporter()
        stack.start_api()
        stack.wait_for_workers(1)
        yield SecuredStack(stack, f"http://127.0.0.1:{flower}")
    finally:
        stack.stop_all()


def documented_rules() -> list[str]:
    """The ACL rules of the user in docs/operations.md, without its password."""
    (line,) = re.findall(r"^user svd on >\S+ (.*)$", OPERATIONS.read_text(), re.MULTILINE)
    return str(line).split()


@pytest.mark.thorough
def test_every_process_works_over_tls_with_the_documented_redis_user(secured: SecuredStack, photo: bytes):
    stack = secured.stack
    job_id = stack.submit(photo, **ONE_SECOND)
    with stack.http.stream("GET", f"/jobs/{job_id}/events") as events:
        received = events.read().decode()
    assert '"status":"finished"' in received
    assert len(stack.http.get(f"/results/{job_id}").content) == stack.status(job_id)["result"]["bytes"]
    assert stack.http.get("/jobs").json()["jobs"][0]["task_id"] == job_id

    cancelled = stack.submit(photo, **FOUR_SECONDS)
    stack.wait_until_started(cancelled)
    assert stack.http.delete(f"/jobs/{cancelled}").status_code == 202
    stack.wait_for(cancelled, "cancelled")
    assert stack.http.delete(f"/jobs/{cancelled}").status_code == 204

    # Celery's remote control and its results; Flower's view of Celery's events and queues.
    inspected = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "svd_service.celery_app", "inspect", "ping"],
        env=stack.environment,
        cwd=stack.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pong" in inspected.stdout, inspected.stderr
    stack.wait(lambda: "flower_worker_online{" in httpx2.get(f"{secured.flower}/metrics").text, 60)
    assert "svd" in httpx2.get(f"{secured.flower}/broker", auth=("operator", "secret")).text
    exported = httpx2.get(f"http://127.0.0.1:{stack.exporter_port}/metrics").text
    assert 'svd_jobs_ended_total{state="finished"} 1.0' in exported

    made = [sys.executable, "-m", "svd_service", "keys", "create", "ann"]
    key = subprocess.run(made, env=stack.environment, capture_output=True, text=True, check=True).stdout.strip()
    # Every process requires the key within two seconds.
    stack.wait(lambda: stack.http.get("/jobs").status_code == 401, 60)
    assert stack.http.get("/jobs", headers={"Authorization": f"Bearer {key}"}).json()["jobs"] == []

    assert [entry["object"] for entry in stack.redis.acl_log() if entry["reason"] != "auth"] == []


@pytest.mark.thorough
def test_the_documented_redis_user_has_no_unused_permissions(secured: SecuredStack):
    allowed = {rule.removeprefix("+") for rule in documented_rules() if rule.startswith("+")}
    called = {name.removeprefix("cmdstat_") for name in secured.stack.redis.info("commandstats")}
    assert called - allowed <= WITHOUT_PERMISSION
    assert allowed - called <= set(NOT_CALLED_HERE)


@pytest.mark.thorough
def test_connecting_to_redis_fails_unless_both_certificates_are_valid(secured: SecuredStack):
    stack = secured.stack
    for changed in (
        {"REDIS_CA_FILE": str(stack.folder / "another.pem")},
        {"REDIS_CA_FILE": ""},
        {"REDIS_CERT_FILE": "", "REDIS_KEY_FILE": ""},
        {"REDIS_URL": stack.environment["REDIS_URL"].replace("@localhost", "@127.0.0.1")},
    ):
        settings = Settings.from_mapping(stack.environment | changed)
        with connect(settings) as client, pytest.raises(redis.ConnectionError):
            client.ping()


# Failover of Redis


@pytest.fixture
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A master, its replica, and a Sentinel that starts a failover when the master has been down for a second."""
    folder = tmp_path_factory.mktemp("replicated")
    replica, sentinel = free_port(), free_port()
    stack = Stack(
        folder,
        {"SVD_LEASE": "3", "REDIS_URL": "redis://Ours/0", "REDIS_SENTINELS": f"127.0.0.1:{sentinel}"},
    )
    try:
        stack.start_redis()
        where = folder / "replica"
        where.mkdir()
        options = ("--appendonly", "yes", "--save", "", "--bind", "127.0.0.1", "--dir", str(where))
        master = ("--replicaof", "127.0.0.1", str(stack.redis_port))
        stack.start("replica", redis_program(), "--port", str(replica), *options, *master)
        (folder / "sentinel.conf").write_text(
            f"port {sentinel}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor Ours 127.0.0.1 {stack.redis_port} 1\n"
            "sentinel down-after-milliseconds Ours 1000\nsentinel failover-timeout Ours 4000\n"
        )
        stack.wait(lambda: stack.redis.info("replication")["connected_slaves"] == 1, 60)
        stack.start("sentinel", redis_program(), str(folder / "sentinel.conf"), "--sentinel")
        with redis.Redis(port=sentinel, decode_responses=True) as client:
            # The Sentinel learns of the replica from the master, which it queries every ten seconds.
            stack.wait(lambda: int(client.sentinel_master("Ours")["num-slaves"]) == 1, 60)
        yield stack
    finally:
        stack.stop_all()


@pytest.mark.thorough
def test_a_failover_during_a_job_loses_no_job_and_costs_no_attempt(replicated: Stack, photo: bytes):
    stack = replicated
    stack.start_api()
    stack.start_stand_in()
    stack.wait_for_workers(1)
    jobs = [stack.submit(photo, **FOUR_SECONDS) for _ in range(3)]
    stack.wait_until_started(jobs[0])
    # A failover keeps only what was replicated, as docs/operations.md states.
    assert stack.redis.wait(1, 5000) == 1
    stack.stop("redis", signal.SIGKILL)

    ends = [stack.wait_for(job_id, "finished", "failed", "cancelled", seconds=120) for job_id in jobs]
    assert [end["status"] for end in ends] == ["finished"] * 3
    assert [len(end["attempts"]) for end in ends] == [1, 1, 1]
    after = stack.submit(photo, **ONE_SECOND)
    assert stack.wait_for(after, "finished", "failed")["status"] == "finished"
    assert len(list((stack.folder / "data" / "results").glob("*/*.mp4"))) == 4


# Two services, for two models, on one Redis


def test_workers_claim_only_jobs_of_their_own_namespace(workerless: Stack, photo: bytes):
    stack = workerless
    port = free_port()
    apart = {"SVD_NAMESPACE": "other", "SVD_DATA_DIR": str(stack.folder / "other")}
    gunicorn = (sys.executable, "-m", "gunicorn", "-c", "python:svd_service.gunicorn", "svd_service.wsgi:application")
    stack.start("other-api", *gunicorn, SVD_BIND=f"127.0.0.1:{port}", **apart)
    stack.start_stand_in("theirs", step=0.02, variables=apart)
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as other:
        stack.wait(lambda: other.get("/health").json()["workers_ready"] == 1, 60)
        assert stack.workers() == []
        ours = stack.submit(photo, **ONE_SECOND)
        theirs = [
            other.post("/generate", files={"image": photo}, data={"num_inference_steps": "5"}).json()["task_id"]
            for _ in range(3)
        ]
        for job_id in theirs:
            stack.wait(lambda job_id=job_id: other.get(f"/status/{job_id}").json()["status"] == "finished", 60)
        assert stack.http.get(f"/status/{theirs[0]}").status_code == 404
        assert stack.status(ours)["status"] == "queued"
        # A new worker needs no configuration elsewhere.
        stack.start_stand_in("ours")
        assert stack.wait_for(ours, "finished", "failed")["attempts"][0]["worker"].startswith("ours@")
    for name in ("other-api", "theirs", "ours"):
        stack.stop(name)


# Wrong clocks


@pytest.mark.thorough
def test_leases_are_renewed_and_expire_although_the_hosts_clocks_are_wrong(workerless: Stack, photo: bytes):
    stack = workerless
    two_hours = 7_200
    stack.start_stand_in("ahead", skew=two_hours)
    stack.start_stand_in("behind", skew=-two_hours)
    stack.wait_for_workers(2)
    # Longer than the lease (3 s), so that both leases are renewed, and one job for each of the two processes.
    jobs = [stack.submit(photo, **FOUR_SECONDS) for _ in range(2)]
    ends = [stack.wait_for(job_id, "finished", "failed") for job_id in jobs]
    assert {tuple(attempt["outcome"] for attempt in end["attempts"]) for end in ends} == {("finished",)}
    assert {end["attempts"][0]["worker"].split("@")[0] for end in ends} == {"ahead", "behind"}

    job_id = stack.submit(photo, **FOUR_SECONDS)
    stack.wait_until_started(job_id)
    dying = stack.status(job_id)["attempts"][0]["worker"].split("@")[0]
    stack.stop(dying, signal.SIGKILL)
    end = stack.wait_for(job_id, "finished", "failed")
    assert [attempt["outcome"] for attempt in end["attempts"]] == ["lost", "finished"]
    assert {attempt["worker"].split("@")[0] for attempt in end["attempts"]} == {"ahead", "behind"}
    times = [attempt[name] for attempt in end["attempts"] for name in ("started_at", "ended_at")]
    assert all(abs(datetime.fromisoformat(time) - datetime.now(UTC)) < timedelta(hours=1) for time in times)
