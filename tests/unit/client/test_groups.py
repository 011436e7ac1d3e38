"""Groups in the Python client, against a stand-in on a real socket."""

import json
from pathlib import Path

import pytest

from svd_service.client import Client, ClientError, UnknownJobError, groups
from tools.harness.stand_in import JOB, Answer, StandIn, error_answer, job_answer

GROUP = "0b6c8f6e-0000-4000-8000-000000000000"


def group(state: str, *jobs: str) -> Answer:
    members = [json.loads(job_answer(job).body) for job in jobs]
    body = {"group_id": GROUP, "status": state, "progress": 0.5, "eta_seconds": 3.0, "jobs": members}
    return Answer(json.dumps(body).encode(), headers={"Content-Type": "application/json"})


def test_a_group_is_submitted_with_its_seeds(service: StandIn) -> None:
    service.answer("POST /generate", group("queued", "queued", "queued"))
    with Client(service.url) as client:
        found = client.groups.submit(b"a cat", n=2, seeds=[5, 6], fps=7, cancel_after=90)
    assert (found.id, found.state, found.fraction, found.eta_seconds, found.ended) == (GROUP, "queued", 0.5, 3.0, False)
    assert [job.id for job in found.jobs] == [JOB, JOB]
    for name, value in {"n": "2", "seeds": "5,6", "fps": "7"}.items():
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in service.requests[-1].body
    assert service.requests[-1].headers["Idempotency-Key"]
    assert service.requests[-1].headers["Cancel-After"] == "90"


def test_one_video_is_not_a_group(service: StandIn) -> None:
    with Client(service.url) as client, pytest.raises(ValueError, match="at least 2"):
        client.groups.submit(b"a cat")


def test_a_group_is_watched_to_its_end(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_POLL_EVERY", 0.01)
    service.answer(
        f"GET /groups/{GROUP}", group("queued", "queued"), group("queued", "queued"), group("finished", "finished")
    )
    with Client(service.url) as client:
        assert [found.state for found in client.groups.watch(GROUP)] == ["queued", "finished"]


def test_a_group_is_cancelled_and_deleted(service: StandIn) -> None:
    service.answer(f"POST /groups/{GROUP}/cancel", group("cancelled", "cancelled"))
    with Client(service.url) as client:
        assert client.groups.cancel(GROUP).state == "cancelled"
        assert len(service.requests) == 1
        service.answer(f"DELETE /groups/{GROUP}", Answer(b"", 204))
        assert client.groups.delete(GROUP) is None
        service.answer(f"GET /groups/{GROUP}", error_answer(404, "unknown_group", "there is no group"))
        with pytest.raises(UnknownJobError):
            client.groups.status(GROUP)


def test_an_older_services_group_is_cancelled_unless_it_has_ended(service: StandIn) -> None:
    service.answer(f"GET /groups/{GROUP}", group("finished", "finished"))
    with Client(service.url) as client:
        assert client.groups.cancel(GROUP).state == "finished"
        assert service.count(f"DELETE /groups/{GROUP}") == 0
        service.answer(f"GET /groups/{GROUP}", group("queued", "queued"))
        service.answer(f"DELETE /groups/{GROUP}", group("cancelled", "cancelled"))
        assert client.groups.cancel(GROUP).state == "cancelled"


def test_a_contact_sheet_is_downloaded_whole_or_not_at_all(service: StandIn, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.jpg"
    sheet.write_bytes(b"an older sheet")
    for answer in (Answer(b"half a sheet", cut=4), Answer(b"<html>", headers={"Content-Type": "text/html"})):
        service.answer(f"GET /groups/{GROUP}/contact-sheet", answer)
        with Client(service.url, patience=0) as client, pytest.raises(ClientError):
            client.groups.contact_sheet(GROUP, sheet)
    assert (sheet.read_bytes(), list(tmp_path.iterdir())) == (b"an older sheet", [sheet])
    (tmp_path / "link").hardlink_to(sheet)
    service.answer(f"GET /groups/{GROUP}/contact-sheet", Answer(b"a sheet"))
    with Client(service.url) as client:
        assert client.groups.contact_sheet(GROUP, sheet).read_bytes() == b"a sheet"
    assert (tmp_path / "link").read_bytes() == b"an older sheet"  # it was replaced, not overwritten
