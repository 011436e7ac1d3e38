"""Damaged records, sets and keys: every script still ends, and other jobs run."""

import json
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import hypothesis
import pytest
from hypothesis import strategies as st

from svd_service.cli.ledger import run as run_check
from svd_service.config import ConfigurationError
from svd_service.errors import StaleAttemptError, UnknownJobError
from svd_service.jobs.job import AttemptOutcome, Failure, Phase, Progress, State
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.check import SCHEMA, check, check_at_start, require_schema
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import WorkerStatus
from svd_service.webhooks.outbox import Outbox
from tests.unit.ledger.samples import HOLDER, finish, submit

pytestmark = pytest.mark.enable_socket

WORKER = WorkerStatus("host/0", "cpu", "instance", 1, "tiny", False, 0.0, 1.0)

#: Each example flushes Redis, so that examples are independent.
SETTINGS = hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


def run_everything(ledger: Ledger, outbox: Outbox, job_ids: list[str]) -> None:
    """Operations of workers, webhook workers and callers in one second, apart from those on a single job."""
    ledger.workers.heartbeat(WORKER)
    ledger.maintenance.reap()
    ledger.maintenance.dispatch()
    ledger.maintenance.expire()
    for job_id in job_ids:
        with suppress(UnknownJobError):
            ledger.estimates.estimate([ledger.jobs.find(job_id)])
    ledger.jobs.page("me")
    ledger.stats.figures()
    for job_id in outbox.choose_due():
        if delivery := outbox.claim(job_id):
            outbox.deliver(delivery, 200)


def finishes(ledger: Ledger, job_id: str) -> bool:
    """Whether a worker claims the job, within a few more rounds than there are other jobs."""
    for _ in range(30):
        ledger.maintenance.dispatch()
        for chosen in cast(list[str], ledger.jobs._redis.zrange("svd:published:tiny", 0, -1)):
            if claim := ledger.attempts.claim(chosen, HOLDER):
                try:
                    finish(ledger, claim)
                except StaleAttemptError:
                    assert chosen != job_id
        if ledger.jobs.find(job_id).state is State.FINISHED:
            return True
        ledger.maintenance.reap()
    return False


def furnish(ledger: Ledger, outbox: Outbox) -> list[str]:
    """Jobs in every state, some with webhooks."""
    ledger.workers.heartbeat(WORKER)
    for job_id in ("started", "finished", "failed", "expired", "cancelled", "posted"):
        submit(ledger, job_id, owner="me", webhook="https://example.com/")
    for job_id in ("enqueued", "waiting", "last"):
        submit(ledger, job_id, owner="me")
    claim = ledger.attempts.claim("started", HOLDER)
    assert claim
    ledger.attempts.report(claim, Progress(Phase.SAMPLING, 1, 4))
    for job_id in ("finished", "expired"):
        finish(ledger, ledger.attempts.claim(job_id, HOLDER))
    failed = ledger.attempts.claim("failed", HOLDER)
    assert failed
    ledger.attempts.end_attempt(failed, AttemptOutcome.FAILED, Failure("x", "y"))
    ledger.jobs.cancel("posted")
    outbox.choose_due()
    ledger.jobs.cancel("cancelled")
    ledger.maintenance.dispatch()
    return ["started", "finished", "failed", "expired", "cancelled", "posted", "enqueued", "waiting", "last"]


def damage(client: Any, data: st.DataObject) -> None:
    # The keys of the history end in the time, by which they are one or two.
    keys = {re.sub(r":\d+$", "", key): key for key in sorted(client.keys("svd:*"))}
    key = keys[data.draw(st.sampled_from(list(keys)), label="key")]
    kind = client.type(key)
    how = data.draw(st.sampled_from(("delete", "retype", "lose", "garbage", "ghost")), label="how")
    if how == "delete":
        client.delete(key)
    elif how == "retype":
        client.delete(key)
        client.set(key, "garbage") if kind != "string" else client.hset(key, "a", "b")
    elif kind == "hash":
        # Which histogram buckets exist depends on the speed of the machine.
        names = sorted(name for name in client.hkeys(key) if "_bucket|" not in name)
        name = data.draw(st.sampled_from(names), label="field")
        if how == "lose":
            client.hdel(key, name)
        else:
            client.hset(key, name, data.draw(st.sampled_from(("", "garbage", "{", "-1", "nan", "[1]", "1e99"))))
    elif kind == "zset":
        if how == "lose":
            client.zpopmin(key)
        else:
            score = data.draw(st.sampled_from((float("-inf"), -1.0, 0.0, 1e12, float("inf"))))
            client.zadd(key, {data.draw(st.sampled_from(("ghost", "waiting", "started", "finished"))): score})
    elif kind == "string":
        client.set(key, "garbage")


