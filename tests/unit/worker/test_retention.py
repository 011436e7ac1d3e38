import threading

import pytest

from svd_service.errors import UnavailableError
from svd_service.worker import retention
from svd_service.worker.retention import Retention


class Failing:
    """Jobs whose retention fails at first, with one error after the other."""

    def __init__(self) -> None:
        self.errors: list[Exception] = [UnavailableError("away"), RuntimeError("an unexpected error")]
        self.done = threading.Event()

    def expire(self) -> int:
        if self.errors:
            raise self.errors.pop(0)
        self.done.set()
        return 0


def test_retention_continues_after_an_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(retention, "ROUND", 0.01)
    jobs = Failing()
    Retention(jobs).start()  # type: ignore[arg-type]
    assert jobs.done.wait(30)
    assert "postponed: away" in caplog.text
    assert "an unexpected error" in caplog.text
