"""Workers of several kinds on one ledger: each job goes to one that takes it, and nobody is told who comes or goes."""

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
    """The same weights under another name, with other defaults."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    description = folder / "svd_service.json"
    told = json.loads(description.read_text())
    told["name"] = "other"
    told["defaults"]["num_frames"] = 5
    description.write_text(json.dumps(told))
    return folder


def workers_of(stack: Stack, *jobs: str) -> set[str]:
    """Names of the workers that made these videos, without their host's."""
    attempts = [attempt for job in jobs for attempt in stack.wait_for(job, "finished")["attempts"]]
    return {attempt["worker"].partition("@")[0] for attempt in attempts}


@pytest.mark.thorough
def test_each_job_goes_to_a_worker_that_takes_it(make_stack: Callable[..., Stack], other_model: Path, photo: bytes):
    stack = make_stack(SVD_LEASE="2")
    stack.start_redis()
    stack.start_api()
    stack.start_stand_in("drafts", step=0.4, variables={"SVD_PROFILES": "draft"})
    stack.wait_for_workers(1)

    # Who takes drafts alone leaves the others to those who are yet to come.
    exact = [stack.submit(photo, **FAST) for _ in range(3)]
    drafts = [stack.submit(photo, profile="draft", **FAST) for _ in range(2)]
    assert workers_of(stack, *drafts) == {"drafts"}
    assert {stack.status(job)["status"] for job in exact} == {"queued"}

    # The API learns of a model when a worker has loaded it, and of nothing else.
    refused = stack.http.post("/generate", files={"image": ("picture", photo)}, data={"model": "other"})
    assert (refused.status_code, refused.json()["error"]["parameter"]) == (422, "model")
    stack.start_stand_in("other", step=0.05, variables={"SVD_MODEL": str(other_model)})
    stack.wait_for_workers(2)
    assert [model["name"] for model in stack.http.get("/models").json()["models"]] == ["tiny", "other"]
    of_other = stack.submit(photo, model="other", **{name: FAST[name] for name in ("width", "height")})
    assert workers_of(stack, of_other) == {"other"}
    told = stack.status(of_other)
    assert (told["model"]["name"], told["parameters"]["num_frames"]) == ("other", 5)

    stack.start_stand_in("all", step=0.05)
    assert workers_of(stack, *exact) == {"all"}
    queues = {
        worker["worker"].partition("@")[0]: worker["profiles"] for worker in stack.http.get("/health").json()["workers"]
    }
    assert queues == {"drafts": ["draft"], "other": [], "all": []}

    # The one who takes drafts alone dies with one in hand and one on its way: both go to who is left.
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
