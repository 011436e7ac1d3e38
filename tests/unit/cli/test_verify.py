"""`svd-service verify`: with a service, and locally."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from svd_service.cli.main import app
from svd_service.config import settings
from svd_service.marking import chain as chains
from svd_service.marking.signer import Claims, Signer
from svd_service.parameters import Format
from tools.harness.stand_in import Answer, StandIn, error_answer

STATEMENT = {
    "signer": "Somebody",
    "organization": "Somebody Ltd",
    "generator": "camera 1",
    "digital_source_type": None,
    "created_at": "2026-01-02T03:04:05Z",
    "model": None,
}


def answer(verdict: str, **credentials: Any) -> Answer:
    found = {"state": "valid", "statement": STATEMENT, "ingredients": [], "problems": [], "job_id": None, **credentials}
    body = {"verdict": verdict, "message": "A sentence.", "credentials": found, "job": None}
    return Answer(json.dumps(body).encode())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"a file")
    return path


@pytest.mark.parametrize(
    ("verdict", "status"), [("made_here", 0), ("made_elsewhere", 0), ("invalid", 1), ("unmarked", 1)]
)
def test_the_exit_status_follows_from_the_verdict(service: StandIn, file: Path, verdict: str, status: int) -> None:
    service.answer("POST /verify", answer(verdict))
    result = run(file, "--server", service.url)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (status, f"{verdict.replace('_', ' ')}: A sentence.")
    assert b"a file" in service.requests[-1].body


def test_the_statements_of_the_credentials_are_shown(service: StandIn, file: Path) -> None:
    upload = {"title": "upload", "relationship": "parentOf", "manifest": STATEMENT}
    service.answer("POST /verify", answer("made_here", ingredients=[upload, {**upload, "manifest": None}]))
    shown = run(file, "--server", service.url).stdout
    for words in ("Somebody", "camera 1", "2026-01-02T03:04:05Z", "upload, signed by Somebody", "upload, unmarked"):
        assert words in shown
    assert json.loads(run(file, "--server", service.url, "--json").stdout)["verdict"] == "made_here"


def test_a_file_that_cannot_be_read_or_verified_is_an_error(service: StandIn, file: Path, tmp_path: Path) -> None:
    missing = run(tmp_path / "none.mp4", "--server", service.url)
    assert (missing.exit_code, "No such file" in missing.output) == (1, True)
    service.answer("POST /verify", error_answer(413, "image_too_large", "the file has more than 20,000,000 bytes"))
    assert "add --local" in run(file, "--server", service.url).output
    service.answer("POST /verify", error_answer(501, "not_installed", "files cannot be verified"))
    rejected = run(file, "--server", service.url)
    assert rejected.exit_code != 0
    assert "files cannot be verified" in str(rejected.exception)


def test_locally_no_service_is_needed(tmp_path: Path, files: Any, chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_DATA_DIR", str(tmp_path / "data"))
    settings.cache_clear()
    path = tmp_path / "a.mp4"
    for signer, status, verdict in ((chain, 0, "made_here"), (chains.make(), 0, "made_elsewhere")):
        path.write_bytes(Signer(signer).sign(files[Format.MP4], "video/mp4", Claims("an-id", "a-model")))
        chains.store(tmp_path / "data", chain)
        result = run(path, "--local", "--json")
        assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (status, verdict)
    path.write_bytes(files[Format.MP4])
    result = run(path, "--local")
    assert (result.exit_code, result.stdout.startswith("unmarked: ")) == (1, True)
