"""Waiting for the end of jobs within a request (`Prefer: wait=N`).

A request that waits is a reader of the hub, as an event stream is: it counts against the same limits, and ends when the
process shuts down.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from svd_service.api.events.hub import Hub, TooManyStreamsError, TooManyStreamsOfCallerError
from svd_service.api.events.stream import caller_of
from svd_service.errors import UnavailableError, UnknownJobError
from svd_service.jobs.queries import Queries

#: Seconds after which jobs are looked up although no event has arrived, since pub/sub is lossy.
_LOOK_EVERY: Final = 5.0


def wait_for(hub: Hub, queries: Queries, job_ids: Iterable[str], *, owner: str, seconds: float) -> bool:
    """Wait until all jobs have ended, at most `seconds`.

    Returns False at once if the process or the caller has too many readers. Redis' absence only prolongs the wait: the
    jobs exist, and the caller must learn their ids.
    """
    deadline = time.monotonic() + seconds
    open_jobs = set(job_ids)
    try:
        box = hub.open(job_ids=open_jobs, owner=owner, caller=caller_of(owner))
    except (TooManyStreamsError, TooManyStreamsOfCallerError):
        return False
    try:
        look_at = time.monotonic()
        while open_jobs and (left := deadline - time.monotonic()) > 0:
            if time.monotonic() >= look_at:
                open_jobs = {job_id for job_id in open_jobs if not _has_ended(queries, job_id, owner)}
                look_at = time.monotonic() + _LOOK_EVERY
                continue
            events = box.take(min(left, _LOOK_EVERY))
            if events is None:  # the process shuts down, or the reader's lifetime is over
                break
            open_jobs -= {event.job_id for event in events if event.ended}
    finally:
        hub.shut(box)
    return True


def _has_ended(queries: Queries, job_id: str, owner: str) -> bool:
    with suppress(UnavailableError):
        try:
            return queries.find(job_id, owner=owner).state.ended
        except UnknownJobError:  # deleted meanwhile
            return True
    return False
