import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import av
import c2pa
import httpx2
import pytest
from PIL import Image

from svd_service.client import Client
from svd_service.marking import chain
from svd_service.marking.signer import Claims, Signer
from tools.harness.stack import Stack

FAST = {"num_frames": 3, "num_inference_steps": 2, "width": 64, "height": 64, "max_guidance_scale": 1}


def artifacts(stack: Stack) -> set[str]:
    root = Path(stack.environment["SVD_DATA_DIR"])
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(stack: Stack, photo: bytes) -> dict:
    return stack.wait_for(stack.submit(photo, seed=7, **FAST), "finished", "failed")


def test_a_job_generates_a_playable_mp4(stack: Stack, finished: dict):
    assert finished["status"] == "finished", finished["error"]
    video = stack.http.get(f"/results/{finished['task_id']}")
    assert video.status_code == 200
    assert video.headers["Content-Type"] == "video/mp4"
    with av.open(io.BytesIO(video.content), "r") as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        context = stream.codec_context
        assert (stream.codec.canonical_name, context.pix_fmt, context.width, context.height) == (
            "h264",
            "yuv420p",
            64,
            64,
        )
        assert {context.color_primaries, context.color_trc, context.colorspace} == {1}
        assert frames == 3
        assert stream.average_rate == 7
        assert json.loads(container.metadata["comment"])["parameters"]["seed"] == 7
    assert video.content.index(b"moov") < video.content.index(b"mdat")


def test_the_files_of_a_job_have_content_credentials(stack: Stack, photo: bytes):
    kinds = ("webp", "gif", "zip")
    camera = chain.make()
    photo = Signer(camera).sign(photo, "image/jpeg", Claims("photo", "a-camera"))
    job = stack.wait_for(stack.submit(photo, formats=",".join(kinds), **FAST), "finished", "failed")
    assert job["status"] == "finished", job["error"]
    content = {kind: stack.http.get(f"/results/{job['task_id']}.{kind}").content for kind in ("mp4", *kinds)}
    stills = {"webp": "thumbnail", "jpg": "spritesheet"}
    for kind, name in stills.items():
        url = f"/v1/videos/{job['task_id']}/content?variant={name}"
        content[f"{name}.{kind}"] = stack.http.get(url).content
    for name, file in content.items():
        with c2pa.Reader(name.rpartition(".")[2], io.BytesIO(file)) as reader:
            assert (name, reader.get_validation_state()) == (name, "Valid")
        found = stack.http.post("/verify", files={"file": file}).json()
        assert (name, found["verdict"], found["job"]["task_id"]) == (name, "made_here", job["task_id"])
        made_from = [each["manifest"]["signer"] for each in found["credentials"]["ingredients"]]
        assert made_from == ([] if name.startswith(tuple(stills.values())) else [camera.common_name])
    assert stack.http.get("/health").json()["content_credentials"] == "signed, signer unknown"


def test_the_status_has_parameters_model_times_attempts_and_provenance(finished: dict):
    assert finished["parameters"] | FAST == finished["parameters"]
    assert finished["parameters"]["seed"] == 7
    assert finished["model"] == {"name": "tiny", "revision": "seed-0", "trained": False}
    assert finished["created_at"] <= finished["started_at"] <= finished["ended_at"] <= finished["expires_at"]
    assert [attempt["outcome"] for attempt in finished["attempts"]] == ["finished"]
    assert finished["provenance"]["seconds"]["sampling"] > 0
    assert finished["provenance"]["model"]["trained"] is False


def test_omitted_parameters_take_the_models_defaults(stack: Stack, photo: bytes):
    (model,) = stack.http.get("/models").json()["models"]
    job = stack.wait_for(stack.submit(photo), "finished", "failed")
    assert job["status"] == "finished", job["error"]
    chosen = job["provenance"]["parameters"]
    also = {"seed": chosen["seed"], "fit": "crop", "profile": "exact", "formats": []}
    defaults = model["defaults"]
    clip = {"interpolate": 1, "playback_fps": defaults["fps"], "segments": 1, "loop": "none"}
    size = {"output_width": defaults["width"], "output_height": defaults["height"]}
    extension = {"extend": None, "extend_as": "joined", "extended_frames": 0}
    assert chosen == defaults | also | clip | size | extension == job["parameters"]


def test_the_same_seed_generates_the_same_bytes(stack: Stack, photo: bytes, finished: dict):
    again = stack.wait_for(stack.submit(photo, seed=7, **FAST), "finished")
    other = stack.wait_for(stack.submit(photo, seed=8, **FAST), "finished")
    unsigned = [job["provenance"]["content_credentials"]["unsigned_sha256"] for job in (again, finished, other)]
    assert unsigned[0] == unsigned[1] != unsigned[2]
    # Each signature has its own time and id.
    assert again["result"]["sha256"] != finished["result"]["sha256"]


