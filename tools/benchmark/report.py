"""Figures: summaries, tables, JSON files and targets."""

import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any


class BenchmarkError(Exception):
    """A measurement is invalid; the message has the reason."""


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """Return number, minimum, quartiles and maximum of values; `spread` is the interquartile range by the median."""
    low, median, high = quartiles(values)
    return {
        "n": len(values),
        "least": round(min(values), 6),
        "lower_quartile": round(low, 6),
        "median": round(median, 6),
        "upper_quartile": round(high, 6),
        "greatest": round(max(values), 6),
        "spread": round((high - low) / median, 4) if median else 0.0,
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | int]:
    """Compare alternating measurements, `ours[i]` with `theirs[i]`.

    `of_medians`, the ratio of the medians, is what targets use; `median` and the quartiles are of the pairs' ratios.
    """
    pairs = [our / their for our, their in zip(ours, theirs, strict=True)]
    of_medians = statistics.median(ours) / statistics.median(theirs)
    return {"of_medians": round(of_medians, 4), **summary(pairs)}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with its title."""
    print(f"\n{title}\n\n{table(head, rows)}\n", flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a table in Markdown."""
    cells = [[_text(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 100 else f"{cell:,.0f}"
    return "" if cell is None else str(cell)


@contextmanager
def kept(path: Path, result: dict[str, Any]) -> Iterator[None]:
    """Write `result` as JSON to `path` when the block ends, even by an exception, so that no measurement is lost."""
    try:
        yield
    except BaseException as error:
        result["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        save(path, result)
        print(f"All figures: {path}")


def save(path: Path, result: dict[str, Any]) -> None:
    """Write `result` as JSON to `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def bar(name: str, value: float, limit: float) -> dict[str, Any]:
    """Return a target, the measured value, and whether it is met."""
    return {"bar": name, "measured": round(value, 4), "at_most": limit, "holds": value <= limit}


def show_bars(bars: Sequence[dict[str, Any]]) -> bool:
    """Print the targets; return whether all of them are met."""
    rows = [(bar["bar"], bar["measured"], bar["at_most"], "met" if bar["holds"] else "MISSED") for bar in bars]
    show("Targets", ("target", "measured", "maximum", ""), rows)
    return all(bar["holds"] for bar in bars)
