"""Stopping workers by signals: the model is a stand-in, everything else is real."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tools.harness.stack import Stack

#: A stand-in's step takes 0.1 s.
TWO_SECONDS = {"num_inference_steps": 20, "width": 64, "height": 64}
ONE_STEP = TWO_SECONDS | {"num_inference_steps": 1}
FOUR_SECONDS = TWO_SECONDS | {"num_inference_steps": 40}

#: Seconds within which a worker must exit, apart from its job: far less than the drain timeout, far more than it takes.
SOON = 60


@pytest.fixture
def stack(workerless: Stack) -> Iterator[Stack]:
    yield workerless
    workerless.clear()


def to_process(worker: "subprocess.Popen[bytes]", sign: signal.Signals) -> None:
    worker.send_signal(sign)


def to_group(worker: "subprocess.Popen[bytes]", sign: signal.Signals) -> None:
    """Signal the group, as terminals and systemd without KillMode=mixed do, and then the process, as `timeout` does."""
    os.killpg(worker.pid, sign)
    worker.send_signal(sign)


def ready(stack: Stack, name: str = "worker", grace: float = 300, **faults: Any) -> "subprocess.Popen[bytes]":
    worker = stack.start_stand_in(name, variables={"SVD_DRAIN_TIMEOUT": str(grace)}, **faults)
    stack.wait(lambda: any(found.startswith(f"{name}@") for found in stack.workers()), 60)
    return worker


@pytest.mark.parametrize(
    ("send", "sign"),
    [(to_group, signal.SIGTERM), pytest.param(to_group, signal.SIGINT, marks=pytest.mark.thorough)],
    ids=["SIGTERM to the group", "SIGINT to the group"],
)
def test_a_stopped_worker_finishes_its_job_claims_no_other_and_exits(
    stack: Stack, photo: bytes, send: Callable[..., None], sign: signal.Signals
):
    worker = ready(stack)
    job_id = stack.submit(photo, **TWO_SECONDS)
    stack.wait_until_started(job_id)
    send(worker, sign)
    stack.wait(lambda: stack.workers() == [], SOON)
    waiting = stack.submit(photo, **ONE_STEP)
    job = stack.wait_for(job_id, "finished", "queued", "failed")
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["finished"]
    assert worker.wait(SOON) == 0
    assert stack.status(waiting)["status"] == "queued"
    ready(stack, "next")
    assert [attempt["outcome"] for attempt in stack.wait_for(waiting, "finished")["attempts"]] == ["finished"]


@pytest.mark.thorough
def test_an_idle_worker_exits_immediately(stack: Stack):
    worker = ready(stack)
    to_group(worker, signal.SIGTERM)
    assert worker.wait(SOON) == 0
    assert stack.workers() == []


@pytest.mark.thorough
def test_a_worker_that_is_loading_its_model_exits_immediately(stack: Stack):
    worker = stack.start_stand_in("loading", load_seconds=600)
    stack.wait(lambda: " ready." in (stack.folder / "loading.log").read_text(), 60)
    to_process(worker, signal.SIGTERM)
    worker.wait(SOON)


def test_a_deploy_loses_no_job_and_the_new_worker_restarts_the_released_one(stack: Stack, photo: bytes):
    old = ready(stack, "old", grace=1, step=1)  # its job must not end before the new worker is ready
    done = stack.submit(photo, **ONE_STEP)
    stack.wait_for(done, "finished")
    running = stack.submit(photo, **FOUR_SECONDS)
    stack.wait_until_started(running)
    waiting = stack.submit(photo, **ONE_STEP)
    ready(stack, "new")
    old.send_signal(signal.SIGTERM)
    assert old.wait(SOON) == 0

    job = stack.wait_for(running, "finished", "failed")
    assert [(attempt["outcome"], attempt["worker"].split("@")[0]) for attempt in job["attempts"]] == [
        ("released", "old"),
        ("finished", "new"),
    ]
    # The released attempt does not count towards the limit of attempts.
    assert stack.redis.hget(f"svd:job:{running}", "tries") == "1"
    for job_id in (done, waiting):
        job = stack.wait_for(job_id, "finished")
        assert [attempt["outcome"] for attempt in job["attempts"]] == ["finished"]


@pytest.mark.thorough
@pytest.mark.parametrize("signs", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGQUIT,)], ids=["two SIGTERM", "SIGQUIT"])
def test_a_second_sigterm_or_one_sigquit_releases_the_job_immediately(
    stack: Stack, photo: bytes, signs: tuple[signal.Signals, ...]
):
    worker = ready(stack, step=1)
    job_id = stack.submit(photo, **FOUR_SECONDS)
    stack.wait_until_started(job_id)
    for sign in signs[:-1]:
        to_group(worker, sign)
        time.sleep(1.5)
        assert stack.status(job_id)["status"] == "started"
    to_group(worker, signs[-1])
    assert worker.wait(SOON) == 0
    job = stack.status(job_id)
    assert (job["status"], [attempt["outcome"] for attempt in job["attempts"]]) == ("queued", ["released"])
