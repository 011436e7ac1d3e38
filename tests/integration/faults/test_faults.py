"""Faults in which Celery on Redis is known to lose or duplicate jobs, one test each; docs/reliability.md has the table.

The model is a stand-in whose steps take 0.1 s, everything else is real. Cases marked `xfail` (strict) disable the
remedy, to prove that it is what prevents the fault.
"""

import io
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from svd_service.artifacts.local import LocalArtifacts
from svd_service.bootstrap import use_cases
from svd_service.celery_app import Enqueuer
from svd_service.config import Settings
from svd_service.errors import UnavailableError
from svd_service.jobs.parameters import VideoRequest
from svd_service.jobs.submit import Order
from svd_service.ledger import open_ledger
from tools.harness.faults.sitecustomize import FILLS_THE_DISK, HANGS, KILLS_ITS_PROCESS, LOSES_THE_DEVICE
from tools.harness.stack import Stack

ONE_SECOND: dict[str, Any] = {"num_inference_steps": 10, "width": 64, "height": 64}
ONE_STEP = ONE_SECOND | {"num_inference_steps": 1}
FIVE_STEPS = ONE_SECOND | {"num_inference_steps": 5}
TWO_SECONDS = ONE_SECOND | {"num_inference_steps": 20}
FOUR_SECONDS = ONE_SECOND | {"num_inference_steps": 40}

#: The stack's lease in seconds.
LEASE = 3


@pytest.fixture
def stack(workerless: Stack) -> Iterator[Stack]:
    yield workerless
    workerless.clear()


def ready(stack: Stack, name: str = "worker", **faults: Any) -> "subprocess.Popen[bytes]":
    worker = stack.start_stand_in(name, **faults)
    stack.wait(lambda: any(found.startswith(f"{name}@") for found in stack.workers()), 60)
    return worker


def outcomes(job: dict[str, Any]) -> list[str]:
    return [attempt["outcome"] for attempt in job["attempts"]]


def log(stack: Stack, name: str) -> str:
    return (stack.folder / f"{name}.log").read_text()


def test_a_worker_whose_model_cannot_be_loaded_exits_and_claims_no_job(stack: Stack, photo: bytes, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.touch()
    worker = stack.start_stand_in("loud", load_fails=str(broken))
    job_id = stack.submit(photo, **ONE_SECOND)
    assert worker.wait(60) == 69
    assert stack.status(job_id)["attempts"] == []
    assert log(stack, "loud").count("the model could not be loaded") == 1
    assert "no model in diffusers' layout" in log(stack, "loud")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("alive_timeout", "patience"),
    [
        (1800, 60),
        pytest.param(2, 9, marks=pytest.mark.xfail(reason="like Celery's default (4 s), it kills every load")),
    ],
)
def test_a_slow_load_delays_readiness_and_is_not_killed_in_a_replaced_process(
    stack: Stack, photo: bytes, alive_timeout: int, patience: float
):
    name = f"slow{alive_timeout}"
    stack.start_stand_in(name, load_seconds=3.5, celery={"worker_proc_alive_timeout": alive_timeout})
    stack.wait(lambda: " ready." in log(stack, name), 60)
    assert stack.workers() == []
    stack.wait(lambda: len(stack.workers()) == 1, 60)
    job_id = stack.submit(photo, **TWO_SECONDS)
    stack.wait_until_started(job_id)
    os.kill(stack.holder(job_id), signal.SIGKILL)
    assert outcomes(stack.wait_for(job_id, "finished", seconds=patience)) == ["lost", "finished"]


@pytest.mark.thorough
def test_a_job_that_kills_its_process_each_time_fails_after_three_attempts(stack: Stack, photo: bytes):
    ready(stack)
    job_id = stack.submit(photo, seed=KILLS_ITS_PROCESS, **ONE_SECOND)
    job = stack.wait_for(job_id, "failed", "finished")
    assert (job["error"]["code"], outcomes(job)) == ("worker_lost", ["lost", "lost", "lost"])
    assert {attempt["worker"].split("@")[0] for attempt in job["attempts"]} == {"worker"}
    assert stack.wait_for(stack.submit(photo, **ONE_SECOND), "finished")["attempt"] == 1


