import io
import logging

import pytest

from svd_service.api.http import auth
from svd_service.errors import UnavailableError
from svd_service.telemetry import logs


class RecordList(logging.Handler):
    """Keeps the message and the context of each record."""

    def __init__(self):
        super().__init__()
        self.about = []

    def emit(self, record):
        self.about.append({"message": record.getMessage(), **logs._about(record)})


@pytest.fixture
def records(app):
    """The log records of the package, with their context."""
    handler = RecordList()
    logger = logging.getLogger("svd_service")
    logger.addHandler(handler)
    yield handler.about
    logger.removeHandler(handler)


def test_every_answer_has_a_request_id(http):
    names = [http.get(path).headers["X-Request-ID"] for path in ("/health", "/nowhere")]
    assert [len(name) for name in names] == [32, 32]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("sent_id", "kept"), [("proxy-1.a:b", True), ("a b", False), ("x" * 129, False), ("", False), ("<script>", False)]
)
def test_the_request_id_of_a_proxy_is_kept_if_it_is_valid(http, sent_id, kept):
    answer = http.get("/health", headers={"X-Request-ID": sent_id})
    assert (answer.headers["X-Request-ID"] == sent_id) is kept


def test_log_records_of_a_submission_name_its_request_key_and_job(app, http, records, photo):
    key, secret = app.extensions["web"].keyring.create("ann")
    sent = {"Authorization": f"Bearer {secret}", "X-Request-ID": "r-1"}
    job_id = http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg")}, headers=sent).json["task_id"]
    (accepted,) = (about for about in records if about["message"] == f"job {job_id}: accepted")
    assert {name: accepted[name] for name in ("request_id", "key_id", "job_id")} == {
        "request_id": "r-1",
        "key_id": key.id,
        "job_id": job_id,
    }
    assert secret not in str(records)


def test_the_access_log_has_the_context_of_the_request(app, http, submit, monkeypatch):
    job_id = submit()
    environments = []
    inner = app.wsgi_app

    def spy(environ, start):
        environments.append(environ)
        return inner(environ, start)

    monkeypatch.setattr(app, "wsgi_app", spy)
    answer = http.get(f"/status/{job_id}")
    (environ,) = environments
    assert environ[logs.WSGI_FIELDS] == {"request_id": answer.headers["X-Request-ID"], "job_id": job_id}


def test_log_records_of_a_request_have_no_context_of_the_one_before(http, submit, records, monkeypatch):
    submit()

    def away(*_):
        raise UnavailableError("away")

    monkeypatch.setattr(auth, "_presented", away)
    answer = http.get("/jobs")
    (line,) = (about for about in records if about["message"] == "GET /jobs: away")
    assert line == {"message": "GET /jobs: away", "request_id": answer.headers["X-Request-ID"]}
