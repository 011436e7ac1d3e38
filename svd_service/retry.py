"""The retry loop of the client's requests, of uploads, of the end of an attempt and of a webhook's outcome.

It does not use a library since the client, which has three dependencies, needs it too, and since some callers share
one time limit among several operations and check for cancellation between the attempts.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """Calls an operation until it succeeds, fails with an error not in `on`, or `patience` is over.

    Args:
        on: errors after which the operation is retried.
        patience: seconds after the start beyond which no attempt begins; by default there is no limit.
        first_pause: seconds between the first two attempts; each further pause is `factor` times the one before,
            `longest_pause` at most.
        jitter: share by which a pause is randomly longer or shorter, so that many callers do not retry at once.
        is_worthwhile: whether to retry after this error.
        before_pause: called with the error and the seconds of the pause; it may log, or raise to stop.
    """

    on: type[Exception] | tuple[type[Exception], ...]
    patience: float = float("inf")
    first_pause: float = 0.1
    longest_pause: float = 2.0
    factor: float = 2.0
    jitter: float = 0.0
    is_worthwhile: Callable[[Exception], bool] = lambda _: True
    before_pause: Callable[[Exception, float], object] = lambda *_: None

    def __call__(self, operation: Callable[[], T]) -> T:
        """Run `operation` with retries; returns its result.

        Raises:
            Exception: the operation's last error.
        """
        deadline = time.monotonic() + self.patience
        for pause in pauses(self.first_pause, self.longest_pause, factor=self.factor, jitter=self.jitter):
            try:
                return operation()
            except self.on as error:
                if not self.is_worthwhile(error) or time.monotonic() + pause > deadline:
                    raise
                self.before_pause(error, pause)
            time.sleep(pause)
        raise AssertionError("there is always another pause")


def pauses(first: float, longest: float, *, factor: float = 2.0, jitter: float = 0.0) -> Iterator[float]:
    """Yield the seconds of each pause, without end; see `Retry`."""
    pause = first
    while True:
        yield pause * random.uniform(1 - jitter, 1 + jitter)  # noqa: S311 - no secret
        pause = min(pause * factor, longest)
