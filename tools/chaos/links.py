"""One run on several hosts: submit jobs while links are cut, and collect the figures."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from tools.chaos.caller import Caller
from tools.chaos.hosts import Hosts
from tools.chaos.report import committed_twice, lost
from tools.chaos.run import PATIENCE, TICK, Outcome, read_final_state

#: Maximum seconds for a recovery.
LONGEST_RECOVERY: Final = 90.0

#: Maximum number of unfinished jobs: more than end during a cut, so that the caller always has jobs to submit.
WINDOW: Final = 16

#: Maximum number of cuts of a worker's link until one hits a running job.
TRIES: Final = 10

#: Seconds with all links in place before the first cut, and after each recovery.
QUIET: Final = 3.0


@dataclass
class Cut:
    """A link that was cut at `at`, in seconds since the epoch, for `seconds`.

    Attributes:
        hit: attempts that ran on the host, as job id and number.
        whole: seconds from the reconnection until a caller found all hosts healthy; None: not in time.
    """

    host: str
    at: float
    seconds: float
    hit: list[tuple[str, int]] = field(default_factory=list)
    whole: float | None = None


def run(
    hosts: Hosts, *, jobs: int, seed: int, seconds: float, lease: float, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Submit at least `jobs` jobs, and until the last cut is over; meanwhile cut the links of a worker, of Redis and of
    the store, one after the other, for `seconds` each. Return JSON values; `say` is called with progress.
    """
    outcome, cuts = Outcome(seed, seconds), list[Cut]()
    caller = Caller(hosts.url, hosts.use_cases(), jobs=10**9, seed=seed, window=WINDOW)
    began = time.monotonic()
    caller.start()
    try:
        for host in ("worker1", "redis", "store"):
            time.sleep(QUIET)
            say(f"{host} is cut off for {seconds:g} s")
            cuts.append(_cut(hosts, host, seconds))
        say("all links are restored; waiting for the jobs")
        _wait(lambda: len(caller.seen) >= jobs, PATIENCE)
        caller.enough()
        _wait(lambda: not caller.is_alive(), PATIENCE)
    finally:
        caller.give_up()
    caller.join()
    outcome.wall = time.monotonic() - began
    read_final_state(hosts, caller, outcome)
    return _figures(outcome, cuts, lease, hosts.files())


def _cut(hosts: Hosts, host: str, seconds: float) -> Cut:
    cut = _disconnect(hosts, host, seconds)
    time.sleep(seconds)
    hosts.mend(host)
    mended = time.monotonic()
    if _wait(hosts.whole, LONGEST_RECOVERY):
        cut.whole = time.monotonic() - mended
    return cut


def _disconnect(hosts: Hosts, host: str, seconds: float) -> Cut:
    """Cut the host's link; repeat it for a worker until that was running a job, at most `TRIES` times."""
    working = host.startswith("worker")
    for _ in range(TRIES if working else 0):
        _wait(lambda: hosts.running_on(host), LONGEST_RECOVERY)
        hosts.cut(host)
        cut = Cut(host, time.time(), seconds, hosts.running_on(host))
        if cut.hit:
            return cut
        hosts.mend(host)  # the job had just ended
    hosts.cut(host)
    return Cut(host, time.time(), seconds)