@pytest.mark.thorough
def test_a_job_that_hangs_fails_with_the_time_limit_and_the_worker_continues(stack: Stack, photo: bytes):
    stack.start_stand_in(variables={"SVD_JOB_TIMEOUT": "3", "SVD_LEASE": "30"})
    stack.wait(lambda: len(stack.workers()) == 1, 60)
    slow = stack.submit(photo, **FOUR_SECONDS)
    job = stack.wait_for(slow, "failed", "finished")
    assert (job["error"]["code"], outcomes(job)) == ("time_limit", ["failed"])
    process = stack.holder(slow)

    stuck = stack.submit(photo, seed=HANGS, **ONE_SECOND)
    job = stack.wait_for(stuck, "failed", "finished")
    assert (job["error"]["code"], outcomes(job)) == ("time_limit", ["failed"])
    assert stack.holder(stuck) == process

    frozen = stack.submit(photo, **ONE_SECOND)
    stack.wait_until_started(frozen)
    os.kill(stack.holder(frozen), signal.SIGSTOP)
    job = stack.wait_for(frozen, "failed", "finished")
    assert (job["error"]["code"], outcomes(job)) == ("time_limit", ["failed"])

    after = stack.submit(photo, **ONE_SECOND)
    assert stack.wait_for(after, "finished")["attempt"] == 1
    assert len({process, stack.holder(frozen), stack.holder(after)}) == 3


def test_a_lost_device_costs_an_attempt_and_the_process_is_replaced(stack: Stack, photo: bytes):
    ready(stack)
    job_id = stack.submit(photo, seed=LOSES_THE_DEVICE, **ONE_SECOND)
    job = stack.wait_for(job_id, "failed", "finished")
    assert (job["error"]["code"], outcomes(job)) == ("device_lost", ["retried", "retried", "retried"])
    assert job["error"]["message"].endswith("CUDA error: an illegal memory access was encountered")
    assert len({stack.holder(job_id, attempt) for attempt in (1, 2, 3)}) == 3
    assert stack.wait_for(stack.submit(photo, **ONE_SECOND), "finished")["attempt"] == 1


def test_a_crash_in_a_library_leaves_its_line_in_the_log_of_the_api_and_of_a_worker(stack: Stack, photo: bytes):
    ready(stack)
    job_id = stack.submit(photo, **TWO_SECONDS)
    stack.wait_until_started(job_id)
    os.kill(stack.holder(job_id), signal.SIGSEGV)
    stack.wait(lambda: "most recent call first" in log(stack, "worker"), 20)
    assert stack.wait_for(job_id, "finished")["attempt"] == 2
    os.kill(int(re.findall(r"Booting worker with pid: (\d+)", log(stack, "api"))[-1]), signal.SIGSEGV)
    stack.wait(lambda: "most recent call first" in log(stack, "api"), 20)
    stack.wait_for(job_id, "finished")  # the connection to the process that has ended may be tried first


def test_another_worker_restarts_the_job_of_a_killed_worker_when_the_lease_expires(stack: Stack, photo: bytes):
    workers = {name: ready(stack, name) for name in ("first", "second")}
    job_id = stack.submit(photo, **FOUR_SECONDS)
    stack.wait_until_started(job_id)
    name = stack.status(job_id)["attempts"][0]["worker"].partition("@")[0]
    os.killpg(workers.pop(name).pid, signal.SIGKILL)
    killed = datetime.now(UTC)
    job = stack.wait_for(job_id, "finished")
    assert outcomes(job) == ["lost", "finished"]
    assert [job["attempts"][1]["worker"].partition("@")[0]] == [*workers]
    assert datetime.fromisoformat(job["attempts"][1]["started_at"]) - killed < timedelta(seconds=LEASE + 5)


def in_segment(stack: Stack, job_id: str, number: int) -> dict[str, Any]:
    """Wait until the job samples segment `number`, and return its progress."""

    def reached() -> Any:
        progress = stack.status(job_id)["progress"]
        return progress and progress["phase"] == "sampling" and progress["segment"] == number and progress

    found: dict[str, Any] = stack.wait(reached, 60)
    return found


