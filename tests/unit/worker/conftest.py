"""The parts of a worker process without a worker: jobs over a real Redis, and a stand-in that makes tiny videos."""

import os
from collections.abc import Callable, Iterator

import pytest

from svd_service.artifacts.local import LocalArtifacts
from svd_service.bootstrap import UseCases, use_cases
from svd_service.config import Settings
from svd_service.jobs.job import Holder, Job
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.connection import connect
from svd_service.ledger.workers import WorkerStatus
from svd_service.worker.lease import Lease
from svd_service.worker.process import WorkerContext
from svd_service.worker.shared_memory import Drain
from tests.unit.worker.samples import rendering, submitted


@pytest.fixture(name="settings")
def _settings(make_settings: Callable[..., Settings], redis_url: str) -> Settings:
    return make_settings(REDIS_URL=redis_url)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with connect(settings) as client:
        yield open_ledger(client, settings)


@pytest.fixture
def published() -> list[str]:
    """The ids that were enqueued with Celery."""
    return []


@pytest.fixture
def jobs(ledger: Ledger, settings: Settings, published: list[str]) -> UseCases:
    artifacts = LocalArtifacts(settings.data_dir)
    return use_cases(ledger, artifacts, settings, lambda job_id, _: published.append(job_id))


@pytest.fixture
def worker_context(jobs: UseCases, settings: Settings) -> WorkerContext:
    holder = Holder("host/0", "cpu", "instance", os.getpid())
    status = WorkerStatus("host/0", "cpu", "instance", os.getpid(), "nano", True, 0.0, 1.0)
    drain = Drain()
    return WorkerContext(holder, rendering, jobs, Lease(jobs.ledger, status, settings.lease, drain), settings, drain)


@pytest.fixture
def job(jobs: UseCases) -> Job:
    return submitted(jobs)
