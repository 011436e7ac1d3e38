import math

import pytest

from svd_service.jobs.job import State
from tests.unit.ledger.samples import HOLDER, finish, ready, submit

pytestmark = pytest.mark.enable_socket

REPAIRED = "its sets did not follow its record; repaired"


@pytest.fixture
def mend(scripts):
    return lambda *ids: scripts.run("mend", ids=ids, record_ttl=60)


def test_an_intact_job_is_left_alone(ledger, mend):
    submit(ledger)
    assert mend("a") == []


def test_a_queued_job_that_is_in_no_set_waits_again(ledger, mend, redis_client):
    submit(ledger)
    for name in ("waiting:tiny", "waiting:tiny|exact", "queued:tiny|exact"):
        redis_client.zrem(f"svd:{name}", "a")
    assert mend("a") == ["a", REPAIRED]
    assert mend("a") == []
    assert list(ledger.maintenance.dispatch()) == ["a"]


def test_an_enqueued_job_that_is_repaired_frees_its_slot_when_it_is_claimed(ledger, mend, redis_client):
    ready(ledger, "host/0")
    submit(ledger)
    ledger.maintenance.dispatch()
    redis_client.hset("svd:job:a", "slotless", 1)  # its first message was lost
    redis_client.delete("svd:published:tiny", "svd:loads")
    assert mend("a") == ["a", REPAIRED]
    assert redis_client.hmget("svd:job:a", "queue", "slotless") == [None, None]
    assert list(ledger.maintenance.dispatch()) == ["a"]
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    assert redis_client.hgetall("svd:loads") == {}
    submit(ledger, "next")
    assert list(ledger.maintenance.dispatch()) == ["next"]


def test_a_started_job_without_a_lease_is_requeued_by_the_next_round(ledger, mend, redis_client):
    submit(ledger)
    ledger.attempts.claim("a", HOLDER)
    redis_client.zrem("svd:leases", "a")
    assert mend("a") == ["a", REPAIRED]
    assert ledger.maintenance.reap().lost == ["a"]


def test_a_started_job_without_a_token_is_queued(ledger, mend, redis_client):
    submit(ledger)
    ledger.attempts.claim("a", HOLDER)
    redis_client.hdel("svd:job:a", "token")
    assert mend("a") == ["a", REPAIRED]
    assert ledger.jobs.find("a").state is State.QUEUED


def test_an_ended_job_is_removed_from_the_sets_of_others_and_expires(ledger, mend, redis_client, clock):
    submit(ledger)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    redis_client.zrem("svd:ended", "a")
    redis_client.zadd("svd:leases", {"a": clock.now})
    assert mend("a") == ["a", REPAIRED]
    assert redis_client.zscore("svd:leases", "a") is None
    clock.advance(61)
    assert ledger.maintenance.expire() == ["a"]


def test_a_pinned_job_that_lost_its_place_has_no_end_again(ledger, mend, redis_client):
    submit(ledger)
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    ledger.jobs.pin("a", on=True)
    redis_client.delete("svd:ended")
    assert mend("a") == ["a", REPAIRED]
    assert redis_client.zscore("svd:ended", "a") == math.inf


def test_a_job_without_a_record_is_dropped(ledger, mend, redis_client):
    submit(ledger, owner="one")
    redis_client.delete("svd:job:a")
    assert mend("a") == ["a", "its record is missing or damaged; dropped"]
    assert ledger.maintenance.dispatch() == {}


def test_an_id_without_a_record_that_is_in_no_set_is_no_damage(ledger, mend, redis_client):
    assert mend("gone") == ["gone", ""]
    assert redis_client.hgetall("svd:counters") == {}
