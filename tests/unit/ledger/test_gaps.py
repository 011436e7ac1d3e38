"""Hosts with a backlog, on the ledger's clock: a worker is idle between two jobs, and no message is lost for that."""

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from svd_service.jobs.job import Claim
from svd_service.ledger import Ledger
from svd_service.ledger.maintenance import ENQUEUE_AGAIN_AFTER
from tests.unit.ledger.samples import Clock, finish, holder, join, submit

pytestmark = pytest.mark.enable_socket

#: Seconds of a poll of Celery's list, and between two maintenance rounds of a host and two heartbeats of a worker.
POLL, ROUND, HEARTBEAT = 0.01, 1.0, 2.0


@dataclass
class Hosts:
    """Hosts whose workers take ids from one list, as Celery does; `gap`: seconds between two jobs of a worker."""

    ledger: Ledger
    clock: Clock
    hosts: int
    processes: int
    duration: float
    gap: float
    messages: list[str] = field(default_factory=list)
    #: Ids whose next message is lost.
    lost: set[str] = field(default_factory=set)
    #: Ids in the order in which their jobs started, and those that were enqueued again, with the time; and the maximum
    #: number of messages.
    started: list[str] = field(default_factory=list)
    again: list[tuple[str, float]] = field(default_factory=list)
    longest: int = 0
    _claims: dict[str, Claim] = field(default_factory=dict)
    _events: list[tuple[float, int, Callable[[Any], None], Any]] = field(default_factory=list)
    _number: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(1))

    def start(self) -> None:
        workers = [f"host-{host}/{number}" for host in range(self.hosts) for number in range(self.processes)]
        for worker in workers:
            join(self.ledger, worker)
            self._in(self._random.random() * HEARTBEAT, self._heartbeat, worker)
            self._in(self._random.random() * POLL, self._poll, worker)
        for host in range(self.hosts):
            self._in(self._random.random() * ROUND, self._round, host)
        self.dispatch()

    def run(self, until: Callable[[], bool]) -> None:
        limit = self.clock.now + 1_000
        while not until():
            self.clock.now, _, event, subject = heapq.heappop(self._events)
            assert self.clock.now < limit
            event(subject)

    def dispatch(self) -> None:
        self._send(self.ledger.maintenance.dispatch())

    def _send(self, ids: Iterable[str]) -> None:
        for job_id in ids:
            if job_id in self.lost:
                self.lost.remove(job_id)
            else:
                self.messages.append(job_id)
        self.longest = max(self.longest, len(self.messages))

    def _in(self, seconds: float, event: Callable[[Any], None], subject: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.clock.now + seconds, self._number, event, subject))

    def _heartbeat(self, worker: str) -> None:
        join(self.ledger, worker)
        if worker in self._claims:
            self.ledger.attempts.report(self._claims[worker])
        self._in(HEARTBEAT, self._heartbeat, worker)

    def _round(self, host: int) -> None:
        overdue = self.ledger.maintenance.reap().overdue
        self.again += [(job_id, self.clock.now) for job_id in overdue]
        self._send(overdue)
        self.dispatch()
        self._in(ROUND, self._round, host)

    def _poll(self, worker: str) -> None:
        if not self.messages:
            self._in(POLL, self._poll, worker)
            return
        claim = self.ledger.attempts.claim(self.messages.pop(0), holder(worker))
        self.dispatch()
        if claim is None:
            self._in(POLL, self._poll, worker)
            return
        # The first jobs end one after the other, as those of a service do that has run for some time.
        first = len(self.started) < self.hosts * self.processes
        self._claims[worker] = claim
        self.started.append(claim.job_id)
        self._in(self.duration * self._random.uniform(*((0.05, 1) if first else (0.8, 1.2))), self._end, worker)

    def _end(self, worker: str) -> None:
        finish(self.ledger, self._claims.pop(worker))
        self._in(self.gap, self._poll, worker)


@pytest.fixture
def make_hosts(
    ledger_of: Callable[..., Ledger], make_settings: Callable[..., Any], clock: Clock
) -> Callable[..., Hosts]:
    settings = make_settings(SVD_MAX_QUEUED="1000", SVD_MAX_QUEUED_PER_KEY="1000")
    return lambda *shape: Hosts(ledger_of(settings), clock, *shape)


@pytest.mark.parametrize(
    ("hosts", "processes", "gap"),
    [
        (8, 1, 0.1),
        pytest.param(1, 8, 1.0, marks=pytest.mark.thorough),
        pytest.param(8, 1, 2.0, marks=pytest.mark.thorough),
        pytest.param(16, 1, 0.01, marks=pytest.mark.thorough),
        pytest.param(32, 1, 0.01, marks=pytest.mark.thorough),
    ],
)
def test_gaps_between_jobs_do_not_count_as_lost_messages_and_the_order_stays_fair(make_hosts, hosts, processes, gap):
    service = make_hosts(hosts, processes, 60.0, gap)
    workers = hosts * processes
    for number in range(5 * workers):
        submit(service.ledger, f"alice-{number:03}", owner="alice")
    service.start()
    began = service.clock.now
    service.run(lambda: service.clock.now > began + 150)
    submit(service.ledger, "bob", owner="bob")
    service.dispatch()
    before = len(service.started)
    service.run(lambda: "bob" in service.started)
    assert service.again == []
    assert service.ledger.stats.figures().refused_by_celery == 0
    assert service.longest <= workers
    assert len(service.started) - 1 - before <= workers, "he waits for the ids that were enqueued before his"


def test_a_lost_message_is_sent_again_although_others_arrive_all_the_time(make_hosts):
    service = make_hosts(16, 1, 20.0, 0.1)
    for number in range(100):
        submit(service.ledger, f"job-{number:03}")
    service.lost = {"job-050"}
    service.start()
    service.run(lambda: not service.lost)
    lost = service.clock.now
    service.run(lambda: "job-050" in service.started)
    assert [job_id for job_id, _ in service.again] == ["job-050"]
    # The ids before the one that proves the loss are claimed within one job's duration.
    assert service.again[0][1] - lost < ENQUEUE_AGAIN_AFTER + 1.2 * service.duration + 2 * ROUND
    assert service.clock.now - lost < ENQUEUE_AGAIN_AFTER + 2.4 * service.duration + 3 * ROUND
