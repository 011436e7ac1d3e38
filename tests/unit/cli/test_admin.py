"""`svd-service admin`, against a stand-in on a real socket."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from svd_service.cli import keys
from svd_service.cli.main import app
from svd_service.client.errors import AnswerError
from tools.harness.stand_in import JOB, Answer, StandIn

LISTED = {
    "key": "",
    "job": {
        "task_id": JOB,
        "status": "failed",
        "error": {"code": "timeout"},
        "created_at": "2026-01-02T03:04:05Z",
        "model": {"name": "nano"},
    },
}
WORKER = {"worker": "a@b", "state": "drained", "device": "cpu", "model": "nano", "job": None, "reason": "repair"}
ACT = {"at": 1.5, "by": "olga", "what": "drain", "target": "a@b", "reason": "repair"}
PAUSE = {"what": "intake", "model": "", "by": "olga", "reason": "repair"}


def answer(**body: Any) -> Answer:
    return Answer(json.dumps(body).encode())


def run(service: StandIn, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--server", service.url])


def test_jobs_are_listed_page_by_page(service: StandIn) -> None:
    service.answer("GET /admin/jobs?limit=20", answer(jobs=[LISTED], next="/admin/jobs?after=x&limit=20"))
    service.answer("GET /admin/jobs?after=x&limit=20", answer(jobs=[LISTED], next=None))
    lines = run(service, "admin", "jobs").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[JOB, "-"], [JOB, "-"]]
    assert "failed timeout" in lines[1]
    assert json.loads(run(service, "admin", "jobs", "--json").stdout) == [LISTED, LISTED]


def test_workers_are_listed_and_drained(service: StandIn) -> None:
    service.answer("GET /admin/workers", answer(workers=[WORKER]))
    service.answer("POST /admin/drain", answer(workers=[WORKER]))
    for result in (run(service, "admin", "workers"), run(service, "admin", "drain", "a@b")):
        assert result.stdout.splitlines()[1].split() == ["a@b", "drained", "cpu", "nano", "repair"]
    assert json.loads(run(service, "admin", "workers", "--json").stdout) == [WORKER]


def test_acts_and_pauses_are_listed(service: StandIn) -> None:
    service.answer("GET /admin/audit", answer(acts=[ACT]))
    service.answer("POST /admin/pause", answer(paused=[PAUSE]))
    service.answer("POST /admin/resume", answer(paused=[]))
    assert run(service, "admin", "audit").stdout.splitlines()[1].split()[-4:] == ["olga", "drain", "a@b", "repair"]
    assert json.loads(run(service, "admin", "audit", "--json").stdout) == [ACT]
    assert run(service, "admin", "pause", "intake").stdout == "intake of all models is paused by olga: repair\n"
    assert run(service, "admin", "resume", "intake").stdout == "Nothing is paused.\n"


def test_jobs_are_cancelled_retried_deleted_and_purged(service: StandIn) -> None:
    service.answer(f"POST /admin/jobs/{JOB}/cancel", answer(job={"status": "started"}))
    service.answer(f"POST /admin/jobs/{JOB}/retry", answer(job={"task_id": "new"}))
    service.answer(f"DELETE /admin/jobs/{JOB}", Answer(b"", 204))
    service.answer("POST /admin/purge", answer(deleted=3, more=True), answer(deleted=0, more=True))
    assert run(service, "admin", "cancel", JOB).stdout == f"{JOB}: being cancelled\n"
    assert run(service, "admin", "retry", JOB).stdout == "new\n"
    assert run(service, "admin", "delete", JOB, "--yes").stdout == f"{JOB}: deleted\n"
    assert run(service, "admin", "purge", "failed", "--yes").stdout == "Deleted 3 jobs.\n"


@pytest.mark.parametrize(
    ("request_line", "command"),
    [
        ("GET /admin/jobs?limit=20", ["admin", "jobs"]),
        ("GET /admin/workers", ["admin", "workers"]),
        ("POST /admin/drain", ["admin", "drain", "a"]),
        ("GET /admin/audit", ["admin", "audit"]),
        ("POST /admin/pause", ["admin", "pause", "intake"]),
        ("POST /admin/purge", ["admin", "purge", "failed", "--yes"]),
        ("POST /admin/jobs/x/cancel", ["admin", "cancel", "x"]),
        ("POST /admin/jobs/x/retry", ["admin", "retry", "x"]),
        ("DELETE /admin/jobs/x", ["admin", "delete", "x", "--yes"]),
        ("POST /jobs/x/share", ["share", "x"]),
        ("POST /verify", ["verify", __file__]),
        ("GET /models", ["models"]),
    ],
)
@pytest.mark.parametrize("body", [b"{}", b'{"jobs": [{}], "models": [{}], "workers": [{}]}', b"[1]", b"<html>"])
def test_an_answer_of_another_server_is_an_error(
    service: StandIn, request_line: str, command: list[str], body: bytes
) -> None:
    service.answer(request_line, Answer(body))
    result = run(service, *command)
    assert isinstance(result.exception, AnswerError)
    assert ("is not svd-service" in str(result.exception), result.stdout) == (True, "")


@pytest.mark.parametrize("command", [["list"], ["revoke", "x"], ["rotate", "x"], ["create", "ann"], ["usage", "x"]])
def test_an_answer_of_another_server_is_an_error_of_keys(
    service: StandIn, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(service, "next_answer", lambda _: answer(status="ok"))
    with pytest.raises(SystemExit, match="is not svd-service"):
        keys.run([*command, "--url", service.url])