def test_a_job_of_three_segments_survives_a_killed_process_and_is_cancelled_within_a_segment(
    stack: Stack, photo: bytes
):
    ready(stack, step=0.4)  # a segment lasts long enough to be observed on a busy machine
    job_id = stack.submit(photo, segments=3, **FIVE_STEPS)
    in_segment(stack, job_id, 3)
    os.kill(stack.holder(job_id), signal.SIGKILL)
    job = stack.wait_for(job_id, "finished", "failed")
    assert (job["status"], outcomes(job)) == ("finished", ["lost", "finished"])
    assert stack.redis.hget("svd:counters", "ended|finished") == "1"
    results = Path(stack.environment["SVD_DATA_DIR"]) / "results" / job_id
    assert len([path for path in results.rglob("*") if path.read_bytes() == bytes(7)]) == 1  # the stand-in's video

    cancelled = stack.submit(photo, segments=3, **ONE_SECOND)
    in_segment(stack, cancelled, 2)
    answer = stack.http.delete(f"/jobs/{cancelled}")
    assert answer.status_code == 202, answer.text
    assert answer.json()["progress"]["segment"] == 2, answer.text
    changes = int(str(stack.redis.hget(f"svd:job:{cancelled}", "version")))
    assert outcomes(stack.wait_for(cancelled, "cancelled", "finished")) == ["cancelled"]
    # Each step changes the record; so do the cancel request and the end.
    assert int(str(stack.redis.hget(f"svd:job:{cancelled}", "version"))) <= changes + 3


@pytest.mark.thorough
def test_a_job_of_three_segments_survives_a_killed_worker(stack: Stack, photo: bytes):
    first = ready(stack, "first", step=0.4)
    job_id = stack.submit(photo, segments=3, **FIVE_STEPS)
    in_segment(stack, job_id, 3)
    os.killpg(first.pid, signal.SIGKILL)
    ready(stack, "second")
    job = stack.wait_for(job_id, "finished", "failed")
    assert (job["status"], outcomes(job)) == ("finished", ["lost", "finished"])
    assert [attempt["worker"].partition("@")[0] for attempt in job["attempts"]] == ["first", "second"]
    assert stack.redis.hget("svd:counters", "ended|finished") == "1"


def stopped(pid: int) -> bool:
    """Return whether all threads of a process have stopped; on a busy machine they run for a moment after SIGSTOP."""
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("enqueue_again_after", "patience"),
    [
        (5, 60),
        pytest.param(1e6, 12, marks=pytest.mark.xfail(reason="the message is in neither the queue nor `unacked`")),
    ],
)
def test_a_message_received_by_a_frozen_worker_that_dies_is_enqueued_again(
    stack: Stack, photo: bytes, enqueue_again_after: float, patience: float
):
    switched = {"constants": {"svd_service.ledger.maintenance:ENQUEUE_AGAIN_AFTER": enqueue_again_after}}
    frozen = ready(stack, "frozen", **switched)
    for _ in range(20):
        os.killpg(frozen.pid, signal.SIGSTOP)
        stack.wait(lambda: stopped(frozen.pid), 10)
        job_id = stack.submit(photo, **ONE_STEP)
        # The worker polls Redis (BRPOP) once a second. No message is lost if it was frozen between two polls, nor if
        # the ledger has not enqueued the job because the previous one still counts as running.
        enqueued = any(stack.redis.zscore(key, job_id) for key in stack.redis.scan_iter("svd:published:*"))
        waiting = [*stack.redis.scan_iter("svd.*", _type="list")]
        if enqueued and not waiting and not stack.redis.hlen("unacked"):
            break
        os.killpg(frozen.pid, signal.SIGCONT)
        stack.wait_for(job_id, "finished")
    else:
        pytest.fail("no message was lost in 20 attempts")
    os.killpg(frozen.pid, signal.SIGKILL)
    frozen.wait()
    ready(stack, "next", **switched)
    assert outcomes(stack.wait_for(job_id, "finished", seconds=patience)) == ["finished"]


