"""Celery's remote control against the ledger: no command leaves jobs behind that never run.

Each command is sent over Redis to every worker, as `celery control` and Flower's buttons do.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from tools.harness.receiver import receiving
from tools.harness.stack import Stack

ONE_STEP: dict[str, Any] = {"num_inference_steps": 1, "width": 64, "height": 64}
FORTY_STEPS = ONE_STEP | {"num_inference_steps": 40}

#: The Celery queue of the stack's model.
QUEUE = "svd.nano"


@pytest.fixture
def stack(short_lease_stack: Stack) -> Stack:
    return short_lease_stack


@pytest.fixture
def celery(stack: Stack) -> Iterator[Celery]:
    """A Celery app on the stack's Redis with none of the service's settings, like any client of Celery."""
    with Celery(broker=stack.redis_url, backend=stack.redis_url, set_as_current=False) as app:
        yield app


def ready(stack: Stack, name: str = "worker", **faults: Any) -> "subprocess.Popen[bytes]":
    worker = stack.start_stand_in(name, **faults)
    stack.wait(lambda: any(found.startswith(f"{name}@") for found in stack.workers()), 60)
    return worker


def command_line(stack: Stack, *arguments: str) -> str:
    """Run `celery -A svd_service.celery_app`, and return its output."""
    command = [sys.executable, "-m", "celery", "-A", "svd_service.celery_app", *arguments]
    done = subprocess.run(command, env=stack.environment, cwd=stack.folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def control(celery: Celery, command: str, **arguments: Any) -> list[dict[str, Any]]:
    """Send a command and return the first worker's reply; a worker that has just started may need a second request."""
    for _ in range(6):
        if replies := celery.control.broadcast(command, arguments=arguments, reply=True, timeout=10, limit=1):
            return [reply for each in replies for reply in each.values()]
    return []


def next_job_finishes(stack: Stack, photo: bytes, seconds: float = 30) -> None:
    stack.wait_for(stack.submit(photo, **ONE_STEP), "finished", seconds=seconds)


@pytest.mark.parametrize("position", ["next", pytest.param("last", marks=pytest.mark.thorough)])
def test_revoking_a_queued_job_cancels_it_and_the_next_one_runs(stack: Stack, photo: bytes, position: str):
    ready(stack, step=1)
    running = stack.submit(photo, **FORTY_STEPS)
    stack.wait_until_started(running)
    # The first has a message in Celery's queue; the last is only in the ledger.
    waiting = [stack.submit(photo, **ONE_STEP) for _ in range(3)]
    revoked = waiting[0 if position == "next" else -1]
    assert "cancelled" in command_line(stack, "control", "revoke", revoked)
    assert stack.status(revoked)["status"] == "cancelled"
    assert stack.status(running)["status"] == "started"
    stack.http.delete(f"/jobs/{running}").raise_for_status()
    for job_id in waiting:
        assert stack.wait_for(job_id, "finished", "cancelled")["status"] == (
            "cancelled" if job_id == revoked else "finished"
        )


def test_revoking_a_running_job_cancels_it_at_its_next_step(stack: Stack, photo: bytes, celery: Celery):
    ready(stack, step=1)
    job_id = stack.submit(photo, **FORTY_STEPS)
    stack.wait_until_started(job_id)
    celery.control.revoke(job_id)
    assert stack.wait_for(job_id, "finished", "cancelled")["status"] == "cancelled"
    next_job_finishes(stack, photo)


def test_a_revoke_reaches_a_job_of_a_worker_that_is_down(stack: Stack, photo: bytes, celery: Celery):
    # The only worker takes jobs of another profile.
    ready(stack, variables={"SVD_PROFILES": "draft"})
    assert control(celery, "ping")  # its process is ready a moment before it listens to commands
    job_id = stack.submit(photo, **ONE_STEP)
    celery.control.revoke(job_id)
    assert stack.wait_for(job_id, "cancelled")["attempts"] == []


@pytest.mark.parametrize("sign", [pytest.param("SIGTERM", marks=pytest.mark.thorough), "SIGKILL"])
def test_terminating_a_running_job_cancels_it(stack: Stack, photo: bytes, celery: Celery, sign: str):
    ready(stack, step=1)
    job_id = stack.submit(photo, **FORTY_STEPS)
    stack.wait_until_started(job_id)
    celery.control.revoke(job_id, terminate=True, signal=sign)
    assert stack.wait_for(job_id, "finished", "failed", "cancelled")["status"] == "cancelled"
    after = stack.submit(photo, **ONE_STEP)
    assert stack.wait_for(after, "finished")["attempt"] == 1
    # Only SIGKILL costs the process, and the next one the time to load the model.
    assert (stack.holder(after) == stack.holder(job_id)) == (sign == "SIGTERM")


