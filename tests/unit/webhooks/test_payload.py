import msgspec
import pytest

from svd_service.jobs.job import Job, State
from svd_service.presentation import WebhookEvent
from svd_service.webhooks.payload import DIALECT, OPENAI, event_of
from tests.unit.ledger.samples import MODEL, PARAMETERS


def ended(notes: dict[str, str]) -> Job:
    return Job("a", State.FINISHED, PARAMETERS, MODEL, "", "inputs/a.png", 0.0, ended_at=1_790_000_000.5, notes=notes)


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("job.finished", "video.completed"),
        ("job.failed", "video.failed"),
        ("job.cancelled", "video.failed"),
    ],
)
def test_a_job_of_openais_dialect_has_openais_event(kind: str, type_: str) -> None:
    event = msgspec.to_builtins(event_of("msg_a", kind, ended({DIALECT: OPENAI})))
    assert event == {
        "id": "msg_a",
        "object": "event",
        "created_at": 1_790_000_000,
        "type": type_,
        "data": {"id": "a"},
    }


def test_every_other_job_has_the_native_event() -> None:
    event = event_of("msg_a", "job.finished", ended({}))
    assert isinstance(event, WebhookEvent)
    assert (event.type, event.data.task_id) == ("job.finished", "a")
