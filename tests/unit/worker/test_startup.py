import threading

from svd_service.errors import UnavailableError
from svd_service.ledger.workers import Preparing
from svd_service.worker import startup
from svd_service.worker.startup import Preparation


class Reports:
    """A ledger that records reports, and is unavailable at first."""

    def __init__(self) -> None:
        self.received: list[Preparing] = []
        self.often = threading.Event()

    def prepare(self, report: Preparing) -> None:
        self.received.append(report)
        if len(self.received) >= 4:
            self.often.set()
        if len(self.received) == 1:
            raise UnavailableError("away")


def test_an_activity_is_reported_at_once_and_repeatedly_until_it_ends(monkeypatch) -> None:
    monkeypatch.setattr(startup, "HEARTBEAT", 0.01)
    ledger = Reports()
    with Preparation(ledger, "w/0") as preparation:  # type: ignore[arg-type]
        preparation.doing("loading the model")
        preparation.doing("warming up")
        first = [report.doing for report in ledger.received[:2]]
        assert first == ["loading the model", "warming up"] or len(ledger.received) > 2
        assert ledger.often.wait(30)
    assert ledger.received[-1].doing == "warming up"
    assert not preparation._thread.is_alive()


def test_a_download_is_reported_with_its_progress_while_loading(monkeypatch) -> None:
    monkeypatch.setattr(startup, "HEARTBEAT", 1e6)
    ledger = Reports()
    preparation = Preparation(ledger, "w/0")  # type: ignore[arg-type]
    preparation.doing("loading the model")
    for progress in ("1.2 of 4.5 GB (26 %), 35 MB/s", ""):
        preparation.download(progress)
        preparation._report()
    assert [report.doing for report in ledger.received] == [
        "loading the model",
        "downloading the model (1.2 of 4.5 GB (26 %), 35 MB/s)",
        "loading the model",
    ]
    assert len({report.since for report in ledger.received}) == 1
