"""Fixtures of all tests: settings from a mapping, a real Redis, an environment without variables of the service."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from svd_service.cli.up.preflight import StackError
from svd_service.config import Settings, settings
from tools.harness import s3
from tools.harness.local import CI, free_port, redis_program

# A shell makes its background processes ignore SIGINT, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: `--hypothesis-profile=thorough`: many more examples, different ones each time.
hypothesis.settings.register_profile("thorough", max_examples=2_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In CI, whose machines are shared, rerun a failed test with the marker `may_repeat` once; it is shown as RERUN."""
    for item in items:
        for marker in item.iter_markers("may_repeat"):
            assert marker.kwargs.get("reason"), f"{item.nodeid}: may_repeat needs a reason"
            if CI:
                item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether thorough tests run, too; without arguments, `scripts/test.sh` deselects them."""
    return "not thorough" not in request.config.option.markexpr


@pytest.fixture(autouse=True)
def _without_service_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("REDIS_", "VIDEO_", "SVD_")):
            monkeypatch.delenv(name)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Make settings of a CPU machine with its data in the test's own folder; keywords are environment variables."""

    def make(**variables: object) -> Settings:
        defaults = {"SVD_DATA_DIR": str(tmp_path / "data"), "SVD_DEVICES": "cpu"}
        return Settings.from_mapping(defaults | {name: str(value) for name, value in variables.items()})

    return make


@pytest.fixture(name="settings")
def _settings(make_settings: Callable[..., Settings]) -> Settings:
    """The default settings of `make_settings()`; no Redis runs at their address."""
    return make_settings()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis (or Valkey) that runs for the whole session. Tests use `redis_url`."""
    try:
        program = redis_program()
    except StackError as error:
        (pytest.fail if CI else pytest.skip)(str(error))
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    options = {"bind": "127.0.0.1", "port": port, "dir": folder, "save": "", "logfile": folder / "log"}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        _wait_for_redis(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """URL of the session's Redis, emptied."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def redis_client(redis_url: str) -> "Iterator[redis.Redis]":
    """A client of that Redis, to read and change the ledger's keys directly."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """A real S3 server that runs for the whole session. Tests use `s3_variables`."""
    server = s3.Server(free_port(), tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.stop()


@pytest.fixture
def s3_variables(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Environment variables for an empty store of the test's own on that server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return s3_server.variables(f"s3://{s3.BUCKET}/{uuid.uuid4().hex}")


def _wait_for_redis(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert process.poll() is None, f"Redis exited with status {process.returncode}"
                assert time.monotonic() < deadline, "Redis did not start within 60 s"
                time.sleep(0.05)
