import pytest

from tests.unit.ledger.samples import HOLDER, ready, submit

pytestmark = pytest.mark.enable_socket

COUNTERS = ("states", "queued_of", "loads")


def counters(redis_client):
    """The counters that are not zero."""
    found = {name: redis_client.hgetall(f"svd:{name}") for name in COUNTERS}
    return {name: {key: value for key, value in hash_.items() if value != "0"} for name, hash_ in found.items()}


def test_lost_and_wrong_counters_are_recomputed_from_the_sets(ledger, scripts, redis_client):
    ready(ledger, "w/0", "w/1")
    for job_id, owner in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")):
        submit(ledger, job_id, owner=owner)
    ledger.maintenance.dispatch()
    ledger.attempts.claim("a", HOLDER)
    ledger.jobs.cancel("d")
    before = counters(redis_client)
    assert all(before.values())
    redis_client.delete("svd:states", "svd:loads")
    redis_client.hset("svd:queued_of", mapping={"one": 7, "three": 1})
    scripts.run("recount")
    assert counters(redis_client) == before


def test_counters_of_sets_that_are_too_large_to_count_stay(ledger, scripts, redis_client):
    submit(ledger, "queued", owner="one")
    with redis_client.pipeline(transaction=False) as pipe:
        for number in range(20_001):
            pipe.hset(f"svd:job:{number}", "state", "finished")
        pipe.zadd("svd:ended", {str(number): 2e9 for number in range(20_001)})
        pipe.hset("svd:states", "finished", 20_001)
        pipe.hset("svd:states", "queued", 7)
        pipe.execute()
    scripts.run("recount")
    assert counters(redis_client) == {
        "states": {"queued": "1", "finished": "20001"},
        "queued_of": {"one": "1"},
        "loads": {},
    }
