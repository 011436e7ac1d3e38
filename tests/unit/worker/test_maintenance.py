import os
import subprocess
import time

import pytest

from svd_service.artifacts.base import ArtifactsUnavailableError
from svd_service.artifacts.local import LocalArtifacts
from svd_service.bootstrap import UseCases, use_cases
from svd_service.jobs.job import RESULT_FILES, Holder, Result, State
from svd_service.jobs.job_files import file_name, input_name, result_name
from svd_service.ledger import open_ledger
from svd_service.ledger.connection import connect
from svd_service.worker.celery_revokes import Revocations
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


DAMAGE = {
    "an unreadable holder": lambda client: client.hset("svd:job:other", "held:1", "{"),
    "a holder of a newer release": lambda client: client.hset(
        "svd:job:other", "held:1", '{"worker": "w", "device": "cpu", "instance": "i", "pid": 2, "of_tomorrow": 1}'
    ),
    "a leased id without a record": lambda client: client.zadd("svd:leases", {"nothing": 0}),
    "another type under a leased id": lambda client: [
        client.set("svd:job:text", "text"),
        client.zadd("svd:leases", {"text": 0}),
    ],
    "another type for the waiting jobs": lambda client: client.set("svd:waiting:nano", "text"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_elsewhere_does_not_keep_a_round_from_requeueing_lost_jobs(
    jobs, job_with_expired_lease, redis_client, damage, published
):
    submit(jobs.ledger, "other")
    jobs.ledger.attempts.claim("other", HOLDER)
    damage(redis_client)
    MaintenanceRounds(jobs).round()
    assert jobs.ledger.jobs.find("a").state is State.QUEUED
    assert published == ["a"]


def test_a_round_requeues_the_jobs_of_damaged_leases(jobs, redis_client, published):
    submit(jobs.ledger)
    jobs.ledger.attempts.claim("a", HOLDER)
    redis_client.set("svd:leases", "text")
    MaintenanceRounds(jobs).round()
    assert published == ["a"]


def test_a_revoked_id_that_redis_cannot_take_is_dropped(
    jobs, job_with_expired_lease, published, make_settings, redis_url, monkeypatch
):
    revocations = Revocations(jobs.ledger.jobs.cancel)
    monkeypatch.setattr("svd_service.worker.maintenance.revocations", lambda: revocations)
    submit(jobs.ledger, "b")
    assert revocations.revoke(["\udcff", "b"]) == "\udcff: failed; b: cancelled"
    MaintenanceRounds(jobs).round()
    assert published == ["a"]


def put_video(jobs: UseCases, name: str) -> None:
    for variant in RESULT_FILES:
        jobs.artifacts.put(file_name(name, variant), b"video")


def test_old_orphans_are_deleted_and_files_in_use_stay(jobs, redis_client, monkeypatch):
    redis_client.set("svd:born", 0)
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


def orphans(jobs, redis_client, monkeypatch, number):
    redis_client.set("svd:born", 0)
    monkeypatch.setattr("svd_service.jobs.maintenance.ORPHAN_AGE", -60.0)
    monkeypatch.setattr(jobs.artifacts, "sweep_staging", lambda older_than: 0)
    for one in range(number):
        jobs.artifacts.put(input_name(f"orphan{one}"), b"image")


def test_an_orphan_that_cannot_be_deleted_does_not_hinder_the_others(jobs, redis_client, monkeypatch):
    orphans(jobs, redis_client, monkeypatch, 5)
    delete = jobs.artifacts.delete

    def denying(name):
        if "orphan2" in name:
            raise ArtifactsUnavailableError("permission denied")
        delete(name)

    monkeypatch.setattr(jobs.artifacts, "delete", denying)
    with pytest.raises(ArtifactsUnavailableError):
        jobs.maintenance.sweep_orphans()
    assert [name for name, _ in jobs.artifacts.names()] == [input_name("orphan2")]


def test_a_sweep_ends_when_every_deletion_fails(jobs, redis_client, monkeypatch):
    orphans(jobs, redis_client, monkeypatch, 5)
    monkeypatch.setattr("svd_service.jobs.maintenance.MAX_FAILURES", 2)
    tried = []

    def failing(name):
        tried.append(name)
        raise ArtifactsUnavailableError("no answer")

    monkeypatch.setattr(jobs.artifacts, "delete", failing)
    with pytest.raises(ArtifactsUnavailableError):
        jobs.maintenance.sweep_orphans()
    assert len(tried) == 2


def test_a_damaged_record_keeps_its_own_artifacts_only(jobs, redis_client, monkeypatch):
    orphans(jobs, redis_client, monkeypatch, 2)
    for job_id in ("text", "type"):
        submit(jobs.ledger, job_id)
        jobs.artifacts.put(input_name(job_id), b"image")
    redis_client.hset("svd:job:text", "result", "{")
    redis_client.delete("svd:job:type")
    redis_client.set("svd:job:type", "text")
    assert jobs.maintenance.sweep_orphans() == 2
    assert {name for name, _ in jobs.artifacts.names()} == {input_name("text"), input_name("type")}


def age(jobs, name, seconds):
    path = jobs.settings.data_dir / name
    modified = time.time() - seconds
    os.utime(path, (modified, modified))


def warnings(caplog):
    return [line.getMessage() for line in caplog.records if "older than the ledger" in line.getMessage()]


@pytest.mark.parametrize("busy", [False, True], ids=["and stays empty", "and gets new jobs before the sweep"])
def test_a_redis_that_comes_back_empty_costs_no_file_of_the_lost_jobs(jobs, redis_client, caplog, busy):
    claim = (submit(jobs.ledger), jobs.ledger.attempts.claim("a", HOLDER))[1]
    video = result_name("a", claim.token)
    jobs.ledger.attempts.finish(claim, Result(video, 5, "00ff", 64, 64, 3, {}), device="cpu", seconds={}, steps=1)
    submit(jobs.ledger, "waiting")
    put_video(jobs, video)
    jobs.artifacts.put(input_name("waiting"), b"image")
    files = [name for name, _ in jobs.artifacts.names()]
    for name in files:
        age(jobs, name, 7_200)
    assert jobs.maintenance.sweep_orphans() == 0
    # Longer ago than the files are old.
    redis_client.set("svd:born", time.time() - 9_000)
    saved = {key: redis_client.dump(key) for key in (b"svd:job:a", b"svd:job:waiting", b"svd:jobs", b"svd:born")}
    redis_client.flushdb()
    if busy:
        submit(jobs.ledger, "new")
    for _ in range(2):
        assert jobs.maintenance.sweep_orphans() == 0
    assert [name for name, _ in jobs.artifacts.names()] == files
    assert [line.partition(" ")[0] for line in warnings(caplog)] == [str(len(files))]

    redis_client.flushdb()
    for key, value in saved.items():
        redis_client.restore(key, 0, value)
    assert jobs.maintenance.sweep_orphans() == 0
    assert jobs.ledger.jobs.find("a").state is State.FINISHED
    assert [name for name, _ in jobs.artifacts.names()] == files


def test_a_ledger_of_an_earlier_release_is_as_old_as_its_oldest_job(jobs, redis_client, caplog):
    submit(jobs.ledger)
    redis_client.zadd("svd:jobs", {"a": time.time() - 10_000})
    for name, seconds in (("orphan", 9_000), ("of-before", 11_000)):
        jobs.artifacts.put(input_name(name), b"image")
        age(jobs, input_name(name), seconds)
    assert jobs.maintenance.sweep_orphans() == 1
    assert [name for name, _ in jobs.artifacts.names()] == [input_name("of-before")]
    jobs.ledger.jobs.cancel("a")
    jobs.ledger.jobs.forget("a")
    assert jobs.maintenance.sweep_orphans() == 0
    jobs.artifacts.put(input_name("later"), b"image")
    age(jobs, input_name("later"), 9_000)
    assert jobs.maintenance.sweep_orphans() == 1, "its age is stored"
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("born", ["garbage", "nan", ""])
def test_a_ledger_whose_age_is_damaged_sweeps_no_file_of_an_unknown_job(jobs, redis_client, born):
    redis_client.set("svd:born", born)
    jobs.artifacts.put(input_name("orphan"), b"image")
    age(jobs, input_name("orphan"), 9_000)
    assert jobs.maintenance.sweep_orphans() == 0
