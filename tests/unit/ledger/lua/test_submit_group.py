"""Groups of jobs in the ledger: accepted together, ended once, deleted with their members."""

import pytest

from svd_service.errors import (
    IdempotencyConflictError,
    PausedError,
    QueueFullError,
    QuotaExceededError,
    UnknownGroupError,
)
from svd_service.jobs.group import Group
from svd_service.jobs.job import AttemptOutcome, Failure, State
from svd_service.jobs.submission import GroupSubmission, Submission
from svd_service.ledger import open_ledger
from svd_service.ledger.check import check
from svd_service.ledger.controls import Pausable
from svd_service.presentation import GroupEvent
from svd_service.webhooks.outbox import Outbox
from svd_service.webhooks.payload import event_of
from tests.unit.ledger.samples import HOLDER, MODEL, PARAMETERS, finish, submit

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def settings(make_settings, redis_url):
    return make_settings(REDIS_URL=redis_url, SVD_MAX_QUEUED=5, SVD_MAX_QUEUED_PER_KEY=4)


@pytest.fixture
def ledger(redis_client, settings):
    return open_ledger(redis_client, settings)


def submit_group(ledger, group_id="g", members="abc", *, owner="", key="", fingerprint="f", webhook="", **more):
    jobs = [
        Submission(job_id, parameters=PARAMETERS, model=MODEL, input=f"inputs/{job_id}.png", owner=owner, **more)
        for job_id in members
    ]
    return ledger.groups.submit(
        GroupSubmission(group_id, jobs, idempotency_key=key, fingerprint=fingerprint, webhook=webhook)
    )


def run(ledger, job_id, *, well=True):
    claim = ledger.attempts.claim(job_id, HOLDER)
    if well:
        finish(ledger, claim)
    else:
        ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, Failure("x", "why"))


def snapshot(client):
    """All keys in Redis with their values."""
    return {key: client.dump(key) for key in client.keys("svd:*")}


def end_retention(ledger, client):
    for job_id in client.zrange("svd:ended", 0, -1):
        client.zadd("svd:ended", {job_id: 1})
    ledger.maintenance.expire()


def test_a_groups_members_are_ordinary_jobs(ledger):
    assert submit_group(ledger, owner="one") == "g"
    group = ledger.groups.find("g")
    assert (group.id, group.owner, group.size, group.state) == ("g", "one", 3, State.QUEUED)
    assert [job.id for job in group.jobs] == ["a", "b", "c"]
    assert [job.position for job in group.jobs] == [1, 2, 3]
    assert {job.group_id for job in ledger.jobs.page("one").jobs} == {"g"}
    submit(ledger, "alone")
    assert ledger.jobs.find("alone").group_id is None


def test_repeating_a_group_with_its_id_changes_nothing(ledger, redis_client):
    submit_group(ledger)
    before = redis_client.hgetall("svd:counters")
    assert submit_group(ledger) == "g"
    assert redis_client.hgetall("svd:counters") == before


def test_a_group_is_accepted_whole_or_not_at_all(ledger, redis_client):
    submit(ledger, "x", owner="one")
    with pytest.raises(QueueFullError, match="4 jobs of yours"):
        submit_group(ledger, members="abcd", owner="one")
    with pytest.raises(QueueFullError, match="5 jobs"):
        submit_group(ledger, members="abcde")
    assert redis_client.keys("svd:group:*") == []
    assert redis_client.keys("svd:job:*") == ["svd:job:x"]
    assert submit_group(ledger, members="abc", owner="one") == "g"


@pytest.mark.parametrize("quota", ["jobs_per_day", "concurrent_jobs"])
def test_a_group_of_three_is_rejected_if_its_owners_quota_has_two_jobs_left(ledger, redis_client, quota):
    quotas = {quota: 3}
    submit(ledger, "x", owner="one", quotas=quotas)
    before = snapshot(redis_client)
    with pytest.raises(QuotaExceededError, match="too few left for 3"):
        submit_group(ledger, owner="one", key="k", quotas=quotas)
    with pytest.raises(QuotaExceededError, match="too few left for 3"):
        ledger.jobs.require_quota("one", quotas, 3)
    assert snapshot(redis_client) == before
    ledger.jobs.require_quota("one", quotas, 2)
    assert submit_group(ledger, members="ab", owner="one", key="k", quotas=quotas) == "g"
    with pytest.raises(QuotaExceededError):
        submit(ledger, "y", owner="one", quotas=quotas)
    # The same group again is no new one.
    assert submit_group(ledger, members="ab", owner="one", quotas=quotas) == "g"
    assert submit_group(ledger, "h", members="de", owner="one", key="k", quotas=quotas) == "g"


