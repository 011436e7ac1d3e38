"""Server-sent events: the changes of a job, or of all jobs of an owner.

One thread of each process listens to the ledger's channel, reads each changed job once, however many watch it, and puts
it into the mailbox of each stream. A mailbox holds no more than the latest of each job, so a slow reader loses
intermediate steps and never the last one. What pub/sub lost while Redis was away is made good by looking at everything
that is watched, at each new subscription.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import redis

from svd_service.config import Settings
from svd_service.errors import LimitedError, UnavailableError, UnknownJobError
from svd_service.jobs.job import Job, State
from svd_service.jobs.queries import Queries
from svd_service.ledger.connection import connect

logger = logging.getLogger(__name__)

#: Minimum seconds between two events of one job. The last one is never skipped, and the end of a job is sent at once:
#: someone waits for the video.
THROTTLE: Final = 0.2

#: Seconds between two looks of the listener at whether it is still wanted.
TICK: Final = 0.5

#: Seconds without a message after which the subscription counts as lost. After half of that, it is pinged.
SILENCE: Final = 10.0

#: Most jobs of an owner that a stream begins with, newest first.
SNAPSHOT: Final = 100

_ENDED: Final = frozenset(state.value for state in State if state.ended)


@dataclass(frozen=True)
class Event:
    """A job at one version, as JSON; or, without `data`, that it was deleted. `ended`: nothing more will come."""

    job_id: str
    version: int
    ended: bool
    data: bytes | None = None

    def encode(self, *, alone: bool) -> bytes:
        """As server-sent events are written. In a stream about one job `alone` its version is the event's id."""
        if self.data is None:
            return b'event: deleted\ndata: {"task_id":"%s"}\n\n' % self.job_id.encode()
        name = f"{self.version}" if alone else f"{self.job_id}:{self.version}"
        return b"id: %s\ndata: %s\n\n" % (name.encode(), self.data)


class TooManyStreamsError(UnavailableError):
    """This process has as many open streams as it may."""

    code = "too_many_streams"


class TooManyStreamsOfCallerError(LimitedError):
    """One caller has as many open streams in this process as one may have."""

    code = "too_many_streams"


