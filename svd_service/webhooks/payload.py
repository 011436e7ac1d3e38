"""The body of a webhook, in the shape of the dialect in which the job was submitted."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from svd_service.jobs.group import Group
from svd_service.jobs.job import Job
from svd_service.presentation import GroupEvent, WebhookEvent

#: Name of the note with the dialect in which a job was submitted, and its value for OpenAI's Videos API.
DIALECT: Final = "dialect"
OPENAI: Final = "openai"

#: OpenAI's event types for the end of a video. It has none for a cancelled one, whose status there is `failed`, too.
_OPENAI_TYPES: Final[dict[str, Literal["video.completed", "video.failed"]]] = {
    "job.finished": "video.completed",
    "job.failed": "video.failed",
    "job.cancelled": "video.failed",
}


class VideoEventData(Struct):
    """The video of the event."""

    id: str


class VideoEvent(Struct, kw_only=True):
    """The payload of a webhook of a job that was submitted at `/v1/videos`, as `client.webhooks.unwrap` expects it.

    `created_at` is when the job ended, in seconds since the epoch.
    """

    id: str
    object: Literal["event"] = "event"
    created_at: int
    type: Annotated[
        Literal["video.completed", "video.failed"], Meta(description="A cancelled job's is `video.failed`.")
    ]
    data: VideoEventData


def event_of(id: str, kind: str, subject: Job | Group) -> WebhookEvent | GroupEvent | VideoEvent:
    """The event `kind` (such as `job.finished` or `group.failed`) of a job or a group, as it was when it ended."""
    if isinstance(subject, Group):
        return GroupEvent.of(id, kind, subject)
    job = subject
    if job.notes.get(DIALECT) == OPENAI:
        return VideoEvent(
            id=id, created_at=int(job.ended_at or 0), type=_OPENAI_TYPES[kind], data=VideoEventData(job.id)
        )
    return WebhookEvent.of(id, kind, job)
