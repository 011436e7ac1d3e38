import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from svd_service.config import Settings
from svd_service.errors import (
    IdempotencyConflictError,
    QueueFullError,
    RateLimitedError,
    StaleAttemptError,
    UnavailableError,
    UnknownJobError,
    WriteRefusedError,
)
from svd_service.jobs.job import MOVES, AttemptOutcome, Failure, Holder, Phase, Progress, State
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.attempts import HeldClaim, Stop
from svd_service.ledger.client import connect
from svd_service.ledger.constants import Constants
from svd_service.ledger.jobs import UNKNOWN_RETRY_AFTER, Page, Wanted
from svd_service.ledger.maintenance import MAX_REFUSALS, Reaped
from svd_service.ledger.record import NOTE_LENGTH
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import WorkerStatus
from svd_service.parameters import Profile
from tests.unit.ledger.samples import HOLDER, MODEL, OTHER, PARAMETERS, RESULT, finish, submit

pytestmark = pytest.mark.enable_socket


class Clock:
    """Moves the times that the ledger has noted into the past, as if seconds had gone by."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def advance(self, seconds: float) -> None:
        for name in ("leases", "published:tiny", "ended", "workers", "workers:tiny|"):
            for member, score in self._client.zrange(f"svd:{name}", 0, -1, withscores=True):
                self._client.zadd(f"svd:{name}", {member: score - seconds})


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def ledger(client: Any, make_settings: Callable[..., Settings]) -> Ledger:
    return open_ledger(client, make_settings())


@pytest.fixture
def clock(client: Any) -> Clock:
    return Clock(client)


def ready(ledger: Ledger, *names: str) -> None:
    for name in names:
        ledger.workers.heartbeat(WorkerStatus(name, "cpu", "instance", 1, "tiny", False, 0.0, 1.0))


def test_a_submitted_job_is_found_as_it_was_submitted(ledger):
    submit(ledger, owner="key-1")
    job = ledger.jobs.find("a")
    assert job.state is State.QUEUED
    assert job.parameters == PARAMETERS
    assert job.model == MODEL
    assert job.owner == "key-1"
    assert job.input == "inputs/a.png"
    assert job.created_at == pytest.approx(time.time(), abs=5)
    assert job.position == 1
    assert (job.started_at, job.ended_at, job.attempts, job.result, job.failure) == (None, None, (), None, None)


def test_an_unknown_job_is_unknown_to_every_question(ledger):
    for ask in (ledger.jobs.find, ledger.jobs.cancel, ledger.jobs.forget):
        with pytest.raises(UnknownJobError):
            ask("nothing")
    assert ledger.attempts.claim("nothing", HOLDER) is None
    assert ledger.attempts.current("nothing") is None
    assert ledger.jobs.wanted(["nothing"]) == {"nothing": Wanted(None, None, None)}


def test_positions_count_the_published_before_the_waiting(ledger):
    for job_id in list("abcd"):
        submit(ledger, job_id)
    assert list(ledger.maintenance.dispatch()) == ["a"]
    assert [ledger.jobs.find(job_id).position for job_id in "abcd"] == [1, 2, 3, 4]
    ledger.attempts.claim("a", HOLDER)
    assert [ledger.jobs.find(job_id).position for job_id in "abcd"] == [None, 1, 2, 3]


def test_as_many_ids_are_published_as_workers_are_there_and_at_least_one(ledger, clock):
    for job_id in "abcdef":
        submit(ledger, job_id)
    assert len(ledger.maintenance.dispatch()) == 1
    ready(ledger, "w/0", "w/1", "w/2")
    assert len(ledger.maintenance.dispatch()) == 2
    assert list(ledger.maintenance.dispatch()) == []
    ledger.attempts.claim("a", HOLDER)
    assert len(ledger.maintenance.dispatch()) == 1


def test_a_job_that_came_back_does_not_wait_behind_ids_whose_messages_may_be_lost(ledger, clock):
    for job_id in "abcd":
        submit(ledger, job_id)
    ledger.attempts.claim(next(iter(ledger.maintenance.dispatch())), HOLDER)
    assert list(ledger.maintenance.dispatch()) == ["b"]
    clock.advance(11)
    ledger.maintenance.reap()
    assert list(ledger.maintenance.dispatch()) == ["a"]
    assert list(ledger.maintenance.dispatch()) == []


def test_a_claim_is_granted_once(ledger):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    assert claim is not None
    assert claim.attempt == 1
    assert ledger.attempts.claim("a", OTHER) is None
    job = ledger.jobs.find("a")
    assert job.state is State.STARTED
    assert (job.attempts[0].worker, job.attempts[0].outcome) == ("host/0", None)
    assert ledger.attempts.current("a") == HeldClaim(claim, HOLDER)


def test_progress_is_told_and_a_new_attempt_begins_without_it(ledger, clock):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    assert ledger.attempts.report(claim, Progress(Phase.SAMPLING, 2, 4)) is None
    assert ledger.jobs.find("a").progress == Progress(Phase.SAMPLING, 2, 4)
    clock.advance(11)
    ledger.maintenance.reap()
    assert ledger.jobs.find("a").progress is None


def test_a_finished_job_has_its_result_and_feeds_the_figures(ledger):
    submit(ledger)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    job = ledger.jobs.find("a")
    assert job.state is State.FINISHED
    assert job.result == RESULT
    assert job.expires_at == pytest.approx(job.ended_at + 86_400, abs=1)
    assert job.attempts[0].outcome == "finished"
    figures = ledger.stats.figures()
    assert figures.ended == {"finished": 1}
    assert figures.phases == {("cpu", "sampling"): (1, 2.0), ("cpu", "decoding"): (1, 1.0)}
    assert figures.steps == {"cpu": (4, 2.0)}


def test_a_lapsed_lease_gives_the_job_to_another_and_the_first_is_not_heard_again(ledger, clock):
    submit(ledger)
    first = ledger.attempts.claim("a", HOLDER)
    clock.advance(11)
    assert ledger.maintenance.reap().lost == ["a"]
    second = ledger.attempts.claim("a", OTHER)
    assert second.attempt == 2
    for write in (
        lambda: ledger.attempts.report(first),
        lambda: ledger.attempts.report(first, Progress(Phase.SAMPLING, 1, 4)),
        lambda: finish(ledger, first),
        lambda: ledger.attempts.end_attempt(first, AttemptOutcome.FAILED, Failure("x", "y")),
        lambda: ledger.attempts.end_attempt(first, AttemptOutcome.RETRIED, Failure("x", "y")),
        lambda: ledger.attempts.end_attempt(first, AttemptOutcome.RELEASED),
        lambda: ledger.attempts.end_attempt(first, AttemptOutcome.CANCELLED),
    ):
        with pytest.raises(StaleAttemptError):
            write()
    job = ledger.jobs.find("a")
    assert (job.state, job.progress) == (State.STARTED, None)
    finish(ledger, second)
    assert [attempt.outcome for attempt in ledger.jobs.find("a").attempts] == ["lost", "finished"]


def test_a_renewed_lease_does_not_lapse(ledger, clock):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    clock.advance(9)
    ledger.attempts.report(claim)
    clock.advance(9)
    assert ledger.maintenance.reap() == Reaped([], {})


def test_a_lease_does_not_run_while_nobody_is_heard(ledger, client, clock):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    clock.advance(60)
    client.set("svd:heard", float(client.get("svd:heard")) - 60)  # nor was any other process
    assert ledger.maintenance.reap() == Reaped([], {})
    clock.advance(6)
    assert ledger.maintenance.reap() == Reaped([], {})
    assert ledger.attempts.report(claim) is None
    clock.advance(11)
    assert ledger.maintenance.reap() == Reaped(["a"], {})


def test_the_claims_of_a_worker_are_told_and_can_be_given_up_for_dead(ledger):
    for job_id in "abc":
        submit(ledger, job_id)
    mine, others = ledger.attempts.claim("a", HOLDER), ledger.attempts.claim("b", Holder("host/2", "cpu", "another", 1))
    assert ledger.attempts.held_by("instance") == [HeldClaim(mine, HOLDER)]
    ledger.attempts.end_attempt(mine, AttemptOutcome.LOST)
    assert ledger.attempts.held_by("instance") == []
    assert ledger.jobs.find("a").attempts[0].outcome == "lost"
    assert ledger.jobs.find("a").position == 1
    with pytest.raises(StaleAttemptError):
        ledger.attempts.report(mine)
    ledger.attempts.report(others)


def test_a_claim_whose_holder_is_known_dead_is_broken_at_once(ledger):
    submit(ledger)
    first = ledger.attempts.claim("a", HOLDER)
    second = ledger.attempts.claim("a", OTHER, dead=first.token)
    assert second.attempt == 2
    assert ledger.attempts.claim("a", HOLDER, dead=first.token) is None


def test_a_job_fails_for_good_when_every_attempt_was_lost(ledger, clock):
    submit(ledger)
    for _ in range(3):
        assert ledger.attempts.claim("a", HOLDER) is not None
        clock.advance(11)
        ledger.maintenance.reap()
    job = ledger.jobs.find("a")
    assert job.state is State.FAILED
    assert job.failure.code == "worker_lost"
    assert [attempt.outcome for attempt in job.attempts] == ["lost"] * 3
    assert ledger.attempts.claim("a", HOLDER) is None


def test_a_released_attempt_does_not_count_and_its_job_is_next(ledger):
    for job_id in "abc":
        submit(ledger, job_id)
    for _ in range(5):
        claim = ledger.attempts.claim("a", HOLDER)
        ledger.attempts.end_attempt(claim, AttemptOutcome.RELEASED)
        assert ledger.jobs.find("a").position == 1
    assert [attempt.outcome for attempt in ledger.jobs.find("a").attempts] == ["released"] * 5


def test_a_retried_attempt_counts(ledger):
    submit(ledger)
    for _ in range(3):
        ledger.attempts.end_attempt(
            ledger.attempts.claim("a", HOLDER), AttemptOutcome.RETRIED, Failure("unavailable", "the store was away")
        )
    job = ledger.jobs.find("a")
    assert (job.state, job.failure) == (State.FAILED, Failure("unavailable", "the store was away"))


def test_a_queued_job_is_cancelled_at_once(ledger):
    submit(ledger)
    assert ledger.jobs.cancel("a") is State.CANCELLED
    assert ledger.jobs.find("a").position is None
    assert list(ledger.maintenance.dispatch()) == []
    assert ledger.attempts.claim("a", HOLDER) is None
    assert ledger.jobs.cancel("a") is State.CANCELLED


def test_a_started_job_is_cancelled_by_its_worker(ledger):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    assert ledger.jobs.cancel("a") is State.STARTED
    assert ledger.jobs.find("a").cancel_requested
    assert ledger.attempts.report(claim) is Stop.CANCEL
    ledger.attempts.end_attempt(claim, AttemptOutcome.CANCELLED)
    assert ledger.jobs.find("a").state is State.CANCELLED


def test_a_job_whose_worker_died_before_it_could_cancel_is_cancelled_by_the_reaper(ledger, clock):
    submit(ledger)
    ledger.attempts.claim("a", HOLDER)
    ledger.jobs.cancel("a")
    clock.advance(11)
    ledger.maintenance.reap()
    assert ledger.jobs.find("a").state is State.CANCELLED


def test_a_cancel_after_the_end_changes_nothing(ledger):
    submit(ledger)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    assert ledger.jobs.cancel("a") is State.FINISHED
    assert ledger.jobs.find("a").result == RESULT


def test_a_published_id_is_published_again_only_beside_an_idle_worker(ledger, clock):
    ready(ledger, "w/0")
    for job_id in "ab":
        submit(ledger, job_id)
    assert list(ledger.maintenance.dispatch()) == ["a"]
    ledger.attempts.claim("a", HOLDER)
    assert list(ledger.maintenance.dispatch()) == ["b"]
    clock.advance(6)
    ready(ledger, "w/0")
    assert ledger.maintenance.reap() == Reaped([], {})  # the one worker is busy: "b" waits by right
    ready(ledger, "w/1")
    assert ledger.maintenance.reap() == Reaped([], {"b": "svd.tiny"})
    assert ledger.maintenance.reap() == Reaped([], {})


def test_one_owners_many_jobs_do_not_starve_anothers_first(ledger):
    for number in range(50):
        submit(ledger, f"many-{number:02}", owner="many")
    for _ in range(5):
        ledger.attempts.claim(next(iter(ledger.maintenance.dispatch())), HOLDER)
    submit(ledger, "first", owner="one")
    assert ledger.jobs.find("first").position == 1
    assert list(ledger.maintenance.dispatch()) == ["first"]


def test_a_newcomer_does_not_draw_even_with_the_second_of_many(ledger):
    # "z" would lose every draw, since Redis orders equal tags by name; so would the first of "many" win them all.
    submit(ledger, "long", owner="many")
    ledger.maintenance.dispatch()
    ledger.attempts.claim("long", HOLDER)
    for name in "abc":
        submit(ledger, name, owner="many")
        ledger.maintenance.dispatch()
    submit(ledger, "z", owner="one")
    ledger.attempts.claim("a", HOLDER)
    assert list(ledger.maintenance.dispatch()) == ["z"]


def test_one_owners_jobs_keep_their_order(ledger):
    for number in (3, 1, 2):
        submit(ledger, f"job-{number}")
    order = []
    for _ in range(3):
        order += ledger.maintenance.dispatch()
        ledger.attempts.claim(order[-1], HOLDER)
    assert order == ["job-3", "job-1", "job-2"]


def test_an_urgent_job_overtakes_the_same_owners_others(ledger):
    for number in range(20):
        submit(ledger, f"slow-{number:02}", owner="one")
    for _ in range(5):
        ledger.attempts.claim(next(iter(ledger.maintenance.dispatch())), HOLDER)
    submit(ledger, "urgent", owner="one", priority=2)
    assert ledger.jobs.find("urgent").priority == 2
    assert list(ledger.maintenance.dispatch()) == ["urgent"]


def test_a_step_of_priority_is_four_times_the_share_and_starves_nobody(ledger):
    for number in range(60):
        submit(ledger, f"plain-{number:02}", owner="one")
        submit(ledger, f"urgent-{number:02}", owner="two", priority=1)
    order = []
    for _ in range(50):
        order += ledger.maintenance.dispatch()
        ledger.attempts.claim(order[-1], HOLDER)
    kinds = [job_id.partition("-")[0] for job_id in order]
    assert 9 <= kinds.count("plain") <= 11
    assert "plain" in kinds[:2]


def full(ledger: Ledger, job_id: str, **more: Any) -> QueueFullError:
    with pytest.raises(QueueFullError) as raised:
        submit(ledger, job_id, **more)
    with pytest.raises(QueueFullError):
        ledger.jobs.require_room(more.get("owner", ""), "tiny", Profile.EXACT)
    with pytest.raises(UnknownJobError):
        ledger.jobs.find(job_id)
    return raised.value


def test_the_queue_has_a_bound_for_all_and_one_for_each_key(client, make_settings):
    ledger = open_ledger(client, make_settings(SVD_MAX_QUEUED=3, SVD_MAX_QUEUED_PER_KEY=2))
    submit(ledger, "a", owner="one")
    submit(ledger, "b", owner="one")
    assert full(ledger, "c", owner="one").code == "queue_full"
    submit(ledger, "d", owner="two")
    full(ledger, "e", owner="three")
    assert submit(ledger, "a", owner="one") == "a"
    assert ledger.attempts.claim("a", HOLDER)
    ledger.jobs.require_room("one", "tiny", Profile.EXACT)
    submit(ledger, "e", owner="one")


def test_without_keys_only_the_bound_for_all_counts(client, make_settings):
    ledger = open_ledger(client, make_settings(SVD_MAX_QUEUED=3, SVD_MAX_QUEUED_PER_KEY=1))
    for job_id in "abc":
        submit(ledger, job_id)
    full(ledger, "d")


def test_every_way_out_of_the_queue_makes_room(client, ledger, clock):
    for job_id in "abcd":
        submit(ledger, job_id, owner="one")
    ledger.jobs.cancel("a")
    claim = ledger.attempts.claim("b", HOLDER)
    assert claim
    ledger.attempts.end_attempt(claim, AttemptOutcome.RELEASED)
    assert client.hgetall("svd:queued_of") == {"one": "3"}
    assert ledger.attempts.claim("b", HOLDER)
    clock.advance(60)
    ledger.maintenance.reap()
    assert client.hgetall("svd:queued_of") == {"one": "3"}
    for job_id in "bcd":
        ledger.jobs.cancel(job_id)
    assert client.hgetall("svd:queued_of") == {}


def test_a_full_queue_says_when_a_place_may_be_free(client, make_settings):
    ledger = open_ledger(client, make_settings(SVD_MAX_QUEUED=2, SVD_MAX_QUEUED_PER_KEY=1))
    submit(ledger, "first")
    assert full(open_ledger(client, make_settings(SVD_MAX_QUEUED=1)), "x").retry_after == UNKNOWN_RETRY_AFTER
    claim = ledger.attempts.claim("first", HOLDER)
    assert claim
    ledger.attempts.finish(claim, RESULT, device="cpu", seconds={"sampling": 50.0, "decoding": 10.0}, steps=4)
    ready(ledger, "host/0")
    submit(ledger, "second")
    assert ledger.attempts.claim("second", HOLDER)
    for owner in ("one", "two"):
        submit(ledger, owner, owner=owner)
    # The running one takes a minute; after it comes one of these, and then the other.
    assert full(ledger, "x", owner="three").retry_after == pytest.approx(60, abs=3)
    roomy = open_ledger(client, make_settings(SVD_MAX_QUEUED=9, SVD_MAX_QUEUED_PER_KEY=1))
    assert full(roomy, "x", owner="one").retry_after == pytest.approx(120, abs=3)


def test_requests_have_a_rate_and_the_wait_is_told_truly(ledger, client):
    def counted(who="ann"):
        try:
            ledger.rate_limit.count(who, 5)
        except RateLimitedError as error:
            return error.retry_after
        return 0

    assert [counted() for _ in range(5)] == [0] * 5
    wait = counted()
    assert 1 <= wait <= 120
    assert counted("bob") == 0
    # As if that many seconds had gone by: the counts move into earlier minutes.
    (name,) = client.keys("svd:rate:ann:*")
    minute = int(name.rpartition(":")[2])
    assert client.ttl(name) > 60
    client.rename(name, f"svd:rate:ann:{minute - 2}")
    assert counted() == 0


def test_the_window_slides(ledger, client):
    seconds, _ = client.time()
    minute = seconds // 60
    client.set(f"svd:rate:ann:{minute - 1}", 5)
    passed = (seconds % 60) / 60
    for _ in range(int(5 * passed) - 1):
        ledger.rate_limit.count("ann", 5)

    def ask_for_more():
        for _ in range(3):
            ledger.rate_limit.count("ann", 5)

    with pytest.raises(RateLimitedError) as refused:
        ask_for_more()
    assert 1 <= refused.value.retry_after <= 60


def test_an_owners_jobs_are_listed_page_by_page(ledger):
    for job_id in list("abcde"):
        submit(ledger, job_id, owner="one")
    submit(ledger, "other", owner="two")

    def page(**how):
        page = ledger.jobs.page("one", limit=2, **how)
        return "".join(job.id for job in page.jobs), page.more

    assert [page(), page(after="d"), page(after="b")] == [("ed", True), ("cb", True), ("a", False)]
    assert page(newest_first=False, after="b") == ("cd", True)
    assert ledger.jobs.page("nobody") == Page([], more=False)
    with pytest.raises(UnknownJobError):
        ledger.jobs.page("one", after="other")


def test_an_idempotency_key_makes_one_job(ledger):
    assert submit(ledger, "a", idempotency_key="k", fingerprint="f") == "a"
    assert submit(ledger, "b", idempotency_key="k", fingerprint="f") == "a"
    assert submit(ledger, "c", idempotency_key="k", fingerprint="f", owner="other") == "c"
    with pytest.raises(IdempotencyConflictError):
        submit(ledger, "d", idempotency_key="k", fingerprint="g")
    with pytest.raises(UnknownJobError):
        ledger.jobs.find("b")


def test_an_idempotency_key_is_free_again_when_its_job_was_deleted(ledger):
    submit(ledger, "a", idempotency_key="k", fingerprint="f")
    ledger.jobs.cancel("a")
    ledger.jobs.forget("a")
    assert submit(ledger, "b", idempotency_key="k", fingerprint="g") == "b"


def test_every_write_can_be_repeated_after_a_lost_answer(ledger):
    submit(ledger)
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    finish(ledger, claim)
    finish(ledger, claim)
    submit(ledger, "b")
    claim = ledger.attempts.claim("b", HOLDER)
    ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, Failure("x", "y"))
    ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, Failure("x", "y"))
    figures = ledger.stats.figures()
    assert (figures.created, figures.ended, figures.failed) == (2, {"finished": 1, "failed": 1}, {"x": 1})


def test_a_result_expires_and_its_record_is_forgotten_later(ledger, clock):
    submit(ledger)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    assert ledger.maintenance.expire() == []
    clock.advance(86_401)
    assert ledger.maintenance.expire() == ["a"]
    job = ledger.jobs.find("a")
    assert (job.state, job.result) == (State.EXPIRED, None)
    assert ledger.maintenance.expire() == []
    clock.advance(604_801)
    assert ledger.maintenance.expire() == ["a"]
    with pytest.raises(UnknownJobError):
        ledger.jobs.find("a")


def test_only_an_ended_job_can_be_forgotten(ledger, client):
    submit(ledger)
    assert ledger.jobs.forget("a") is False
    ledger.jobs.cancel("a")
    assert ledger.jobs.forget("a") is True
    left = {key.removeprefix("svd:") for key in client.keys("*")}
    assert left <= {"states", "counters", "models", "finish_tags:tiny", "clock:tiny", "heard"}


def test_the_figures_count_what_there_is_and_what_has_happened(ledger, clock):
    for job_id in "abc":
        submit(ledger, job_id)
    ledger.attempts.end_attempt(
        ledger.attempts.claim("a", HOLDER), AttemptOutcome.FAILED, Failure("time_limit", "too long")
    )
    ledger.jobs.cancel("b")
    ledger.stats.count_refused("not_an_image")
    figures = ledger.stats.figures()
    there = {state: number for state, number in figures.jobs.items() if number}
    assert there == {"queued": 1, "failed": 1, "cancelled": 1}
    assert figures.created == 3
    assert figures.refused == {"not_an_image": 1}
    assert figures.failed == {"time_limit": 1}
    assert figures.attempts == {"started": 1, "failed": 1}
    queues = figures.queues
    assert {route: queue.length for route, queue in queues.items()} == {("tiny", "exact"): 1, ("tiny", "draft"): 0}
    assert 0 <= queues["tiny", "exact"].oldest < 5
    assert queues["tiny", "draft"].oldest == 0


def test_a_worker_is_there_until_it_falls_silent_or_leaves(ledger, clock):
    ready(ledger, "w/0", "w/1")
    assert [worker.worker for worker in ledger.workers.ready()] == ["w/0", "w/1"]
    ledger.workers.leave("w/1")
    assert [worker.worker for worker in ledger.workers.ready()] == ["w/0"]
    clock.advance(8)
    assert ledger.workers.ready() == []


def test_every_change_is_told_on_the_channel_with_a_rising_version(ledger, client):
    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("svd:events")
        listener.get_message(timeout=1)
        submit(ledger, owner="key-1")
        claim = ledger.attempts.claim("a", HOLDER)
        ledger.attempts.report(claim, Progress(Phase.SAMPLING, 1, 4))
        ledger.attempts.report(claim)
        finish(ledger, claim)
        told = []
        while message := listener.get_message(timeout=0.5):
            told.append(message["data"])
    states = ["queued", "started", "started", "finished"]
    assert told == [f"a {version} {state} key-1" for version, state in enumerate(states, 1)]


def test_a_queued_job_takes_little_of_redis(client, make_settings):
    ledger = open_ledger(client, make_settings(SVD_MAX_QUEUED=2_000))
    for number in range(200):
        submit(ledger, f"00000000-0000-0000-0000-{number:012}")
    before = client.info("memory")["used_memory"]
    for number in range(200, 1200):
        submit(ledger, f"00000000-0000-0000-0000-{number:012}")
    assert (client.info("memory")["used_memory"] - before) / 1000 <= 2048


def test_no_redis_is_unavailable_and_not_an_error_of_another_kind(make_settings):
    away = make_settings(REDIS_URL="redis://127.0.0.1:1/0")
    ledger = open_ledger(connect(away), away)
    for ask in (
        lambda: submit(ledger),
        lambda: ledger.jobs.find("a"),
        ledger.stats.figures,
        ledger.maintenance.dispatch,
        ledger.jobs.ping,
    ):
        with pytest.raises(UnavailableError):
            ask()


def test_a_redis_that_takes_no_writes_is_unavailable_too(ledger, redis_client):
    submit(ledger)
    redis_client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(UnavailableError):
            submit(ledger, "b")
    finally:
        redis_client.config_set("maxmemory", "0")


@pytest.fixture
def full_memory(client):
    """Fills Redis: nothing that needs memory is written any more."""

    def fill() -> None:
        client.config_set("maxmemory", "1mb")

    yield fill
    client.config_set("maxmemory", "0")


def test_with_full_memory_jobs_end_and_memory_is_freed_and_only_submissions_are_refused(ledger, client, full_memory):
    ready(ledger, "w/0")
    claims = {}
    for outcome in AttemptOutcome:
        submit(ledger, outcome, owner="me", webhook="https://example.com/")
        claims[outcome] = ledger.attempts.claim(outcome, HOLDER)
    for job_id in ("queued", "cancelled-now", "forgotten"):
        submit(ledger, job_id, owner="me")
    full_memory()
    with pytest.raises(WriteRefusedError):
        submit(ledger, "refused")
    ready(ledger, "w/0")
    for outcome, claim in claims.items():
        ledger.attempts.report(claim, Progress(Phase.SAMPLING, 1, 4))
        if outcome is AttemptOutcome.FINISHED:
            finish(ledger, claim)
        else:
            ledger.attempts.end_attempt(claim, outcome, Failure("x", "y"))
    assert ledger.jobs.cancel("cancelled-now") is State.CANCELLED
    assert ledger.jobs.forget("forgotten", insist=True)
    ledger.maintenance.reap()
    assert ledger.maintenance.dispatch() != {}
    assert ledger.attempts.claim("queued", HOLDER)
    ledger.estimates.estimate([ledger.jobs.find("queued")])
    ledger.rate_limit.count("me", 10)
    assert ledger.stats.figures().created == len(AttemptOutcome) + 3
    ledger.workers.leave("w/0")


def test_the_moves_end_where_a_job_ends():
    assert {state for state in State if state.ended} == {
        State.FINISHED,
        State.FAILED,
        State.CANCELLED,
        State.EXPIRED,
    }
    assert MOVES[State.FINISHED] == {State.EXPIRED}


def test_notes_are_remembered_with_the_job(ledger):
    submit(ledger, notes={"prompt": "a cat, \ud83d"})
    assert ledger.jobs.find("a").notes == {"prompt": "a cat, \ud83d"}
    assert submit(ledger, "b") == "b"
    assert ledger.jobs.find("b").notes == {}


def test_forgetting_leaves_alone_what_has_not_ended_unless_one_insists(ledger):
    submit(ledger)
    assert not ledger.jobs.forget("a")
    assert ledger.jobs.forget("a", insist=True)
    with pytest.raises(UnknownJobError):
        ledger.jobs.find("a")
    figures = ledger.stats.figures()
    assert (figures.ended, figures.jobs["queued"], sum(figures.jobs.values())) == ({"cancelled": 1}, 0, 0)


def test_a_started_job_that_is_deleted_goes_when_its_attempt_has_ended(ledger, client):
    for outcome in AttemptOutcome:
        submit(ledger, owner="me")
        claim = ledger.attempts.claim("a", HOLDER)
        for _ in range(2):
            assert not ledger.jobs.forget("a", insist=True)
        assert ledger.jobs.find("a").deleted
        assert ledger.jobs.page("me") == Page([], more=False)
        assert ledger.attempts.report(claim), "the worker is to stop"
        if outcome is AttemptOutcome.FINISHED:
            finish(ledger, claim)
        else:
            ledger.attempts.end_attempt(claim, outcome, Failure("x", "y"))
        assert ledger.maintenance.expire() == ["a"], outcome
        with pytest.raises(UnknownJobError):
            ledger.jobs.find("a")
    assert sum(ledger.stats.figures().jobs.values()) == 0
    assert client.keys("svd:job:*") == client.keys("svd:owner:*") == []


def test_the_idempotency_key_of_a_deleted_job_is_free_again(ledger):
    submit(ledger, idempotency_key="k", fingerprint="f")
    ledger.attempts.claim("a", HOLDER)
    ledger.jobs.forget("a", insist=True)
    assert submit(ledger, "b", idempotency_key="k", fingerprint="g") == "b"


def test_a_job_whose_message_is_refused_repeatedly_holds_up_no_other(ledger, clock):
    ready(ledger, "w/0")
    submit(ledger, "refused")
    submit(ledger, "next")
    submit(ledger, "last")
    assert list(ledger.maintenance.dispatch()) == ["refused"]
    clock.advance(6)
    ready(ledger, "w/0")
    assert ledger.maintenance.reap().overdue == {"refused": "svd.tiny"}
    assert list(ledger.maintenance.dispatch()) == ["next"], "the refused one does not fill the only slot"
    finish(ledger, ledger.attempts.claim("next", HOLDER))
    for _ in range(MAX_REFUSALS - 1):
        clock.advance(6)
        ready(ledger, "w/0")
        assert "refused" in ledger.maintenance.reap().overdue
    clock.advance(6)
    ready(ledger, "w/0")
    ledger.maintenance.dispatch()
    assert "refused" not in ledger.maintenance.reap().overdue
    assert ledger.jobs.find("refused").position == 2, "it is behind the others"
    assert ledger.stats.figures().refused_by_celery == 1
    finish(ledger, ledger.attempts.claim("last", HOLDER))
    assert list(ledger.maintenance.dispatch()) == ["refused"]
    finish(ledger, ledger.attempts.claim("refused", HOLDER))
    assert ledger.jobs.find("refused").state is State.FINISHED


def test_records_of_an_owners_failed_and_cancelled_jobs_are_bounded(client, make_settings):
    settings = make_settings()
    scripts = Scripts(client, settings.namespace, constants=Constants(max_ended_per_owner=3))
    ledger = open_ledger(client, settings, scripts)
    submit(ledger, "kept", owner="one")
    kept = ledger.attempts.claim("kept", HOLDER)
    assert kept
    finish(ledger, kept)
    submit(ledger, "other", owner="two")
    ledger.jobs.cancel("other")
    for number in range(6):
        submit(ledger, f"cancelled-{number}", owner="one")
        ledger.jobs.cancel(f"cancelled-{number}")
    assert [job.id for job in ledger.jobs.page("one").jobs] == ["cancelled-5", "cancelled-4", "cancelled-3", "kept"]
    assert sorted(ledger.maintenance.expire()) == ["cancelled-0", "cancelled-1", "cancelled-2"]
    assert ledger.jobs.find("other").state is State.CANCELLED
    assert client.zcard("svd:ended_of:one") == 3


def test_long_notes_are_cut_where_they_are_stored(ledger):
    submit(ledger, notes={"prompt": "x" * 32_000, "model": "sora"})
    assert ledger.jobs.find("a").notes == {"prompt": "x" * (NOTE_LENGTH - 1) + "…", "model": "sora"}


def test_a_queued_job_past_its_deadline_fails_in_the_next_round(ledger, clock, redis_client):
    submit(ledger, "a", cancel_after=60, webhook="https://example.com/")
    submit(ledger, "b", cancel_after=7200)
    ledger.maintenance.reap()
    assert ledger.jobs.find("a").state is State.QUEUED
    redis_client.hset("svd:job:a", "deadline", 1)
    redis_client.zadd("svd:deadlines", {"a": 1})
    ledger.maintenance.reap()
    job = ledger.jobs.find("a")
    assert (job.state, job.failure.code) == (State.FAILED, "deadline_exceeded")
    assert redis_client.zrange("svd:deadlines", 0, -1) == ["b"]
    assert redis_client.zrange("svd:outbox", 0, -1) == ["a"]
    assert redis_client.hget("svd:states", "queued") == "1"


def test_the_worker_of_a_job_past_its_deadline_must_stop(ledger, redis_client):
    submit(ledger, "a", cancel_after=60)
    claim = ledger.attempts.claim("a", HOLDER)
    assert ledger.attempts.report(claim) is None
    redis_client.hset("svd:job:a", "deadline", 1)
    assert ledger.attempts.report(claim) is Stop.DEADLINE
    ledger.attempts.end_attempt(claim, AttemptOutcome.RETRIED, Failure("unavailable", "Why."))
    assert ledger.jobs.find("a").failure.code == "deadline_exceeded"


def test_a_job_past_its_deadline_is_not_claimed(ledger, redis_client):
    submit(ledger, "a", cancel_after=60)
    redis_client.hset("svd:job:a", "deadline", 1)
    assert ledger.attempts.claim("a", HOLDER) is None
    assert ledger.jobs.find("a").state is State.FAILED


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
