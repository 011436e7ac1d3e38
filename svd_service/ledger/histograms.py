"""Histograms of seconds, as the scripts keep them among the counters (`lua/lib/histogram.lua`)."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Self

#: Upper bounds of the buckets of a job's wait and duration, in seconds: from a tiny model's second to a day's queue.
JOB_BOUNDS: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400)

#: Those of a denoising step: from a small model on a GPU to the full one on a CPU.
STEP_BOUNDS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)

#: The last bucket, as in Prometheus' formats.
INFINITY: Final = "+Inf"


@dataclass(frozen=True)
class Histogram:
    """`seconds` is the sum of all values; `buckets` has, for each upper bound (the last is infinite), how many are not
    greater.
    """

    buckets: tuple[tuple[float, int], ...]
    seconds: float

    @classmethod
    def of(cls, numbers: Mapping[str, int], seconds: float, bounds: Iterable[float], count: int = 0) -> Self:
        """The histogram of the `numbers` of values in each bucket, with at least the buckets of `bounds`.

        Values of releases that counted no buckets are in the last one: `count` is the number of all values.
        """
        found = dict.fromkeys([*bounds, math.inf], 0) | {float(bound): number for bound, number in numbers.items()}
        found[math.inf] += max(count - sum(found.values()), 0)
        bounds = sorted(found)
        return cls(tuple(zip(bounds, accumulate(found[bound] for bound in bounds), strict=True)), seconds)

    @property
    def count(self) -> int:
        """The number of all values."""
        return self.buckets[-1][1]


def bucket_of(seconds: float, bounds: tuple[float, ...]) -> str:
    """The upper bound of the bucket of `seconds`, as the scripts spell it."""
    place = bisect_left(bounds, seconds)
    return f"{bounds[place]:g}" if place < len(bounds) else INFINITY
