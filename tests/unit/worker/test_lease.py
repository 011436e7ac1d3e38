import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from svd_service.jobs.model import Model
from svd_service.ledger import Ledger
from svd_service.ledger.workers import DeviceMemory, WorkerStatus
from svd_service.worker.lease import Lease
from svd_service.worker.shared_memory import Drain

STATUS = WorkerStatus("host/0", "NVIDIA stand-in", "instance", 1, "nano", True, 0.0, 1.0)


@pytest.fixture
def lease(ledger: Ledger) -> Iterator[Callable[..., Lease]]:
    made: list[Lease] = []

    def make(**what: Callable[[], Any]) -> Lease:
        made.append(Lease(ledger, STATUS, 10.0, Drain(), **what))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_a_heartbeat_has_the_devices_current_memory_use(ledger: Ledger, lease: Callable[..., Lease]) -> None:
    used = iter((DeviceMemory(100, 10, 5), DeviceMemory(100, 90, 80), None))
    beating = lease(memory=lambda: next(used, None))
    for expected in (DeviceMemory(100, 10, 5), DeviceMemory(100, 90, 80), None):
        beating._beat()
        (worker,) = ledger.workers.ready()
        assert worker.device_memory == expected


def test_a_model_whose_description_redis_lost_is_introduced_again(
    ledger: Ledger, lease: Callable[..., Lease], redis_client: "redis.Redis"
) -> None:
    model = Model("nano", "nano")
    beating = lease(introduce=lambda: ledger.workers.introduce(model))
    for _ in range(2):
        redis_client.flushall()
        beating._beat()
        assert ledger.workers.model("nano") == model


def test_the_heartbeat_continues_after_an_error(
    ledger: Ledger, lease: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("svd_service.worker.lease.CHECK", 0.01)
    monkeypatch.setattr("svd_service.worker.lease.HEARTBEAT", 0.01)
    beats, again = itertools.count(), threading.Event()

    def memory() -> None:
        number = next(beats)
        if number == 1:  # the first call is that of `start`
            raise RuntimeError("an unexpected error")
        if number > 2:
            again.set()

    lease(memory=memory).start()
    assert again.wait(30)
    assert "an unexpected error" in caplog.text


def test_a_device_without_its_own_memory_reports_none(ledger: Ledger, lease: Callable[..., Lease]) -> None:
    lease().start()
    (worker,) = ledger.workers.ready()
    assert (worker.worker, worker.device_memory) == ("host/0", None)
