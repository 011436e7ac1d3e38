"""Usage of an owner: jobs by end, device time, frames and bytes, by day and model."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Final, Self


@dataclass(frozen=True)
class Usage:
    """Amounts of one day, one model, or both together.

    Jobs: `submitted`, and by their end; `cached` of the finished ones are copies of earlier videos. `device_seconds` is
    the device time of attempts that made a video (their measured phases) or that the caller cancelled,
    `failed_device_seconds` that of all others. `frames` and `bytes` are those of the videos made.
    """

    submitted: int = 0
    finished: int = 0
    cached: int = 0
    failed: int = 0
    cancelled: int = 0
    device_seconds: float = 0.0
    failed_device_seconds: float = 0.0
    frames: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, amounts: Mapping[str, int]) -> Self:
        """The usage in the ledger's `amounts`, whose device times are in milliseconds."""
        counts = {each.name: amounts.get(each.name, 0) for each in fields(cls) if each.type is int}
        return cls(
            **counts,
            device_seconds=amounts.get("device_ms", 0) / 1000,
            failed_device_seconds=amounts.get("failed_device_ms", 0) / 1000,
        )

    def __add__(self, other: Self) -> "Usage":
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        sums |= {name: round(sums[name], 3) for name in ("device_seconds", "failed_device_seconds")}
        return Usage(**sums)


@dataclass(frozen=True)
class DayUsage:
    """The usage of one model on one day (UTC)."""

    day: date
    model: str
    usage: Usage


def total(records: Iterable[DayUsage]) -> Usage:
    """The sum of all records."""
    return sum((record.usage for record in records), Usage())


def grouped(records: Iterable[DayUsage], group: Callable[[DayUsage], str]) -> dict[str, Usage]:
    """The sums of the records with the same `group`, sorted by it."""
    sums: dict[str, Usage] = {}
    for record in records:
        name = group(record)
        sums[name] = sums.get(name, Usage()) + record.usage
    return dict(sorted(sums.items()))


#: How usage may be grouped: the name of a group in each.
GROUPS: Final[Mapping[str, Callable[[DayUsage], str]]] = {
    "day": lambda record: record.day.isoformat(),
    "model": lambda record: record.model,
}


def as_csv(name: str, sums: Mapping[str, Usage]) -> str:
    """The sums as CSV with a header; the first column is called `name`. RFC 4180, with CRLF."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([name, *(each.name for each in fields(Usage))])
    writer.writerows([group, *asdict(usage).values()] for group, usage in sums.items())
    return text.getvalue()
