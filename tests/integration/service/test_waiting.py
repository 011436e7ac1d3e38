"""Waiting for a job, against real processes: cancelling, event streams, retried submissions, `Prefer: wait`."""

import io
import json
import signal
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from svd_service.client import Client
from tools.harness.stack import Stack

FAST = {"num_frames": 3, "num_inference_steps": 2, "width": 64, "height": 64, "max_guidance_scale": 1}
SLOW = {**FAST, "num_frames": 8, "num_inference_steps": 100, "width": 256, "height": 256}


def small_image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return buffer.getvalue()


def fields_of(stack: Stack, job_id: str, *names: str) -> list[str]:
    """Fields of the job's record in the ledger, whose times are exact and by one clock."""
    return [str(value) for value in stack.redis.hmget(f"svd:job:{job_id}", *names)]


def step_seconds(stack: Stack, job_id: str) -> float:
    """Seconds that a step of the running job takes."""

    def reaches(step: int) -> Any:
        return lambda: (now := stack.status(job_id)["progress"]) and now["step"] >= step and (time.time(), now["step"])

    (since, first), (until, last) = stack.wait(reaches(1), 60), stack.wait(reaches(4), 60)
    return float((until - since) / (last - first))


@pytest.mark.thorough
def test_running_jobs_are_cancelled_within_a_step_and_the_next_one_starts(
    stack: Stack,
):
    image = small_image()
    running = stack.submit(image, **SLOW)
    steps, cancelled_after, next_after, holders = [], [], [], set()
    for _ in range(8):
        following = stack.submit(image, **SLOW)
        steps.append(step_seconds(stack, running))
        seconds, microseconds = stack.redis.time()
        assert stack.http.delete(f"/jobs/{running}").status_code == 202
        stack.wait_for(running, "cancelled")
        stack.wait_for(following, "started")
        ended, held = fields_of(stack, running, "ended", "held:1")
        (began,) = fields_of(stack, following, "began:1")
        cancelled_after.append(float(ended) - seconds - microseconds / 1e6)
        next_after.append(float(began) - float(ended))
        holders.add(json.loads(held)["pid"])
        running = following
    stack.http.delete(f"/jobs/{running}")
    stack.wait_for(running, "cancelled")
    in_steps = [seconds / step for seconds, step in zip(cancelled_after, steps, strict=True)]
    figures = (
        f"step {statistics.median(steps):.3f} s; cancelled after {statistics.median(in_steps):.2f} step times "
        f"(at most {max(in_steps):.2f}: {max(cancelled_after):.3f} s); the next began "
        f"{statistics.median(next_after):.3f} s later (at most {max(next_after):.3f} s)"
    )
    sys.stderr.write(f"\n{figures}\n")  # shown by `pytest -s`
    assert len(holders) == 1  # one process ran all jobs: the model was loaded once
    assert statistics.median(in_steps) <= 1.5


def test_a_hundred_concurrent_requests_with_the_same_idempotency_key_create_one_job(stack: Stack):
    image = small_image()
    together = threading.Barrier(100)
    created = stack.redis.hget("svd:counters", "created")

    def send(number: int) -> tuple[int, str]:
        together.wait()
        answer = stack.http.post(
            "/generate",
            files={"image": ("image", image)},
            data={name: str(value) for name, value in FAST.items()},
            headers={"Idempotency-Key": "the same"},
            timeout=120,  # a hundred requests at once on a busy machine
        )
        return answer.status_code, answer.json().get("task_id", "")

    with ThreadPoolExecutor(100) as senders:
        answers = set(senders.map(send, range(100)))
    assert {status for status, _ in answers} == {202}
    assert len(answers) == 1
    assert int(str(stack.redis.hget("svd:counters", "created"))) - int(str(created or 0)) == 1
    ((_, job_id),) = answers
    assert stack.wait_for(job_id, "finished", "failed")["status"] == "finished"
    assert stack.status(job_id)["attempt"] == 1


def test_a_jobs_event_stream_lasts_from_submission_to_end(stack: Stack):
    with Client(stack.url) as client:
        job_id = stack.submit(small_image(), **{**SLOW, "num_inference_steps": 8})
        seen = list(client.watch(job_id))
    states = list(dict.fromkeys(job.state for job in seen))
    assert states in (["queued", "started", "finished"], ["started", "finished"])
    fractions = [job.fraction for job in seen]
    assert fractions == sorted(fractions)
    assert seen[-1].raw == stack.status(job_id)


@pytest.mark.thorough
def test_event_streams_continue_after_an_outage_of_redis(make_stack):
    stack = make_stack()
    stack.start_redis()
    stack.start_api()
    job_id = stack.submit(small_image(), **FAST)
    seen: list[str] = []
    with Client(stack.url) as client:
        reader = threading.Thread(target=lambda: seen.extend(job.state for job in client.watch(job_id)))
        reader.start()
        stack.wait(lambda: "queued" in seen, 60)
        stack.stop("redis")
        time.sleep(1)
        stack.start_redis()
        stack.wait(lambda: stack.http.delete(f"/jobs/{job_id}").status_code == 200, 60)
        reader.join(timeout=60)
    assert not reader.is_alive()
    assert seen[-1] == "cancelled"


@pytest.mark.thorough
@pytest.mark.may_repeat(reason="the 15 s that gunicorn may take are wall-clock time of a shared machine")
def test_open_event_streams_do_not_delay_the_apis_shutdown(make_stack):
    stack = make_stack(SVD_API_STREAMS="8")
    stack.start_redis()
    stack.start_api()
    with stack.http.stream("GET", "/events") as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("retry:")
        began = time.monotonic()
        stack.processes["api"].send_signal(signal.SIGTERM)
        assert list(lines) == [""]  # the end of the stream, not a broken connection
    stack.processes["api"].wait(timeout=60)
    assert time.monotonic() - began < 15


def test_prefer_wait_returns_the_video_or_202_when_the_time_is_over(stack: Stack):
    files, data = {"image": ("image", small_image())}, {name: str(value) for name, value in FAST.items()}
    answer = stack.http.post("/generate", files=files, data=data, headers={"Prefer": "wait=60"}, timeout=70)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "video/mp4"), answer.text
    assert answer.headers["Preference-Applied"] == "wait=60"
    assert answer.content == stack.http.get(answer.headers["Content-Location"]).content
    slow = {name: str(value) for name, value in SLOW.items()}
    late = stack.http.post(
        "/generate", files=files, data=slow, headers={"Prefer": "wait=1", "Cancel-After": "3"}, timeout=70
    )
    assert (late.status_code, late.headers["Preference-Applied"]) == (202, "wait=1")
    job = stack.wait_for(late.json()["task_id"], "failed")
    assert job["error"]["code"] == "deadline_exceeded"
    assert job["started_at"] is not None
