"""Pauses and drained workers, with real processes; the model is a stand-in."""

from collections.abc import Iterator

import pytest

from svd_service.config import Settings
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.key import ADMIN
from tools.harness.stack import Stack

JOBS = 10
ONE_STEP = {"num_inference_steps": 1, "width": 64, "height": 64}


@pytest.fixture
def stack(short_lease_stack: Stack) -> Iterator[Stack]:
    """A service whose HTTP client has an operator's key."""
    stack = short_lease_stack
    _, secret = Keyring(stack.redis, Settings.from_mapping(stack.environment)).create("olga", scopes=(ADMIN,))
    stack.http.headers["Authorization"] = f"Bearer {secret}"
    yield stack
    del stack.http.headers["Authorization"]
    (stack.folder / "data" / "svd.closed").unlink(missing_ok=True)


def act(stack: Stack, name: str, **form: str) -> None:
    answer = stack.http.post(f"/admin/{name}", data=form)
    assert answer.status_code == 200, answer.text


def ready(stack: Stack, name: str = "worker") -> str:
    """Start a worker, wait until it is ready, and return its name."""
    stack.start_stand_in(name, step=0.05)
    found = stack.wait(lambda: [each for each in stack.workers() if each.startswith(f"{name}@")], 60)
    return str(found[0])


@pytest.mark.thorough
def test_a_pause_survives_a_restart_of_all_processes_and_loses_no_job(stack: Stack, photo: bytes):
    ready(stack)
    act(stack, "pause", what="dispatch", reason="driver update")
    ids = [stack.submit(photo, **ONE_STEP) for _ in range(JOBS)]
    stack.end_all()
    stack.start_redis()
    stack.start_api()
    ready(stack)
    ready(stack, "another")  # several rounds of maintenance pass while another worker starts
    jobs = [stack.status(job_id) for job_id in ids]
    assert [(job["status"], job["position"], job["attempts"]) for job in jobs] == [
        ("queued", place, []) for place in range(1, JOBS + 1)
    ]
    health = stack.http.get("/health").json()
    assert "dispatch_paused" in health["reasons"]
    assert "driver update" in health["message"]
    act(stack, "resume", what="dispatch")
    for job_id in ids:
        assert [attempt["outcome"] for attempt in stack.wait_for(job_id, "finished")["attempts"]] == ["finished"]


def test_a_drained_worker_gets_no_jobs_until_it_is_released(stack: Stack, photo: bytes):
    drained = ready(stack, "one")
    act(stack, "drain", worker=drained.rpartition("/")[0], reason="fan")
    other = ready(stack, "two")
    for _ in range(4):
        (attempt,) = stack.wait_for(stack.submit(photo, **ONE_STEP), "finished")["attempts"]
        assert attempt["worker"] == other
    act(stack, "drain", worker=other)
    job_id = stack.submit(photo, **ONE_STEP)
    act(stack, "release", worker=drained.rpartition("/")[0])
    (attempt,) = stack.wait_for(job_id, "finished")["attempts"]
    assert attempt["worker"] == drained