def test_downloads_support_range_and_conditional_requests(stack: Stack, finished: dict):
    url = finished["result"]["url"]
    whole = stack.http.get(url)
    assert whole.headers["ETag"] == f'"{hashlib.sha256(whole.content).hexdigest()}"'
    assert whole.headers["Accept-Ranges"] == "bytes"
    part = stack.http.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.content)}"
    tail = stack.http.get(url, headers={"Range": "bytes=-5"})
    assert (tail.status_code, tail.content) == (206, whole.content[-5:])
    beyond = stack.http.get(url, headers={"Range": f"bytes={len(whole.content)}-"})
    assert beyond.status_code == 416
    assert beyond.json()["error"]["code"] == "requested_range_not_satisfiable"
    same = stack.http.get(url, headers={"If-None-Match": whole.headers["ETag"]})
    assert (same.status_code, same.content) == (304, b"")
    changed = stack.http.get(url, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (changed.status_code, changed.content) == (200, whole.content)
    head = stack.http.head(url)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(whole.content)))


def test_the_input_images_of_ended_jobs_are_deleted(stack: Stack, finished: dict):
    # A worker deletes the image just after it has committed the end, and a job of another test may end just now.
    stack.wait(lambda: not any(name.startswith("inputs/") for name in artifacts(stack)), 60)
    left = artifacts(stack)
    assert f"results/{finished['task_id']}" in {str(Path(name).parent) for name in left}


def test_the_job_of_a_killed_child_process_is_retried(stack: Stack, photo: bytes):
    job_id = stack.submit(photo, **{**FAST, "num_frames": 12, "num_inference_steps": 60})
    stack.wait(lambda: (stack.status(job_id)["progress"] or {}).get("phase") == "sampling", 60)
    key = f"svd:job:{job_id}"
    os.kill(json.loads(str(stack.redis.hget(key, "held:1")))["pid"], signal.SIGKILL)
    job = stack.wait_for(job_id, "finished", "failed", seconds=120)
    assert job["status"] == "finished"
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["lost", "finished"]
    assert job["attempt"] == 2


