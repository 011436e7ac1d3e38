import time
from itertools import islice

import pytest

from svd_service.retry import Retry, pauses


class AwayError(Exception):
    pass


class Operation:
    """Fails `failures` times, then succeeds."""

    def __init__(self, failures: int, error: type[Exception] = AwayError) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(str(self.calls))
        return self.calls


@pytest.fixture(name="slept", autouse=True)
def _slept(monkeypatch):
    """Replaces pauses: they advance the clock instead of taking time."""
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return slept


def test_an_operation_is_retried_until_it_succeeds(slept):
    assert Retry(AwayError, first_pause=1.0, longest_pause=3.0)(Operation(4)) == 5
    assert slept == [1.0, 2.0, 3.0, 3.0]


def test_another_error_is_not_retried(slept):
    with pytest.raises(KeyError):
        Retry(AwayError)(Operation(1, KeyError))
    assert slept == []


def test_no_attempt_begins_after_the_time_limit_and_the_last_error_is_raised(slept):
    operation = Operation(100)
    with pytest.raises(AwayError, match="4"):
        Retry(AwayError, patience=3.5, first_pause=1.0, factor=1.0)(operation)
    assert operation.calls == 4


def test_an_error_that_is_not_worth_a_retry_is_raised_at_once():
    operation = Operation(3)
    with pytest.raises(AwayError, match="2"):
        Retry(AwayError, is_worthwhile=lambda error: str(error) == "1")(operation)
    assert operation.calls == 2


def test_the_callback_before_a_pause_gets_the_error_and_may_stop_the_retries(slept):
    seen = []

    def callback(error: Exception, pause: float) -> None:
        seen.append((str(error), pause))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Retry(AwayError, first_pause=1.0, factor=1.0, before_pause=callback)(Operation(9))
    assert seen == [("1", 1.0), ("2", 1.0)]
    assert slept == [1.0]


def test_pauses_vary_by_their_jitter():
    spread = list(islice(pauses(1.0, 1.0, jitter=0.1), 200))
    assert 0.9 <= min(spread) < 0.95
    assert 1.05 < max(spread) <= 1.1
