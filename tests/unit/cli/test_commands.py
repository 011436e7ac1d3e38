"""The command line, against a stand-in on a real socket."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from svd_service import __version__
from svd_service.cli.display import explained
from svd_service.cli.main import app
from svd_service.client import ClientError, InvalidKeyError, UnreachableError
from tools.harness.local import free_port
from tools.harness.stand_in import JOB, Answer, StandIn, error_answer, job_answer, stream

DONE = job_answer("finished", model={"name": "nano", "trained": True})


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"a cat")
    return path


@pytest.fixture
def accepting(service: StandIn) -> StandIn:
    service.answer("POST /generate", job_answer("queued", position=2))
    service.answer(f"GET /status/{JOB}", DONE)
    service.answer(f"GET /results/{JOB}", Answer(b"a video"))
    return service


def run(service: StandIn, *arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--server", service.url])


def test_a_video_is_written_to_the_given_file(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    result = run(accepting, "generate", cat, "-o", tmp_path / "out.mp4", "--cancel-after", 60)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.mp4").read_bytes() == b"a video"
    assert next(request for request in accepting.requests if request.method == "POST").headers["Cancel-After"] == "60"
    assert result.stdout == f"{cat} → {tmp_path / 'out.mp4'}\n"


def test_a_folder_gets_a_video_named_after_the_image(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    assert run(accepting, "generate", cat, "-o", tmp_path).exit_code == 0
    assert (tmp_path / "cat.mp4").read_bytes() == b"a video"


def test_a_job_is_extended_instead_of_an_image(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    result = run(accepting, "generate", "--extend", JOB, "--extend-as", "alone", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / f"{JOB}.mp4").read_bytes() == b"a video"
    assert result.stdout == f"{JOB} → {tmp_path / JOB}.mp4\n"
    body = next(request.body for request in accepting.requests if request.method == "POST")
    assert body == f"extend={JOB}&extend_as=alone".encode()
    for arguments in ([], [cat, "--extend", JOB]):
        rejected = run(accepting, "generate", *arguments, "-o", tmp_path)
        assert (rejected.exit_code, "either IMAGE or --extend" in rejected.stderr) == (2, True)


@pytest.mark.parametrize("kind", ["webm", "webp", "gif", "zip"])
def test_the_suffix_of_the_file_selects_the_format(accepting: StandIn, cat: Path, tmp_path: Path, kind: str) -> None:
    accepting.answer(f"GET /results/{JOB}.{kind}", Answer(kind.encode()))
    target = tmp_path / f"out.{kind.upper()}"
    assert run(accepting, "generate", cat, "-o", target).exit_code == 0
    assert target.read_bytes() == kind.encode()
    body = next(request.body for request in accepting.requests if request.method == "POST")
    assert f'name="formats"\r\n\r\n{kind}\r\n'.encode() in body


def test_a_format_may_be_given_as_an_option(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    accepting.answer(f"GET /results/{JOB}.gif", Answer(b"a gif"))
    assert run(accepting, "generate", cat, cat, "-o", tmp_path / "folder", "--format", "gif").exit_code == 0
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"cat.gif", "cat-2.gif"}
    assert run(accepting, "generate", cat, "-o", tmp_path / "o", "--format", "gif").exit_code == 0
    assert (tmp_path / "o").read_bytes() == b"a gif"


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_a_video_does_not_replace_its_image(
    accepting: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    accepting.answer(f"GET /results/{JOB}.{kind}", Answer(b"a video"))
    image = Path(f"cat.{kind}")
    image.write_bytes(b"a cat")
    assert run(accepting, "generate", image, "--format", kind).exit_code == 0
    assert (image.read_bytes(), Path(f"cat-2.{kind}").read_bytes()) == (b"a cat", b"a video")
    accepting.requests.clear()
    Path("link").symlink_to(image)
    for out in (image.absolute(), Path("link")):
        rejected = run(accepting, "generate", image, "-o", out, "--format", kind)
        assert rejected.exit_code == 2
        assert "is the image" in rejected.stderr
    assert (accepting.requests, image.read_bytes()) == ([], b"a cat")


def test_a_video_in_a_folder_replaces_no_file(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    (tmp_path / "cat.mp4").write_bytes(b"recorded with the image")
    (tmp_path / "cat-2.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / f"{JOB}.mp4").write_bytes(b"the video that is extended")
    (tmp_path / "cat-7.mp4").write_bytes(b"an earlier video")
    assert run(accepting, "generate", cat, "-o", tmp_path).stdout == f"{cat} → {tmp_path / 'cat-3.mp4'}\n"
    assert run(accepting, "generate", "--extend", JOB, "-o", tmp_path).exit_code == 0
    group = {"group_id": "g", "status": "queued", "jobs": [json.loads(job_answer("queued").body)] * 2}
    accepting.answer("POST /generate", Answer(json.dumps(group).encode()))
    assert run(accepting, "generate", cat, "--seeds", "7,8", "-o", tmp_path).exit_code == 0
    videos = {path.name for path in tmp_path.glob("*.mp4") if path.exists() and path.read_bytes() == b"a video"}
    assert videos == {"cat-3.mp4", f"{JOB}-2.mp4", "cat-7-2.mp4", "cat-8.mp4"}
    accepting.answer("POST /generate", job_answer("queued"))
    assert run(accepting, "generate", cat, "-o", tmp_path / "cat.mp4").exit_code == 0
    assert (tmp_path / "cat.mp4").read_bytes() == b"a video"


def test_names_that_some_file_systems_take_for_one_get_different_videos(accepting: StandIn, tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("Caf\u00e9.jpg", "caf\u00e9.png", "CAFE\u0301.gif")]
    for image in images:
        image.write_bytes(b"a cat")
    assert run(accepting, "generate", *images, "-o", tmp_path / "out").exit_code == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"Caf\u00e9.mp4", "caf\u00e9-2.mp4", "CAFE\u0301-3.mp4"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_an_image_with_a_name_in_another_encoding_gets_its_video(accepting: StandIn, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(name + b".jpg")).write_bytes(b"a cat")
    command = [sys.executable, "-m", "svd_service", "generate", os.fsdecode(name + b".jpg"), "-o", str(tmp_path)]
    done = subprocess.run([*command, "--server", accepting.url], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(os.fsdecode(name + b".mp4")).read_bytes() == b"a video"


def test_a_name_that_is_too_long_for_a_video_is_rejected_before_the_image_is_sent(
    accepting: StandIn, tmp_path: Path
) -> None:
    image = tmp_path / ("c" * 251 + ".png")
    image.write_bytes(b"a cat")
    rejected = run(accepting, "generate", image, "-o", tmp_path, "--format", "webp")
    assert rejected.exit_code == 2
    assert (accepting.requests, "name too long" in rejected.stderr) == ([], True)


def test_several_videos_replace_none_of_the_images(
    accepting: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    accepting.answer(f"GET /results/{JOB}.webp", Answer(b"a video"))
    images = [Path("cat.webp"), Path("cat-2.webp"), Path("dog.png")]
    for image in images:
        image.write_bytes(b"an image")
    assert run(accepting, "generate", *images, "-o", tmp_path, "--format", "webp").exit_code == 0
    assert {image.read_bytes() for image in images} == {b"an image"}
    videos = {path.name for path in tmp_path.glob("*.webp") if path.read_bytes() == b"a video"}
    assert videos == {"cat-3.webp", "cat-2-2.webp", "dog.webp"}


@pytest.mark.parametrize(
    ("out", "form", "words"),
    [
        ("o.avi", None, "cannot write .avi"),
        ("o.gif", "webp", "does not end in .webp"),
        ("o.mp4", "avi", "avi"),
        ("o", None, "no ending"),
    ],
)
def test_an_unsupported_suffix_or_format_is_rejected_before_the_image_is_sent(
    accepting: StandIn, cat: Path, tmp_path: Path, out: str, form: str | None, words: str
) -> None:
    result = run(accepting, "generate", cat, "-o", tmp_path / out, *(["--format", form] if form else []))
    assert result.exit_code == 2
    assert words in result.stderr
    assert accepting.requests == []


def test_a_format_that_the_service_did_not_make_fails_with_its_message(
    accepting: StandIn, cat: Path, tmp_path: Path
) -> None:
    accepting.answer(f"GET /results/{JOB}.gif", error_answer(404, "format_not_made", "the video comes as mp4"))
    result = run(accepting, "generate", cat, "-o", tmp_path / "o.gif")
    assert result.exit_code == 1
    assert "the video comes as mp4" in result.stderr
    assert "later" not in result.stderr


def test_several_images_need_a_folder_which_is_created(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    assert run(accepting, "generate", cat, cat, "-o", tmp_path / "videos").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["cat-2.mp4", "cat.mp4"]
    rejected = run(accepting, "generate", cat, cat, "-o", cat)
    assert rejected.exit_code == 2
    assert "is not a folder" in rejected.stderr


def test_all_parameters_reach_the_service(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    values = {
        "seed": "7",
        "num_frames": "8",
        "num_inference_steps": "4",
        "fps": "6",
        "motion_bucket_id": "90",
        "noise_aug_strength": "0.1",
        "min_guidance_scale": "1.5",
        "max_guidance_scale": "2.5",
        "decode_chunk_size": "2",
        "width": "256",
        "height": "128",
        "fit": "crop",
        "profile": "draft",
        "model": "other",
    }
    options = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert run(accepting, "generate", cat, "-o", tmp_path / "o.mp4", *options).exit_code == 0
    body = next(request.body for request in accepting.requests if request.method == "POST")
    for name, value in values.items():
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in body


def test_without_a_terminal_each_change_is_a_line(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    sampling = {"phase": "sampling", "step": 1, "steps": 4, "fraction": 0.2}
    accepting.answer(f"GET /status/{JOB}", job_answer("started", progress=sampling, attempt=2), DONE)
    lines = run(accepting, "generate", cat, "-o", tmp_path / "o.mp4").stderr.splitlines()
    assert lines == [
        "cat.jpg: queued, number 2 (0%)",
        "cat.jpg: sampling 1/4 (attempt 2) (20%)",
        "cat.jpg: finished (100%)",
    ]


def test_json_output_has_the_result_of_each_image(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    result = run(accepting, "generate", cat, "-o", tmp_path / "o.mp4", "--json")
    (entry,) = json.loads(result.stdout)
    assert entry["video"] == str(tmp_path / "o.mp4")
    assert entry["error"] is None
    assert entry["job"]["task_id"] == JOB


def test_an_invalid_image_does_not_prevent_the_videos_of_the_others(
    accepting: StandIn, cat: Path, tmp_path: Path
) -> None:
    accepting.answer("POST /generate", error_answer(415, "not_an_image", "this is no image"), job_answer("queued"))
    result = run(accepting, "generate", cat, cat, "-o", tmp_path / "videos")
    assert result.exit_code == 1
    assert f"{cat}: this is no image" in result.stderr
    assert result.stderr.count("this is no image") == 1
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["cat-2.mp4"]


def test_names_and_messages_are_printed_as_they_are(accepting: StandIn, tmp_path: Path) -> None:
    image = tmp_path / "[red] :cat:.jpg"
    image.write_bytes(b"a cat")
    accepting.answer("POST /generate", error_answer(415, "not_an_image", "no image: :bug: [/x]"))
    result = run(accepting, "generate", image, "-o", tmp_path)
    assert f"{image.name}: rejected (0%)\n" in result.stderr
    assert f"{image}: no image: :bug: [/x]\n" in result.stderr
    job = {"task_id": "[/x]:cat:", "status": "queued"}
    accepting.answer("GET /jobs?limit=20", Answer(json.dumps({"jobs": [job], "next": None}).encode()))
    assert "[/x]:cat:" in run(accepting, "list").stdout
    models = [{"name": "[red]:cat:", "defaults": {"width": 1, "height": 1, "num_frames": 1}, "profiles": {}}]
    accepting.answer("GET /models", Answer(json.dumps({"models": models}).encode()))
    assert "[red]:cat:" in run(accepting, "models").stdout


def test_a_missing_key_is_reported_after_one_request(service: StandIn, cat: Path, tmp_path: Path) -> None:
    service.answer("POST /generate", error_answer(401, "unauthorized", "an API key is needed"))
    result = run(service, "generate", cat, cat, cat, "-o", tmp_path / "folder")
    assert result.exit_code == 1
    assert result.stderr.endswith("an API key is needed: set --api-key or SVD_API_KEY\n")
    assert service.count("POST /generate") == 1


@pytest.mark.parametrize(
    ("health", "words"),
    [
        ({"status": "ok", "workers_ready": 0}, "No worker is ready yet: jobs wait until one is."),
        ({"status": "unavailable", "message": "Redis is away"}, "The service is unavailable: Redis is away"),
    ],
)
def test_a_warning_is_shown_if_jobs_will_have_to_wait(
    accepting: StandIn, cat: Path, tmp_path: Path, health: dict[str, object], words: str
) -> None:
    accepting.answer("GET /health", Answer(json.dumps(health).encode()))
    result = run(accepting, "generate", cat, "-o", tmp_path / "out.mp4")
    assert (result.exit_code, words in result.stderr) == (0, True)


def test_the_reason_of_a_failed_job_is_shown(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    accepting.answer(
        f"GET /status/{JOB}", job_answer("failed", error={"code": "timeout", "message": "it took too long"})
    )
    result = run(accepting, "generate", cat, "-o", tmp_path / "o.mp4")
    assert result.exit_code == 1
    assert result.stderr.count("it took too long") == 1
    assert not (tmp_path / "o.mp4").exists()


def test_an_untrained_model_is_reported_as_such(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    accepting.answer(f"GET /status/{JOB}", job_answer("finished", model={"trained": False}))
    assert "untrained weights" in run(accepting, "generate", cat, "-o", tmp_path / "o.mp4").stderr


def test_a_missing_target_folder_is_rejected_before_the_image_is_sent(
    accepting: StandIn, cat: Path, tmp_path: Path
) -> None:
    result = run(accepting, "generate", cat, "-o", tmp_path / "nowhere" / "o.mp4")
    assert result.exit_code == 2
    assert accepting.requests == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="root may write to every folder except Linux's /proc")
@pytest.mark.parametrize("out", ["/proc", "/proc/out.mp4"])
def test_a_folder_that_cannot_be_written_is_rejected_before_the_image_is_sent(
    accepting: StandIn, cat: Path, out: str
) -> None:
    for command in (["generate", cat], ["generate", cat, cat], ["download", JOB]):
        result = run(accepting, *command, "-o", out)
        assert (result.exit_code, "/proc" in result.stderr) == (2, True)
    assert accepting.requests == []


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "cat.jpg/out"])
def test_an_impossible_target_is_rejected_before_the_image_is_sent(
    accepting: StandIn, cat: Path, tmp_path: Path, name: str
) -> None:
    for images in ([cat], [cat, cat]):
        result = run(accepting, "generate", *images, "-o", tmp_path / name)
        assert (result.exit_code, "Invalid value for --out" in result.stderr) == (2, True)
    assert accepting.requests == []


@pytest.mark.parametrize(("name", "options"), [("o", ["--format", "gif"]), ("o.GIF", [])])
def test_a_video_that_cannot_be_written_can_be_downloaded_later(
    accepting: StandIn, cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: list[str]
) -> None:
    folder, server = tmp_path / "my videos", f"{accepting.url}/a b"
    folder.mkdir()
    for request in ("GET /health", "POST /generate", f"GET /status/{JOB}"):
        accepting.answer(request.replace(" /", " /a%20b/"), accepting.next_answer(request))
    accepting.answer(f"GET /a%20b/results/{JOB}.gif", Answer(b"a gif"))
    next_answer = accepting.next_answer

    def removing(request: str) -> Answer:
        if "status" in request:
            folder.rmdir()
        return next_answer(request)

    with monkeypatch.context() as patch:
        patch.setattr(accepting, "next_answer", removing)
        arguments = ["generate", str(cat), "-o", str(folder / name), *options, "--server", server]
        result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, f"{cat}: {folder / name}: No such file" in result.stderr) == (1, True)
    later = re.search(r"its job has finished. To get the video later: svd-service (download .*)", result.stderr)
    assert later
    assert ("--format" in later[1]) == bool(options)
    folder.mkdir()
    again = CliRunner().invoke(app, shlex.split(later[1]))
    assert again.exit_code == 0, again.output
    assert (folder / name).read_bytes() == b"a gif"


def test_a_missing_image_file_is_rejected(accepting: StandIn, tmp_path: Path) -> None:
    result = run(accepting, "generate", tmp_path / "dog.jpg")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_a_refused_connection_is_reported_at_once(cat: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "svd_service", "generate", str(cat), "--server", f"http://127.0.0.1:{free_port()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Cannot connect" in done.stderr
    assert "svd-service up" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 40  # not after the minute that it waits for an answer


def interrupted(
    service: StandIn, cat: Path, target: Path, *options: str, at: str = f"GET /status/{JOB}"
) -> tuple[int, str]:
    """Exit status and error output of a `generate` that receives Ctrl-C at a request, by default while its job runs."""
    service.answer(f"GET /status/{JOB}", job_answer("started"))
    command = [sys.executable, "-m", "svd_service", "generate", str(cat), "-o", str(target), *options]
    process = subprocess.Popen([*command, "--server", service.url], stderr=subprocess.PIPE, text=True)
    while not service.count(at):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    return process.returncode, stderr


def test_ctrl_c_cancels_the_jobs(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    accepting.answer(f"POST /jobs/{JOB}/cancel", job_answer("started", cancel_requested=True))
    exit_status, stderr = interrupted(accepting, cat, tmp_path / "o.mp4")
    assert exit_status == 130
    assert f"{cat}: cancelled" in stderr
    assert accepting.count(f"POST /jobs/{JOB}/cancel") == 1


def test_ctrl_c_prints_how_to_get_the_video_if_cancelling_fails(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    accepting.answer(f"POST /jobs/{JOB}/cancel", error_answer(400, "no", "not today"))
    exit_status, stderr = interrupted(accepting, cat, tmp_path / "o.mp4")
    assert exit_status == 130
    assert f"svd-service download {JOB} --wait -o {tmp_path / 'o.mp4'}" in stderr


def test_ctrl_c_prints_how_to_get_the_video_of_a_job_that_has_finished(
    accepting: StandIn, cat: Path, tmp_path: Path
) -> None:
    accepting.answer(f"POST /jobs/{JOB}/cancel", job_answer("finished"))
    _, stderr = interrupted(accepting, cat, tmp_path / "o.mp4")
    assert "finished, but not downloaded" in stderr
    assert f"svd-service download {JOB} --wait -o {tmp_path / 'o.mp4'} --server {accepting.url}" in stderr


@pytest.fixture
def unanswering(accepting: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A service that accepts an image without sending its response in time."""
    ended = threading.Event()
    next_answer = accepting.next_answer

    def late(request: str) -> Answer:
        if request == "POST /generate" and accepting.count(request) == 1:
            ended.wait(60)
        return next_answer(request)

    monkeypatch.setattr(accepting, "next_answer", late)
    yield accepting
    ended.set()


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_ctrl_c_while_the_image_is_sent_cancels_its_jobs(
    unanswering: StandIn, cat: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    if options:
        group = {"group_id": "g", "status": "queued", "jobs": [json.loads(job_answer("queued").body)] * 2}
        unanswering.answer("POST /generate", Answer(json.dumps(group).encode()))
    unanswering.answer(f"POST /jobs/{JOB}/cancel", job_answer("cancelled"))
    exit_status, stderr = interrupted(unanswering, cat, tmp_path, *options, at="POST /generate")
    assert (exit_status, f"{cat}: cancelled" in stderr) == (130, True)
    assert "may exist" not in stderr
    first, second = (request for request in unanswering.requests if request.path == "/generate")
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert unanswering.count(f"POST /jobs/{JOB}/cancel") == max(1, len(options))


def test_ctrl_c_while_the_image_is_sent_says_that_there_may_be_a_job(
    unanswering: StandIn, cat: Path, tmp_path: Path
) -> None:
    unanswering.answer("POST /generate", error_answer(503, "unavailable", "Redis is away"))
    exit_status, stderr = interrupted(unanswering, cat, tmp_path, at="POST /generate")
    assert exit_status == 130
    assert f"{cat}: its submission was interrupted, and a job may exist. To see: svd-service list" in stderr
    assert f"list --server {unanswering.url}" in stderr
    assert unanswering.count("POST /generate") == 2


def test_the_estimated_time_left_is_shown(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    accepting.answer("POST /generate", job_answer("queued", position=2, eta_seconds=200.0))
    lines = run(accepting, "generate", cat, "-o", tmp_path / "o.mp4").stderr.splitlines()
    assert lines[0] == f"{cat.name}: queued, number 2, 3 min left (0%)"


def test_the_videos_are_opened_with_the_option(accepting: StandIn, cat: Path, tmp_path: Path, monkeypatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    assert run(accepting, "generate", cat, "-o", tmp_path / "o.mp4", "--open").exit_code == 0
    assert opened == [str(tmp_path / "o.mp4")]


def test_the_key_may_come_from_the_environment(accepting: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_API_KEY", "secret")
    assert run(accepting, "status", JOB).exit_code == 0
    assert accepting.requests[-1].headers["Authorization"] == "Bearer secret"
    run(accepting, "status", JOB, "--api-key", "another")
    assert accepting.requests[-1].headers["Authorization"] == "Bearer another"


def test_a_key_that_cannot_be_sent_is_reported_without_showing_it(accepting: StandIn) -> None:
    result = run(accepting, "status", JOB, "--api-key", "sk-svd-schlüssel")
    assert isinstance(result.exception, InvalidKeyError)
    assert explained(result.exception).endswith("set --api-key or SVD_API_KEY")
    assert accepting.requests == []


def test_jobs_are_listed(accepting: StandIn) -> None:
    jobs = [{"task_id": JOB, "status": "queued", "position": 2, "created_at": "2026-01-02T03:04:05Z"}]
    accepting.answer("GET /jobs?limit=20", Answer(json.dumps({"jobs": jobs, "next": None}).encode()))
    shown = run(accepting, "list").stdout
    assert JOB in shown
    assert "queued, number 2" in shown
    assert json.loads(run(accepting, "list", "--json").stdout) == jobs


def test_cancelling_shows_the_result_for_each_job(accepting: StandIn) -> None:
    accepting.answer(f"GET /status/{JOB}", job_answer("started"))
    accepting.answer(f"POST /jobs/{JOB}/cancel", job_answer("started", cancel_requested=True))
    result = run(accepting, "cancel", JOB, "other")
    assert result.exit_code == 1
    assert f"{JOB}: being cancelled" in result.stdout
    assert "other:" in result.stderr
    result = run(accepting, "cancel", JOB, "other", "--json")
    assert [job["task_id"] for job in json.loads(result.stdout)] == [JOB]
    accepting.answer(f"POST /jobs/{JOB}/cancel", error_answer(401, "unauthorized", "an API key is needed"))
    assert "set --api-key or SVD_API_KEY" in run(accepting, "cancel", JOB).stderr


def test_watching_shows_each_change_and_the_final_state(accepting: StandIn) -> None:
    accepting.answer(f"GET /jobs/{JOB}/events", stream({"status": "queued", "position": 1}, {"status": "finished"}))
    result = run(accepting, "watch", JOB)
    assert result.exit_code == 0
    assert f"{JOB}: queued, next (0%)" in result.stderr
    assert result.stdout == f"{JOB}: finished\n"
    lines = [json.loads(line)["status"] for line in run(accepting, "watch", JOB, "--json").stdout.splitlines()]
    assert lines == ["queued", "finished"]


def test_watching_a_job_that_fails_exits_with_1(accepting: StandIn) -> None:
    accepting.answer(f"GET /jobs/{JOB}/events", stream({"status": "failed", "error": {"message": "too long"}}))
    result = run(accepting, "watch", JOB)
    assert (result.exit_code, result.stdout) == (1, f"{JOB}: failed: too long\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_watching_fails_if_its_output_cannot_be_written(accepting: StandIn) -> None:
    accepting.answer("GET /status/other", job_answer("started"))
    command = [sys.executable, "-m", "svd_service", "watch", JOB, "other", "--json", "--server", accepting.url]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode in {1, 120}  # 120: Python could not write at its end what was left
    assert "No space left on device" in done.stderr
    assert "Exception in thread" not in done.stderr


def test_status_is_a_table_or_json(accepting: StandIn) -> None:
    accepting.answer(f"GET /status/{JOB}", job_answer("queued", position=1, parameters={"seed": 7}))
    assert "queued, next" in run(accepting, "status", JOB).stdout
    assert json.loads(run(accepting, "status", JOB, "--json").stdout)["parameters"] == {"seed": 7}


def test_status_of_an_unknown_job_is_an_error(accepting: StandIn) -> None:
    result = run(accepting, "status", "no-such-job")
    assert isinstance(result.exception, ClientError)


def test_the_server_may_come_from_the_environment(
    accepting: StandIn, cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVD_SERVER", accepting.url)
    result = CliRunner().invoke(app, ["generate", str(cat), "-o", str(tmp_path / "o.mp4")])
    assert result.exit_code == 0, result.output


def test_an_invalid_parameter_is_reported_once_for_all_images(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    accepting.answer(
        "POST /generate", error_answer(422, "invalid_parameter", "fps must be at most 30", parameter="fps")
    )
    result = run(accepting, "generate", cat, cat, cat, "-o", tmp_path / "folder", "--fps", "99")
    assert result.exit_code == 1
    assert result.stderr.count("fps must be at most 30") == 1
    assert accepting.count("POST /generate") == 1


def test_if_the_service_goes_away_the_message_has_the_download_command(
    accepting: StandIn, cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise UnreachableError(f"{accepting.url}: connection refused")

    target = tmp_path / "my out.mp4"
    with monkeypatch.context() as patch:
        patch.setattr("svd_service.client.client.Client.status", away)
        result = run(accepting, "generate", cat, "-o", target)
    assert result.exit_code == 1
    assert "Cannot connect" in result.stderr
    later = re.search(r"svd-service (download .*)", result.stderr)
    assert later
    again = CliRunner().invoke(app, shlex.split(later[1]))
    assert again.exit_code == 0, again.output
    assert target.read_bytes() == b"a video"


def test_a_video_is_downloaded(accepting: StandIn, tmp_path: Path) -> None:
    accepting.answer(f"GET /results/{JOB}.gif", Answer(b"a gif"))
    assert run(accepting, "download", JOB, "-o", tmp_path).stdout == f"{tmp_path / JOB}.mp4\n"
    assert (tmp_path / f"{JOB}.mp4").read_bytes() == b"a video"
    accepting.answer(f"GET /results/{JOB}", Answer(b"the whole video"))
    assert run(accepting, "download", JOB, "-o", tmp_path).stdout == f"{tmp_path / JOB}.mp4\n"
    assert (tmp_path / f"{JOB}.mp4").read_bytes() == b"the whole video"
    assert run(accepting, "download", JOB, "-o", tmp_path / "x.gif").exit_code == 0
    assert (tmp_path / "x.gif").read_bytes() == b"a gif"
    assert run(accepting, "download", JOB, "-o", tmp_path / "x.gif", "--format", "webp").exit_code == 2


def test_a_video_that_is_not_ready_leaves_no_file(accepting: StandIn, tmp_path: Path) -> None:
    accepting.answer(f"GET /results/{JOB}", error_answer(409, "not_ready", "the job has no result", state="started"))
    result = run(accepting, "download", JOB, "-o", tmp_path / "out.mp4")
    assert result.exit_code == 1
    assert "--wait" in str(result.exception)
    assert not (tmp_path / "out.mp4").exists()


def test_a_download_may_wait_for_the_job(accepting: StandIn, tmp_path: Path) -> None:
    accepting.answer(f"GET /jobs/{JOB}/events", stream({"status": "started"}, {"status": "finished"}))
    assert run(accepting, "download", JOB, "--wait", "-o", tmp_path / "out.mp4").exit_code == 0
    assert (tmp_path / "out.mp4").read_bytes() == b"a video"


def test_videos_are_pinned_and_unpinned_and_the_status_shows_it(accepting: StandIn) -> None:
    pinned = job_answer("finished", pinned=True)
    accepting.answer(f"PUT /jobs/{JOB}/pin", pinned)
    accepting.answer(f"DELETE /jobs/{JOB}/pin", DONE)
    accepting.answer("PUT /jobs/other/pin", error_answer(409, "pin_limit", "100 videos are pinned already"))
    done = run(accepting, "pin", JOB, "other")
    assert (done.exit_code, done.stdout) == (1, f"{JOB}: pinned\n")
    assert done.stderr == "other: 100 videos are pinned already\n"
    assert run(accepting, "unpin", JOB).stdout == f"{JOB}: no longer pinned\n"
    assert [request.method for request in accepting.requests] == ["PUT", "PUT", "DELETE"]
    accepting.answer(f"GET /status/{JOB}", pinned)
    assert "finished, pinned" in run(accepting, "status", JOB).stdout


def test_a_share_link_is_printed_as_a_full_url(accepting: StandIn) -> None:
    path = f"/shared/{JOB}.mp4?expires=1&signature=abc"
    link = json.dumps({"url": path, "expires_at": "2026-01-02T03:04:05Z"}).encode()
    accepting.answer(f"POST /jobs/{JOB}/share", Answer(link, status=201))
    done = run(accepting, "share", JOB, "--expires-in", 60)
    assert done.stdout == f"{accepting.url}{path}\n"
    assert "It works until 2026-01-02" in done.stderr
    assert accepting.requests[-1].body == b"expires_in=60"
    run(accepting, "share", JOB)
    assert accepting.requests[-1].body == b""


def test_only_ended_jobs_are_deleted(accepting: StandIn) -> None:
    accepting.answer(f"DELETE /jobs/{JOB}", Answer(b"", status=204))
    assert run(accepting, "delete", JOB, "--yes").stdout == f"{JOB}: deleted\n"
    accepting.answer(f"GET /status/{JOB}", job_answer("started"))
    result = run(accepting, "delete", JOB, "--yes")
    assert (result.exit_code, accepting.count(f"DELETE /jobs/{JOB}")) == (1, 1)
    assert "cancel it first" in result.stderr
    assert CliRunner().invoke(app, ["delete", JOB, "--server", accepting.url], input="n\n").exit_code == 1
    assert accepting.count(f"DELETE /jobs/{JOB}") == 1


def test_the_models_of_the_service_are_shown(accepting: StandIn) -> None:
    defaults = {"width": 1024, "height": 576, "num_frames": 25}
    models = [{"name": "svd-xt", "defaults": defaults, "profiles": {"exact": {}, "draft": {}}}]
    accepting.answer("GET /models", Answer(json.dumps({"models": models}).encode()))
    assert re.search(r"svd-xt +1024x576 +25 +exact, draft", run(accepting, "models").stdout)
    assert json.loads(run(accepting, "models", "--json").stdout) == models


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"svd-service {__version__}\n"


def test_a_list_fits_80_columns_with_whole_ids_and_the_zone(
    accepting: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    error = {"code": "timeout", "message": "it took much longer than the service allows for one attempt"}
    jobs = [{"task_id": JOB, "status": "failed", "error": error, "created_at": "2026-01-02T03:04:05Z"}]
    accepting.answer("GET /jobs?limit=20", Answer(json.dumps({"jobs": jobs, "next": None}).encode()))
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(accepting, "list").stdout.splitlines()
    monkeypatch.undo()
    time.tzset()
    assert max(map(len, lines)) <= 80
    assert JOB in lines[1]
    assert "2026-01-02 04:04 CET" in lines[1]
    assert len(lines) == 2


def test_several_videos_of_one_image_are_a_group(accepting: StandIn, cat: Path, tmp_path: Path) -> None:
    jobs = [json.loads(job_answer("queued").body)] * 2
    body = {"group_id": "g", "status": "queued", "jobs": jobs}
    accepting.answer("POST /generate", Answer(json.dumps(body).encode()))
    assert run(accepting, "generate", cat, "--seeds", "7,8", "-o", tmp_path).exit_code == 0
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"cat-7.mp4", "cat-8.mp4"}
    assert run(accepting, "generate", cat, "-n", "2", "--cancel-after", "90", "-o", tmp_path).exit_code == 0
    assert {path.name for path in tmp_path.glob("cat-[12].mp4")} == {"cat-1.mp4", "cat-2.mp4"}
    posted = [request for request in accepting.requests if request.method == "POST"]
    assert len(posted) == 2
    assert b'name="seeds"' in posted[0].body
    assert b'name="n"' in posted[1].body
    assert [request.headers.get("Cancel-After") for request in posted] == [None, "90"]
    assert run(accepting, "generate", cat, "--seeds", "7,x", "-o", tmp_path).exit_code == 2
