import pytest

from svd_service.errors import (
    StaleAttemptError,
)
from svd_service.jobs.job import AttemptOutcome, Failure, Phase, Progress, State
from svd_service.ledger.maintenance import MAX_REFUSALS, Reaped
from svd_service.parameters import Profile
from tests.unit.ledger.samples import ALL, DRAFTS, HOLDER, OTHER, finish, holder, join, pass_time, ready, rounds, submit

pytestmark = pytest.mark.enable_socket


def test_an_expired_lease_requeues_the_job_and_rejects_later_writes(ledger, clock):
    submit(ledger)
    first = ledger.attempts.claim("a", HOLDER)
    pass_time(ledger, clock, 11)
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


def test_no_lease_expires_while_there_is_no_activity(ledger, clock):
    submit(ledger)
    claim = ledger.attempts.claim("a", HOLDER)
    clock.advance(60)
    assert ledger.maintenance.reap() == Reaped([], {})
    clock.advance(6)
    assert ledger.maintenance.reap() == Reaped([], {})
    assert ledger.attempts.report(claim) is None
    pass_time(ledger, clock, 11)
    assert ledger.maintenance.reap() == Reaped(["a"], {})


def test_a_job_fails_when_every_attempt_was_lost(ledger, clock):
    submit(ledger)
    for _ in range(3):
        assert ledger.attempts.claim("a", HOLDER) is not None
        pass_time(ledger, clock, 11)
        ledger.maintenance.reap()
    job = ledger.jobs.find("a")
    assert job.state is State.FAILED
    assert job.failure.code == "worker_lost"
    assert [attempt.outcome for attempt in job.attempts] == ["lost"] * 3
    assert ledger.attempts.claim("a", HOLDER) is None


def test_a_job_to_be_cancelled_is_cancelled_when_its_lease_expires(ledger, clock):
    submit(ledger)
    ledger.attempts.claim("a", HOLDER)
    ledger.jobs.cancel("a")
    pass_time(ledger, clock, 11)
    ledger.maintenance.reap()
    assert ledger.jobs.find("a").state is State.CANCELLED


def test_an_id_is_enqueued_again_only_beside_a_worker_that_stays_idle(ledger, clock):
    ready(ledger, "w/0")
    for job_id in "ab":
        submit(ledger, job_id)
    assert list(ledger.maintenance.dispatch()) == ["a"]
    claim = ledger.attempts.claim("a", holder("w/0"))
    assert list(ledger.maintenance.dispatch()) == ["b"]
    assert rounds(ledger, clock, 6, "w/0") == []  # the only worker is busy: "b" has to wait
    ledger.attempts.report(claim)
    assert rounds(ledger, clock, 5, "w/0", "w/1") == []
    ledger.attempts.report(claim)
    assert rounds(ledger, clock, 1, "w/0", "w/1") == ["b"]
    assert ledger.maintenance.reap() == Reaped([], {})


def test_a_worker_that_gets_duplicates_of_other_messages_is_not_idle(ledger, clock):
    ready(ledger, "w/0")
    submit(ledger, "old")
    finish(ledger, ledger.attempts.claim("old", holder("w/0")))
    submit(ledger, "next")
    ledger.maintenance.dispatch()
    for _ in range(5):
        assert rounds(ledger, clock, 3, "w/0") == []
        assert ledger.attempts.claim("old", holder("w/0")) is None
    assert rounds(ledger, clock, 6, "w/0") == ["next"]


def test_time_in_which_nobody_watches_the_workers_does_not_count_as_idle(ledger, clock):
    ready(ledger, "w/0")
    ledger.maintenance.reap()
    submit(ledger)
    ledger.maintenance.dispatch()
    clock.advance(3600)  # Redis was frozen, or no worker was there
    assert rounds(ledger, clock, 1, "w/0") == []
    assert rounds(ledger, clock, 2, "w/0") == ["a"]


def test_an_id_is_enqueued_again_when_a_later_one_arrives_although_all_workers_are_busy(ledger, clock):
    ready(ledger, "w/0", "w/1")
    submit(ledger, "lost")
    assert list(ledger.maintenance.dispatch()) == ["lost"]
    rounds(ledger, clock, 3, "w/0", "w/1")
    submit(ledger, "soon")
    assert list(ledger.maintenance.dispatch()) == ["soon"]
    ledger.attempts.claim("soon", holder("w/0"))
    assert rounds(ledger, clock, 3, "w/0", "w/1") == []  # that may have been sent first
    submit(ledger, "later")
    assert list(ledger.maintenance.dispatch()) == ["later"]
    ledger.attempts.claim("later", holder("w/1"))
    assert ledger.maintenance.reap().overdue == {"lost": ALL}
    assert ledger.maintenance.reap().overdue == {}


