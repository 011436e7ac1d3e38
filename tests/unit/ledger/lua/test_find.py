import pytest

from svd_service.errors import (
    UnknownJobError,
)
from svd_service.ledger.jobs import NeededArtifacts, Page
from tests.unit.ledger.samples import (
    HOLDER,
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_positions_count_enqueued_jobs_before_waiting_ones(ledger):
    for job_id in list("abcd"):
        submit(ledger, job_id)
    assert list(ledger.maintenance.dispatch()) == ["a"]
    assert [ledger.jobs.find(job_id).position for job_id in "abcd"] == [1, 2, 3, 4]
    ledger.attempts.claim("a", HOLDER)
    assert [ledger.jobs.find(job_id).position for job_id in "abcd"] == [None, 1, 2, 3]


def test_an_unknown_job_is_unknown_to_every_method(ledger):
    for method in (ledger.jobs.find, ledger.jobs.cancel, ledger.jobs.forget):
        with pytest.raises(UnknownJobError):
            method("nothing")
    assert ledger.attempts.claim("nothing", HOLDER) is None
    assert ledger.attempts.current("nothing") is None
    assert ledger.jobs.needed_artifacts(["nothing"]) == {"nothing": NeededArtifacts(False, None, None, None)}


def test_an_owners_jobs_are_listed_page_by_page(ledger):
    for job_id in list("abcde"):
        submit(ledger, job_id, owner="one")
    submit(ledger, "other", owner="two")

    def page(**how):
        page = ledger.jobs.page("one", limit=2, **how)
        return "".join(job.id for job in page.jobs), page.more

    assert [page(), page(after="d"), page(after="b")] == [("ed", True), ("cb", True), ("a", False)]
    assert page(newest_first=False, after="b") == ("cd", True)
    assert ledger.jobs.page("unknown") == Page([], more=False)
    with pytest.raises(UnknownJobError):
        ledger.jobs.page("one", after="other")
