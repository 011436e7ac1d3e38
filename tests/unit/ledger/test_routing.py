"""Which worker's queue a job's id is given to, with the ledger in a real Redis."""

from dataclasses import replace
from typing import Any

import pytest

from svd_service.jobs.job import Holder
from svd_service.jobs.model import Bounds, Defaults, Model, Sampling, Schedule
from svd_service.jobs.routing import celery_queue, queue_of
from svd_service.jobs.submission import Submission
from svd_service.ledger import Ledger
from svd_service.ledger.maintenance import Reaped
from svd_service.ledger.workers import WORKER_TIMEOUT, WorkerStatus
from svd_service.parameters import Profile
from tests.unit.ledger.samples import PARAMETERS

pytestmark = pytest.mark.enable_socket

DRAFTS, ALL = "svd.tiny@draft", "svd.tiny"


def join(ledger: Ledger, worker: str, *profiles: str, model: str = "tiny") -> None:
    ledger.workers.heartbeat(WorkerStatus(worker, "cpu", "instance", 1, model, False, 0.0, 1.0, profiles=profiles))


def submit(ledger: Ledger, job_id: str, profile: Profile = Profile.EXACT, model: str = "tiny", **more: Any) -> str:
    parameters = replace(PARAMETERS, profile=profile)
    return ledger.jobs.submit(
        Submission(job_id, parameters=parameters, model={"name": model}, input="inputs/a.png", **more)
    )


def claim(ledger: Ledger, job_id: str, worker: str) -> Any:
    return ledger.attempts.claim(job_id, Holder(worker, "cpu", "instance", 1))


def fall_silent(redis_client: Any, worker: str) -> None:
    for key in ("svd:workers", f"svd:workers:{redis_client.hget('svd:worker_queue', worker)}"):
        redis_client.zincrby(key, -2 * WORKER_TIMEOUT, worker)


def let_time_pass(redis_client: Any, model: str = "tiny") -> None:
    for job_id in redis_client.zrange(f"svd:published:{model}", 0, -1):
        redis_client.zincrby(f"svd:published:{model}", -60, job_id)


def test_a_queue_is_called_by_its_model_and_its_profiles():
    assert celery_queue("svd", queue_of("org/svd-xt")) == "svd.org/svd-xt"
    assert celery_queue("svd", queue_of("nano", ("exact", "draft"))) == "svd.nano@draft+exact"


def test_without_workers_one_id_waits_for_whoever_comes(ledger):
    submit(ledger, "a")
    submit(ledger, "b")
    assert ledger.maintenance.dispatch() == {"a": ALL}
    assert ledger.maintenance.dispatch() == {}


def test_who_takes_few_profiles_gets_their_jobs_before_who_takes_them_all(ledger):
    join(ledger, "all/0")
    join(ledger, "drafts/0", "draft")
    for job_id in ("first", "second"):
        submit(ledger, job_id, Profile.DRAFT)
    submit(ledger, "exact")
    assert ledger.maintenance.dispatch() == {"first": DRAFTS, "second": ALL}
    claim(ledger, "second", "all/0")
    assert ledger.maintenance.dispatch() == {"exact": ALL}


def test_many_jobs_that_a_worker_does_not_take_do_not_keep_it_from_those_that_it_takes(ledger):
    join(ledger, "drafts/0", "draft")
    for number in range(100):
        submit(ledger, f"exact-{number}")
    submit(ledger, "draft", Profile.DRAFT)
    assert ledger.maintenance.dispatch() == {"draft": DRAFTS}


def test_each_model_has_a_queue_of_its_own(ledger):
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


def test_a_worker_gets_no_job_that_it_does_not_take_whatever_its_message_says(ledger):
    join(ledger, "w/0")
    join(ledger, "drafts/0", "draft")
    join(ledger, "other/0", model="other")
    submit(ledger, "a")
    assert claim(ledger, "a", "drafts/0") is None
    assert claim(ledger, "a", "other/0") is None
    assert claim(ledger, "a", "w/0") is not None


def test_an_id_whose_queue_nobody_listens_to_any_more_goes_to_another(ledger, redis_client):
    join(ledger, "drafts/0", "draft")
    submit(ledger, "a", Profile.DRAFT)
    assert ledger.maintenance.dispatch() == {"a": DRAFTS}
    fall_silent(redis_client, "drafts/0")
    let_time_pass(redis_client)
    assert ledger.maintenance.reap() == Reaped([], {})  # no other worker is there, and it may come back
    join(ledger, "exact/0", "exact")
    assert ledger.maintenance.reap() == Reaped([], {})
    join(ledger, "all/0")
    assert ledger.maintenance.reap() == Reaped([], {})
    assert ledger.jobs.find("a").position == 1
    assert ledger.maintenance.dispatch() == {"a": ALL}
    assert ledger.maintenance.dispatch() == {}


def test_a_lost_message_is_sent_again_where_a_worker_of_its_own_queue_is_idle(ledger, redis_client):
    join(ledger, "drafts/0", "draft")
    join(ledger, "all/0")
    submit(ledger, "draft", Profile.DRAFT)
    assert ledger.maintenance.dispatch() == {"draft": DRAFTS}
    claim(ledger, "draft", "drafts/0")
    submit(ledger, "next", Profile.DRAFT)
    submit(ledger, "exact")
    assert ledger.maintenance.dispatch() == {"next": DRAFTS, "exact": ALL}
    let_time_pass(redis_client)
    assert ledger.maintenance.reap() == Reaped([], {"exact": ALL})


def test_a_model_that_was_introduced_is_found_as_it_was_until_it_is_forgotten(ledger, redis_client):
    model = Model(
        "other",
        "org/other",
        "main",
        "A model.",
        False,
        Defaults(width=64),
        Bounds(num_frames=(3, 9)),
        {"draft": Sampling(4, Schedule.ALIGN_YOUR_STEPS)},
    )
    ledger.workers.introduce(model)
    join(ledger, "other/0", model="other")
    assert ledger.workers.models() == [model]
    assert ledger.workers.model("other") == model
    assert ledger.workers.model("nobody's") is None
    fall_silent(redis_client, "other/0")
    ledger.maintenance.dispatch()
    assert ledger.workers.models() == [model]
    redis_client.zincrby("svd:models", -10_000_000, "other")
    ledger.maintenance.dispatch()
    assert ledger.workers.models() == []


def test_what_a_newer_worker_says_of_its_model_beside_what_we_know_is_passed_over(ledger, redis_client):
    ledger.workers.introduce(Model("other", "org/other"))
    told = redis_client.hget("svd:model_descriptions", "other")
    redis_client.hset("svd:model_descriptions", "other", told.replace("{", '{"of_tomorrow": 1, ', 1))
    assert ledger.workers.model("other") == Model("other", "org/other")
