"""Parser of server-sent events from a stream of lines (the WHATWG's HTML standard, 9.2)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event: its name ("message" unless it has one), its data, and the last id received."""

    name: str
    data: str
    id: str


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events in `lines`; comments and unused fields (`retry`) are skipped."""
    name, data, last_id = "message", list[str](), ""
    for line in lines:
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Event(name, "\n".join(data), last_id)
            name, data = "message", []
        elif key == "data":
            data.append(value)
        elif key == "event":
            name = value
        elif key == "id":
            last_id = value
