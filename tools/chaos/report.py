"""The report of a run: figures as JSON, a table, and whether it passed."""

from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from typing import Any

from tools.benchmark.report import quantile
from tools.chaos.run import Hit, Outcome


def report(outcome: Outcome) -> dict[str, Any]:
    """Return the figures of a run as JSON values."""
    seen = outcome.seen
    ends = Counter(str(sighting.last.get("status")) for sighting in seen.values() if sighting.ended)
    failed = Counter(s.last["error"]["code"] for s in seen.values() if s.last.get("status") == "failed")
    return {
        "seed": outcome.seed,
        "fault_interval": outcome.interval,
        "seconds": round(outcome.wall, 1),
        "faults": dict(sorted(outcome.faults.items())),
        "faults_without_target": outcome.missed,
        "accepted": len(seen),
        "rejected": outcome.rejected,
        "created": outcome.created,
        "repeated_submissions": outcome.repeats,
        "finished": ends["finished"],
        "failed": dict(sorted(failed.items())),
        "cancelled": ends["cancelled"],
        "deleted": sum(sighting.deleted for sighting in seen.values()),
        "lost": lost(outcome),
        "committed_twice": committed_twice(outcome),
        "served": sum(sighting.served for sighting in seen.values()),
        "served_unsigned": sum(sighting.unsigned for sighting in seen.values()),
        "attempts": dict(sorted(Counter(len(s.last.get("attempts", ())) for s in seen.values()).items())),
        "recovery": recovery(outcome),
        "load_seconds": outcome.load_seconds,
        "orphaned_files": len(outcome.orphans),
        "remarks": outcome.remarks,
        "hostile_uploads": dict(sorted(outcome.hostile_uploads.items())),
        "usage": outcome.usage,
        "usage_errors": usage_errors(outcome),
    }


def lost(outcome: Outcome) -> dict[str, str]:
    """Return the accepted jobs that did not end, with the last state that was observed."""
    return {
        job_id: "unknown" if sighting.unknown else str(sighting.last.get("status"))
        for job_id, sighting in outcome.seen.items()
        if (sighting.unknown and not sighting.deleted) or not sighting.ended
    }


def usage_errors(outcome: Outcome) -> dict[str, str]:
    """Return the amounts of the recorded usage that differ from the sums over the jobs.

    The result is empty if a record was deleted or a job has not ended, since the sums are incomplete then.
    """
    if not outcome.usage or any(sighting.deleted or not sighting.ended for sighting in outcome.seen.values()):
        return {}
    sums: dict[str, float] = defaultdict(float)
    for sighting in outcome.seen.values():
        job = sighting.last
        sums["submitted"] += 1
        sums[job["status"]] += 1
        if job["result"] is not None:
            sums["frames"] += job["result"]["frames"]
            sums["bytes"] += sum(file["bytes"] for file in job["result"]["files"])
        for attempt in job["attempts"]:
            charged = attempt["outcome"] in {"finished", "cancelled"}
            name = "device_seconds" if charged else "failed_device_seconds"
            sums[name] += round(1000 * attempt["device_seconds"])
    for name in ("device_seconds", "failed_device_seconds"):
        sums[name] /= 1000
    return {
        name: f"recorded {amount}, sum over the jobs {sums[name]}"
        for name, amount in outcome.usage.items()
        if amount != sums[name]
    }


def committed_twice(outcome: Outcome) -> dict[str, str]:
    """Return the jobs that had more than one result or left an end state.

    A job counts if a second result or another state after its end was observed, or if two of its attempts finished.
    The entry `counter` says that the ledger counted more results than there are finished jobs.
    """
    twice: dict[str, str] = {}
    for job_id, sighting in outcome.seen.items():
        outcomes = [attempt["outcome"] for attempt in sighting.last.get("attempts", ())]
        if len(sighting.results) > 1:
            twice[job_id] = " and ".join(sighting.results)
        elif sighting.reopened:
            twice[job_id] = "it left its end state"
        elif outcomes.count("finished") > 1:
            twice[job_id] = "two attempts finished"
    finished = sum(sighting.last.get("status") == "finished" for sighting in outcome.seen.values())
    if outcome.counted_finished != finished and not lost(outcome):
        twice["counter"] = f"{outcome.counted_finished} results for {finished} finished jobs"
    return twice


