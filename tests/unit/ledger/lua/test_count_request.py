import pytest

from svd_service.errors import RateLimitedError
from svd_service.ledger import Ledger
from svd_service.ledger.rate_limit import WINDOW

pytestmark = pytest.mark.enable_socket

LIMIT = 5


def counted(ledger: Ledger, caller: str = "ann") -> int:
    """The seconds to wait; 0 if the request was within the limit."""
    try:
        ledger.rate_limit.count(caller, LIMIT)
    except RateLimitedError as error:
        return error.retry_after
    return 0


def test_a_caller_beyond_the_limit_waits_as_long_as_the_answer_states(ledger, clock):
    clock.advance(7.3)  # so that the answer, in whole seconds, is not exact
    assert [counted(ledger) for _ in range(LIMIT)] == [0] * LIMIT
    wait = counted(ledger)
    assert wait == 65
    assert counted(ledger, "bob") == 0
    clock.advance(wait - 2)
    assert counted(ledger) > 0
    clock.advance(2)
    assert counted(ledger) == 0


def test_the_window_slides(ledger, clock):
    for _ in range(LIMIT):
        counted(ledger)
    clock.advance(1.5 * WINDOW)
    # Half of the five requests of the window before still count.
    assert [counted(ledger) for _ in range(2)] == [0, 0]
    assert counted(ledger) == pytest.approx(6, abs=1)


def test_the_counts_expire_in_redis(ledger, redis_client):
    counted(ledger)
    (name,) = redis_client.keys("svd:rate:ann:*")
    assert WINDOW < redis_client.ttl(name) <= 2 * WINDOW