def _wait(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(TICK)
    return True


def _figures(outcome: Outcome, cuts: list[Cut], lease: float, files: list[str]) -> dict[str, Any]:
    jobs = [sighting.last for sighting in outcome.seen.values()]
    return {
        "seed": outcome.seed,
        "seconds": round(outcome.wall, 1),
        "lease": lease,
        "accepted": len(jobs),
        "created": outcome.created,
        "rejected": outcome.rejected,
        "repeated_submissions": outcome.repeats,
        "finished": sum(job["status"] == "finished" for job in jobs),
        "cancelled": sum(job["status"] == "cancelled" for job in jobs),
        "failed": [job["error"]["code"] for job in jobs if job["status"] == "failed"],
        "lost": lost(outcome),
        "committed_twice": committed_twice(outcome),
        "files_on_hosts": files,
        "remarks": outcome.remarks,
        "orphaned_objects": len(outcome.orphans),
        "cuts": [_cut_figures(cut, outcome, jobs) for cut in cuts],
    }


def _cut_figures(cut: Cut, outcome: Outcome, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    taken_back, restarted = [], []
    for job_id, number in cut.hit:
        attempts = outcome.seen[job_id].last["attempts"]
        if len(attempts) > number:
            taken_back.append(_moment(attempts[number - 1]["ended_at"]) - cut.at)
            restarted.append(_moment(attempts[number]["started_at"]) - cut.at)
    mended = cut.at + cut.seconds
    ends = sorted(_moment(job["ended_at"]) for job in jobs if job["status"] == "finished")
    return {
        **asdict(cut),
        "hit": len(cut.hit),
        "repeated": len(restarted),
        "taken_back": max(taken_back, default=None),
        "restarted": max(restarted, default=None),
        "finished_meanwhile": sum(cut.at < end < mended for end in ends),
        "finished_again": next((end - mended for end in ends if end >= mended), None),
        "accepted_meanwhile": sum(cut.at < _moment(job["created_at"]) < mended for job in jobs),
    }


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def table(figures: dict[str, Any]) -> str:
    """Format the figures as text."""
    rows = [
        ("seed", figures["seed"]),
        ("seconds", figures["seconds"]),
        ("accepted", f"{figures['accepted']} ({figures['repeated_submissions']} submissions retried)"),
        ("finished", figures["finished"]),
        ("failed", ", ".join(figures["failed"]) or 0),
        ("cancelled", figures["cancelled"]),
        ("LOST", len(figures["lost"])),
        ("COMMITTED TWICE", len(figures["committed_twice"])),
        ("files on hosts", f"{len(figures['files_on_hosts'])} (images and videos on any host's own disk)"),
        ("orphaned objects", f"{figures['orphaned_objects']} (maintenance deletes them)"),
        *(("lost", f"{job_id}: {state}") for job_id, state in figures["lost"].items()),
        *(("committed twice", f"{job_id}: {how}") for job_id, how in figures["committed_twice"].items()),
        *(("rejected", text) for text in figures["rejected"]),
        *(("remark", text) for text in figures["remarks"]),
    ]
    if figures["created"] != figures["accepted"]:
        rows.append(("remark", f"the ledger has created {figures['created']} jobs"))
    lines = [f"{name:<16} {value}" for name, value in rows]
    head = ("cut off", "for", "hit", "repeated", "requeued", "restarted", "meanwhile", "healthy", "next end")
    lines += ["", " ".join(f"{name:>10}" for name in head)]
    for cut in figures["cuts"]:
        cells = [cut["host"], _seconds(cut["seconds"]), cut["hit"], cut["repeated"]]
        cells += [_seconds(cut["taken_back"]), _seconds(cut["restarted"]), cut["finished_meanwhile"]]
        cells += [_seconds(cut["whole"]), _seconds(cut["finished_again"])]
        lines.append(" ".join(f"{cell:>10}" for cell in cells))
    return "\n".join(
        [
            *lines,
            "",
            "hit, repeated: attempts that ran on the disconnected host, and those repeated elsewhere;",
            "requeued, restarted: longest time from the cut; meanwhile: jobs that finished during the cut;",
            "healthy, next end: time from the reconnection until /health was complete, and until a job finished.",
        ]
    )


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def passed(figures: dict[str, Any]) -> bool:
    """Return whether no job was lost, committed or created twice, every host recovered, and no host kept files."""
    return (
        not figures["lost"]
        and not figures["committed_twice"]
        and figures["created"] == figures["accepted"]
        and not figures["files_on_hosts"]
        and all(cut["whole"] is not None for cut in figures["cuts"])
    )
