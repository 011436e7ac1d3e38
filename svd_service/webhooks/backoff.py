"""The pauses between the delivery attempts of a webhook: `SVD_WEBHOOK_BACKOFF`, then three times as long each, up to an
hour. `lua/choose_due.lua` uses the same figures for a delivery whose webhook worker dies, from the second time on;
after the first it is retried at once.
"""

import random
from typing import Final

from svd_service.config import Settings

#: Factor by which each pause exceeds the one before, and the longest pause in seconds.
GROWTH: Final = 3.0
LONGEST_PAUSE: Final = 3_600.0

#: Minimum and maximum factor of the random spread, so that a receiver does not get many messages at once.
_JITTER: Final = (0.75, 1.25)


def pause_after(number: int, settings: Settings) -> float:
    """Return the seconds to wait after delivery attempt `number` (from 1) has failed."""
    usual = min(settings.webhook_backoff * GROWTH ** min(number - 1, 20), LONGEST_PAUSE)
    return usual * random.uniform(*_JITTER)  # noqa: S311 - nothing secret about it
