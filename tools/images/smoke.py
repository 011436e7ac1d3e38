#!/usr/bin/env python3
"""Run one job through Redis, API and worker from the built images, by the README's example with curl.

Each container runs as in compose.yaml: not as root, with a read-only root filesystem, without capabilities. Checks the
images' requirements and prints their sizes. Needs only Python's standard library.

usage: python3 -m tools.images.smoke --base PYTHON_IMAGE [--api IMAGE] [--worker IMAGE] [--redis IMAGE] [--photo FILE]

docker or podman runs the containers. buildah cannot run one with a read-only root, so with it (as root) each is a
chroot into the mounted image with the same restrictions.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tools.images.locked import ROOT, compare

USER = "10001"

#: Maximum bytes that the API image adds to its base. Measured: 193 MB, of which HEIC 26, Content Credentials 23,
#: cryptography 16, the client of object stores 15, and the bytecode that a start would compile otherwise 36.
MOST_ADDED = 200_000_000

#: In a container: a tmpfs of its own.
TMP = "/tmp"  # noqa: S108

#: Program that tests torch.compile on a CPU: it compiles C++ that includes Python's headers, with the worker's cache
#: folder. On a GPU, Triton needs the same compiler for C and the same headers.
COMPILE = """
import os
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["SVD_DATA_DIR"] + "/.compiled"
import torch
x = torch.arange(64.0)
print(torch.compile(lambda x: x.sin() + x)(x).allclose(x.sin() + x))
"""


class CommandError(Exception):
    """A command failed."""


class Containers(Protocol):
    """A tool that runs containers.

    Each container has its own `/tmp`, with docker's option `noexec`. `/data` is shared by the containers that are
    started without a command.
    """

    def start(self, name: str, image: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a container; without a command, with the image's."""
        ...

    def run(self, image: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in a new container, and wait until it exits."""
        ...

    def alive(self, name: str) -> bool:
        """Whether it still runs."""
        ...

    def logs(self, name: str) -> str:
        """Its log so far."""
        ...

    def size(self, image: str) -> int:
        """Bytes of all its files, as an archive."""
        ...

    def close(self) -> None:
        """End and remove everything."""
        ...


class Engine:
    """Runs containers with docker or podman."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._mark = f"svd-smoke-{secrets.token_hex(4)}"
        self._names: list[str] = []
        called(tool, "volume", "create", self._mark)

    @property
    def _restrictions(self) -> list[str]:
        return [
            *("--network", "host", "--user", f"{USER}:{USER}", "--read-only", "--tmpfs", TMP),
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        ]

    def start(self, name: str, image: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a container; without a command, with the image's."""
        variables = [word for item in environment.items() for word in ("--env", "=".join(item))]
        # A new volume takes the owner of its mount point, which in Redis' image is another user.
        entry = ("--entrypoint", command[0]) if command else ("--volume", f"{self._mark}:/data")
        self._names.append(name)
        called(
            *(self._tool, "run", "--detach", "--name", f"{self._mark}-{name}"),
            *(*self._restrictions, *variables, *entry, image, *command[1:]),
        )

    def run(self, image: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in a new container, and wait until it exits."""
        entry = ("--entrypoint", command[0], "--volume", f"{self._mark}:/data")
        return ended(self._tool, "run", "--rm", *self._restrictions, *entry, image, *command[1:])

    def alive(self, name: str) -> bool:
        """Whether it still runs."""
        done = ended(self._tool, "container", "inspect", "--format", "{{.State.Running}}", f"{self._mark}-{name}")
        return done.stdout.strip() == "true"

    def logs(self, name: str) -> str:
        """Its log so far."""
        done = ended(self._tool, "logs", "--tail", "30", f"{self._mark}-{name}")
        return done.stdout + done.stderr

    def size(self, image: str) -> int:
        """Bytes of all its files, as an archive."""
        container = called(self._tool, "create", image, "true").strip()
        try:
            return archive_size(self._tool, "export", container)
        finally:
            called(self._tool, "rm", container)

    def close(self) -> None:
        """End and remove everything."""
        for name in reversed(self._names):
            ended(self._tool, "stop", f"{self._mark}-{name}")
            ended(self._tool, "rm", "--force", f"{self._mark}-{name}")
        ended(self._tool, "volume", "rm", self._mark)


class Chroots:
    """Runs each process in a chroot into an image mounted by buildah, in its own mount namespace."""

    #: Program in the new namespace: it mounts the image's root read-only, with the mounts of compose.yaml on top.
    _ENTER = """
        set -e
        root=$1 data=$2 directory=$3
        shift 3
        mount --bind "$root" "$root"
        for folder in proc dev sys; do mount --rbind "/$folder" "$root/$folder"; done
        mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs "$root/tmp"
        [ ! -d "$root/data" ] || mount --bind "$data" "$root/data"
        mount -o remount,bind,ro "$root"
        exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+setuid,+setgid,+sys_chroot \
            chroot --userspec="$0:$0" --groups= "$root" sh -c 'cd "$0" && exec "$@"' "$directory" "$@"
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="svd-smoke-"))
        self._folder.chmod(0o755)
        self._data = self._folder / "data"
        self._data.mkdir()
        os.chown(self._data, int(USER), int(USER))
        self._containers: dict[str, tuple[str, str, dict[str, Any]]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def _mounted(self, image: str) -> tuple[str, dict[str, Any]]:
        """Mount an image; return the path of its root and its configuration."""
        if image not in self._containers:
            container = called("buildah", "from", "--pull-never", image).strip()
            self._containers[image] = (
                container,
                "",
                {},
            )  # so that `close` removes the container even if a command fails
            root = called("buildah", "mount", container).strip()
            config = json.loads(called("buildah", "inspect", "--type", "image", image))["OCIv1"]["config"]
            self._containers[image] = (container, root, config)
        return self._containers[image][1:]

    def _command(
        self, image: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> tuple[list[str], dict[str, str]]:
        root, config = self._mounted(image)
        own = dict(variable.split("=", 1) for variable in config.get("Env", ()))
        command = command or [*config.get("Entrypoint", ()), *config.get("Cmd", ())]
        where = config.get("WorkingDir") or "/"
        entering = ["unshare", "--mount", "sh", "-c", self._ENTER, USER, root, str(self._data), where, *command]
        return entering, {"PATH": os.environ["PATH"], **own, **environment}

    def start(self, name: str, image: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a container; without a command, with the image's."""
        entering, variables = self._command(image, command, environment)
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                entering, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, image: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in a new container, and wait until it exits."""
        entering, variables = self._command(image, command, {})
        return subprocess.run(entering, env=variables, capture_output=True, text=True, check=False, timeout=600)

    def alive(self, name: str) -> bool:
        """Whether it still runs."""
        return self._processes[name].poll() is None

    def logs(self, name: str) -> str:
        """Its log so far."""
        return "\n".join((self._folder / f"{name}.log").read_text(errors="replace").splitlines()[-30:])

    def size(self, image: str) -> int:
        """Bytes of all its files, as an archive."""
        return archive_size("tar", "--directory", self._mounted(image)[0], "--one-file-system", "--create", ".")

    def close(self) -> None:
        """End and remove everything."""
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
        for container, _, _ in self._containers.values():
            ended("buildah", "rm", container)
        shutil.rmtree(self._folder, ignore_errors=True)


def main() -> int:
    """Check the images, run the job and print the sizes; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", required=True, help="the base image of the built images")
    parser.add_argument("--api", default="svd-service-api")
    parser.add_argument("--worker", default="svd-service-worker")
    parser.add_argument("--redis", default=redis_of_compose(), help="default: that of compose.yaml")
    parser.add_argument("--photo", "--picture", type=Path, default=ROOT / "scripts" / "sample.jpg")
    options = parser.parse_args()
    with contextlib.closing(Chroots() if tool() == "buildah" else Engine(tool())) as containers:
        check(containers, options.api, options.worker)
        run_a_job(containers, options)
        return print_sizes(containers, options)


def check(containers: Containers, api: str, worker: str) -> None:
    """Check the requirements of the images before anything runs."""
    for name, image in (("api", api), ("worker", worker)):
        who = containers.run(image, "id", "-u").stdout.strip()
        require(who == USER, f"{image} runs as user {who}")
        written = containers.run(
            image, "sh", "-c", "for f in / /app /opt/venv /etc; do touch $f/x && exit; done; exit 9"
        )
        require(written.returncode == 9, f"{image} cannot write to its root")
        number, differing = compare(name, lambda *words, image=image: containers.run(image, *words).stdout)
        require(
            differing == [], f"{image} has the {number} packages of the lock{''.join(f'; {one}' for one in differing)}"
        )
    found = containers.run(
        api, "python", "-c", "import importlib.util as u; print(u.find_spec('torch'))"
    ).stdout.strip()
    require(found == "None", f"{api} has no torch ({found})")
    found = containers.run(worker, "python", "-c", "import torch; print(torch.__version__)").stdout.strip()
    require(bool(found), f"{worker} has torch {found}")
    compiled = containers.run(worker, "python", "-c", COMPILE)
    require(compiled.stdout.strip() == "True", f"{worker} can compile {compiled.stderr[-2000:]}".strip())


def run_a_job(containers: Containers, options: argparse.Namespace) -> None:
    """Start Redis, API and worker, run the README's curl example, and check that the result is an MP4."""
    redis_port, port = free_ports(2)
    environment = {
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "SVD_BIND": f"127.0.0.1:{port}",
        "SVD_DEVICES": "cpu",
    }
    server = ("redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", TMP, "--save", "")
    address = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    with logs_if_failing(containers, started := []):
        for name, image, command in (
            ("redis", options.redis, (*server, "--appendonly", "yes", "--maxmemory-policy", "noeviction")),
            ("api", options.api, ()),
            ("worker", options.worker, ()),
        ):
            containers.start(name, image, command, environment)
            started.append(name)
        wait(containers, started, lambda: curl_json(f"{address}/health")["workers_ready"] >= 1, 180)
        say(f"a worker is ready after {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        job = curl_json("-F", f"image=@{options.photo}", f"{address}/generate")
        status = f"{address}/status/{job['task_id']}"
        wait(containers, started, lambda: curl_json(status)["status"] not in {"queued", "started"}, 400)
        end = curl_json(status)
        require(end["status"] == "finished", f"the job is {end['status']} after {time.monotonic() - began:.0f} s")
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.mp4"
            called("curl", "--silent", "--fail", "-o", str(out), f"{address}/results/{job['task_id']}")
            video = out.read_bytes()
        require(video[4:8] == b"ftyp", f"its result is an MP4 of {len(video):,} bytes")


def print_sizes(containers: Containers, options: argparse.Namespace) -> int:
    """Print a table of sizes; return 1 if the API image adds more than `MOST_ADDED`."""
    base = containers.size(options.base)
    print(f"\n{'image':<36}{'MB':>8}{'over its base':>16}")
    added = {image: containers.size(image) - base for image in (options.api, options.worker)}
    print(f"{options.base:<36}{base / 1e6:>8.0f}")
    for image, more in added.items():
        print(f"{image:<36}{(base + more) / 1e6:>8.0f}{more / 1e6:>16.0f}")
    if added[options.api] > MOST_ADDED:
        say(f"the API image adds more than {MOST_ADDED / 1e6:.0f} MB to its base")
        return 1
    return 0


@contextlib.contextmanager
def logs_if_failing(containers: Containers, started: list[str]) -> Iterator[None]:
    """Print the log of each container if the block raises."""
    try:
        yield
    except BaseException:
        for name in started:
            say(f"--- {name}\n{containers.logs(name)}")
        raise


def wait(containers: Containers, started: Sequence[str], condition: Any, seconds: float) -> None:
    """Wait until the condition is true; failed commands and missing keys count as false."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(CommandError, KeyError):
            if condition():
                return
        for name in started:
            if not containers.alive(name):
                raise SystemExit(f"{name} has exited")
        if time.monotonic() > deadline:
            raise SystemExit(f"the condition is still false after {seconds:.0f} s")
        time.sleep(0.5)


def redis_of_compose() -> str:
    """Return the Redis image in compose.yaml."""
    found = re.search(r"^ +image: (redis:\S+)$", (ROOT / "compose.yaml").read_text(), re.MULTILINE)
    return found[1] if found else "redis"


def tool() -> str:
    """Return the tool that container_tool.sh finds."""
    script = '. tools/images/container_tool.sh && printf "%s\\n" "$tool" "${STORAGE_DRIVER:-}" "${BUILDAH_ISOLATION:-}"'
    found, driver, isolation = called("bash", "-c", script, cwd=ROOT).split("\n")[:3]
    # For the following calls of buildah.
    os.environ.update(
        {name: value for name, value in (("STORAGE_DRIVER", driver), ("BUILDAH_ISOLATION", isolation)) if value}
    )
    return found


def require(holds: bool, fact: str) -> None:
    """Print a fact and whether it `holds`; exit if it does not."""
    say(f"{'ok ' if holds else 'NOT'}  {fact}")
    if not holds:
        raise SystemExit(1)


def curl_json(*arguments: str) -> dict[str, Any]:
    """Run curl; return the body from JSON."""
    return dict(json.loads(called("curl", "--silent", "--show-error", "--fail-with-body", *arguments) or "{}"))


def called(*command: str, cwd: Path | None = None) -> str:
    """Run a command; return its standard output, or raise `CommandError`."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=cwd, timeout=600)
    if done.returncode:
        raise CommandError(f"{' '.join(command)} exited with {done.returncode}: {done.stdout}")
    return done.stdout


def ended(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, whatever its exit status."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def archive_size(*command: str) -> int:
    """Return the number of bytes that a command writes."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101
        return sum(len(part) for part in iter(lambda: process.stdout.read(1 << 20), b""))  # type: ignore[union-attr,misc]


def free_ports(number: int) -> list[int]:
    """Return free TCP ports of loopback."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [int(listener.getsockname()[1]) for listener in listeners]


def say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
