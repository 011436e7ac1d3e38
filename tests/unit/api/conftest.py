import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from msgspec import structs

from svd_service.api import create_app
from svd_service.bootstrap import UseCases
from svd_service.config import Settings
from svd_service.jobs.job import Claim, Result
from svd_service.jobs.job_files import result_name
from tests.samples import IMAGES
from tests.unit.api.samples import HOLDER, VIDEO


@pytest.fixture
def app(redis_url: str, make_settings: Callable[..., Settings]) -> Flask:
    app = create_app(make_settings(REDIS_URL=redis_url))
    app.testing = True
    return app


@pytest.fixture
def http(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def jobs(app: Flask) -> UseCases:
    service = app.extensions["web"].jobs
    assert isinstance(service, UseCases)
    return service


@pytest.fixture
def change_settings(app: Flask) -> Callable[..., None]:
    """Changes settings of the app that routes read at each request."""

    def change(**values: object) -> None:
        web = app.extensions["web"]
        settings = structs.replace(web.jobs.settings, **values)
        app.extensions["web"] = replace(web, jobs=replace(web.jobs, settings=settings))

    return change


@pytest.fixture
def data_dir(jobs: UseCases) -> Path:
    return jobs.settings.data_dir


@pytest.fixture(scope="session")
def photo() -> bytes:
    return (IMAGES / "chelsea.jpg").read_bytes()


@pytest.fixture
def submit(http: FlaskClient, photo: bytes) -> Callable[..., str]:
    def post(**fields: object) -> str:
        answer = http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg"), **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.get_json()["task_id"])

    return post


@pytest.fixture
def claim(jobs: UseCases) -> Callable[[str], Claim]:
    """Claims the job as a worker does."""

    def take(job_id: str) -> Claim:
        claim = jobs.ledger.attempts.claim(job_id, HOLDER)
        assert claim is not None
        return claim

    return take


@pytest.fixture
def finish(jobs: UseCases, claim: Callable[[str], Claim]) -> Callable[[str], None]:
    """Finishes the job as a worker does, with `VIDEO` as its result."""

    def publish(job_id: str) -> None:
        held = claim(job_id)
        name = result_name(job_id, held.token)
        jobs.artifacts.put(name, VIDEO)
        result = Result(name, len(VIDEO), "ab" * 32, 256, 144, 8, {"seed": 1})
        jobs.ledger.attempts.finish(held, result, device="cpu", seconds={"sampling": 1.0}, steps=6)

    return publish
