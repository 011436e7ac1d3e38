import pytest

from svd_service.parameters import Profile
from tests.unit.ledger.samples import ALL, DRAFTS, HOLDER, holder, join, pass_time, ready, submit

pytestmark = pytest.mark.enable_socket


def test_one_id_per_worker_is_enqueued_and_one_without_workers(ledger, clock):
    for job_id in "abcdef":
        submit(ledger, job_id)
    assert len(ledger.maintenance.dispatch()) == 1
    ready(ledger, "w/0", "w/1", "w/2")
    assert len(ledger.maintenance.dispatch()) == 2
    assert list(ledger.maintenance.dispatch()) == []
    ledger.attempts.claim("a", HOLDER)
    assert len(ledger.maintenance.dispatch()) == 1


def test_a_waiting_job_with_a_remainder_of_an_earlier_message_takes_a_slot_and_frees_it(ledger, redis_client):
    ready(ledger, "host/0")
    submit(ledger, "a")
    redis_client.hset("svd:job:a", "slotless", 1)
    assert list(ledger.maintenance.dispatch()) == ["a"]
    assert redis_client.hgetall("svd:loads") == {"published|tiny|": "1"}
    ledger.attempts.claim("a", HOLDER)
    assert redis_client.hgetall("svd:loads") == {"started|tiny|": "1"}


def test_a_requeued_job_is_enqueued_beside_ids_whose_messages_may_be_lost(ledger, clock):
    for job_id in "abcd":
        submit(ledger, job_id)
    ledger.attempts.claim(next(iter(ledger.maintenance.dispatch())), HOLDER)
    assert list(ledger.maintenance.dispatch()) == ["b"]
    pass_time(ledger, clock, 11)
    ledger.maintenance.reap()
    assert list(ledger.maintenance.dispatch()) == ["a"]
    assert list(ledger.maintenance.dispatch()) == []


def test_one_owners_many_jobs_do_not_delay_anothers_first(ledger):
    for number in range(50):
        submit(ledger, f"many-{number:02}", owner="many")
    for _ in range(5):
        ledger.attempts.claim(next(iter(ledger.maintenance.dispatch())), HOLDER)
    submit(ledger, "first", owner="one")
    assert ledger.jobs.find("first").position == 1
    assert list(ledger.maintenance.dispatch()) == ["first"]


def test_a_new_owners_first_job_precedes_the_second_of_many(ledger):
    # "z" would lose every tie, since Redis orders equal scores by name; the first of "many" would win them all.
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


def test_a_step_of_priority_is_four_times_the_share_of_the_queue(ledger):
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


def test_without_workers_one_id_is_enqueued_for_all_profiles(ledger):
    submit(ledger, "a")
    submit(ledger, "b")
    assert ledger.maintenance.dispatch() == {"a": ALL}
    assert ledger.maintenance.dispatch() == {}


def test_a_worker_of_few_profiles_gets_their_jobs_first(ledger):
    join(ledger, "all/0")
    join(ledger, "drafts/0", "draft")
    for job_id in ("first", "second"):
        submit(ledger, job_id, profile=Profile.DRAFT)
    submit(ledger, "exact")
    assert ledger.maintenance.dispatch() == {"first": DRAFTS, "second": ALL}
    ledger.attempts.claim("second", holder("all/0"))
    assert ledger.maintenance.dispatch() == {"exact": ALL}


def test_jobs_of_other_profiles_do_not_block_a_workers_own(ledger):
    join(ledger, "drafts/0", "draft")
    for number in range(100):
        submit(ledger, f"exact-{number}")
    submit(ledger, "draft", profile=Profile.DRAFT)
    assert ledger.maintenance.dispatch() == {"draft": DRAFTS}


def test_each_model_has_its_own_queue(ledger):
    join(ledger, "w/0")
    join(ledger, "other/0", model="other")
    for number in range(3):
        submit(ledger, f"tiny-{number}", owner="ann")
        submit(ledger, f"other-{number}", owner="ann", model="other")
    assert ledger.maintenance.dispatch() == {"other-0": "svd.other", "tiny-0": ALL}
    assert [ledger.jobs.find(f"{model}-{number}").position for model in ("tiny", "other") for number in range(3)] == [
        *(1, 2, 3),
        *(1, 2, 3),
    ]
    assert {queue: figures.length for queue, figures in ledger.stats.figures().queues.items() if figures.length} == {
        ("tiny", "exact"): 3,
        ("other", "exact"): 3,
    }