def test_a_job_whose_stored_image_is_missing_fails_with_broken_input(stack: Stack, photo: bytes):
    stack.processes["worker"].send_signal(signal.SIGSTOP)
    try:
        job_id = stack.submit(photo, **FAST)
        (Path(stack.environment["SVD_DATA_DIR"]) / "inputs" / f"{job_id}.png").unlink()
    finally:
        stack.processes["worker"].send_signal(signal.SIGCONT)
    job = stack.wait_for(job_id, "failed", "finished")
    assert job["error"] == {"code": "broken_input", "message": "The stored image is missing or cannot be read."}
    answer = stack.http.get(f"/results/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (409, "failed")


def test_celery_inspect_gets_answers_from_the_worker(stack: Stack):
    celery = ("-m", "celery", "-A", "svd_service.celery_app")
    for command, expected in (("active", "empty"), ("registered", "svd_service.generate"), ("stats", "prefork")):
        done = subprocess.run(
            [sys.executable, *celery, "inspect", command],
            env=stack.environment,
            cwd=stack.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in done.stdout


def test_health_lists_the_ready_worker(stack: Stack):
    health = stack.http.get("/health").json()
    assert (health["status"], health["redis"], health["workers_ready"]) == ("ok", True, 1)
    assert health["workers"][0]["model"] == "tiny"
    assert health["workers"][0]["trained"] is False


def test_an_unknown_job_is_404_everywhere(stack: Stack):
    for path in (f"/status/{uuid.uuid4()}", f"/results/{uuid.uuid4()}", "/status/nonsense", "/nowhere"):
        answer = stack.http.get(path)
        assert (answer.status_code, set(answer.json())) == (404, {"error"})


def test_rejected_submissions_leave_no_files(stack: Stack, photo: bytes):
    before = artifacts(stack)
    animated = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    cases = [
        ({"image": b"not an image"}, {}, 415, "not_an_image"),
        ({"image": photo[: len(photo) // 2]}, {}, 422, "broken_image"),
        ({"image": animated.getvalue()}, {}, 422, "animated_image"),
        ({"image": bomb.getvalue()}, {}, 413, "image_too_large"),
        ({"image": photo + b"\0" * 21_000_000}, {}, 413, "image_too_large"),
        ({}, {}, 400, "missing_image"),
        ({"image": photo}, {"motion_bucket_id": "256"}, 422, "invalid_parameter"),
        ({"image": photo}, {"seed": "-1"}, 422, "invalid_parameter"),
        ({"image": photo}, {"fps": "seven"}, 422, "invalid_parameter"),
        ({"image": photo}, {"noise_aug_strength": "nan"}, 422, "invalid_parameter"),
        ({"image": photo}, {"width": "100"}, 422, "invalid_parameter"),
        ({"image": photo}, {"num_frames": "26"}, 422, "invalid_parameter"),
        ({"image": photo}, {"min_guidance_scale": "3", "max_guidance_scale": "1"}, 422, "invalid_parameter"),
        ({"image": photo}, {"fit": "stretch"}, 422, "invalid_parameter"),
        ({"image": photo}, {"steps": "3"}, 422, "invalid_parameter"),
    ]
    for files, form, status, code in cases:
        answer = stack.http.post("/generate", files=files or None, data=form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
        if code == "invalid_parameter":
            assert answer.json()["error"]["parameter"] in {*form}
    assert artifacts(stack) == before


@pytest.mark.may_repeat(reason="the three seconds are wall-clock time of a shared machine")
def test_requests_get_503_within_three_seconds_while_redis_is_frozen_or_down(make_stack, photo: bytes):
    stack = make_stack()
    stack.start_redis()
    stack.start_api()
    redis_process = stack.processes["redis"]
    for sign in (signal.SIGSTOP, signal.SIGKILL):
        redis_process.send_signal(sign)
        for request in (
            lambda: stack.http.get("/health"),
            lambda: stack.http.get(f"/status/{uuid.uuid4()}"),
            lambda: stack.http.post("/generate", files={"image": photo}),
        ):
            answer = request()
            assert answer.status_code == 503
            assert answer.elapsed.total_seconds() < 3
    assert artifacts(stack) == set()
    redis_process.wait()
    stack.processes.pop("redis")
    stack.start_redis()
    assert stack.http.get("/health").status_code == 200


@pytest.mark.thorough
def test_counters_survive_the_restart_of_every_process(make_stack, photo: bytes):
    def start_all() -> None:
        stack.start_redis()
        stack.start_stand_in(step=0.01)
        stack.start_api()
        stack.start_exporter()
        stack.wait_for_workers(1)

    stack = make_stack()
    start_all()
    jobs = [stack.submit(photo, **FAST) for _ in range(5)]
    assert {stack.wait_for(job, "finished", "failed")["status"] for job in jobs} == {"finished"}
    stack.stop("worker")
    for job_id in [stack.submit(photo, **FAST) for _ in range(2)]:
        (Path(stack.environment["SVD_DATA_DIR"]) / "inputs" / f"{job_id}.png").unlink()
        jobs.append(job_id)
    stack.start_stand_in(step=0.01)
    for job_id in jobs[5:]:
        stack.wait_for(job_id, "failed")
    assert stack.http.post("/generate", files={"image": b"not an image"}).status_code == 415
    stack.end_all()
    start_all()
    exporter = httpx2.get(f"http://127.0.0.1:{stack.exporter_port}/metrics").text
    for metrics in (stack.http.get("/metrics").text, exporter):
        for line in (
            "svd_jobs_created_total 7.0",
            'svd_jobs_ended_total{state="finished"} 5.0',
            'svd_jobs_ended_total{state="failed"} 2.0',
            'svd_jobs_refused_total{reason="not_an_image"} 1.0',
            'svd_jobs{state="finished"} 5.0',
            "svd_workers_ready 1.0",
        ):
            assert line in metrics.splitlines()


def test_a_group_of_four_is_generated_streamed_and_deleted_together(stack: Stack, photo: bytes):
    with Client(stack.url) as client:
        group = client.groups.submit(photo, n=4, seed=7, num_frames=3, num_inference_steps=2, width=64, height=64)
        assert [job.raw["parameters"]["seed"] for job in group.jobs] == [7, 8, 9, 10]
        with stack.http.stream("GET", f"/groups/{group.id}/events") as answer:
            lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        seen = list(map(json.loads, lines))
        assert (seen[-1]["status"], seen[-1]["counts"], seen[-1]["progress"]) == ("finished", {"finished": 4}, 1)
        assert [each["progress"] for each in seen] == sorted(each["progress"] for each in seen)
        assert client.groups.status(group.id).raw == seen[-1]
        digests = {job["result"]["sha256"] for job in seen[-1]["jobs"]}
        assert len(digests) == 4
        with Image.open(io.BytesIO(stack.http.get(seen[-1]["contact_sheet"]).content)) as sheet:
            assert (sheet.format, sheet.width > 2 * 64) == ("JPEG", True)
        assert client.groups.delete(group.id) is None
        assert stack.http.get(f"/status/{group.jobs[0].id}").status_code == 404
