"""`svd-service up` and `svd-service generate` from the command line: real processes, the tiny model."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import av
import pytest
import redis

from svd_service.client import Client, ClientError
from tests.samples import IMAGES
from tools.harness.local import free_port
from tools.harness.receiver import receiving
from tools.harness.stack import FAULTS

SERVICE = (sys.executable, "-m", "svd_service")
IMAGE = IMAGES / "chelsea.jpg"


class Up:
    """One `svd-service up` in a folder of its own, configured by the folder's `.env`."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Every process of this service has SVD_DATA_DIR in its environment; `left` finds them by it.
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "SVD_DATA_DIR": str(folder / "data")}
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.environment["TMPDIR"] = str(self.scratch)
        exporter = f"SVD_EXPORTER_BIND=127.0.0.1:{free_port()}"
        flower = f"SVD_FLOWER_BIND=127.0.0.1:{free_port()}"
        (folder / ".env").write_text(
            f"SVD_MODEL={model}\nSVD_DEVICES=cpu\nSVD_LEASE=2\nSVD_WEBHOOK_PRIVATE=true\n{exporter}\n{flower}\n"
        )
        # Modules of the user with the same names must not hide those of the service.
        (folder / "wsgi.py").write_text("raise SystemExit('the wrong wsgi.py')\n")
        (folder / "celeryconfig.py").write_text("raise SystemExit('the wrong celeryconfig.py')\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        command = (*SERVICE, "up", "--port", str(self.port), *options)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        return self.process

    def start_and_wait(self, *options: str) -> "subprocess.Popen[bytes]":
        process = self.start(*options)
        wait_for(lambda: "Ready" in self.output or process.poll() is not None, 90)
        assert process.poll() is None, self.output
        return process

    @property
    def log(self) -> Path:
        return self.folder / "up.log"

    @property
    def output(self) -> str:
        return self.log.read_text()

    def left(self) -> dict[int, str]:
        """Ids and command lines of the processes of this service that are alive."""
        mark = f"SVD_DATA_DIR={self.folder / 'data'}\0".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:
                continue
        return found

    def stop(self) -> None:
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Up]:
    """One folder for all tests: each service finds the data of the previous one."""
    up = Up(tmp_path_factory.mktemp("up"), tiny_model)
    yield up
    up.stop()


@pytest.fixture
def up(place: Up) -> Iterator[Up]:
    yield place
    place.stop()


@pytest.fixture
def quick(up: Up) -> Iterator[Up]:
    """The same with a stand-in for the model, which loads immediately; only the first test uses a real model."""
    stand_in = {"PYTHONPATH": str(FAULTS), "TEST_FAULTS": '{"stand_in": 0.1}'}
    up.environment |= stand_in
    yield up
    for name in stand_in:
        del up.environment[name]


def test_up_generates_a_video_and_leaves_no_process_after_ctrl_c(up: Up, tmp_path: Path) -> None:
    process = up.start_and_wait("--flower")
    out = tmp_path / "out.mp4"
    subprocess.run([*SERVICE, "generate", str(IMAGE), "-o", str(out), "--server", up.url], check=True)
    with av.open(str(out)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3
    for words in ("tiny  (its weights are untrained", up.url, "redis://:***@127.0.0.1:", "flower", "password"):
        assert words in up.output

    second = subprocess.run(
        [*SERVICE, "up"], env=up.environment, cwd=up.folder, capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert f"process {process.pid}" in second.stdout

    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert up.left() == {}
    assert list(up.scratch.iterdir()) == []


@pytest.mark.thorough
def test_jobs_and_webhooks_survive_when_up_is_killed(quick: Up, tmp_path: Path) -> None:
    process = quick.start_and_wait()
    with receiving() as receiver:
        with Client(quick.url) as client:
            jobs = [client.submit(IMAGE, seed=seed, webhook_url=receiver.url) for seed in range(2)]
            wait_for(lambda: client.status(jobs[0].id).state != "queued", 90)
        process.kill()
        process.wait()
        wait_for(lambda: quick.left() == {}, 60)

        process = quick.start_and_wait()
        with Client(quick.url) as client:
            for job in jobs:
                client.wait(job.id, timeout=90)
                assert client.download(job.id, tmp_path / "out.mp4").stat().st_size > 0
        wait_for(lambda: len({request.headers["webhook-id"] for request in receiver.requests}) == len(jobs), 60)
    events = [json.loads(each.body) for each in receiver.requests]
    assert {event["data"]["task_id"]: event["type"] for event in events} == {job.id: "job.finished" for job in jobs}
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert quick.left() == {}


@pytest.mark.thorough
def test_up_restarts_a_crashed_worker_and_jobs_continue(quick: Up, tmp_path: Path) -> None:
    process = quick.start_and_wait()
    worker = next(pid for pid, command in sorted(quick.left().items()) if "svd_service.celery_app" in command)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: "worker ended by itself (status SIGKILL): restarting" in quick.output, 30)
    with Client(quick.url) as client:
        job = client.submit(IMAGE)
        client.wait(job.id, timeout=90)
        assert client.download(job.id, tmp_path / "out.mp4").stat().st_size > 0
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert quick.left() == {}


@pytest.fixture
def small_disk(place: Up) -> Iterator[Path]:
    """Mount a small disk as the data folder; only root may do that."""
    folder = place.folder / "data"
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted")
    yield folder
    place.stop()
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.thorough
def test_the_service_survives_a_full_disk_and_health_reports_it(small_disk: Path, quick: Up, tmp_path: Path) -> None:
    process = quick.start_and_wait()
    with Client(quick.url) as client:
        client.wait(client.submit(IMAGE, seed=1).id, timeout=90)
        assert client.health()["status"] == "ok"
        filler = small_disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(100_000))
        # Give Redis something to write.
        with suppress(ClientError):
            client.submit(IMAGE, seed=2)
        wait_for(lambda: client.health()["status"] == "degraded", 30)
        time.sleep(10)
        assert process.poll() is None, quick.output
        filler.unlink()
        wait_for(lambda: client.health()["status"] == "ok" and client.health()["workers"], 90)
        job = client.submit(IMAGE, seed=3)
        client.wait(job.id, timeout=90)
        assert client.download(job.id, tmp_path / "out.mp4").stat().st_size > 0
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


@pytest.mark.thorough
def test_other_users_can_read_neither_data_nor_redis(quick: Up) -> None:
    process = quick.start_and_wait()
    data = quick.folder / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    readable = [path for path in data.rglob("*") if path.stat().st_mode & 0o077]
    assert [path for path in readable if path.is_file()] == []
    url = (data / "redis" / "url").read_text().strip()
    without_password = urlsplit(url)._replace(netloc=f"127.0.0.1:{urlsplit(url).port}").geturl()
    with redis.Redis.from_url(without_password) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.keys()
    environment = quick.environment | {"REDIS_URL": url}
    for command in (
        (*SERVICE, "keys", "list"),
        (sys.executable, *["-m", "celery", "-A", "svd_service.celery_app", "status"]),
    ):
        done = subprocess.run(command, env=environment, cwd=quick.scratch, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


def test_up_rejects_a_folder_without_a_model_before_it_starts_anything(up: Up, tmp_path: Path) -> None:
    up.environment["SVD_MODEL"] = str(tmp_path)
    try:
        assert up.start().wait(timeout=60) == 2
    finally:
        del up.environment["SVD_MODEL"]
    assert "SVD_MODEL" in up.output
    assert "Traceback" not in up.output