@SETTINGS
@hypothesis.given(data=st.data())
def test_with_any_damage_all_scripts_end_and_a_new_job_runs(data, redis_client, settings):
    redis_client.flushdb()
    ledger, outbox = open_ledger(redis_client, settings), Outbox(redis_client, settings)
    ids = furnish(ledger, outbox)
    for _ in range(data.draw(st.integers(1, 4), label="number")):
        damage(redis_client, data)
    check(redis_client, settings)
    run_everything(ledger, outbox, ids)
    submit(ledger, "new", owner="someone")
    assert finishes(ledger, "new")
    assert check(redis_client, settings).problems == []


@pytest.mark.parametrize("state", ["waiting", "enqueued", "started", "finished", "failed", "posted"])
def test_a_job_without_its_record_is_dropped_and_counted_and_delays_no_other(
    state, ledger, outbox, redis_client, caplog
):
    ids = furnish(ledger, outbox)
    redis_client.delete(f"svd:job:{state}")
    redis_client.zadd("svd:ended", dict.fromkeys(redis_client.zrange("svd:ended", 0, -1), 1))
    redis_client.zadd("svd:leases", dict.fromkeys(redis_client.zrange("svd:leases", 0, -1), 1))
    redis_client.zadd("svd:published:tiny", dict.fromkeys(redis_client.zrange("svd:published:tiny", 0, -1), 1))
    run_everything(ledger, outbox, ids)
    submit(ledger, "new", owner="someone")
    assert finishes(ledger, "new")
    assert state == "last" or finishes(ledger, "last")
    assert ledger.stats.figures().damaged["job"] >= 1
    ledger.maintenance.reap()
    assert f"job {state}: its record" in caplog.text
    sets = [*redis_client.keys("svd:*:tiny"), *redis_client.keys("svd:*:tiny|exact"), "svd:leases", "svd:ended"]
    assert not any(redis_client.zscore(key, state) for key in sets if redis_client.type(key) == "zset")


def test_the_counters_are_repaired_after_damage(ledger, outbox, redis_client):
    furnish(ledger, outbox)
    for job_id in ("waiting", "started"):
        redis_client.delete(f"svd:job:{job_id}")
    ledger.jobs.cancel("waiting") if redis_client.exists("svd:job:waiting") else None
    for _ in range(2):
        redis_client.zadd("svd:leases", {"started": 1} if redis_client.zscore("svd:leases", "started") else {"gone": 1})
        ledger.maintenance.dispatch()
        ledger.maintenance.reap()
    assert finishes(ledger, "last")
    ledger.maintenance.reap()
    assert redis_client.hgetall("svd:queued_of") == {}
    assert ledger.stats.figures().jobs[State.QUEUED] == 0
    assert ledger.stats.figures().jobs[State.STARTED] == 0
    assert redis_client.hgetall("svd:loads") == {}


def test_the_check_reports_what_it_repaired(ledger, outbox, redis_client, settings):
    furnish(ledger, outbox)
    assert check(redis_client, settings).repaired == []
    redis_client.delete("svd:job:waiting", "svd:published:tiny", "svd:models")
    redis_client.set("svd:models", "garbage")
    repaired = check(redis_client, settings).repaired
    assert "svd:models was a string; deleted" in repaired
    assert "job waiting: its record is missing or damaged; dropped" in repaired
    assert "job enqueued: its sets did not follow its record; repaired" in repaired
    assert check(redis_client, settings).repaired == []
    assert finishes(ledger, "last")
    assert ledger.jobs.find("enqueued").state is State.FINISHED


def damage_counted(redis_client):
    counters = redis_client.hgetall("svd:counters").items()
    return {name: number for name, number in counters if name.startswith("damaged|")}


def test_a_job_that_is_deleted_during_the_check_is_no_damage(ledger, redis_client, settings, monkeypatch):
    for job_id in ("deleted", "kept"):
        submit(ledger, job_id, owner="me")
    run = Scripts.run

    def delete_first(scripts, name, /, **arguments):
        if name == "mend":
            monkeypatch.undo()
            assert ledger.jobs.forget("deleted", insist=True)
        return run(scripts, name, **arguments)

    monkeypatch.setattr(Scripts, "run", delete_first)
    assert check(redis_client, settings).repaired == []
    assert damage_counted(redis_client) == {}
    assert redis_client.zcard("svd:discarded") == 0


