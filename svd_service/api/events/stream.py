"""The responses with server-sent events, one generator for each reader; hub.py fills their mailboxes."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from flask import Response, request

from svd_service.api.events.hub import THROTTLE, Event, Hub, Mailbox
from svd_service.api.http.auth import caller_network
from svd_service.errors import UnavailableError, UnknownJobError
from svd_service.jobs.queries import Queries

#: Seconds after which an idle stream sends a comment, by which it also notices that its reader is gone.
HEARTBEAT: Final = 10.0

HEARTBEAT_COMMENT: Final = b": still here\n\n"

#: Milliseconds that a reader waits before it reconnects.
RETRY: Final = b"retry: 2000\n\n"

#: Maximum number of jobs whose last version a stream remembers; an event of a forgotten one may be sent twice.
REMEMBERED: Final = 1_000


def stream_job(hub: Hub, queries: Queries, job_id: str, *, owner: str, seen: int) -> Response:
    """The events of one job from its current status to its end, only those after version `seen`.

    Raises:
        UnknownJobError: there is no job with that id, or it belongs to another owner.
        TooManyStreamsError: the process or the caller has the maximum number of streams.
    """
    box = hub.open(job_ids=(job_id,), owner=owner, caller=caller_of(owner))

    def look() -> list[Event]:
        return [hub.event(queries.find(job_id, owner=owner))]

    try:
        now = look()
    except BaseException:
        hub.shut(box)
        raise
    if now[0].ended and now[0].version <= seen:
        hub.shut(box)
        return Response(status=204)  # else a browser's EventSource reconnects for ever
    return _response(hub, box, _job_events(box, now, look, seen))


def stream_owner(hub: Hub, *, owner: str) -> Response:
    """The events of all jobs of an owner, beginning with the current status of the newest.

    Raises:
        TooManyStreamsError: the process or the caller has the maximum number of streams.
        UnavailableError: Redis cannot be reached.
    """
    box = hub.open(owner=owner, caller=caller_of(owner))
    try:
        newest = hub.newest(owner)
    except BaseException:
        hub.shut(box)
        raise
    return _response(hub, box, _owner_events(box, newest))


def stream_group(hub: Hub, job_ids: Iterable[str], look: Callable[[], Event], *, owner: str) -> Response:
    """The events of a group: `look` returns its current status, and the stream ends when it has ended.

    `look` is called without the request's context. It may raise `UnknownJobError` and `UnavailableError`.

    Raises:
        TooManyStreamsError: the process or the caller has the maximum number of streams.
    """
    box = hub.open(job_ids=job_ids, owner=owner, caller=caller_of(owner))
    return _response(hub, box, _group_events(box, look))


def caller_of(owner: str) -> str:
    """Who the maximum number of open streams applies to: the key, or without one the address."""
    return f"key {owner}" if owner else f"address {caller_network()}"


def _response(hub: Hub, box: Mailbox, events: Iterator[bytes]) -> Response:
    if request.method == "HEAD":  # there is no reader to close it
        hub.shut(box)
        events = iter(())
    response = Response(events, mimetype="text/event-stream")
    response.cache_control.no_store = True
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    response.call_on_close(lambda: hub.shut(box))
    return response


def _job_events(box: Mailbox, now: list[Event], look: Callable[[], list[Event]], seen: int) -> Iterator[bytes]:
    yield RETRY
    least = seen + 1
    news: list[Event] | None = now
    while news is not None:
        for event in news:
            if event.version >= least or event.data is None:
                least = event.version + 1
                yield event.encode(alone=True)
            if event.ended:
                return
        news = box.take(HEARTBEAT)
        if news == []:
            yield HEARTBEAT_COMMENT
            # Position and ETA change without a new version, so the current one is sent again.
            with suppress(UnavailableError, UnknownJobError):
                news = look()
                least = min(least, news[0].version)


def _group_events(box: Mailbox, look: Callable[[], Event]) -> Iterator[bytes]:
    yield RETRY
    news: list[Event] | None = []
    while news is not None:
        try:
            event = look()
        except UnknownJobError:
            yield b"event: deleted\ndata: {}\n\n"
            return
        except UnavailableError:
            yield HEARTBEAT_COMMENT
        else:
            yield event.encode(alone=True)
            if event.ended:
                return
        news = box.take(HEARTBEAT)
        if news and not any(each.ended for each in news):
            time.sleep(THROTTLE)  # what else happens meanwhile is in the same event


def _owner_events(box: Mailbox, news: list[Event] | None) -> Iterator[bytes]:
    yield RETRY
    seen: OrderedDict[str, int] = OrderedDict()
    while news is not None:
        for event in news:
            if event.data is None or event.version > seen.get(event.job_id, -1):
                seen[event.job_id] = event.version
                seen.move_to_end(event.job_id)
                yield event.encode(alone=False)
        while len(seen) > REMEMBERED:
            seen.popitem(last=False)
        news = box.take(HEARTBEAT)
        if news == []:
            yield HEARTBEAT_COMMENT