def test_a_job_that_is_enqueued_a_second_time_proves_no_loss(ledger, clock):
    ready(ledger, "w/0")
    submit(ledger, "again")
    ledger.maintenance.dispatch()
    claim = ledger.attempts.claim("again", holder("w/0"))
    submit(ledger, "next")
    ledger.maintenance.dispatch()
    assert rounds(ledger, clock, 6, "w/0") == []
    ledger.attempts.end_attempt(claim, AttemptOutcome.LOST)
    assert list(ledger.maintenance.dispatch()) == ["again"]
    # By its first message, which Celery has put before the others when the process died.
    assert ledger.attempts.claim("again", holder("w/0")) is not None
    assert rounds(ledger, clock, 1, "w/0") == []


def test_after_the_clock_was_corrected_no_arrival_is_in_the_future(ledger, clock):
    clock.advance(3600)
    ready(ledger, "w/0")
    submit(ledger, "a")
    ledger.maintenance.dispatch()
    finish(ledger, ledger.attempts.claim("a", holder("w/0")))
    clock.advance(-3600)
    ready(ledger, "w/0")
    submit(ledger, "b")
    ledger.maintenance.dispatch()
    assert rounds(ledger, clock, 5, "w/0") == []
    assert rounds(ledger, clock, 1, "w/0") == ["b"]


def test_a_job_whose_message_is_rejected_repeatedly_holds_up_no_other(ledger, clock):
    ready(ledger, "w/0")
    submit(ledger, "refused")
    submit(ledger, "next")
    submit(ledger, "last")
    assert list(ledger.maintenance.dispatch()) == ["refused"]
    assert rounds(ledger, clock, 6, "w/0") == ["refused"]
    assert list(ledger.maintenance.dispatch()) == ["next"], "the rejected one does not fill the only slot"
    finish(ledger, ledger.attempts.claim("next", holder("w/0")))
    for _ in range(MAX_REFUSALS - 1):
        assert rounds(ledger, clock, 6, "w/0") == ["refused"]
    ledger.maintenance.dispatch()
    assert rounds(ledger, clock, 4, "w/0") == []
    assert ledger.jobs.find("refused").position == 2, "it is behind the others"
    assert ledger.stats.figures().refused_by_celery == 1
    finish(ledger, ledger.attempts.claim("last", holder("w/0")))
    assert list(ledger.maintenance.dispatch()) == ["refused"]
    finish(ledger, ledger.attempts.claim("refused", holder("w/0")))
    assert ledger.jobs.find("refused").state is State.FINISHED


def test_an_id_whose_queue_has_no_workers_left_goes_to_another(ledger, clock):
    join(ledger, "drafts/0", "draft")
    submit(ledger, "a", profile=Profile.DRAFT)
    assert ledger.maintenance.dispatch() == {"a": DRAFTS}
    clock.advance(60)
    assert ledger.maintenance.reap() == Reaped([], {})  # no other worker is there, and it may come back
    join(ledger, "exact/0", "exact")
    assert ledger.maintenance.reap() == Reaped([], {})
    join(ledger, "all/0")
    assert ledger.maintenance.reap() == Reaped([], {})
    assert ledger.jobs.find("a").position == 1
    assert ledger.maintenance.dispatch() == {"a": ALL}
    assert ledger.maintenance.dispatch() == {}


def test_a_lost_message_is_sent_again_if_a_worker_of_its_queue_is_idle(ledger, clock):
    join(ledger, "drafts/0", "draft")
    join(ledger, "all/0")
    submit(ledger, "draft", profile=Profile.DRAFT)
    assert ledger.maintenance.dispatch() == {"draft": DRAFTS}
    ledger.attempts.claim("draft", holder("drafts/0"))
    submit(ledger, "next", profile=Profile.DRAFT)
    submit(ledger, "exact")
    assert ledger.maintenance.dispatch() == {"next": DRAFTS, "exact": ALL}
    assert rounds(ledger, clock, 6) == ["exact"]


def test_a_queued_job_past_its_deadline_fails_in_the_next_round(ledger, clock, redis_client):
    submit(ledger, "a", cancel_after=60, webhook="https://example.com/")
    submit(ledger, "b", cancel_after=7200)
    clock.advance(59)
    ledger.maintenance.reap()
    assert ledger.jobs.find("a").state is State.QUEUED
    clock.advance(1)
    ledger.maintenance.reap()
    job = ledger.jobs.find("a")
    assert (job.state, job.failure.code) == (State.FAILED, "deadline_exceeded")
    assert redis_client.zrange("svd:deadlines", 0, -1) == ["b"]
    assert redis_client.zrange("svd:outbox", 0, -1) == ["a"]
    assert redis_client.hget("svd:states", "queued") == "1"
