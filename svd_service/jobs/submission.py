"""The data that the ledger needs to accept a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from svd_service.jobs.job import Result
from svd_service.jobs.parameters import Parameters


@dataclass(frozen=True)
class CachedVideo:
    """The video of an earlier job with the same content: that job's id, and a copy of its result for the new job."""

    job_id: str
    copy: Result


@dataclass(frozen=True)
class Submission:
    """A job to be accepted.

    `notes` are returned with the job and do not influence the video. `trace` is the W3C trace context of the request.
    `fingerprint` is a digest of the request, compared when `idempotency_key` is used again. `content` is a digest of
    everything the video depends on except the device. `looked_up`: whether the content cache was consulted;
    `cached` is what it found. `webhook` is the URL that is notified when the job ends. `cancel_after` is the number of
    seconds from acceptance to the job's deadline. A job that is `late` (it would probably not end before) is rejected,
    unless it repeats an earlier one or has a cached video. `quotas` are those of the owner's key.
    """

    job_id: str
    parameters: Parameters
    model: Mapping[str, object]
    input: str
    owner: str = ""
    notes: Mapping[str, str] | None = None
    trace: Mapping[str, str] | None = None
    idempotency_key: str = ""
    fingerprint: str = ""
    priority: int = 0
    content: str = ""
    looked_up: bool = False
    cached: CachedVideo | None = None
    webhook: str = ""
    cancel_after: float | None = None
    late: bool = False
    quotas: Mapping[str, int] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """The name of the requested model."""
        return str(self.model.get("name", ""))


@dataclass(frozen=True)
class GroupSubmission:
    """Jobs to be accepted together, or not at all. They have owner, priority and deadline in common.

    `idempotency_key`, `fingerprint` and `webhook` are the group's, and not set in `jobs`.
    """

    group_id: str
    jobs: Sequence[Submission]
    idempotency_key: str = ""
    fingerprint: str = ""
    webhook: str = ""
