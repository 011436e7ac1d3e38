import threading

from svd_service.errors import UnavailableError
from svd_service.ledger.workers import Preparing
from svd_service.worker import startup
from svd_service.worker.startup import Preparation


class Heard:
    """A ledger that hears, and is away at first."""

    def __init__(self) -> None:
        self.heard: list[Preparing] = []
        self.often = threading.Event()

    def prepare(self, told: Preparing) -> None:
        self.heard.append(told)
        if len(self.heard) >= 4:
            self.often.set()
        if len(self.heard) == 1:
            raise UnavailableError("away")


def test_what_it_does_is_told_at_once_and_again_and_again_until_it_is_over(monkeypatch) -> None:
    monkeypatch.setattr(startup, "HEARTBEAT", 0.01)
    ledger = Heard()
    with Preparation(ledger, "w/0") as doing:  # type: ignore[arg-type]
        doing.doing("loading the model")
        doing.doing("warming up")
        assert [told.doing for told in ledger.heard[:2]] == ["loading the model", "warming up"] or len(ledger.heard) > 2
        assert ledger.often.wait(30)
    assert ledger.heard[-1].doing == "warming up"
    assert not doing._thread.is_alive()
