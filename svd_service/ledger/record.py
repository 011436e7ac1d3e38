"""The job hash and the delivery hash in Redis, and the `Job` that is read from them.

Their fields are listed in `svd_service/ledger/__init__.py` and `svd_service/webhooks/outbox.py`.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from svd_service.jobs.eta import work_of
from svd_service.jobs.group import Group
from svd_service.jobs.job import (
    Attempt,
    DeliveryAttempt,
    Failure,
    Holder,
    Job,
    Phase,
    Preview,
    Progress,
    Result,
    State,
    Webhook,
    WebhookState,
)
from svd_service.jobs.parameters import Parameters
from svd_service.jobs.routing import route_of
from svd_service.jobs.submission import Submission
from svd_service.ledger.constants import ATTEMPTS, REPORTED

#: Exceptions raised by reading a damaged record.
DAMAGE: Final = (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, AssertionError)

#: Maximum stored length of a note in characters: a record is kept for a week, and copied for its webhook.
NOTE_LENGTH: Final = 1_000

#: Separates the parts of a counter's name and of a route.
SEPARATOR: Final = "|"


def fields_of(submission: Submission) -> dict[str, str]:
    """The fields of the job hash that come from the caller."""
    optional = {
        "notes": dump({name: _cut(note) for name, note in submission.notes.items()}) if submission.notes else "",
        "content": submission.content,
        "trace": dump(submission.trace) if submission.trace else "",
        "webhook": submission.webhook,
    }
    return {
        "route": route_of(submission.model_name, submission.parameters.profile),
        "parameters": dump(submission.parameters.to_record()),
        "model": dump(submission.model),
        "input": submission.input,
        "workload": dump(work_of(submission.parameters)),
        **{name: value for name, value in optional.items() if value},
    }


def _cut(note: str) -> str:
    return note if len(note) <= NOTE_LENGTH else note[: NOTE_LENGTH - 1] + "…"


def dump(value: object) -> str:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"))


def paired(flat: Sequence[str]) -> dict[str, str]:
    """The mapping that Redis returns as a flat list of names and values."""
    return dict(zip(flat[0::2], flat[1::2], strict=True))


def flat(pairs: Iterable[tuple[str, str | float]]) -> list[str | float]:
    """The inverse of `paired`."""
    return [part for pair in pairs for part in pair]


def job_of(
    job_id: str,
    fields: Mapping[str, str],
    delivery: Mapping[str, str],
    position: int | None,
    observed_at: float,
) -> Job:
    """The job in a job hash `fields`, with its webhook `delivery` hash (empty if there is none)."""

    def moment(name: str) -> float | None:
        return float(fields[name]) if name in fields else None

    attempts = tuple(_attempt(number, fields) for number in range(1, int(fields["attempt"]) + 1))
    return Job(
        id=job_id,
        state=State(fields["state"]),
        parameters=Parameters.from_dict(json.loads(fields["parameters"])),
        model=dict(json.loads(fields["model"])),
        owner=fields["owner"],
        input=fields["input"],
        created_at=float(fields["created"]),
        version=int(fields["version"]),
        started_at=moment("started"),
        ended_at=moment("ended"),
        expires_at=None if "pinned" in fields else moment("expires"),
        deadline_at=moment("deadline"),
        pinned="pinned" in fields,
        cancel_requested="cancel" in fields,
        deleted="deleted" in fields,
        notes=json.loads(fields.get("notes", "{}")),
        trace=json.loads(fields.get("trace", "{}")),
        progress=_progress(fields) if "phase" in fields else None,
        attempts=attempts,
        failure=Failure(fields["failure_code"], fields["failure_message"]) if "failure_code" in fields else None,
        result=Result.from_dict(json.loads(fields["result"])) if "result" in fields else None,
        position=position,
        observed_at=observed_at,
        priority=int(fields.get("priority", 0)),
        cached_from=fields.get("cached_from"),
        group_id=fields.get("group"),
        preview=Preview(int(fields["preview"]), fields["preview_name"]) if "preview_name" in fields else None,
        webhook=_webhook(fields["webhook"], delivery) if "webhook" in fields else None,
    )


def members_of(fields: Mapping[str, str]) -> list[str]:
    """The ids of the members in a group hash, in order."""
    numbers = sorted(int(name.removeprefix("member:")) for name in fields if name.startswith("member:"))
    return [fields[f"member:{number}"] for number in numbers]


def group_of(group_id: str, fields: Mapping[str, str], jobs: Sequence[Job], delivery: Mapping[str, str]) -> Group:
    """The group in a group hash `fields`, with its members and the hash of its webhook's `delivery`, perhaps empty."""
    return Group(
        group_id,
        owner=fields["owner"],
        size=int(fields["size"]),
        created_at=float(fields["created"]),
        jobs=tuple(jobs),
        ended_at=float(fields["ended"]) if "ended" in fields else None,
        webhook=_webhook(fields["webhook"], delivery) if "webhook" in fields else None,
    )


def holder_of(record: str) -> Holder:
    """The holder in a `held:N` field."""
    return Holder(**known_fields(Holder, record))


def known_fields(kind: type, record: str) -> dict[str, Any]:
    """The values in a JSON object that are fields of the dataclass `kind`: those of a newer version are ignored."""
    known = {one.name for one in dataclasses.fields(kind)}
    return {name: value for name, value in json.loads(record).items() if name in known}


def _webhook(url: str, delivery: Mapping[str, str]) -> Webhook:
    if not delivery:
        return Webhook(url)
    attempts = tuple(
        DeliveryAttempt(
            at=float(delivery[f"began:{number}"]),
            status_code=int(code) if (code := delivery.get(f"code:{number}")) else None,
            error=delivery.get(f"error:{number}") or None,
        )
        for number in range(1, int(delivery[ATTEMPTS]) + 1)
    )
    next_attempt_at = float(delivery["next"]) if "next" in delivery else None
    return Webhook(url, WebhookState(delivery["state"]), attempts, next_attempt_at)


def _progress(fields: Mapping[str, str]) -> Progress:
    at = float(fields.get(REPORTED, 0.0))
    step, steps, segment, segments = (int(fields.get(name, 1)) for name in ("step", "steps", "segment", "segments"))
    return Progress(Phase(fields["phase"]), step, steps, segment, segments, at=at)


def _attempt(number: int, fields: Mapping[str, str]) -> Attempt:
    holder = holder_of(fields[f"held:{number}"])
    ended, used = fields.get(f"ended:{number}"), fields.get(f"used:{number}")
    return Attempt(
        number=number,
        worker=holder.worker,
        device=holder.device,
        started_at=float(fields[f"began:{number}"]),
        ended_at=float(ended) if ended else None,
        outcome=fields.get(f"outcome:{number}"),
        device_seconds=int(used) / 1000 if used else None,
    )
