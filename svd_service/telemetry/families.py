"""Metric families of a few shapes, made of figures that were computed elsewhere."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


class Buckets(Protocol):
    """Values in seconds: how many are at most each upper bound, the last of which is infinite, and their sum."""

    @property
    def buckets(self) -> Sequence[tuple[float, int]]:
        """Upper bounds, and the numbers of values up to them."""
        ...

    @property
    def seconds(self) -> float:
        """The sum."""
        ...


def optional_gauge(name: str, documentation: str, value: float | None) -> Metric:
    """Return a gauge, empty if `value` is `None`."""
    family = GaugeMetricFamily(name, documentation, labels=())
    if value is not None:
        family.add_metric((), value)
    return family


def from_zero(known: Iterable[str], found: Mapping[str, int]) -> dict[str, int]:
    """The counts of `found`, and 0 for each other label of `known`."""
    return dict.fromkeys(map(str, known), 0) | {str(label): value for label, value in found.items()}


def gauge(name: str, documentation: str, label: str, values: Mapping[str, int]) -> Metric:
    """Return a gauge with one label."""
    return _labelled(GaugeMetricFamily(name, documentation, labels=(label,)), values)


def counter(name: str, documentation: str, label: str, values: Mapping[str, int]) -> Metric:
    """Return a counter with one label; `_total` is added to its name."""
    return _labelled(CounterMetricFamily(name, documentation, labels=(label,)), values)


def histogram(
    name: str, documentation: str, labels: Sequence[str], values: Mapping[tuple[str, ...], Buckets]
) -> Metric:
    """Return a histogram, sorted by its labels."""
    family = HistogramMetricFamily(name, documentation, labels=labels)
    for names, value in sorted(values.items()):
        buckets = [("+Inf" if math.isinf(bound) else str(float(bound)), number) for bound, number in value.buckets]
        family.add_metric(names, buckets, value.seconds)
    return family


def _labelled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, int]) -> Metric:
    for label, value in sorted(values.items()):
        family.add_metric((label,), value)
    return family