@pytest.mark.parametrize("model", ["", "tiny"])
def test_a_paused_intake_accepts_no_group(ledger, redis_client, model):
    ledger.controls.pause(Pausable.INTAKE, "other", by="olga", reason="")
    assert submit_group(ledger, key="k") == "g"
    ledger.controls.pause(Pausable.INTAKE, model, by="olga", reason="driver update")
    before = snapshot(redis_client)
    with pytest.raises(PausedError, match="driver update"):
        submit_group(ledger, "h", "de", key="l")
    assert snapshot(redis_client) == before
    assert submit_group(ledger, "h", "de", key="k") == "g"


def test_usage_counts_each_member(ledger, redis_client):
    submit_group(ledger, owner="one")
    run(ledger, "a")
    run(ledger, "b", well=False)
    ledger.jobs.cancel("c")
    totals = redis_client.hgetall("svd:usage_totals")
    assert {name: totals.get(f"one|{name}") for name in ("submitted", "finished", "failed", "cancelled")} == {
        "submitted": "3",
        "finished": "1",
        "failed": "1",
        "cancelled": "1",
    }


def test_an_idempotency_key_means_the_whole_group(ledger):
    assert submit_group(ledger, key="k") == "g"
    assert submit_group(ledger, "h", "def", key="k") == "g"
    with pytest.raises(IdempotencyConflictError):
        submit_group(ledger, "h", "def", key="k", fingerprint="other")
    with pytest.raises(IdempotencyConflictError):
        submit(ledger, "single", idempotency_key="k", fingerprint="single")
    for job_id in "abc":
        ledger.jobs.forget(job_id, insist=True)
    assert submit_group(ledger, "h", "def", key="k", fingerprint="other") == "h"


def test_a_group_ends_with_its_last_member_and_has_one_delivery(ledger, redis_client, settings):
    submit_group(ledger, webhook="https://example.com/hook", owner="one")
    run(ledger, "a")
    run(ledger, "b", well=False)
    assert ledger.groups.find("g").state is State.STARTED
    assert redis_client.zrange("svd:outbox", 0, -1) == []
    ledger.jobs.cancel("c")
    group = ledger.groups.find("g")
    assert (group.state, group.counts) == (
        State.FAILED,
        {State.FINISHED: 1, State.FAILED: 1, State.CANCELLED: 1},
    )
    assert group.ended_at is not None
    assert redis_client.zrange("svd:outbox", 0, -1) == ["g"]
    assert group.webhook is not None
    outbox = Outbox(redis_client, settings)
    (posted,) = outbox.choose_due()
    delivery = outbox.claim(posted)
    assert delivery is not None
    event = event_of("msg_g", delivery.type, delivery.job)
    assert isinstance(event, GroupEvent)
    assert (event.type, event.data.group_id, event.data.status) == ("group.failed", "g", "failed")
    assert [job.status for job in event.data.jobs] == ["finished", "failed", "cancelled"]
    outbox.deliver(delivery, 200)
    assert ledger.groups.find("g").webhook.state == "delivered"
    assert redis_client.ttl("svd:delivery:g") > 0


@pytest.mark.parametrize(("ends", "state"), [("fff", State.FINISHED), ("ffc", State.CANCELLED), ("cxc", State.FAILED)])
def test_a_group_is_in_the_worst_of_its_members_states(ledger, ends, state):
    submit_group(ledger)
    for job_id, end in zip("abc", ends, strict=True):
        if end == "c":
            ledger.jobs.cancel(job_id)
        else:
            run(ledger, job_id, well=end == "f")
    assert ledger.groups.find("g").state is state


def test_deleted_members_leave_the_group_and_the_last_deletes_it(ledger, redis_client):
    submit_group(ledger, webhook="https://example.com/")
    ledger.jobs.forget("a", insist=True)
    group = ledger.groups.find("g")
    assert ([job.id for job in group.jobs], group.size, group.ended_at) == (["b", "c"], 3, None)
    run(ledger, "b")
    ledger.jobs.forget("c", insist=True)
    assert ledger.groups.find("g").ended_at is not None
    ledger.jobs.forget("b")
    with pytest.raises(UnknownGroupError):
        ledger.groups.find("g")
    assert redis_client.exists("svd:group:g") == 0
    assert redis_client.zrange("svd:outbox", 0, -1) == ["g"]  # it outlives the group


def test_retention_deletes_the_group_with_its_members(ledger, redis_client):
    submit_group(ledger)
    for job_id in "abc":
        run(ledger, job_id)
    end_retention(ledger, redis_client)
    assert ledger.groups.find("g").state is State.EXPIRED
    end_retention(ledger, redis_client)
    assert redis_client.keys("svd:group:*") == redis_client.keys("svd:job:*") == []


def test_a_groups_record_expires_even_if_a_member_is_lost(ledger, redis_client, settings):
    submit_group(ledger)
    assert redis_client.ttl("svd:group:g") > 0
    redis_client.expire("svd:group:g", 5)
    run(ledger, "a")
    assert redis_client.ttl("svd:group:g") > settings.result_ttl + settings.record_ttl