def recovery(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Return by kind of fault the attempts that it hit, how many survived, and seconds until the others restarted.

    An attempt that several faults hit counts for the last one that hit its worker. Two times are reported: from the
    fault to the restart, and how much of that a worker was ready to claim the job (`…_ready`): if two workers are hit
    one after the other, most of the former is model loading.
    """
    struck: dict[tuple[str, int], Hit] = {}
    for hit in outcome.hits:
        place = (hit.job_id, hit.attempt)
        if place not in struck or hit.kind.startswith(("child", "worker", "host")):
            struck[place] = hit
    found: dict[str, dict[str, Any]] = {}
    for kind in sorted({hit.kind for hit in struck.values()}):
        seconds, ready, unharmed, over = [], [], 0, 0
        for hit in struck.values():
            if hit.kind != kind:
                continue
            attempts = outcome.seen[hit.job_id].last.get("attempts", ()) if hit.job_id in outcome.seen else ()
            if len(attempts) > hit.attempt:
                restart = datetime.fromisoformat(attempts[hit.attempt]["started_at"]).timestamp()
                seconds.append(restart - hit.at)
                ready.append(_ready_between(outcome, hit.at, restart))
            elif attempts and attempts[-1]["outcome"] in {"finished", "cancelled"}:
                unharmed += 1
            else:
                over += 1
        found[kind] = {"hit": len(seconds) + unharmed + over, "unharmed": unharmed, "not_repeated": over}
        if seconds:
            found[kind] |= _quantiles(seconds, "") | _quantiles(ready, "_ready")
    return found


def _ready_between(outcome: Outcome, begin: float, end: float) -> float:
    """Return the seconds between `begin` and `end` in which a worker was ready."""
    total = 0.0
    for (at, ready), (until, _) in pairwise(outcome.ready):
        if ready:
            total += max(0.0, min(until, end) - max(at, begin))
    return total


def _quantiles(values: list[float], suffix: str) -> dict[str, float]:
    found = {"p50": quantile(values, 0.5), "p95": quantile(values, 0.95), "max": max(values)}
    return {f"{name}{suffix}": round(value, 2) for name, value in found.items()}


def table(figures: dict[str, Any]) -> str:
    """Format the figures as text."""
    faults = ", ".join(f"{number} {kind}" for kind, number in figures["faults"].items())
    attempts = ", ".join(f"{number} jobs with {attempts}" for attempts, number in figures["attempts"].items())
    failed = ", ".join(f"{code} {number}" for code, number in figures["failed"].items()) or 0
    statuses: Counter[str] = Counter()
    for answer, number in figures["hostile_uploads"].items():
        statuses[answer.rpartition(": ")[2]] += number
    uploads = ", ".join(f"{number} answered with {status}" for status, number in sorted(statuses.items())) or 0
    rows = [
        ("seed", figures["seed"]),
        ("seconds", figures["seconds"]),
        ("faults", f"{sum(figures['faults'].values())}: {faults}"),
        ("accepted", f"{figures['accepted']} ({figures['repeated_submissions']} submissions retried)"),
        ("finished", figures["finished"]),
        ("failed", failed),
        ("cancelled", figures["cancelled"]),
        ("deleted", figures["deleted"]),
        ("attempts", attempts),
        ("hostile uploads", uploads),
        ("videos served", figures["served"]),
        ("SERVED UNSIGNED", figures["served_unsigned"]),
        ("LOST", len(figures["lost"])),
        ("COMMITTED TWICE", len(figures["committed_twice"])),
        ("usage", f"{'WRONG' if figures['usage_errors'] else 'the sum of the jobs'}: {figures['usage']}"),
        ("orphaned files", f"{figures['orphaned_files']} (maintenance deletes them)"),
        *(("lost", f"{job_id}: {state}") for job_id, state in figures["lost"].items()),
        *(("usage", f"{name}: {how}") for name, how in figures["usage_errors"].items()),
        *(("committed twice", f"{job_id}: {how}") for job_id, how in figures["committed_twice"].items()),
        *(("rejected", text) for text in figures["rejected"]),
        *(("remark", text) for text in figures["remarks"]),
    ]
    if figures["created"] != figures["accepted"]:
        rows.append(("remark", f"the ledger has created {figures['created']} jobs"))
    lines = [f"{name:<16} {value}" for name, value in rows]
    names = ("p50", "p95", "max", "p50_ready", "p95_ready", "max_ready")
    lines += ["", f"{'':<16} {'':>4} {'':>9} {'fault to restart, s':>23} {'with a worker ready':>23}"]
    lines += [
        f"{'fault':<16} {'hit':>4} {'unharmed':>9} " + " ".join(f"{name:>7}" for name in ("p50", "p95", "max") * 2)
    ]
    for kind, values in figures["recovery"].items():
        times = "".join(f" {values[name]:7.1f}" if name in values else f" {'–':>7}" for name in names)
        lines.append(f"{kind:<16} {values['hit']:>4} {values['unharmed']:>9}{times}")
    return "\n".join(lines)


def passed(figures: dict[str, Any]) -> bool:
    """Return whether the run passed: no job lost, committed twice or served unsigned, correct usage, and as many jobs
    created as accepted.
    """
    faults = figures["lost"] or figures["committed_twice"] or figures["served_unsigned"] or figures["usage_errors"]
    return not faults and bool(figures["created"] == figures["accepted"])