@pytest.mark.parametrize(
    "messages", [pytest.param(0, id="not sent"), pytest.param(2, id="sent twice", marks=pytest.mark.thorough)]
)
def test_a_job_runs_once_although_enqueueing_it_seemed_to_fail(stack: Stack, photo: bytes, messages: int):
    settings = Settings.from_mapping(stack.environment)
    enqueuer = Enqueuer(settings)

    def enqueue(job_id: str, queue: str) -> None:
        for _ in range(messages):
            enqueuer(job_id, queue)
        raise UnavailableError("no answer in time")

    ready(stack)
    ledger = open_ledger(stack.redis, settings)
    jobs = use_cases(ledger, LocalArtifacts(settings.data_dir), settings, enqueue)
    order = Order(VideoRequest(num_inference_steps=10, width=64, height=64), idempotency_key="once")
    (job_id,) = {jobs.submit(io.BytesIO(photo), order).id for _ in range(2)}
    assert outcomes(stack.wait_for(job_id, "finished", "failed")) == ["finished"]
    assert outcomes(stack.wait_for(stack.submit(photo, **ONE_SECOND), "finished")) == ["finished"]
    assert log(stack, "worker").count(f"job {job_id}: attempt") == 2  # it began, and it finished


def test_a_job_runs_once_although_all_connections_are_dropped_while_it_runs(stack: Stack, photo: bytes):
    ready(stack)
    job_id = stack.submit(photo, **FOUR_SECONDS)
    stack.wait_until_started(job_id)
    for _ in range(3):
        stack.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(0.5)
    assert outcomes(stack.wait_for(job_id, "finished", "failed")) == ["finished"]
    # Messages that Celery delivers twice have no effect: the next job finishes, and this one was started once.
    assert outcomes(stack.wait_for(stack.submit(photo, **ONE_SECOND), "finished")) == ["finished"]
    assert log(stack, "worker").count(f"job {job_id}: attempt") == 2  # it began, and it finished


@pytest.mark.parametrize(
    "patience",
    [
        300,
        pytest.param(
            0, marks=[pytest.mark.thorough, pytest.mark.xfail(reason="without retries the result is discarded")]
        ),
    ],
)
def test_a_result_is_committed_although_redis_was_down_when_it_was_ready(stack: Stack, photo: bytes, patience: float):
    # The default is bound when the module is imported.
    ready(stack, constants={"svd_service.worker.attempt:_patiently.__defaults__": [patience]})
    job_id = stack.submit(photo, **ONE_SECOND)
    stack.wait_until_started(job_id)
    stack.stop("redis")
    time.sleep(4)
    stack.start_redis()
    assert outcomes(stack.wait_for(job_id, "finished")) == ["finished"]


@pytest.mark.thorough
def test_a_result_is_committed_although_redis_was_frozen_when_it_was_ready(stack: Stack, photo: bytes):
    ready(stack)
    job_id = stack.submit(photo, **ONE_SECOND)
    stack.wait_until_started(job_id)
    stack.processes["redis"].send_signal(signal.SIGSTOP)
    time.sleep(2 * LEASE)
    stack.processes["redis"].send_signal(signal.SIGCONT)
    assert outcomes(stack.wait_for(job_id, "finished")) == ["finished"]


@pytest.mark.thorough
def test_a_full_disk_fails_attempts_and_leaves_no_files(stack: Stack, photo: bytes):
    ready(stack)
    # A limit on file sizes has the same effect as a full disk, but on one process only.
    first = stack.submit(photo, **ONE_SECOND)
    stack.wait_for(first, "finished")
    resource.prlimit(stack.holder(first), resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
    job_id = stack.submit(photo, seed=FILLS_THE_DISK, **ONE_SECOND)
    job = stack.wait_for(job_id, "failed", "finished")
    assert (job["error"]["code"], outcomes(job)) == ("artifacts_unavailable", ["retried", "retried", "retried"])
    data = Path(stack.environment["SVD_DATA_DIR"])
    assert [path for path in data.rglob("*.mp4") if job_id in str(path) or ".staging" in str(path)] == []
    assert stack.wait_for(stack.submit(photo, **ONE_SECOND), "finished")["attempt"] == 1