YEAR = 365 * 86_400


def ended_group_with_webhook(ledger, redis_client, settings):
    submit_group(ledger, webhook="https://example.com/")
    for job_id in "abc":
        run(ledger, job_id)
    outbox = Outbox(redis_client, settings)
    outbox.choose_due()
    delivery = outbox.claim("g")
    assert delivery is not None
    outbox.deliver(delivery, 200)


def times_left(redis_client):
    """Of the group's record and of that of its webhook, in seconds."""
    return [redis_client.ttl("svd:group:g"), redis_client.ttl("svd:delivery:g")]


def test_a_group_stays_as_long_as_one_of_its_members_is_pinned(ledger, redis_client, settings):
    ended_group_with_webhook(ledger, redis_client, settings)
    before = max(times_left(redis_client))
    for job_id in "ab":
        ledger.jobs.pin(job_id, on=True)
        assert min(times_left(redis_client)) > YEAR
    ledger.jobs.pin("a", on=False)
    end_retention(ledger, redis_client)
    end_retention(ledger, redis_client)
    assert [job.id for job in ledger.groups.find("g").jobs] == ["b"]
    assert min(times_left(redis_client)) > YEAR
    ledger.jobs.pin("b", on=False)
    assert settings.result_ttl + settings.record_ttl < min(times_left(redis_client)) <= before


def test_a_group_expires_again_once_its_pinned_member_is_deleted(ledger, redis_client, settings):
    ended_group_with_webhook(ledger, redis_client, settings)
    before = max(times_left(redis_client))
    ledger.jobs.pin("a", on=True)
    ledger.jobs.forget("a")
    assert 0 < min(times_left(redis_client)) <= max(times_left(redis_client)) <= before


def test_a_group_that_has_not_ended_stays_after_a_pin_and_its_end(ledger, redis_client):
    submit_group(ledger)
    before = redis_client.ttl("svd:group:g")
    run(ledger, "a")
    for on in (True, False):
        ledger.jobs.pin("a", on=on)
    assert redis_client.ttl("svd:group:g") == pytest.approx(before, abs=60)
    ledger.jobs.pin("a", on=True)
    for job_id in "bc":
        run(ledger, job_id)
    assert redis_client.ttl("svd:group:g") > YEAR


def test_the_check_keeps_a_group_whose_member_was_pinned_under_an_earlier_release(ledger, redis_client, settings):
    submit_group(ledger)
    run(ledger, "a")
    ledger.jobs.pin("a", on=True)
    redis_client.expire("svd:group:g", 60)
    assert check(redis_client, settings).repaired == []
    assert redis_client.ttl("svd:group:g") > YEAR


def test_a_lost_member_counts_as_ended_and_delays_nothing(ledger, redis_client, settings):
    submit_group(ledger, webhook="https://example.com/")
    redis_client.delete("svd:job:a")
    redis_client.hset("svd:job:b", "state", "nonsense")
    check(redis_client, settings)
    group = ledger.groups.find("g")
    assert [job.id for job in group.jobs] == ["c"]
    run(ledger, "c")
    assert ledger.groups.find("g").ended_at is not None
    outbox = Outbox(redis_client, settings)
    assert outbox.choose_due() == ["g"]
    delivery = outbox.claim("g")
    assert delivery is not None
    assert isinstance(delivery.job, Group)
    assert [job.id for job in delivery.job.jobs] == ["c"]


@pytest.mark.parametrize("damage", ["type", "fields", "member", "gone"])
def test_a_damaged_group_record_affects_no_job(ledger, redis_client, settings, damage):
    submit_group(ledger)
    if damage == "type":
        redis_client.delete("svd:group:g")
        redis_client.set("svd:group:g", "x")
        check(redis_client, settings)
        assert redis_client.exists("svd:group:g") == 0
    elif damage == "fields":
        redis_client.hdel("svd:group:g", "owner", "created", "keep")
    elif damage == "member":
        redis_client.hset("svd:group:g", "member:x", "unknown")
    else:
        redis_client.delete("svd:group:g")
    if damage != "member":
        with pytest.raises(UnknownGroupError):
            ledger.groups.find("g")
    for job_id in "abc":
        run(ledger, job_id)
        assert ledger.jobs.find(job_id).state is State.FINISHED
        assert ledger.jobs.forget(job_id)


def test_members_of_a_group_have_its_deadline(ledger, redis_client):
    submit_group(ledger, cancel_after=60)
    assert sorted(redis_client.zrange("svd:deadlines", 0, -1)) == ["a", "b", "c"]
    for job_id in "abc":
        redis_client.hset(f"svd:job:{job_id}", "deadline", 1)
        redis_client.zadd("svd:deadlines", {job_id: 1})
    ledger.maintenance.reap()
    assert ledger.groups.find("g").state is State.FAILED
