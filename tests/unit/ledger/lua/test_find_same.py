import pytest

from svd_service.ledger import Ledger
from tests.unit.ledger.samples import HOLDER, finish, ready, submit

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def made(ledger: Ledger) -> None:
    """Job `a` of the owner `ann` has made a video of the content `c`; a worker of the same device is ready."""
    submit(ledger, owner="ann", content="c")
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    ready(ledger, "w/0")


@pytest.mark.usefixtures("made")
def test_the_latest_job_with_the_same_content_is_found(ledger):
    assert ledger.jobs.find_same("ann", "c", "tiny") == "a"
    submit(ledger, "b", owner="ann", content="c")
    finish(ledger, ledger.attempts.claim("b", HOLDER))
    assert ledger.jobs.find_same("ann", "c", "tiny") == "b"


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("other", [("bob", "c", "tiny"), ("ann", "d", "tiny"), ("ann", "c", "other")])
def test_another_owner_content_or_model_has_none(ledger, other):
    assert ledger.jobs.find_same(*other) == ""


@pytest.mark.usefixtures("made")
def test_a_video_of_a_device_without_live_workers_does_not_count(ledger, clock):
    clock.advance(60)
    assert ledger.jobs.find_same("ann", "c", "tiny") == ""


@pytest.mark.usefixtures("made")
def test_an_expired_or_deleted_video_does_not_count(ledger, clock):
    clock.advance(86_401)
    ready(ledger, "w/0")
    assert ledger.jobs.find_same("ann", "c", "tiny") == ""
    submit(ledger, "b", owner="ann", content="c")
    finish(ledger, ledger.attempts.claim("b", HOLDER))
    ledger.jobs.forget("b")
    assert ledger.jobs.find_same("ann", "c", "tiny") == ""