@pytest.mark.thorough
def test_a_worker_that_remembers_revoked_ids_cancels_those_jobs(stack: Stack, photo: bytes, celery: Celery):
    # Workers of earlier versions send revoked ids when they start, and `--statedb` keeps them across a restart.
    ready(stack, step=1)
    running = stack.submit(photo, **FORTY_STEPS)
    stack.wait_until_started(running)
    revoked, after = stack.submit(photo, **ONE_STEP), stack.submit(photo, **ONE_STEP)
    control(celery, "hello", from_node="celery@old", revoked={revoked: 0.0})
    stack.http.delete(f"/jobs/{running}").raise_for_status()
    assert stack.wait_for(revoked, "finished", "cancelled")["status"] == "cancelled"
    stack.wait_for(after, "finished")


@pytest.mark.thorough
def test_revoking_by_a_stamped_header_cancels_the_jobs_that_have_it(stack: Stack, photo: bytes, celery: Celery):
    ready(stack, step=1)
    running = stack.submit(photo, **FORTY_STEPS)
    stack.wait_until_started(running)
    stamped, after = stack.submit(photo, **ONE_STEP), stack.submit(photo, **ONE_STEP)
    control(celery, "revoke_by_stamped_headers", headers={"batch": ["one"]})
    # The service's own message has no such header.
    stack.redis.delete(QUEUE)
    celery.send_task("svd_service.generate", task_id=stamped, queue=QUEUE, stamped_headers=["batch"], batch="one")
    stack.http.delete(f"/jobs/{running}").raise_for_status()
    assert stack.wait_for(stamped, "finished", "cancelled")["status"] == "cancelled"
    stack.wait_for(after, "finished")


@pytest.mark.thorough
def test_the_job_of_an_expired_message_runs_anyway(stack: Stack, photo: bytes, celery: Celery):
    ready(stack)
    running = stack.submit(photo, **FORTY_STEPS)
    stack.wait_until_started(running)
    job_id = stack.submit(photo, **ONE_STEP)
    stack.redis.delete(QUEUE)
    celery.send_task("svd_service.generate", task_id=job_id, queue=QUEUE, expires=1)
    assert stack.wait_for(job_id, "finished", seconds=30)["attempt"] == 1


def test_purged_messages_are_enqueued_again(stack: Stack, photo: bytes, celery: Celery):
    ready(stack, step=1)
    running = stack.submit(photo, **FORTY_STEPS)
    stack.wait_until_started(running)
    waiting = stack.submit(photo, **ONE_STEP)
    with celery.connection_for_write() as connection:
        channel: Any = connection.default_channel
        assert channel.queue_purge(QUEUE) == 1  # as `celery purge` does
    stack.http.delete(f"/jobs/{running}").raise_for_status()
    stack.wait_for(waiting, "finished", seconds=30)


#: Commands of Celery's remote control that would leave jobs in the queue or end them, with their arguments.
STRANDING: dict[str, dict[str, Any]] = {
    "cancel_consumer": {"queue": QUEUE},
    "add_consumer": {"queue": "svd.other"},
    "pool_shrink": {"n": 1},
    "autoscale": {"max": 0, "min": 0},
    "pool_restart": {},
    "rate_limit": {"task_name": "svd_service.generate", "rate_limit": "1/h"},
    "time_limit": {"task_name": "svd_service.generate", "hard": 1, "soft": 1},
}


def test_commands_that_would_strand_jobs_are_rejected(stack: Stack, photo: bytes, celery: Celery):
    ready(stack)
    next_job_finishes(stack, photo)
    for command, arguments in STRANDING.items():
        (reply,) = control(celery, command, **arguments)
        assert reply["error"].startswith(f"{command} is rejected: ")
        next_job_finishes(stack, photo)
    longer_than_the_time_limit = stack.submit(photo, **ONE_STEP | {"num_inference_steps": 20})
    stack.wait_for(longer_than_the_time_limit, "finished", seconds=30)


@pytest.mark.thorough
def test_the_pool_does_not_grow_beyond_the_devices(stack: Stack, photo: bytes, celery: Celery):
    worker = ready(stack)
    (reply,) = control(celery, "pool_grow", n=2)
    assert "SVD_DEVICES" in reply["error"]
    next_job_finishes(stack, photo)
    assert len(stack.workers()) == 1
    assert "the model could not be loaded" not in (stack.folder / "worker.log").read_text()
    assert worker.poll() is None


@pytest.mark.thorough
def test_shutdown_drains_the_worker(stack: Stack, photo: bytes, celery: Celery):
    worker = ready(stack, "first")
    job_id = stack.submit(photo, **FORTY_STEPS)
    stack.wait_until_started(job_id)
    celery.control.shutdown()
    job = stack.wait_for(job_id, "finished", "failed", "queued")
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["finished"]
    assert worker.wait(60) == 0
    waiting = stack.submit(photo, **ONE_STEP)
    ready(stack, "second")
    stack.wait_for(waiting, "finished")


def test_a_webhook_whose_task_is_revoked_is_delivered(stack: Stack, photo: bytes, celery: Celery):
    stack.start_webhook_worker()
    ready(stack)
    with receiving() as receiver:
        stack.wait(lambda: " ready." in (stack.folder / "webhooks.log").read_text(), 60)
        job_id = stack.submit(photo, webhook_url=receiver.url, **FORTY_STEPS)
        celery.control.revoke(f"msg_{job_id}")
        stack.wait_for(job_id, "finished")
        stack.wait(lambda: receiver.requests, 20)
