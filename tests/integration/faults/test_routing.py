"""Workers of several models and profiles on one ledger: each job goes to a matching worker, without configuration."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.harness.stack import Stack

FAST = {"num_frames": 3, "num_inference_steps": 4, "width": 64, "height": 64, "max_guidance_scale": 1}


@pytest.fixture
def other_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model's weights under another name, with other defaults."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    description = folder / "svd_service.json"
    properties = json.loads(description.read_text())
    properties["name"] = "other"
    properties["defaults"]["num_frames"] = 5
    description.write_text(json.dumps(properties))
    return folder


def workers_of(stack: Stack, *jobs: str) -> set[str]:
    """Wait until the jobs are finished, and return the names of their workers, without the hosts."""
    attempts = [attempt for job in jobs for attempt in stack.wait_for(job, "finished")["attempts"]]
    return {attempt["worker"].partition("@")[0] for attempt in attempts}


@pytest.mark.thorough
def test_each_job_runs_on_a_worker_of_its_model_and_profile(
    make_stack: Callable[..., Stack], other_model: Path, photo: bytes
):
    stack = make_stack(SVD_LEASE="2")
    stack.start_redis()
    stack.start_api()
    stack.start_stand_in("drafts", step=0.4, variables={"SVD_PROFILES": "draft"})
    stack.wait_for_workers(1)

    # A worker for drafts only leaves the other jobs in the queue for workers that start later.
    exact = [stack.submit(photo, **FAST) for _ in range(3)]
    drafts = [stack.submit(photo, profile="draft", **FAST) for _ in range(2)]
    assert workers_of(stack, *drafts) == {"drafts"}
    assert {stack.status(job)["status"] for job in exact} == {"queued"}

    # The API learns of a model only from a worker that has loaded it.
    rejected = stack.http.post("/generate", files={"image": ("image", photo)}, data={"model": "other"})
    assert (rejected.status_code, rejected.json()["error"]["parameter"]) == (422, "model")
    stack.start_stand_in("other", step=0.05, variables={"SVD_MODEL": str(other_model)})
    stack.wait_for_workers(2)
    assert [model["name"] for model in stack.http.get("/models").json()["models"]] == ["tiny", "other"]
    of_other = stack.submit(photo, model="other", **{name: FAST[name] for name in ("width", "height")})
    assert workers_of(stack, of_other) == {"other"}
    status = stack.status(of_other)
    assert (status["model"]["name"], status["parameters"]["num_frames"]) == ("other", 5)

    stack.start_stand_in("all", step=0.05)
    assert workers_of(stack, *exact) == {"all"}
    queues = {
        worker["worker"].partition("@")[0]: worker["profiles"] for worker in stack.http.get("/health").json()["workers"]
    }
    assert queues == {"drafts": ["draft"], "other": [], "all": []}

    # The worker for drafts only is killed with one job running and one enqueued: another worker runs both.
    draft = {**FAST, "profile": "draft", "num_inference_steps": 60}
    left = [stack.submit(photo, **draft)]
    stack.wait_until_started(left[0])
    left.append(stack.submit(photo, **draft))
    assert stack.redis.hget(f"svd:job:{left[1]}", "queue") == "tiny|draft"
    os.killpg(stack.processes["drafts"].pid, signal.SIGKILL)
    assert [attempt["worker"].partition("@")[0] for attempt in stack.wait_for(left[0], "finished")["attempts"]] == [
        "drafts",
        "all",
    ]
    assert workers_of(stack, left[1]) == {"all"}
