import pytest

from tests.unit.ledger.samples import PARAMETERS, submit

pytestmark = pytest.mark.enable_socket


def test_an_estimate_for_a_new_job_counts_the_owners_that_are_served_before(ledger, monkeypatch):
    places = []
    estimator = type("Estimator", (), {"until_end": lambda _, place, parameters: places.append(place)})()
    monkeypatch.setattr(type(ledger.estimates), "_of_queue", lambda *_: estimator)
    ledger.estimates.until_end("me", "tiny", PARAMETERS)
    for number in range(6):
        submit(ledger, f"other-{number}", owner="other")
    ledger.estimates.until_end("me", "tiny", PARAMETERS)
    submit(ledger, "mine", owner="me")
    ledger.estimates.until_end("me", "tiny", PARAMETERS)
    ledger.estimates.until_end("other", "tiny", PARAMETERS)
    assert places == [0, 1, 3, 7]
