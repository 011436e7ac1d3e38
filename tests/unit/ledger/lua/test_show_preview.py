import pytest

from svd_service.errors import StaleAttemptError
from svd_service.jobs.job import AttemptOutcome, Preview
from tests.unit.ledger.samples import HOLDER, submit

pytestmark = pytest.mark.enable_socket


def test_a_preview_has_a_name_and_a_rising_version(ledger):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    assert ledger.jobs.find("a").preview is None
    for version in (1, 2):
        ledger.attempts.show_preview(claim, f"{version}.webp")
        assert ledger.jobs.find("a").preview == Preview(version, f"{version}.webp")


def test_the_next_attempt_begins_without_a_preview_and_the_version_goes_on(ledger):
    submit(ledger)
    first = ledger.attempts.claim("a", HOLDER)
    ledger.attempts.show_preview(first, "1.webp")
    ledger.attempts.end_attempt(first, AttemptOutcome.RELEASED)
    assert ledger.jobs.find("a").preview is None
    second = ledger.attempts.claim("a", HOLDER)
    ledger.attempts.show_preview(second, "2.webp")
    assert ledger.jobs.find("a").preview == Preview(2, "2.webp")


def test_a_preview_of_an_earlier_attempt_is_rejected(ledger):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    ledger.attempts.end_attempt(claim, AttemptOutcome.RELEASED)
    with pytest.raises(StaleAttemptError):
        ledger.attempts.show_preview(claim, "1.webp")