def test_an_id_without_a_record_that_is_left_in_a_set_of_its_owner_is_dropped(ledger, redis_client, settings):
    redis_client.zadd("svd:owner:me", {"gone": 1})
    assert check(redis_client, settings).repaired == ["job gone: its record is missing or damaged; dropped"]
    assert damage_counted(redis_client) == {"damaged|job": "1", "damaged|repaired": "1"}
    assert redis_client.exists("svd:owner:me") == 0
    assert check(redis_client, settings).repaired == []


def test_api_keys_of_the_wrong_type_are_named_and_kept(redis_client, settings):
    redis_client.set("svd:keys", "garbage")
    (problem,) = check(redis_client, settings).problems
    assert problem.startswith("svd:keys is a string")
    assert redis_client.get("svd:keys") == "garbage"


def test_an_eviction_policy_that_deletes_jobs_is_reported(redis_client, settings):
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        (problem,) = check(redis_client, settings).problems
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    assert "maxmemory-policy is allkeys-lru" in problem


def test_one_process_checks_at_startup_and_logs_its_findings(redis_client, redis_url, make_settings, caplog):
    settings = make_settings(REDIS_URL=redis_url)
    redis_client.set("svd:leases", "garbage")
    check_at_start(settings).join(30)
    assert "svd:leases was a string; deleted" in caplog.text
    redis_client.set("svd:leases", "garbage")
    check_at_start(settings).join(30)
    assert redis_client.get("svd:leases") == "garbage"


def test_a_layout_of_a_newer_release_is_rejected(redis_client, settings):
    require_schema(redis_client, settings)
    require_schema(redis_client, settings)
    assert redis_client.get("svd:schema") == str(SCHEMA)
    assert float(redis_client.get("svd:born")) == pytest.approx(time.time(), abs=60)
    redis_client.set("svd:schema", SCHEMA + 1)
    with pytest.raises(ConfigurationError, match=rf"layout {SCHEMA + 1}.*SVD_DATA_DIR or SVD_ARTIFACTS"):
        require_schema(redis_client, settings)


def test_a_ledger_of_the_previous_release_is_read_without_migration(redis_client, settings):
    """`layout_1.json` is what commit 0fdfff4 left in a Redis."""
    for key, value in json.loads((Path(__file__).parent / "layout_1.json").read_text()).items():
        if isinstance(value, dict):
            redis_client.hset(key, mapping=value)
        elif isinstance(value, list):
            redis_client.zadd(key, dict(value))
        else:
            redis_client.set(key, value)
    require_schema(redis_client, settings)
    assert redis_client.hgetall("svd:throughput") == redis_client.hgetall("svd:paces") != {}
    assert check(redis_client, settings).repaired == []
    ledger = open_ledger(redis_client, settings)
    oldest = float(redis_client.hget("svd:job:started", "created"))
    assert ledger.maintenance.birth() == pytest.approx(min(oldest, time.time()), abs=60)
    states = {job.id: job.state for job in ledger.jobs.page("me").jobs}
    assert states == {
        "waiting": State.QUEUED,
        "enqueued": State.QUEUED,
        "cancelled": State.CANCELLED,
        "failed": State.FAILED,
        "finished": State.FINISHED,
        "started": State.STARTED,
    }
    ledger.workers.heartbeat(WORKER)
    redis_client.zadd("svd:leases", {"started": 1})
    assert ledger.maintenance.reap().lost == ["started"]
    assert all(finishes(ledger, job_id) for job_id in ("waiting", "enqueued", "started"))
    assert redis_client.hgetall("svd:loads") == redis_client.hgetall("svd:queued_of") == {}


def test_the_check_on_demand_prints_its_findings(redis_client, redis_url, monkeypatch, make_settings, capsys):
    monkeypatch.setattr("svd_service.cli.ledger.settings", lambda: make_settings(REDIS_URL=redis_url))
    assert run_check() == 0
    assert capsys.readouterr().out == "The ledger is in order.\n"
    redis_client.set("svd:leases", "garbage")
    redis_client.set("svd:keys", "garbage")
    assert run_check() == 1
    assert capsys.readouterr().out.splitlines() == [
        "repaired: svd:leases was a string; deleted",
        "problem: svd:keys is a string; restore it from a backup, or delete it",
    ]
    redis_client.set("svd:schema", SCHEMA + 1)
    assert run_check() == 1
    assert "this release reads up to" in capsys.readouterr().err
