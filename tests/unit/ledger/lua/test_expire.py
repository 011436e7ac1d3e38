import pytest

from svd_service.errors import (
    UnknownJobError,
)
from svd_service.jobs.job import State
from tests.unit.ledger.samples import (
    HOLDER,
    finish,
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_a_result_expires_and_its_record_is_deleted_later(ledger, clock):
    submit(ledger)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    assert ledger.maintenance.expire() == []
    clock.advance(86_401)
    assert ledger.maintenance.expire() == ["a"]
    job = ledger.jobs.find("a")
    assert (job.state, job.result) == (State.EXPIRED, None)
    assert ledger.maintenance.expire() == []
    clock.advance(604_801)
    assert ledger.maintenance.expire() == ["a"]
    with pytest.raises(UnknownJobError):
        ledger.jobs.find("a")
