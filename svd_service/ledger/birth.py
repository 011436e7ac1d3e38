"""When the ledger began: a Redis that came back empty knows no job, and its store must not be swept for that."""

import math
from typing import Final, cast

import redis

from svd_service.ledger.connection import reachable
from svd_service.ledger.scripts import Scripts

#: The key that holds it, beside the version of the layout (`check.py`).
BIRTH: Final = "born"


def birth(scripts: Scripts) -> float:
    """When the ledger began, in seconds since the epoch; stored when it is first asked for.

    A ledger that does not have it (of an earlier release, or emptied since) is as old as its oldest job, and one
    without jobs begins now: so one that was emptied is never taken for older than that.
    """
    client, name = scripts.redis, scripts.key(BIRTH)
    with reachable():
        stored = _seconds(client.get(name))
        if stored is None:
            client.set(name, f"{_oldest(scripts):.6f}", nx=True)
            stored = _seconds(client.get(name))
    return scripts.now() if stored is None else stored


def _seconds(stored: object) -> float | None:
    try:
        seconds = float(cast(str, stored))
    except (TypeError, ValueError):  # absent, or damaged
        return None
    return seconds if math.isfinite(seconds) else None


def _oldest(scripts: Scripts) -> float:
    try:
        jobs = cast(list[tuple[str, float]], scripts.redis.zrange(scripts.key("jobs"), 0, 0, withscores=True))
    except redis.ResponseError:  # of another type: the check deletes it
        jobs = []
    return min([scripts.now(), *(created for _, created in jobs)])
