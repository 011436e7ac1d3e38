"""The signals that end `svd-service up`."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignals:
    """Records the signals that end `up`: SIGINT (Ctrl-C), SIGTERM, SIGHUP. The same signal again means: at once."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    @property
    def wanted(self) -> bool:
        """Whether a signal was received."""
        return bool(self._received)

    @property
    def hurry(self) -> bool:
        """Whether a signal was received twice."""
        return len(self._received) > len(set(self._received))

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._received.append(number)
