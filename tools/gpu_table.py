#!/usr/bin/env python3
"""Turn the JSON of `scripts/gpu_day.sh` into the tables of docs/performance.md.

usage: python -m tools.gpu_table gpu-day.json            print the tables
       python -m tools.gpu_table gpu-day.json --write    insert them into docs/performance.md between its two markers
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tools.benchmark import machine
from tools.benchmark.report import table
from tools.harness.local import ROOT

PAGE: Final = ROOT / "docs" / "performance.md"

BEGIN: Final = "<!-- gpu-day: begin -->"
END: Final = "<!-- gpu-day: end -->"

PHASES: Final = ("preparing", "sampling", "decoding", "encoding")


def main() -> None:
    """Print the tables, or insert them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    text = tables(json.loads(chosen.json.read_text(encoding="utf-8")))
    if chosen.write:
        PAGE.write_text(inserted(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text)


def inserted(page: str, text: str) -> str:
    """Return the page with `text` between its markers.

    Raises:
        ValueError: the page lacks the markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text.strip()}\n{END}{after}"


def tables(day: dict[str, Any]) -> str:
    """Return all tables as Markdown, with the reason for each case that was not measured."""
    benchmark = day["steps"].get("benchmark", {})
    parts = [_introduction(day, benchmark)]
    if benchmark.get("cases"):
        parts.append(_cases(benchmark["cases"]))
    if benchmark.get("bars"):
        parts.append(_bars(benchmark["bars"]))
    parts.append(_rest(day, benchmark))
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(day: dict[str, Any], benchmark: dict[str, Any]) -> str:
    where = benchmark.get("machine", day["machine"])
    rate = benchmark.get("ceilings")
    best = f" Measured maximum: {rate['tflops']:.4g} TFLOP/s and {rate['gb_a_second']:.4g} GB/s." if rate else ""
    return (
        f"{day['architecture']} with random weights on {where.get('device', day['device'])}.{best} "
        f"Seconds are medians.\n{machine.in_words(where)}. `scripts/gpu_day.sh`, {day['at'][:10]}."
    )


def _cases(cases: dict[str, Any]) -> str:
    head = ("", "seconds", *PHASES, "frames/s", "share of limit", "peak GB", "first video, s")
    return table(
        head,
        [
            (
                name,
                case["seconds"]["median"],
                *(case["phases"][phase]["median"] for phase in PHASES),
                case["frames_a_second"],
                case["mfu"]["whole"],
                case["peak_gb"],
                case["first_seconds"],
            )
            for name, case in cases.items()
        ],
    )


def _bars(bars: Sequence[dict[str, Any]]) -> str:
    rows = [(bar["bar"], bar["measured"], bar["at_most"], "yes" if bar["holds"] else "**no**") for bar in bars]
    return table(("limit", "measured", "at most", "holds"), rows)


def _rest(day: dict[str, Any], benchmark: dict[str, Any]) -> str:
    lines = []
    if (tests := day["steps"].get("tests", {})).get("tests") is not None:
        failed = tests["failures"] + tests["errors"]
        lines.append(f"GPU tests: {tests['tests']}, of which {failed} failed and {tests['skipped']} were skipped.")
    elif "tests" in day["steps"]:
        lines.append("GPU tests: they did not end in time.")
    failed_cases = benchmark.get("failed", {})
    lines += [f"{name} failed: {reason}" for name, reason in failed_cases.items()]
    done = {*benchmark.get("cases", ()), *failed_cases}
    if left_out := [name for name in benchmark.get("planned", ()) if name not in done]:
        lines.append(f"Not measured, for want of time: {', '.join(left_out)}.")
    if "sensors" in day and "reason" not in day["sensors"]:
        sensors = [
            f"{name} {each['median']:.4g} ({each['least']:.4g} to {each['greatest']:.4g})"
            for name, each in day["sensors"].items()
        ]
        lines.append(f"Sensors, medians and ranges: {', '.join(sensors)}.")
    if "stopped" in day:
        lines.append(f"The run was stopped ({day['stopped']}).")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
