"""Two keys and one worker: the many queued jobs of one key do not delay the first job of the other."""

import io
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from svd_service.config import Settings
from svd_service.ledger.api_keys import Keyring
from tools.harness.stack import Stack

SHORT = {"num_inference_steps": 1, "width": 64, "height": 64}
MANY = 200


def image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def stack(make_stack: Callable[..., Stack]) -> Stack:
    """A service whose worker has a stand-in for the model and a lease so long that the test can freeze it."""
    stack = make_stack(SVD_LEASE="600")
    stack.start_redis()
    stack.start_stand_in()
    stack.start_api()
    stack.wait_for_workers(1)
    return stack


@pytest.fixture(scope="module")
def secrets(stack: Stack) -> dict[str, str]:
    keyring = Keyring(stack.redis, Settings.from_mapping(stack.environment))
    return {name: keyring.create(name)[1] for name in ("ann", "bob")}


@pytest.fixture
def authenticate_as(stack: Stack, secrets: dict[str, str]) -> Iterator[Callable[[str], None]]:
    def authenticate(name: str) -> None:
        stack.http.headers["Authorization"] = f"Bearer {secrets[name]}"

    yield authenticate
    del stack.http.headers["Authorization"]


@pytest.mark.thorough
def test_a_keys_first_job_is_at_most_second_despite_200_queued_jobs_of_another_key(
    stack: Stack, authenticate_as: Callable[[str], None]
) -> None:
    authenticate_as("ann")
    worker = stack.processes["worker"]
    stack.wait_until_started(stack.submit(image(), **{**SHORT, "num_inference_steps": 20}))
    # Freeze the worker until all jobs are queued.
    os.killpg(worker.pid, signal.SIGSTOP)
    try:
        for _ in range(MANY):
            stack.submit(image(), **SHORT)
        authenticate_as("bob")
        job_id = stack.submit(image(), **SHORT)
        before = started(stack)
    finally:
        os.killpg(worker.pid, signal.SIGCONT)
    assert stack.wait_for(job_id, "finished", "failed")["status"] == "finished"
    moment = float(str(stack.redis.hget(f"svd:job:{job_id}", "started")))
    earlier = [other for other, at in started(stack).items() if at < moment and other not in before]
    assert len(earlier) <= 1, "the job is the first or the second to start"
    assert len(before) == 1


def started(stack: Stack) -> dict[str, float]:
    """Start time of each job that has been started, by id."""
    ids = [str(name).rpartition(":")[2] for name in stack.redis.scan_iter("svd:job:*", count=1_000)]
    moments = {job_id: stack.redis.hget(f"svd:job:{job_id}", "started") for job_id in ids}
    return {job_id: float(str(moment)) for job_id, moment in moments.items() if moment}
