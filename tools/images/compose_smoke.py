"""Test compose.yaml with real containers: a first start, stops, crashes, scaling and an upgrade lose no job.

Run it through scripts/compose_smoke.sh, which finds an engine and base images. Each step is a method of `Smoke`. After
a step that fails, the others still run; the table has a row for each. Needs only Python's standard library.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tools.harness.local import chromium_program
from tools.images.compose_stack import (
    API,
    PROJECT,
    ROOT,
    Stack,
    StepError,
    called,
    get_json,
    json_of,
    require,
    say,
    status_of,
    submit,
    text_of,
    wait,
)
from tools.images.locked import compare

#: The containers of the profile `monitoring` that keep running, all but `prepare`.
CONTAINERS: Final = ("redis", "api", "worker", "webhooks", "flower", "exporter", "prometheus", "grafana")
ENDED: Final = {"finished", "failed", "cancelled", "expired"}
#: Maximum bytes that the API's image adds to its base, and maximum size of the CPU worker's image.
MOST_ADDED, MOST_WORKER = 150e6, 1.5e9


class Smoke:
    """The steps, in the order in which they run, and the jobs that they submitted."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self._stack = Stack(ROOT)
        self._from = options.upgrade_from
        self._screenshots: Path | None = options.screenshots
        self._scratch = scratch
        self._jobs: list[str] = []

    def steps(self) -> dict[str, Callable[[], str]]:
        """Return the steps by name."""
        return {
            "first": self.first_start,
            "locked": self.locked,
            "curl": self.readme,
            "logins": self.logins,
            "logs": self.logs_rotate,
            "drain": self.drain,
            "crashes": self.crashes,
            "scale": self.scale,
            "proxies": self.proxies,
            "down": self.leaves_nothing,
            "folders": self.folders_and_key,
            "upgrade": self.upgrade,
            "sizes": self.sizes,
        }

    def first_start(self) -> str:
        """`up --build` without any setting."""
        took = self._stack.up("--build")
        wait(lambda: all(self._stack.healthy(each) for each in CONTAINERS), 180, "not every container is healthy")
        return f"worker ready after {took:.0f} s with builds, all {len(CONTAINERS)} containers healthy"

    def locked(self) -> str:
        """The images have the packages of requirements/, in its versions."""
        numbers = []
        for name, image in (("api", "svd-service-api"), ("worker", "svd-service-worker:cpu")):
            run = ("docker", "run", "--rm", "--network", "none", "--entrypoint", "python", image)
            number, differing = compare(name, lambda _, *words, run=run: called(*run, *words))
            require(not differing, f"{image}: {'; '.join(differing)}")
            numbers.append(number)
        return f"API {numbers[0]} and CPU worker {numbers[1]} packages, each in the version of the lock"

    def readme(self) -> str:
        """The README's three curl lines, unchanged: submit, status, result."""
        readme = (ROOT / "README.md").read_text()
        lines = re.findall(r"^(curl .*localhost:8000/(?:generate|status|results)\S*)$", readme, re.MULTILINE)
        submit, status, result = (
            next(line for line in lines if f"/{kind}" in line) for kind in ("generate", "status", "results")
        )
        shutil.copy(ROOT / "scripts" / "sample.jpg", self._scratch / "cat.jpg")
        began = time.monotonic()

        def shell(line: str, job: str = "") -> str:
            return called("bash", "-c", re.sub(r"[0-9a-f]+…", job, line), cwd=self._scratch, errors=False)

        job = json.loads(shell(submit))["task_id"]
        self._jobs.append(job)
        wait(lambda: json.loads(shell(status, job))["status"] in ENDED, 400, "the job did not end")
        shell(result, job)
        video = (self._scratch / "out.mp4").read_bytes()
        require(video[4:8] == b"ftyp", f"out.mp4 is not an MP4: {video[:80]!r}")
        return f"first video after {time.monotonic() - began:.0f} s, {len(video):,} bytes"

    def logins(self) -> str:
        """Flower requires its password, Prometheus reaches all targets, and all ports are on loopback."""
        login = self._stack.compose("exec", "-T", "flower", "cat", "/run/secrets/SVD_FLOWER_BASIC_AUTH").strip()
        codes = [status_of("http://127.0.0.1:5555/"), status_of("http://127.0.0.1:5555/", basic=login)]
        require(codes == [401, 200], f"Flower answers {codes} without and with its password")
        shown = called("docker", "top", self._stack.container("flower"))
        require(login.partition(":")[2] not in shown, "Flower's password is in the list of processes")
        targets = "http://127.0.0.1:9090/api/v1/targets"
        wait(lambda: all_up(targets), 90, "not all of Prometheus' targets are up")
        # Debian's package has only the older pages, at another path.
        pages = ("http://127.0.0.1:9090/classic/targets", "http://127.0.0.1:9090/targets")
        self._screenshot("prometheus", next(page for page in pages if status_of(page) == 200))
        self._screenshot("flower", f"http://{login}@127.0.0.1:5555/workers")
        published = re.findall(r"(\S+)->", self._stack.compose("ps", "--format", "{{.Ports}}"))
        require(all(each.startswith("127.0.0.1:") for each in published), f"published: {published}")
        up = len(json_of(targets)["data"]["activeTargets"])
        return f"Flower 401 without and 200 with its password; {up} of {up} targets up; all ports on 127.0.0.1"

    def _screenshot(self, name: str, url: str) -> None:
        browser = chromium_program()
        if not self._screenshots or not browser:
            return
        self._screenshots.mkdir(parents=True, exist_ok=True)
        screenshot = f"--screenshot={(self._screenshots / name).resolve()}.png"
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000")
        called(browser, *options, "--virtual-time-budget=10000", screenshot, url)

    def logs_rotate(self) -> str:
        """Every container's log has a maximum size."""
        for service in CONTAINERS:
            config = self._stack.state(service)["HostConfig"]["LogConfig"]["Config"]
            require(config.get("max-size") == "10m" and config.get("max-file") == "5", f"{service}: {config}")
        return f"5 × 10 MB for each of {len(CONTAINERS)} containers"

    def drain(self) -> str:
        """`stop` during a job: the worker exits by itself, and the job is not lost."""
        job = self._submit()
        self._until(job, {"started"})
        began = time.monotonic()
        self._stack.compose("stop")
        took, code = time.monotonic() - began, self._stack.state("worker")["State"]["ExitCode"]
        require(code != 137, "the worker was killed")
        self._stack.up()
        outcomes = [each["outcome"] for each in self._until(job, ENDED)["attempts"]]
        require("lost" not in outcomes, f"attempts: {outcomes}")
        return f"stopped in {took:.0f} s, worker's status {code}, attempts {', '.join(outcomes)}"

    def crashes(self) -> str:
        """SIGKILL to each container during a job: no job is lost or has two results."""
        for service in CONTAINERS:
            job = self._submit()
            self._until(job, {"started"})
            time.sleep(2)
            self._stack.crash(service)
            say(f"   crashed {service}: {self._until(job, ENDED)['status']}")
        return self._tally()

    def _tally(self) -> str:
        ends = [self._job(job) for job in self._jobs]
        lost = [end["task_id"] for end in ends if end["status"] != "finished"]
        twice = [end["task_id"] for end in ends if finished_attempts(end) != 1]
        counted = re.search(r'^svd_jobs_ended_total\{state="finished"\} (\S+)', text_of(f"{API}/metrics"), re.MULTILINE)
        results = int(float(counted[1])) if counted else 0
        require(not lost and not twice, f"lost {lost}, committed twice {twice}")
        require(results == len(ends), f"{results} results for {len(ends)} jobs")
        return f"{len(ends)} jobs: lost 0, committed twice 0 ({results} results by the ledger's counter)"

    def scale(self) -> str:
        """Two workers on a CPU share the jobs."""
        self._stack.up("--no-recreate", "--scale", "worker=2")
        wait(lambda: get_json("/health")["workers_ready"] == 2, 240, "the second worker is not ready")
        jobs = [self._submit() for _ in range(3)]
        ends = [self._until(job, ENDED) for job in jobs]
        hosts = {end["attempts"][-1]["worker"] for end in ends}
        self._stack.up("--no-recreate", "--scale", "worker=1")
        require(len(hosts) == 2, f"only {hosts} ran jobs")
        return f"3 jobs on 2 workers; then one again. {self._tally()}"

    def proxies(self) -> str:
        """Health checks pass although every container's environment has a proxy that does not answer."""
        proxy = "http://127.0.0.1:9"
        self._stack.up(HTTP_PROXY=proxy, HTTPS_PROXY=proxy, http_proxy=proxy, https_proxy=proxy)
        configured = self._stack.compose("exec", "-T", "worker", "printenv", "HTTPS_PROXY").strip()
        require(configured == proxy, f"the worker's HTTPS_PROXY is {configured}")
        wait(lambda: all(self._stack.healthy(each) for each in CONTAINERS), 180, "not every container is healthy")
        return "all containers healthy with a proxy that does not answer"

    def leaves_nothing(self) -> str:
        """`down -v` removes everything."""
        self._stack.down()
        return nothing_left()

    def folders_and_key(self) -> str:
        """Folders owned by root in place of volumes, and an address that is not loopback."""
        gateway = called("docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
        gateway = gateway.strip()
        names = ("redis", "data", "cache", "secrets")
        folders = {f"SVD_{name.upper()}_VOLUME": str(self._scratch / name) for name in names}
        stack = Stack(ROOT, SVD_PUBLISH=f"{gateway}:8000", COMPOSE_PROFILES="", **folders)
        try:
            stack.compose("up", "--detach")
            url = f"http://{gateway}:8000"
            wait(lambda: json_of(f"{url}/health")["workers_ready"] == 1, 240, "no worker is ready")
            (key,) = re.findall(r"requires a key: (\S+)", stack.compose("logs", "prepare"))
            codes = [status_of(f"{url}/jobs"), status_of(f"{url}/jobs", key=key)]
            require(codes == [401, 200], f"/jobs answers {codes} without and with the key shown")
            job = submit(url, key)
            wait(lambda: json_of(f"{url}/status/{job}", key=key)["status"] == "finished", 300, "the job did not end")
            made = list((self._scratch / "data" / "results").rglob("*.mp4"))
            require(bool(made), "there is no video in the folder")
            owners = {path.stat().st_uid for name in names for path in (self._scratch / name).iterdir()}
            require(owners == {10001, 472}, f"owners: {owners}")  # 472: Grafana's password
        finally:
            stack.down()
        return f"job done on folders that were root's; 401 without and 200 with the key shown. {nothing_left()}"

    def upgrade(self) -> str:
        """`up --build` over an earlier commit, with a finished, a running and a queued job."""
        if self._from == "none":
            return "left out"
        commit = called("git", "rev-parse", "--short", self._from, cwd=ROOT).strip()
        earlier = self._scratch / "earlier"
        earlier.mkdir()
        called("bash", "-c", f"git archive {commit} | tar --extract --directory '{earlier}'", cwd=ROOT)
        self._jobs = []
        try:
            Stack(earlier).up("--build")
            self._until(self._submit(), {"finished"})
            running = self._submit()
            self._submit()
            self._until(running, {"started"})
            took = self._stack.up("--build")
            for job in self._jobs:
                self._until(job, ENDED)
            require(status_of(f"{API}/results/{self._jobs[0]}") == 200, "the earlier result is gone")
            return f"from {commit}, ready again after {took:.0f} s with builds. {self._tally()}"
        finally:
            self._stack.down()

    def sizes(self) -> str:
        """Sizes of the images, and how much the API's adds to its base."""
        base = os.environ.get("PYTHON_IMAGE", "python:3.11-slim-bookworm")
        images = (base, "svd-service-api", "svd-service-worker:cpu")
        of = {image: int(called("docker", "image", "inspect", image, "--format", "{{.Size}}")) for image in images}
        added, worker = of["svd-service-api"] - of[base], of["svd-service-worker:cpu"]
        require(added <= MOST_ADDED and worker <= MOST_WORKER, f"too large: {of}")
        return f"API {added / 1e6:.0f} MB over its base ({of[base] / 1e6:.0f} MB), CPU worker {worker / 1e9:.2f} GB"

    def _submit(self) -> str:
        self._jobs.append(submit(API))
        return self._jobs[-1]

    def _job(self, job: str) -> dict[str, Any]:
        return get_json(f"/status/{job}")

    def _until(self, job: str, states: set[str]) -> dict[str, Any]:
        wait(lambda: self._job(job)["status"] in states | ENDED, 400, f"{job} is not {states}")
        return self._job(job)


def main() -> int:
    """Run the steps and print the table; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="upgrade_from", default="HEAD~1")
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows: list[tuple[str, bool, str, float]] = []
    with tempfile.TemporaryDirectory(prefix="svd-smoke-", ignore_cleanup_errors=True) as scratch:
        smoke = Smoke(options, Path(scratch))
        with removed_at_the_end(smoke):
            for name, step in smoke.steps().items():
                if options.only and name not in options.only.split(","):
                    continue
                say(f"-- {name}: {(step.__doc__ or '').partition(chr(10))[0]}")
                rows.append((name, *attempt(step)))
                say(f"   {rows[-1][2]}")
    print("\n| step | | seconds | observed |\n|---|---|---|---|")
    for name, ok, seen, seconds in rows:
        print(f"| {name} | {'ok' if ok else 'FAILED'} | {seconds:.0f} | {seen} |")
    return 0 if all(ok for _, ok, _, _ in rows) else 1


def attempt(step: Callable[[], str]) -> tuple[bool, str, float]:
    """Run a step; return whether it succeeded, what it observed, and its seconds."""
    began = time.monotonic()
    try:
        ok, seen = True, step()
    except (StepError, KeyError, ValueError, OSError, subprocess.SubprocessError) as error:
        ok, seen = False, f"{type(error).__name__}: {error}".replace("\n", " ")[-600:]
    return ok, seen, time.monotonic() - began


@contextlib.contextmanager
def removed_at_the_end(smoke: Smoke) -> Iterator[None]:
    """Remove the project's containers and volumes when the block ends, even by an exception."""
    try:
        yield
    finally:
        smoke.leaves_nothing()


def nothing_left() -> str:
    """Require that the engine has no container, volume or network of the project; return a sentence for the table."""
    label = f"label=com.docker.compose.project={PROJECT}"
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
        left = called("docker", *kind, "--quiet", "--filter", label).split()
        require(not left, f"left over: {kind} {left}")
    return "no container, volume or network is left"


def all_up(url: str) -> bool:
    """Return whether Prometheus has targets and all of them are up."""
    targets = json_of(url)["data"]["activeTargets"]
    return bool(targets) and all(target["health"] == "up" for target in targets)


def finished_attempts(job: dict[str, Any]) -> int:
    """Return the number of a job's finished attempts."""
    return sum(attempt["outcome"] == "finished" for attempt in job["attempts"])


if __name__ == "__main__":
    raise SystemExit(main())
