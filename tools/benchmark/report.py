"""Figures, how they are shown (a table) and kept (JSON)."""

import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any


class BenchmarkError(Exception):
    """A measurement is invalid: the message has what and why."""


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """Number, least, quartiles and greatest of some measurements; `spread` is the middle half's width by the median."""
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
    """How measurements that were taken in turns compare: `ours[i]` stands beside `theirs[i]`.

    `of_medians` is what a bar is about; `median` and the quartiles are those of the ratios, pair by pair.
    """
    pairs = [our / their for our, their in zip(ours, theirs, strict=True)]
    of_medians = statistics.median(ours) / statistics.median(theirs)
    return {"of_medians": round(of_medians, 4), **summary(pairs)}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def quantile(values: Sequence[float], share: float) -> float:
    """The least of the values that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with its title."""
    print(f"\n{title}\n\n{table(head, rows)}\n", flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, so that it can stand in a document as it is."""
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
    """Write `result` as JSON to `path` when the block has ended, however it ended: what was measured is not lost."""
    try:
        yield
    except BaseException as error:
        result["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        save(path, result)
        print(f"All of it: {path}")


def save(path: Path, result: dict[str, Any]) -> None:
    """Write `result` as JSON to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def bar(name: str, value: float, limit: float) -> dict[str, Any]:
    """A promise, what was measured, and whether it holds."""
    return {"bar": name, "measured": round(value, 4), "at_most": limit, "holds": value <= limit}


def show_bars(bars: Sequence[dict[str, Any]]) -> bool:
    """Print them; whether all of them hold."""
    rows = [(bar["bar"], bar["measured"], bar["at_most"], "holds" if bar["holds"] else "FAILS") for bar in bars]
    show("Bars", ("bar", "measured", "at most", ""), rows)
    return all(bar["holds"] for bar in bars)