class Mailbox:
    """What one reader has yet to get: the latest event of each job, in order of arrival; for `lifetime` seconds.

    It is filled with events of `job_ids`, or of all jobs of `owner` if there are none.
    """

    def __init__(self, lifetime: float, *, job_ids: Iterable[str] = (), owner: str = "", caller: str = "") -> None:
        self.job_ids = frozenset(job_ids)
        self.owner = owner
        self.caller = caller
        self._end = time.monotonic() + lifetime
        self._news: OrderedDict[str, Event] = OrderedDict()
        self._condition = threading.Condition()
        self._closed = False

    def put(self, event: Event) -> None:
        """The latest of a job."""
        with self._condition:
            self._news[event.job_id] = event
            self._condition.notify()

    def close(self) -> None:
        """Nothing more will come."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def take(self, timeout: float) -> list[Event] | None:
        """What has come, perhaps after a wait; nothing after `timeout` seconds; `None` when it is over."""
        left = self._end - time.monotonic()
        with self._condition:
            self._condition.wait_for(lambda: self._news or self._closed, min(timeout, left))
            if self._closed or time.monotonic() >= self._end:
                return None
            news = list(self._news.values())
            self._news.clear()
            return news


class Hub:
    """The listener of one process, and the mailboxes that it fills. Its thread lives while there are any.

    `present` shows a job in JSON.
    """

    def __init__(self, queries: Queries, settings: Settings, present: Callable[[Job], bytes]) -> None:
        self._queries = queries
        self._settings = settings
        self._present = present
        self._capacity = settings.api_streams
        self._per_caller = settings.streams_per_key
        self._lifetime = settings.stream_lifetime
        self._lock = threading.Lock()
        self._mailboxes: set[Mailbox] = set()
        self._thread: threading.Thread | None = None
        self._stopping: Callable[[], bool] = lambda: False

    def close_when(self, stopping: Callable[[], bool]) -> None:
        """End every stream as soon as `stopping()`, since gunicorn waits for them before it ends."""
        self._stopping = stopping

    def open(self, *, job_ids: Iterable[str] = (), owner: str = "", caller: str = "") -> Mailbox:
        """A mailbox that is filled until it is `shut`.

        Raises:
            TooManyStreamsError: there are as many as there may be.
            TooManyStreamsOfCallerError: `caller` has as many as one may have.
        """
        box = Mailbox(self._lifetime, job_ids=job_ids, owner=owner, caller=caller)
        with self._lock:
            if sum(other.caller == caller for other in self._mailboxes) >= self._per_caller:
                raise TooManyStreamsOfCallerError(
                    f"{self._per_caller} event streams are open already; close one, or look at the status",
                    retry_after=5,
                )
            if len(self._mailboxes) >= self._capacity or self._stopping():
                raise TooManyStreamsError("too many event streams are open; try again, or look at the status")
            if self._thread is None:
                self._thread = self._started()
            self._mailboxes.add(box)
        return box

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="events", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system permits no more
            raise TooManyStreamsError(f"no event stream can be opened right now: {error}") from error
        return thread

    def shut(self, box: Mailbox) -> None:
        """No longer fill the mailbox."""
        with self._lock:
            self._mailboxes.discard(box)

    def event(self, job: Job) -> Event:
        """The event with the state of `job`."""
        return Event(job.id, job.version, job.state.ended, self._present(job))

    def newest(self, owner: str) -> list[Event]:
        """An owner's newest jobs, the oldest of them first."""
        return [self.event(job) for job in reversed(self._queries.page(owner=owner, limit=SNAPSHOT)[0])]

    def _run(self) -> None:
        """Listen, reconnecting if necessary, until there are no streams."""
        try:
            while True:
                try:
                    if not self._listen():
                        return
                except (redis.RedisError, UnavailableError) as error:
                    logger.warning("events: Redis is away, listening again soon: %s", error)
                    if not self._is_wanted():
                        return
                    time.sleep(TICK)
        finally:
            self._leave()

    def _leave(self) -> None:
        """If a bug ended this thread, close all streams: their readers reconnect to another process."""
        with self._lock:
            if self._thread is threading.current_thread():
                self._thread = None
                for box in self._mailboxes:
                    box.close()

    def _is_wanted(self) -> bool:
        """Whether there is a stream left. Where there is none, the thread is no longer ours: it is to end."""
        if self._stopping():
            for box in self._watching():
                box.close()
        with self._lock:
            if not self._mailboxes:
                self._thread = None
            return bool(self._mailboxes)

    def _watching(self) -> list[Mailbox]:
        with self._lock:
            return list(self._mailboxes)

    def _listen(self) -> bool:
        client = connect(self._settings)
        try:
            with client.pubsub() as channel:  # type: ignore[no-untyped-call]
                channel.subscribe(f"{self._settings.namespace}:events")
                changes, ear = _Changes(), _Ear(channel)
                wanted = time.monotonic() + TICK
                while True:
                    for kind, message in ear.messages(min(TICK, changes.due_in())):
                        if kind == "subscribe":
                            # From now on nothing is missed; what was until now, is looked up.
                            self._tell_everything()
                        elif kind == "message":
                            changes.note(message)
                    self._tell(changes.due())
                    if time.monotonic() >= wanted:
                        wanted = time.monotonic() + TICK
                        if not self._is_wanted():
                            return False
        finally:
            client.close()

    def _tell(self, changed: dict[str, str]) -> None:
        """Put each of the jobs (by id, with their owners) into the mailboxes that watch it."""
        boxes = self._watching()
        watched = {job_id for box in boxes for job_id in box.job_ids}
        owners = {box.owner for box in boxes if not box.job_ids}
        for job_id, owner in changed.items():
            if job_id not in watched and owner not in owners:
                continue
            event = self._look(job_id, owner)
            for box in boxes:
                if job_id in box.job_ids or (not box.job_ids and box.owner == owner):
                    box.put(event)

    def _look(self, job_id: str, owner: str) -> Event:
        try:
            return self.event(self._queries.find(job_id, owner=owner))
        except UnknownJobError:
            return Event(job_id, version=0, ended=True)

    def _tell_everything(self) -> None:
        boxes = self._watching()
        self._tell({job_id: box.owner for box in boxes for job_id in box.job_ids})
        for owner in {box.owner for box in boxes if not box.job_ids}:
            newest = self.newest(owner)
            for box in boxes:
                if not box.job_ids and box.owner == owner:
                    for event in newest:
                        box.put(event)


class _Changes:
    """Jobs that have changed and are to be sent, each at most once per `THROTTLE` until it has ended."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._sent: dict[str, float] = {}

    def note(self, message: str) -> None:
        """A message of the channel: "id version state owner"."""
        job_id, _, state, owner = message.split(" ", 3)
        self._owners[job_id] = owner
        if state in _ENDED:
            self._sent.pop(job_id, None)

    def due_in(self) -> float:
        """Seconds until a job is due."""
        now = time.monotonic()
        return max(0.0, min((self._sent.get(job, -math.inf) + THROTTLE - now for job in self._owners), default=TICK))

    def due(self) -> dict[str, str]:
        """The jobs that are due, with their owners; the caller sends their events now."""
        now = time.monotonic()
        due = {job: owner for job, owner in self._owners.items() if now >= self._sent.get(job, -math.inf) + THROTTLE}
        for job in due:
            del self._owners[job]
        self._sent = {job: when for job, when in self._sent.items() if now < when + THROTTLE} | dict.fromkeys(due, now)
        return due


class _Ear:
    """A subscription that notices when it has gone deaf."""

    def __init__(self, channel: "redis.client.PubSub") -> None:
        self._channel = channel
        self._received = self._pinged = time.monotonic()

    def messages(self, wait: float) -> Iterator[tuple[str, str]]:
        """What comes within `wait` seconds, and all that is behind it: kind and content.

        Raises:
            redis.ConnectionError: nothing has come for long, not even an answer to our asking.
        """
        while message := self._channel.get_message(timeout=wait):
            wait = 0.0
            self._received = time.monotonic()
            yield str(message["type"]), str(message["data"])
        now = time.monotonic()
        if now > self._received + SILENCE:
            raise redis.ConnectionError("Redis does not respond")
        if now > max(self._received, self._pinged) + SILENCE / 2:
            self._pinged = now
            self._channel.ping()
