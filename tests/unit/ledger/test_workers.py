import pytest

from svd_service.jobs.model import Bounds, Defaults, Model, Sampling, Schedule
from svd_service.jobs.routing import celery_queue, queue_of
from svd_service.ledger.workers import WORKER_TIMEOUT
from tests.unit.ledger.samples import (
    join,
)

pytestmark = pytest.mark.enable_socket


def test_a_registered_model_is_found_until_it_has_no_workers_and_jobs(ledger, clock):
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
    assert ledger.workers.model("another") is None
    clock.advance(WORKER_TIMEOUT + 1)
    ledger.maintenance.dispatch()
    assert ledger.workers.models() == [model]
    clock.advance(10_000_000)
    ledger.maintenance.dispatch()
    assert ledger.workers.models() == []


def test_unknown_fields_of_a_newer_workers_model_are_ignored(ledger, redis_client):
    ledger.workers.introduce(Model("other", "org/other"))
    description = redis_client.hget("svd:model_descriptions", "other")
    redis_client.hset("svd:model_descriptions", "other", description.replace("{", '{"of_tomorrow": 1, ', 1))
    assert ledger.workers.model("other") == Model("other", "org/other")


def test_a_queue_is_named_after_its_model_and_profiles():
    assert celery_queue("svd", queue_of("org/svd-xt")) == "svd.org/svd-xt"
    assert celery_queue("svd", queue_of("nano", ("exact", "draft"))) == "svd.nano@draft+exact"
