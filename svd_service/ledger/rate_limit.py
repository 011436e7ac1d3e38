"""Rate limit: the number of requests that a caller may make per minute."""

import math
from typing import Final

from svd_service.errors import RateLimitedError
from svd_service.ledger.scripts import Scripts

#: Seconds over which requests are counted.
WINDOW: Final = 60


class RateLimit:
    """Counts requests in a sliding window."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def count(self, caller: str, limit: int, number: int = 1) -> None:
        """Count `number` requests of `caller`, who may make `limit` within any minute.

        Raises:
            RateLimitedError: the limit is reached; these requests were not counted.
        """
        if number > limit:
            raise RateLimitedError(f"{number} requests at once exceed the limit of {limit} in a minute", WINDOW)
        wait = float(
            self._scripts.run("count_request", caller=caller, number=number, limit=limit, window=WINDOW),
        )
        if wait > 0:
            raise RateLimitedError(f"more than {limit} requests in a minute", math.ceil(wait))
