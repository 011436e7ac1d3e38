"""One run over several hosts: callers on the one side, cables that are pulled on the other, and what came of it."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from tools.chaos.caller import Caller
from tools.chaos.hosts import Hosts
from tools.chaos.report import committed_twice, lost
from tools.chaos.run import PATIENCE, TICK, Outcome, take_stock

#: Seconds after which what has not come back counts as not back.
LONGEST_RECOVERY: Final = 90.0

#: Jobs under way at a time: more than end while a cable is away, so that there are always some to submit.
WINDOW: Final = 16

#: How often a worker's cable is pulled until that is in the middle of a job.
TRIES: Final = 10

#: Seconds with all cables in place before the first is pulled, and after each recovery.
QUIET: Final = 3.0


@dataclass
class Cut:
    """A cable that was pulled `at` seconds since the epoch, for `seconds`.

    Attributes:
        hit: attempts that ran on the host, and so were cut off, as job and number.
        whole: seconds after the cable was back until all hosts were well again, as a caller sees it.
    """

    host: str
    at: float
    seconds: float
    hit: list[tuple[str, int]] = field(default_factory=list)
    whole: float | None = None


def run(
    hosts: Hosts, *, jobs: int, seed: int, seconds: float, lease: float, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Submit jobs, `jobs` at least and until the last fault is over, and pull the cables of a worker, of Redis and of
    the store for so many seconds each, one after the other. Returns JSON values; `say` is called with progress.
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
        say("all cables are back; waiting for the jobs")
        _wait(lambda: len(caller.seen) >= jobs, PATIENCE)
        caller.enough()
        _wait(lambda: not caller.is_alive(), PATIENCE)
    finally:
        caller.give_up()
    caller.join()
    outcome.wall = time.monotonic() - began
    take_stock(hosts, caller, outcome)
    return _figures(outcome, cuts, lease, hosts.files())


def _cut(hosts: Hosts, host: str, seconds: float) -> Cut:
    cut = _pull(hosts, host, seconds)
    time.sleep(seconds)
    hosts.mend(host)
    mended = time.monotonic()
    if _wait(hosts.whole, LONGEST_RECOVERY):
        cut.whole = time.monotonic() - mended
    return cut


def _pull(hosts: Hosts, host: str, seconds: float) -> Cut:
    """Cut the host off; a worker in the middle of a job, if there is any in `TRIES` tries."""
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
        "refused": outcome.refused,
        "repeated_submissions": outcome.repeats,
        "finished": sum(job["status"] == "finished" for job in jobs),
        "cancelled": sum(job["status"] == "cancelled" for job in jobs),
        "failed": [job["error"]["code"] for job in jobs if job["status"] == "failed"],
        "lost": lost(outcome),
        "committed_twice": committed_twice(outcome),
        "files_on_hosts": files,
        "remarks": outcome.remarks,
        "orphaned_objects": len(outcome.orphans),
        "cuts": [_told(cut, outcome, jobs) for cut in cuts],
    }


def _told(cut: Cut, outcome: Outcome, jobs: list[dict[str, Any]]) -> dict[str, Any]:
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
    """The figures for people."""
    rows = [
        ("seed", figures["seed"]),
        ("seconds", figures["seconds"]),
        ("accepted", f"{figures['accepted']} ({figures['repeated_submissions']} submissions repeated)"),
        ("finished", figures["finished"]),
        ("failed", ", ".join(figures["failed"]) or 0),
        ("cancelled", figures["cancelled"]),
        ("LOST", len(figures["lost"])),
        ("COMMITTED TWICE", len(figures["committed_twice"])),
        ("files on hosts", f"{len(figures['files_on_hosts'])} (pictures and videos on any host's own disk)"),
        ("orphaned objects", f"{figures['orphaned_objects']} (the sweep's)"),
        *(("lost", f"{job_id}: {state}") for job_id, state in figures["lost"].items()),
        *(("committed twice", f"{job_id}: {how}") for job_id, how in figures["committed_twice"].items()),
        *(("refused", text) for text in figures["refused"]),
        *(("remark", text) for text in figures["remarks"]),
    ]
    if figures["created"] != figures["accepted"]:
        rows.append(("remark", f"the ledger has made {figures['created']} jobs"))
    lines = [f"{name:<16} {value}" for name, value in rows]
    head = ("cut off", "for", "hit", "repeated", "taken back", "restarted", "meanwhile", "whole", "next end")
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
            "hit, repeated: attempts under way on the host that was cut off, and those begun anew elsewhere;",
            "taken back, restarted: from the cut to that, the longest; meanwhile: jobs that finished during the cut;",
            "whole, next end: from the cable's return until /health tells of everything again, and a job finished.",
        ]
    )


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def passed(figures: dict[str, Any]) -> bool:
    """Whether no job was lost, committed or created twice, every host came back, and each kept to its own disk."""
    return (
        not figures["lost"]
        and not figures["committed_twice"]
        and figures["created"] == figures["accepted"]
        and not figures["files_on_hosts"]
        and all(cut["whole"] is not None for cut in figures["cuts"])
    )
