import os
import subprocess

import pytest

from svd_service.artifacts.local import LocalArtifacts
from svd_service.bootstrap import UseCases, use_cases
from svd_service.jobs.job import RESULT_FILES, Holder, Result, State
from svd_service.jobs.job_files import file_name, input_name, result_name
from svd_service.ledger import open_ledger
from svd_service.ledger.connection import connect
from svd_service.worker.maintenance import MaintenanceRounds
from svd_service.worker.process import INSTANCE
from tests.unit.ledger.samples import submit

HOLDER = Holder("host/0", "cpu", "instance", 1)


@pytest.fixture
def job_with_expired_lease(jobs, redis_client) -> None:
    submit(jobs.ledger)
    jobs.ledger.attempts.claim("a", HOLDER)
    redis_client.zadd("svd:leases", {"a": 0})


def test_a_round_requeues_and_enqueues_jobs_with_an_expired_lease(jobs, job_with_expired_lease, published):
    MaintenanceRounds(jobs).round()
    assert published == ["a"]
    assert jobs.ledger.jobs.find("a").state is State.QUEUED


def test_a_round_requeues_only_the_job_of_a_dead_child_process(jobs, published, redis_client):
    with subprocess.Popen(["true"]) as gone:
        pass
    holders = {
        "dead": Holder("host/0", "cpu", INSTANCE, gone.pid),
        "alive": Holder("host/1", "cpu", INSTANCE, os.getpid()),
        "elsewhere": Holder("other/0", "cpu", "another worker", gone.pid),
    }
    for job_id, holder in holders.items():
        submit(jobs.ledger, job_id)
        jobs.ledger.attempts.claim(job_id, holder)
    MaintenanceRounds(jobs).round()
    assert published == ["dead"]
    assert {job_id: jobs.ledger.jobs.find(job_id).state for job_id in holders} == {
        "dead": State.QUEUED,
        "alive": State.STARTED,
        "elsewhere": State.STARTED,
    }


def test_a_round_without_redis_raises_nothing(make_settings):
    away = make_settings(REDIS_URL="redis://127.0.0.1:1/0")
    ledger = open_ledger(connect(away), away)
    MaintenanceRounds(use_cases(ledger, LocalArtifacts(away.data_dir), away, print)).round()


def put_video(jobs: UseCases, name: str) -> None:
    for variant in RESULT_FILES:
        jobs.artifacts.put(file_name(name, variant), b"video")


def test_old_orphans_are_deleted_and_files_in_use_stay(jobs, monkeypatch):
    for job_id in ("queued", "started", "failed", "finished"):
        submit(jobs.ledger, job_id)
        jobs.artifacts.put(input_name(job_id), b"image")
    started = jobs.ledger.attempts.claim("started", HOLDER)
    assert started is not None
    claim = jobs.ledger.attempts.claim("finished", HOLDER)
    assert claim is not None
    result = Result(result_name("finished", claim.token), 5, "00ff", 64, 64, 3, {})
    jobs.ledger.attempts.finish(claim, result, device="cpu", seconds={}, steps=1)
    jobs.ledger.jobs.cancel("failed")
    tokens = {"finished": claim.token, "started": started.token}
    for job_id, token in {"failed": "token", "unknown": "token", **tokens}.items():
        put_video(jobs, result_name(job_id, token))
    for job_id in tokens:  # left by an earlier attempt that died just before its commit
        put_video(jobs, result_name(job_id, "earlier"))
    foreign = {"logs/worker.log", "redis/appendonlydir/appendonly.aof", "up.lock"}
    for name in foreign:  # as `up` keeps them in the same folder
        jobs.artifacts.put(name, b"not ours")
    assert jobs.maintenance.sweep_orphans() == 0
    monkeypatch.setattr("svd_service.jobs.maintenance.ORPHAN_AGE", -60.0)
    monkeypatch.setattr(jobs.artifacts, "sweep_staging", lambda older_than: 0)
    assert jobs.maintenance.sweep_orphans() == 2 + 4 * len(RESULT_FILES)
    assert {name for name, _ in jobs.artifacts.names()} == {
        "inputs/queued.png",
        "inputs/started.png",
        *foreign,
        *(
            file_name(result_name(job_id, token), variant)
            for job_id, token in tokens.items()
            for variant in RESULT_FILES
        ),
    }
