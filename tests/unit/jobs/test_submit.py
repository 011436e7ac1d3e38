"""What a submission leaves when storing its input or writing its job fails."""

import pytest

from svd_service.errors import QueueFullError, UnavailableError, WriteRefusedError
from svd_service.jobs.submit import cleaned_up_unless_accepted


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        pytest.param(WriteRefusedError("read only"), 1, id="the ledger accepts no writes"),
        pytest.param(QueueFullError("full", 1), 1, id="rejected"),
        pytest.param(KeyboardInterrupt(), 1, id="stopped"),
        pytest.param(UnavailableError("no answer"), 0, id="the job may have been accepted"),
    ],
)
def test_inputs_are_deleted_unless_the_job_may_have_been_accepted(error: BaseException, calls: int) -> None:
    called: list[str] = []
    with pytest.raises(type(error)), cleaned_up_unless_accepted(lambda: called.append("clean up")):
        raise error
    assert len(called) == calls


def test_an_accepted_job_keeps_its_input() -> None:
    called: list[str] = []
    with cleaned_up_unless_accepted(lambda: called.append("clean up")):
        pass
    assert called == []
