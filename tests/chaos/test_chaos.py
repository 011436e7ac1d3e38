"""`python -m tools.chaos`: a short run, the schedule of faults, and how the run is judged."""

import json
import subprocess
import sys
from collections import Counter
from itertools import islice
from unittest.mock import Mock

import pytest
import redis

from tools.benchmark.report import quantile
from tools.chaos.caller import Sighting, is_signed
from tools.chaos.redis_faults import RedisFaults
from tools.chaos.report import committed_twice, lost, passed, recovery, report, table
from tools.chaos.run import Hit, Outcome
from tools.chaos.schedule import KINDS, schedule

COMMAND = (sys.executable, "-m", "tools.chaos")


def sighting_of(*answers: dict) -> Sighting:
    sighting = Sighting(0, None)
    for answer in answers:
        sighting.see(status(**answer))
    return sighting


def status(state: str, sha: str = "", attempt: int = 1, outcomes: tuple[str, ...] = ()) -> dict:
    return {
        "status": state,
        "result": {"sha256": sha} if sha else None,
        "provenance": {"attempt": attempt} if sha else None,
        "attempts": [
            {"outcome": outcome, "started_at": f"2026-01-01T00:00:{10 * number:02}+00:00"}
            for number, outcome in enumerate(outcomes)
        ],
        "error": {"code": "worker_lost"} if state == "failed" else None,
    }


def outcome_of(*sightings: Sighting, **more: object) -> Outcome:
    jobs = {str(number): sighting for number, sighting in enumerate(sightings)}
    finished = sum(sighting.last.get("status") == "finished" for sighting in sightings)
    return Outcome(1, 3.0, seen=jobs, **{"created": len(jobs), "counted_finished": finished, **more})


@pytest.mark.thorough
@pytest.mark.enable_socket
@pytest.mark.timeout(900)
def test_a_minute_of_chaos_loses_no_job_and_commits_no_result_twice(tmp_path):
    figures_file = tmp_path / "figures.json"
    options = ("--jobs", "400", "--seed", "7", "--fault-interval", "2", "--limit", "50", "--json", figures_file)
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(figures_file.read_text())
    assert (figures["lost"], figures["committed_twice"], figures["rejected"]) == ({}, {}, [])
    assert figures["usage_errors"] == {}
    assert figures["usage"]["submitted"] == figures["accepted"]
    ends = figures["finished"] + figures["cancelled"] + figures["deleted"] + sum(figures["failed"].values())
    assert figures["accepted"] == ends
    assert figures["finished"] > 0
    assert sum(figures["faults"].values()) >= 5


def test_the_same_seed_gives_the_same_faults_at_the_configured_interval():
    faults = list(islice(schedule(1, 3.0, list(KINDS)), 2_000))
    assert faults == list(islice(schedule(1, 3.0, list(KINDS)), 2_000))
    assert faults != list(islice(schedule(2, 3.0, list(KINDS)), 2_000))
    assert faults[-1].at / 2_000 == pytest.approx(3.0, rel=0.1)
    kinds = Counter(fault.kind for fault in faults)
    assert set(kinds) == set(KINDS)
    assert kinds["connections"] > kinds["child-kill"]


def test_a_job_that_has_not_ended_or_is_unknown_counts_as_lost():
    forgotten = sighting_of({"state": "queued"})
    forgotten.unknown = True
    outcome = outcome_of(sighting_of({"state": "started"}), sighting_of({"state": "cancelled"}), forgotten)
    assert lost(outcome) == {"0": "started", "2": "unknown"}
    assert not passed(report(outcome))


def test_a_job_that_failed_after_three_lost_attempts_does_not_count_as_lost():
    outcome = outcome_of(sighting_of({"state": "failed", "outcomes": ("lost",) * 3}))
    figures = report(outcome)
    assert passed(figures)
    assert figures["failed"] == {"worker_lost": 1}


def test_a_record_that_a_frozen_redis_may_delete_later_counts_as_deleted(tmp_path, monkeypatch):
    faults = RedisFaults("redis://127.0.0.1:1/0", tmp_path, "queue")
    for error, deleted in (
        (redis.TimeoutError(), True),
        (redis.ConnectionError(), True),
        (redis.ReadOnlyError(), False),
    ):
        monkeypatch.setattr(faults._client, "eval", Mock(side_effect=error))
        assert faults.delete_record("svd:job:1") is deleted


def test_a_video_without_a_valid_signature_fails_the_run():
    sighting = sighting_of({"state": "finished", "sha": "a", "outcomes": ("finished",)})
    assert passed(report(outcome_of(sighting)))
    sighting.served, sighting.unsigned = 3, 1
    figures = report(outcome_of(sighting))
    assert (figures["served"], figures["served_unsigned"], passed(figures)) == (3, 1, False)
    assert not is_signed(b"not a video")


@pytest.mark.parametrize(
    "answers",
    [
        ({"state": "finished", "sha": "a"}, {"state": "finished", "sha": "b"}),
        ({"state": "finished", "sha": "a"}, {"state": "finished", "sha": "a", "attempt": 2}),
        ({"state": "finished", "sha": "a"}, {"state": "started"}, {"state": "finished", "sha": "a"}),
        ({"state": "finished", "sha": "a", "outcomes": ("finished", "finished")},),
    ],
)
def test_a_second_result_of_a_job_fails_the_run(answers):
    outcome = outcome_of(
        sighting_of({"state": "finished", "sha": "a", "outcomes": ("lost", "finished")}), sighting_of(*answers)
    )
    assert list(committed_twice(outcome)) == ["1"]
    assert not passed(report(outcome))


def test_more_results_than_finished_jobs_count_as_committed_twice():
    assert committed_twice(outcome_of(sighting_of({"state": "finished", "sha": "a"}), counted_finished=2)) != {}


def test_the_recovery_time_is_assigned_to_the_fault_that_hit_the_worker():
    began = 1_767_225_600.0  # 2026-01-01T00:00:00Z, the start of the first attempts
    outcome = outcome_of(
        sighting_of({"state": "finished", "sha": "a", "outcomes": ("lost", "finished")}),
        sighting_of({"state": "finished", "sha": "b", "outcomes": ("finished",)}),
        hits=[
            Hit("connections", began + 1, "0", 1),
            Hit("host-kill", began + 2, "0", 1),
            Hit("redis-kill", began + 3, "0", 1),
            Hit("redis-kill", began + 3, "1", 1),
        ],
        ready=[(began, True), (began + 5, False), (began + 8, True), (began + 60, True)],
    )
    found = recovery(outcome)
    assert found["host-kill"] | {"hit": 1, "unharmed": 0, "p95": 8.0, "p95_ready": 5.0} == found["host-kill"]
    assert found["redis-kill"] == {"hit": 1, "unharmed": 1, "not_repeated": 0}
    assert "host-kill" in table(report(outcome))


def test_quantiles_are_measured_values():
    assert [quantile([4, 1, 3, 2], share) for share in (0.5, 0.95, 1.0)] == [2, 4, 4]
